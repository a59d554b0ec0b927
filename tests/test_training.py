"""The training loop: exact resume, one compile, what stops a run, the same on every device count."""

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
from line_fit import PARAMS, RECIPE, TRUTH, batch, keys_of, literal_rates, squares

from sgg_jax import devices, stopping, training
from sgg_jax.checkpoints import Checkpoints, load_weights
from sgg_jax.errors import InputError
from sgg_jax.models import EncoderDecoder, build
from sgg_jax.records import read_lines
from sgg_jax.training import fit, init_state, make_step, segmenter_objective


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
    total, gradient = jax.value_and_grad(squares, has_aux=True)(PARAMS, 1.0, batch(0), keys_of(0, 0))  # the first step
    loss, gradient = total[0] / total[1], jax.tree.map(lambda leaf: leaf / total[1], gradient)
    assert records[0]["loss"] == pytest.approx(float(loss), rel=1e-5)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    assert records[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert_same(load_weights(directory / "checkpoints", PARAMS), weights)


def test_metrics_are_json_that_any_reader_takes(whole):
    for line in (whole[0] / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no NaN, no Infinity


def held():
    """Bytes of memory and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_two_thousand_steps_hold_on_to_nothing(tmp_path, one_device):
    """Neither memory nor files, and every function is compiled once."""
    recipe, found, traces, compiled = replace(RECIPE, steps=2500, save_every=250), {}, [], []

    def counted(*operands):
        traces.append(1)
        return squares(*operands)

    def heard(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    def batches(step):
        if step in (490, 2490):
            time.sleep(2)  # training waits for this batch: no checkpoint is on its way any more
            gc.collect()
            found[step] = *held(), len(compiled)
        return batch(step)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        train(tmp_path, one_device, batches, objective=counted, recipe=recipe)
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    (before, files_before, compiled_before), (after, files_after, compiled_after) = found[490], found[2490]
    assert after - before < 20 * 2**20
    assert files_after <= files_before
    assert len(traces) == 1 and compiled_after == compiled_before > 0


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

    def cliff(params, scale, batch, keys):
        edge = jnp.sqrt(jnp.square(params["line"]["offset"]).sum())  # its slope at 0 is 0 / 0
        total, weight = squares(params, scale, batch, keys)
        return total + edge, weight

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
        step = make_step(segmenter_objective(apply, None), recipe.rule, mesh, 1)
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


@pytest.mark.parametrize("groups", [1, 4])
def test_one_trace_serves_all_runs_of_a_network(tmp_path, four_devices, groups):
    traces, recipe = [], replace(RECIPE, groups=groups)

    def counted(*operands):
        traces.append(1)
        return squares(*operands)

    first = train(tmp_path / "a", four_devices, objective=counted, recipe=recipe)
    other = replace(recipe, steps=5, learning_rate=0.1, warmup=1, save_every=2)
    second = train(tmp_path / "b", four_devices, objective=counted, recipe=other, seed=7, scale=2.0)
    assert len(traces) == 1
    assert np.abs(first["line"]["slope"] - second["line"]["slope"]).max() > 1e-3
