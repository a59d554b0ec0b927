"""The jitted entry: independence of batch and device, one compile, padding."""

from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.tree_util import Partial
from toys import CLASSES, labels, mixing_segmenter, short_schedule, smooth_denoiser

from sgg_jax.data.dataset import ClassInfo, Example
from sgg_jax.errors import InputError
from sgg_jax.guidance import VARIANTS
from sgg_jax.sampling import Knobs, Method, ancestral, ddim, step_noise
from sgg_jax.schedule import add_noise
from sgg_jax.translation import _advance, in_blocks, trace, translate, translate_all, translator
from sgg_jax.types import VOID, image_keys, to_float

KNOBS = Knobs(scale=jnp.float32(0.5), fill=jnp.float32(0), limit=jnp.float32(1), seed=jnp.int32(11))
SGG = Method(VARIANTS["sgg"], ancestral, 4)
PLAIN = SGG._replace(guidance=VARIANTS["none"])


def scene(count=4, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, 8, 12, 3), dtype=np.uint8)
    return image, np.asarray(labels(count, seed=seed), np.uint8), np.arange(50, 50 + count, dtype=np.int32)


def run(data, mesh, *, method=SGG, knobs=KNOBS, schedule=None, segmenter=None):
    schedule = short_schedule() if schedule is None else schedule
    return translate(
        smooth_denoiser(), segmenter or mixing_segmenter(), schedule, *data, knobs, method=method, mesh=mesh
    )[:2]


def rounding(a, b):
    """uint8 images equal but for values that rounding tipped over."""
    difference = np.abs(np.asarray(a, int) - np.asarray(b, int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("method", [SGG, SGG._replace(reverse=ddim(0.0))], ids=["ddpm", "ddim"])
def test_an_image_is_the_same_alone_in_a_batch_and_on_four_devices(method, one_device, four_devices):
    data = scene(4)
    together, ratios = run(data, one_device, method=method)
    spread, spread_ratios = run(data, four_devices, method=method)
    rounding(together, spread)
    np.testing.assert_allclose(ratios, spread_ratios, rtol=1e-3, atol=1e-5)
    for i in range(4):
        alone, _ = run(tuple(part[i : i + 1] for part in data), one_device, method=method)
        rounding(alone[0], together[i])
    shuffled, _ = run(tuple(part[[2, 0, 3, 1]] for part in data), four_devices, method=method)
    rounding(shuffled, np.asarray(together)[[2, 0, 3, 1]])


@pytest.mark.parametrize("variant", ["gsg", "lcg", "sgg"])
def test_scale_zero_is_bit_equal_to_unguided(variant, one_device):
    data = scene(3)
    for reverse in (ancestral, ddim(0.0)):
        off, ratios = run(
            data, one_device, method=Method(VARIANTS[variant], reverse, 4), knobs=KNOBS._replace(scale=jnp.float32(0))
        )
        plain, _ = run(data, one_device, method=Method(VARIANTS["none"], reverse, 4))
        np.testing.assert_array_equal(off, plain)
        np.testing.assert_array_equal(ratios, 0)


def test_guidance_raises_the_likelihood_of_the_labels(one_device):
    """Whole translations: the guide agrees more with the labels the stronger it guides."""
    data = scene(4)
    means = []
    for scale in (0.0, 1.0, 8.0):
        image, _ = run(data, one_device, knobs=KNOBS._replace(scale=jnp.float32(scale)))
        predicted = mixing_segmenter()(image / 127.5 - 1.0)
        log_p = np.asarray(jax.nn.log_softmax(predicted))
        known = data[1] < CLASSES
        means.append(np.take_along_axis(log_p, np.where(known, data[1], 0)[..., None].astype(int), -1)[known].mean())
    assert means[0] < means[1] < means[2]


def test_seed_and_id_choose_the_noise(one_device):
    image, given, ids = scene(2)
    base, _ = run((image, given, ids), one_device)
    again, _ = run((image, given, ids), one_device)
    np.testing.assert_array_equal(base, again)
    for data, knobs in (((image, given, ids + 1), KNOBS), ((image, given, ids), KNOBS._replace(seed=jnp.int32(12)))):
        other, _ = run(data, one_device, knobs=knobs)
        assert (np.asarray(other) != np.asarray(base)).mean() > 0.5


def test_depth_zero_noise_is_the_image(one_device):
    """At the shallowest depth hardly anything is lost; at the deepest nearly everything."""
    data = scene(2)
    shallow, _ = run(data, one_device, method=PLAIN, schedule=short_schedule(depth=1))
    deep, _ = run(data, one_device, method=PLAIN, schedule=short_schedule(depth=1000))
    near = np.abs(np.asarray(shallow, float) - data[0]).mean()
    far = np.abs(np.asarray(deep, float) - data[0]).mean()
    assert near < 2 < 30 < far


def test_one_compile_for_all_depths_weights_and_scales(one_device):
    traces = Counter()

    def counting(params, x, step):
        traces["denoiser"] += 1
        return x * params + 0 * step[:, None, None, None]

    def counting_segmenter(params, image):
        traces["segmenter"] += 1
        return image @ params

    data = scene(2)
    seen = []
    for depth in (100, 400, 1000):
        for weight in (0.1, 0.2, 0.3):
            translate(
                Partial(counting, jnp.float32(weight)),
                Partial(counting_segmenter, jnp.full((3, CLASSES), weight)),
                short_schedule(depth),
                *data,
                KNOBS._replace(scale=jnp.float32(weight)),
                method=SGG,
                mesh=one_device,
            )
            seen.append(dict(traces))
    assert seen[0]["denoiser"] > 0
    assert all(entry == seen[0] for entry in seen)


@dataclass(frozen=True)
class Toy:
    """A data set of random scenes."""

    data: tuple[np.ndarray, np.ndarray, np.ndarray]
    classes: tuple[ClassInfo, ...] = tuple(ClassInfo(str(i), (i,), (0, 0, 0)) for i in range(CLASSES))
    size: tuple[int, int] = (8, 12)
    labelled: bool = True

    def __len__(self):
        return len(self.data[0])

    def name(self, index):
        return f"{index:03d}"

    def image_id(self, index):
        return int(self.data[2][index])

    def __getitem__(self, index):
        return Example(self.data[0][index], self.data[1][index])


def test_partial_batches_are_padded_and_the_padding_dropped(four_devices):
    toy = Toy(scene(7))
    wanted = [6, 0, 2, 5, 1, 3]
    found = list(
        translate_all(
            smooth_denoiser(),
            mixing_segmenter(),
            short_schedule(),
            toy,
            [wanted[:4], [], wanted[4:]],
            KNOBS,
            batch_size=4,
            method=SGG,
            mesh=four_devices,
        )
    )
    assert [[done.index for done in block] for block in found] == [wanted[:4], [], wanted[4:]]
    found = [done for block in found for done in block]
    everything, _ = run(tuple(np.concatenate([part, part[:1]]) for part in toy.data), four_devices)
    for done in found:
        rounding(done.image, everything[done.index])
        np.testing.assert_array_equal(done.labels, toy.data[1][done.index])


def test_a_device_with_nothing_to_do_takes_no_step(one_device, four_devices):
    """Two images on the first device, what fills up on the others: these keep their noised images, and no ratio."""
    data = tuple(np.concatenate([part] * 4) for part in scene(2))
    data[2][2:] = -1
    image, ratios = (np.asarray(array) for array in run(data, four_devices))
    everything, all_ratios = (np.asarray(array) for array in run(tuple(part[:2] for part in data), one_device))
    rounding(image[:2], everything)
    np.testing.assert_allclose(ratios[:2], all_ratios, rtol=1e-3, atol=1e-5)
    assert (ratios[:2] > 0).any() and not ratios[2:].any()
    schedule = short_schedule()
    deepest = schedule.row(schedule.count - 1)
    keys = image_keys(KNOBS.seed, jnp.asarray(data[2][2:]))
    noised = add_noise(deepest, to_float(jnp.asarray(data[0][2:])), step_noise(keys, 0, (8, 12, 3)))
    rounding(image[2:], np.round((np.clip(noised, -1, 1) + 1) * 127.5))


def test_what_fills_a_block_up_is_not_guided(one_device, monkeypatch):
    shown = []

    def recording(method, mesh):
        def program(denoiser, segmenter, schedule, image, labels, ids, knobs):
            shown.append((np.asarray(labels), np.asarray(ids)))
            return translator(method, mesh)(denoiser, segmenter, schedule, image, labels, ids, knobs)

        return program

    monkeypatch.setattr("sgg_jax.translation.translator", recording)
    toy, networks = Toy(scene(3)), (smooth_denoiser(), mixing_segmenter())
    how = dict(batch_size=4, method=SGG, mesh=one_device)
    (block,) = translate_all(*networks, short_schedule(), toy, [range(3)], KNOBS, **how)
    ((known, ids),) = shown
    assert ids.tolist() == [50, 51, 52, -1] and (known[3] == VOID).all()
    np.testing.assert_array_equal(known[:3], toy.data[1])
    assert len(block) == 3


def test_blocks_of_indices_are_the_same_whatever_else_is_asked_for():
    assert in_blocks(range(10), 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert in_blocks([2, 3, 4, 5, 9], 4) == [[2, 3], [4, 5], [9]]


class Sizes(Toy):
    """Every third image is narrower."""

    size = None

    def __getitem__(self, index):
        image, known = self.data[0][index], self.data[1][index]
        return Example(image[:, :8], known[:, :8]) if index % 3 == 1 else Example(image, known)


@pytest.mark.parametrize("kind", [Toy, Sizes])
def test_any_number_of_devices_gives_the_same_bytes(kind):
    toy = kind(scene(11))

    def translated(devices, blocks):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        found = translate_all(
            smooth_denoiser(), mixing_segmenter(), short_schedule(), toy, blocks, KNOBS, batch_size=3, method=SGG,
            mesh=mesh,
        )  # fmt: skip
        return {done.index: done for block in found for done in block}

    blocks = in_blocks(range(11), 3)
    one = translated(1, blocks)
    assert list(one) == list(range(11))
    others = [translated(2, blocks), translated(4, blocks), translated(4, [blocks[3], [], blocks[0]])]
    for found in others:
        for index, done in found.items():
            np.testing.assert_array_equal(done.image, one[index].image)
            np.testing.assert_array_equal(done.ratios, one[index].ratios)
    assert list(others[-1]) == [9, 10, 0, 1, 2]


@pytest.mark.parametrize("method", [SGG, PLAIN, SGG._replace(reverse=ddim(0.5))], ids=["sgg", "none", "ddim"])
def test_a_trace_takes_the_steps_of_the_translation(method, one_device):
    data, schedule = scene(3), short_schedule()
    image, _ = run(data, one_device, method=method)
    compiled = _advance._cache_size()
    looks, last = trace(smooth_denoiser(), mixing_segmenter(), schedule, *data, KNOBS, method=method)
    assert _advance._cache_size() == compiled + 1  # once for all six steps
    rounding((np.clip(last, -1, 1) + 1) * 127.5 + 0.5, image)
    assert [look.step for look in looks] == [int(schedule.row(i).step) for i in reversed(range(6))]
    np.testing.assert_allclose(np.clip(last, -1, 1), looks[-1].predicted, atol=2e-3 if method is not SGG else 1)


def test_a_trace_tells_the_cross_entropy_of_the_known_pixels():
    data, schedule = scene(3), short_schedule()
    looks, _ = trace(smooth_denoiser(), mixing_segmenter(), schedule, *data, KNOBS, method=SGG)
    for look in (looks[0], looks[-1]):
        row = schedule.row(next(i for i in range(6) if int(schedule.row(i).step) == look.step))
        eps = smooth_denoiser()(jnp.asarray(look.x), jnp.full(3, look.step))
        predicted = np.clip((look.x - float(row.noise_scale) * np.asarray(eps)) / float(row.image_scale), -1, 1)
        np.testing.assert_allclose(look.predicted, predicted, atol=1e-4)
        log_p = np.asarray(jax.nn.log_softmax(mixing_segmenter()(jnp.asarray(predicted))))
        for i in range(3):
            known = np.argwhere(data[1][i] != VOID)
            wanted = -np.mean([log_p[i, y, x, data[1][i, y, x]] for y, x in known])
            assert look.cross_entropy[i] == pytest.approx(wanted, rel=1e-3)


def test_what_does_not_fit_is_done_in_smaller_parts(four_devices, capsys):
    """A bound between what one image needs and what four do; the same images but for rounding."""
    toy = Toy(scene(7))

    def translated(memory):
        found = translate_all(
            smooth_denoiser(), mixing_segmenter(), short_schedule(), toy, [range(4), range(4, 7)], KNOBS, batch_size=4,
            method=SGG, mesh=four_devices, memory=memory,
        )  # fmt: skip
        blocks = list(found)
        assert [[done.index for done in block] for block in blocks] == [[0, 1, 2, 3], [4, 5, 6]]
        return np.stack([done.image for block in blocks for done in block])

    def needed(rows, pairs):
        data = (jax.ShapeDtypeStruct((4 * rows, *part.shape[1:]), part.dtype) for part in toy.data)
        networks, method = (smooth_denoiser(), mixing_segmenter()), SGG._replace(microbatch=pairs)
        lowered = translator(method, four_devices).lower(*networks, short_schedule(), *data, KNOBS)
        found = lowered.compile().memory_analysis()
        return found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes

    least, most = needed(1, 1), needed(4, 4)
    assert least < most
    whole = translated(most * 1.5)
    assert capsys.readouterr().err == ""
    rounding(translated(least * 1.05), whole)
    assert "1 images and 1 pairs at once on a device, in place of 4 and 4, to fit into" in capsys.readouterr().err
    with pytest.raises(InputError, match="lower translate.tile"):
        translated(least / 4)
