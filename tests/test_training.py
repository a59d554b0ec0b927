"""The training loop: exact resume, one compile, the optimiser against a literal one, the same on every device count."""

import gc
import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sgg_jax import devices, stopping, training
from sgg_jax.augmentation import Strength, augment
from sgg_jax.checkpoints import Checkpoints, load_weights
from sgg_jax.errors import InputError
from sgg_jax.losses import denoising_loss, segmentation_loss
from sgg_jax.models import EncoderDecoder, build
from sgg_jax.optimization import Recipe, learning_rates
from sgg_jax.records import read_lines
from sgg_jax.schedule import noise_schedule
from sgg_jax.training import class_weights, denoiser_objective, fit, init_state, make_step, segmenter_objective
from sgg_jax.types import VOID, to_float

FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time
RECIPE = Recipe(
    steps=11, batch_size=8, learning_rate=0.2, warmup=3, weight_decay=0.01, clip=1.0, ema=0.9, save_every=4,
    optimizer="adamw", schedule="cosine", power=0.9, b2=0.99, decay_all=True, rates=(), weight_shards=1,
)  # fmt: skip
TRUTH = np.array([[1.0, -2.0], [0.5, 0.0], [-1.0, 3.0]], np.float32)
PARAMS = {"line": {"slope": jnp.zeros((3, 2)), "offset": jnp.zeros(2)}}


def batch(step):
    """x as the image, y = x @ TRUTH + 1 as the labels."""
    x = np.random.default_rng(step).standard_normal((8, 3)).astype(np.float32)
    return {"image": x, "labels": x @ TRUTH + 1, "image_id": np.arange(8)}


def squares(params, scale, batch, key):
    """Least squares on inputs with a little noise, so that a wrong key shows."""
    x = batch["image"] + 0.01 * jax.random.normal(key, batch["image"].shape)
    found = x @ params["line"]["slope"] + params["line"]["offset"]
    return scale * jnp.mean(jnp.square(found - batch["labels"]))


def train(directory, mesh, batches=batch, *, objective=squares, recipe=RECIPE, seed=0, scale=1.0):
    return fit(directory, objective, PARAMS, jnp.float32(scale), batches, recipe, seed=seed, mesh=mesh, label="line")


class KilledError(Exception):
    pass


def until(stop):
    """Batches of a run that is killed before step `stop`."""

    def batches(step):
        if step == stop:
            raise KilledError
        return batch(step)

    return batches


def assert_same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def literal_rates(recipe):
    rates = []
    for t in range(1, recipe.steps + 1):
        if t < recipe.warmup:
            rates.append(recipe.learning_rate * t / recipe.warmup)
        else:
            done = (t - recipe.warmup) / (recipe.steps + 1 - recipe.warmup)
            rates.append(recipe.learning_rate * (1 + np.cos(np.pi * done)) / 2)
    return rates


# the loop


@pytest.fixture(scope="module")
def whole(tmp_path_factory, four_devices):
    """A run without an interruption: (directory, weights)."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, train(directory, four_devices)


def test_loss_goes_down(tmp_path, four_devices):
    weights = train(tmp_path, four_devices, recipe=replace(RECIPE, steps=80, save_every=80))["line"]
    losses = [record["loss"] for record in read_lines(tmp_path / "metrics.jsonl")]
    assert losses[0] > 3 and np.mean(losses[-5:]) < 0.05
    np.testing.assert_allclose(weights["slope"], TRUTH, atol=0.2)
    np.testing.assert_allclose(weights["offset"], 1, atol=0.2)


def test_records_of_a_run(whole):
    directory, weights = whole
    records = read_lines(directory / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 12))
    np.testing.assert_allclose([record["learning_rate"] for record in records], literal_rates(RECIPE), atol=1e-7)
    fields = {"step", "loss", "grad_norm", "learning_rate", "seconds", "data_wait"}
    assert all(set(record) == fields and 0 <= record["data_wait"] <= 1 for record in records)
    loss, gradient = jax.value_and_grad(squares)(
        PARAMS, 1.0, batch(0), jax.random.fold_in(jax.random.key(0), 0)
    )  # of the first step
    assert records[0]["loss"] == pytest.approx(float(loss), rel=1e-5)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    assert records[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert_same(load_weights(directory / "checkpoints", PARAMS), weights)


def held():
    """Bytes of memory and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_two_thousand_steps_hold_on_to_nothing(tmp_path, one_device):
    """Neither memory nor files, and every function is compiled once."""
    recipe, found = replace(RECIPE, steps=2500, save_every=250), {}

    def batches(step):
        if step in (490, 2490):
            time.sleep(2)  # training waits for this batch: no checkpoint is on its way any more
            gc.collect()
            found[step] = held()
        return batch(step)

    train(tmp_path, one_device, batches, recipe=recipe)
    assert make_step(squares, RECIPE.rule, one_device)._cache_size() == 1
    (before, files_before), (after, files_after) = found[490], found[2490]
    assert after - before < 20 * 2**20
    assert files_after <= files_before


@pytest.mark.parametrize("stops", [(0,), (3,), (4,), (6,), (10,), (2, 5, 9)])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, four_devices, whole, stops):
    for stop in stops:
        with pytest.raises(KilledError):
            train(tmp_path, four_devices, until(stop))
    assert_same(train(tmp_path, four_devices), whole[1])
    records, wanted = (read_lines(directory / "metrics.jsonl") for directory in (tmp_path, whole[0]))
    for record in records + wanted:
        del record["seconds"], record["data_wait"]
    assert records == wanted  # every step once, and nothing else
    states = []
    for directory in (tmp_path, whole[0]):
        with Checkpoints(directory / "checkpoints") as checkpoints:
            states.append(checkpoints.restore("state", init_state(PARAMS, RECIPE)))
    assert_same(*states)


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_run_that_is_stopped_at_any_step_saves_it_and_ends_with_the_same_weights(
    tmp_path, four_devices, whole, monkeypatch, stop
):
    looks = iter(range(1, 100))
    monkeypatch.setattr(stopping, "asked", lambda: next(looks) == stop)
    with pytest.raises(stopping.Stopped):
        train(tmp_path, four_devices)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() == stop
    assert_same(train(tmp_path, four_devices), whole[1])
    assert [record["step"] for record in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, 12))


def test_a_resumed_run_asks_for_the_batches_after_its_checkpoint_only(tmp_path, four_devices, whole):
    with pytest.raises(KilledError):
        train(tmp_path, four_devices, until(10))
    asked = []
    train(tmp_path, four_devices, lambda step: asked.append(step) or batch(step))
    assert asked == [8, 9, 10]


def test_a_finished_run_is_not_trained_further(tmp_path, four_devices, whole):
    first = train(tmp_path, four_devices)
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert_same(train(tmp_path, four_devices, until(0)), first)
    assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_params_handed_in_are_not_consumed(whole):
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(PARAMS))  # donated arrays would raise


@pytest.mark.parametrize("stop", [2, 3])
def test_loss_that_is_not_finite_stops_the_run(tmp_path, four_devices, stop):
    """At step 4 a checkpoint is due, which must not be written."""

    def batches(step):
        return batch(step) | ({"labels": np.full((8, 2), np.nan, np.float32)} if step == stop else {})

    with pytest.raises(InputError, match=rf"loss of line is nan at step {stop + 1}, on the images of ids 0, 1, 2, 3"):
        train(tmp_path, four_devices, batches)
    with np.load(tmp_path / f"batch_of_step_{stop + 1}.npz") as kept:
        np.testing.assert_array_equal(kept["image"], batch(stop)["image"])
        assert np.isnan(kept["labels"]).all()
    assert [record["step"] for record in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, stop + 1))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() is None


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, four_devices):
    """The loss is finite and the weights after the step are not: they must not become a checkpoint."""

    def cliff(params, scale, batch, key):
        edge = jnp.sqrt(jnp.square(params["line"]["offset"]).sum())  # its slope at 0 is 0 / 0
        return squares(params, scale, batch, key) + edge

    with pytest.raises(InputError, match=r"gradient of line is nan at step 1\b"):
        train(tmp_path, four_devices, objective=cliff, recipe=replace(RECIPE, save_every=1))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() is None


def test_batch_must_divide_over_the_devices(tmp_path, four_devices):
    with pytest.raises(InputError, match=r"batch_size of line is 6.*4 devices"):
        train(tmp_path, four_devices, recipe=replace(RECIPE, batch_size=6))


def test_the_number_of_devices_does_not_matter(tmp_path, one_device, whole):
    one = train(tmp_path, one_device)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), one, whole[1])
    for left, right in zip(*(read_lines(d / "metrics.jsonl") for d in (tmp_path, whole[0])), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)


def test_every_device_has_its_part_of_the_batch_and_all_weights(tmp_path, four_devices, monkeypatch):
    real, seen = training.make_step, []

    def watched(*settings):
        def step(state, constants, batch, *rest):
            parts = {shard.device: np.asarray(shard.data) for shard in batch["image"].addressable_shards}
            slopes = [shard.data.shape for shard in state.params["line"]["slope"].addressable_shards]
            seen.append((parts, slopes))
            return real(*settings)(state, constants, batch, *rest)

        return step

    monkeypatch.setattr(training, "make_step", watched)
    train(tmp_path, four_devices)
    for step, (parts, slopes) in enumerate(seen):
        ordered = [parts[device] for device in four_devices.devices]
        assert [len(part) for part in ordered] == [2, 2, 2, 2] and slopes == 4 * [(3, 2)]
        np.testing.assert_array_equal(np.concatenate(ordered), batch(step)["image"])


@pytest.mark.parametrize("parts", [2, 4])
def test_split_weights_are_the_same_weights(tmp_path, four_devices, whole, monkeypatch, parts):
    """slope [3,2] is split by columns where they divide, offset [2] likewise; a whole copy elsewhere."""
    monkeypatch.setattr(devices, "SPLIT_FROM", 2)
    split = train(tmp_path, four_devices, recipe=replace(RECIPE, weight_shards=parts))
    held = {name: {shard.data.shape for shard in split["line"][name].addressable_shards} for name in split["line"]}
    assert held == {2: {"slope": {(3, 1)}, "offset": {(1,)}}, 4: {"slope": {(3, 2)}, "offset": {(2,)}}}[parts]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), split, whole[1])


def test_split_training_goes_on_from_a_whole_one(tmp_path, four_devices, whole, monkeypatch):
    monkeypatch.setattr(devices, "SPLIT_FROM", 2)
    with pytest.raises(KilledError):
        train(tmp_path, four_devices, until(6))
    split = train(tmp_path, four_devices, recipe=replace(RECIPE, weight_shards=2))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), split, whole[1])


def test_a_network_trains_alike_with_split_weights(four_devices, monkeypatch):
    monkeypatch.setattr(devices, "SPLIT_FROM", 256)
    apply, params = build(EncoderDecoder, 0, classes=3, widths=(8, 16), blocks=1, patch=2)
    draw = np.random.default_rng(0).integers
    batch = {"image": draw(0, 256, (4, 8, 12, 3)).astype(np.uint8), "labels": draw(0, 3, (4, 8, 12)).astype(np.uint8)}
    recipe, found = replace(RECIPE, optimizer="sgd"), []  # Adam would blow up gradients that are rounding alone
    for mesh in (four_devices, devices.split_mesh(four_devices, 2)):
        step = make_step(segmenter_objective(apply, None), recipe.rule, mesh)
        state, constants = devices.spread(init_state(params, recipe), mesh), devices.replicate(jnp.ones(3), mesh)
        for _ in range(3):
            state, metrics = step(state, constants, devices.shard(batch, mesh), 0, np.float32(1e-3))
        found.append((state, metrics))
    (whole, on_whole), (split, on_split) = found
    parts = [leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(split)]
    assert set(parts) == {0.5, 1.0} and sum(part == 0.5 for part in parts) > 20
    assert float(on_split["loss"]) == pytest.approx(float(on_whole["loss"]), rel=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-5), split.ema, whole.ema)


def test_weights_split_over_devices_that_divide(tmp_path, four_devices):
    with pytest.raises(InputError, match=r"weight_shards is 3: it must divide the 4 devices; set it to one of 1, 2, 4"):
        train(tmp_path, four_devices, recipe=replace(RECIPE, weight_shards=3))


def test_large_arrays_are_split_along_their_longest_side_that_divides(four_devices):
    mesh = devices.split_mesh(four_devices, 2)
    assert mesh.shape == {"data": 2, "weights": 2}
    assert devices.weight_sharding((3, 3, 128, 512), mesh).spec == P(None, None, None, "weights")
    assert devices.weight_sharding((3, 3, 512, 127), mesh).spec == P(None, None, "weights", None)
    assert devices.weight_sharding((512,), mesh).spec == devices.weight_sharding((), mesh).spec == P()  # small
    assert devices.weight_sharding((333, 333), mesh).spec == P()
    assert devices.weight_sharding((512, 512), four_devices).spec == P()


def test_one_trace_serves_all_runs_of_a_network(tmp_path, four_devices):
    traces = []

    def counted(*operands):
        traces.append(1)
        return squares(*operands)

    first = train(tmp_path / "a", four_devices, objective=counted)
    other = replace(RECIPE, steps=5, learning_rate=0.1, warmup=1, save_every=2)
    second = train(tmp_path / "b", four_devices, objective=counted, recipe=other, seed=7, scale=2.0)
    assert len(traces) == 1
    assert np.abs(first["line"]["slope"] - second["line"]["slope"]).max() > 1e-3


# the step


def literal_adamw(recipe, seed, rates):
    """Clipping by global norm, Adam (Kingma & Ba 2015) with b2 = 0.99, decoupled decay, EMA; float64, no optax."""
    params = {name: np.zeros(value.shape) for name, value in PARAMS["line"].items()}
    ema, m, v = ({name: np.zeros(value.shape) for name, value in params.items()} for _ in range(3))
    for t, rate in enumerate(rates):
        key = jax.random.fold_in(jax.random.key(seed), t)
        x = batch(t)["image"] + 0.01 * np.asarray(jax.random.normal(key, (8, 3)), np.float64)
        error = x @ params["slope"] + params["offset"] - batch(t)["labels"]
        gradient = {"slope": x.T @ error / 8, "offset": error.sum(0) / 8}
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1, recipe.clip / norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.99 * v[name] + 0.01 * g**2
            direction = m[name] / (1 - 0.9 ** (t + 1)) / (np.sqrt(v[name] / (1 - 0.99 ** (t + 1))) + 1e-8)
            params[name] = params[name] - rate * (direction + recipe.weight_decay * params[name])
            decay = min(recipe.ema, (1 + t) / (10 + t))
            ema[name] = decay * ema[name] + (1 - decay) * params[name]
    return params, ema


@pytest.mark.parametrize("recipe", [replace(RECIPE, weight_decay=0.5), replace(RECIPE, clip=100.0, ema=0.15)])
def test_steps_are_literal_adamw(recipe, one_device):
    step = make_step(squares, recipe.rule, one_device)
    rates = learning_rates(recipe)[:4]
    state = init_state(PARAMS, recipe)
    for t, rate in enumerate(rates):
        operands = {name: batch(t)[name] for name in ("image", "labels")}
        state, _ = step(state, jnp.float32(1.0), operands, 3, rate)
    params, ema = literal_adamw(recipe, 3, rates)
    assert int(state.step) == 4
    for name in params:
        np.testing.assert_allclose(state.params["line"][name], params[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.ema["line"][name], ema[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("steps", "warmup"), [(11, 3), (100, 10), (7, 0), (5, 1), (2, 1)])
def test_learning_rates_closed_form(steps, warmup):
    recipe = replace(RECIPE, steps=steps, warmup=warmup)
    np.testing.assert_allclose(learning_rates(recipe), literal_rates(recipe), rtol=1e-5, atol=1e-7)


def test_warmup_longer_than_the_run_is_cut():
    rates = learning_rates(replace(RECIPE, steps=6, warmup=100))
    np.testing.assert_allclose(rates, 0.2 * np.array([0.2, 0.4, 0.6, 0.8, 1.0, 0.5]), atol=1e-7)


# objectives and weights


def test_class_weights_closed_form():
    histogram = np.array([900, 90, 10, 0])
    np.testing.assert_allclose(class_weights(histogram, 0.0), [1, 1, 1, 1])
    # a class that the histogram missed counts as 1 pixel in 10,000, not as absent
    np.testing.assert_allclose(class_weights(histogram, 1.0), np.array([1 / 0.9, 1 / 0.09, 100, 1e4]) / 3, rtol=1e-6)
    raw = np.array([0.9, 0.09, 0.01]) ** -0.5
    wanted = raw / (raw * [0.9, 0.09, 0.01]).sum()
    np.testing.assert_allclose(
        class_weights(histogram, 0.5), [*wanted, 100 / (raw * [0.9, 0.09, 0.01]).sum()], rtol=1e-6
    )
    assert class_weights(histogram, 0.5).dtype == np.float32
    rare = class_weights(np.array([10**9, 1]), 1.0)  # no class counts as rarer than 1 in 10,000
    assert rare[1] / rare[0] == pytest.approx(1e4, rel=1e-4)
    np.testing.assert_array_equal(class_weights(np.zeros(3, int), 0.5), 1)


def pictures(seed):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (8, 4, 6, 3)).astype(np.uint8),
        "labels": rng.choice([0, 1, 2, VOID], (8, 4, 6)).astype(np.uint8),
    }


def linear_denoiser(params, x, step):
    return params * jnp.flip(x, 2) * jnp.arange(6)[None, None, :, None]  # knows left from right


def test_denoiser_objective_mirrors_whole_images_half_the_time():
    schedule, data, seen = noise_schedule(np.full(10, 0.1)), pictures(0), []

    def denoiser(params, x, step):
        seen.append(np.asarray(x))
        return x

    plain = to_float(jnp.asarray(data["image"]))
    for seed in range(6):
        key = jax.random.key(seed)
        value = denoiser_objective(linear_denoiser, False)(0.5, (schedule, jnp.ones(10)), data, key)
        wanted = denoising_loss(partial(linear_denoiser, 0.5), schedule, plain, jax.random.split(key)[1], jnp.ones(10))
        assert float(value) == pytest.approx(float(wanted), rel=1e-6)
        denoiser_objective(denoiser, False)(0.5, (schedule, jnp.ones(10)), data, key)
        denoiser_objective(denoiser, True)(0.5, (schedule, jnp.ones(10)), data, key)
    mirrored = 0
    for straight, other in zip(seen[::2], seen[1::2], strict=True):
        for i in range(8):  # the noise and its level are the same: the difference is that of the images
            difference, turn = other[i] - straight[i], np.asarray(plain[i, :, ::-1] - plain[i])
            share = (difference * turn).sum() / (turn**2).sum()
            np.testing.assert_allclose(difference, share * turn, atol=1e-5)
            assert share == pytest.approx(0, abs=1e-5) or share > 0.05
            mirrored += share > 0.05
    assert 12 <= mirrored <= 36  # of 48 fair coins


def test_segmenter_objective_is_the_loss_of_augmented_images():
    data, weights = pictures(1), jnp.array([1.0, 2.0, 0.5])
    params = jnp.asarray(np.random.default_rng(2).standard_normal((3, 3)), jnp.float32)
    image, labels = data["image"].astype(np.float32) / 127.5 - 1, data["labels"].astype(np.int32)

    def apply(params, image):
        return image @ params

    @partial(jax.jit, compiler_options=FAST)
    def both(key):
        bare, augmented = (
            segmenter_objective(apply, strength)(params, weights, data, key) for strength in (None, Strength())
        )
        return bare, augmented, augment(key, image, labels, Strength())

    bare, augmented, (view, labels_of_view) = both(jax.random.key(0))
    assert float(bare) == pytest.approx(float(segmentation_loss(image @ params, labels, weights)), rel=1e-5)
    assert float(augmented) == pytest.approx(float(segmentation_loss(view @ params, labels_of_view, weights)), rel=1e-5)
    assert abs(float(bare - augmented)) > 1e-3


def test_metrics_are_json_that_any_reader_takes(whole):
    for line in (whole[0] / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no NaN, no Infinity
