"""Predictions at full resolution against literal loops: windows, mirror image, padding, interpolation."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from sgg_jax.errors import InputError
from sgg_jax.models import EncoderDecoder, SegFormer, build
from sgg_jax.prediction import AS_IT_IS, Views, predict, predictions_at, see, upsampled, whole_size, window_grid

CLASSES = 5


def _seeing(params, image):
    """A pixel's logits depend on its left neighbour and on all that is shown at once."""
    left = jnp.pad(image, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    hidden = image @ params["own"] + left @ params["left"] + image.mean((1, 2), keepdims=True) @ params["all"]
    return jnp.tanh(hidden) @ params["out"]


RNG = np.random.default_rng(0)
WEIGHTS = {"own": (3, 8), "left": (3, 8), "all": (3, 8), "out": (8, CLASSES)}
SEEING = Partial(_seeing, {name: RNG.normal(size=size).astype(np.float32) for name, size in WEIGHTS.items()})


STAGES = {"widths": (8,) * 4, "depths": (1,) * 4, "heads": (1,) * 4, "reductions": (8, 4, 2, 1), "mlp_ratios": (2,) * 4}
SEGFORMER = {"classes": 3, "channels": 8, **STAGES}


def literal_bilinear(logits, size):
    """[h,w,C] -> [H,W,C], a pixel after the other: half-pixel centres, edges repeated."""
    height, width = logits.shape[:2]
    found = np.zeros((*size, logits.shape[2]))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
            for a in (int(y), int(y) + 1):
                for b in (int(x), int(x) + 1):
                    weight = max(0, 1 - abs(y - a)) * max(0, 1 - abs(x - b))
                    if weight:
                        found[i, j] += weight * logits[a, b]
    return found


def picture(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@jax.jit
def run(segmenter, image):
    return segmenter(image)


def logits_of(segmenter, image):
    """[h,w,3] uint8 -> [h,w,C] float64."""
    return np.asarray(run(segmenter, np.float32(image[None]) / 127.5 - 1), np.float64)[0]


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def choosy(side):
    """A segmenter that takes multiples of `side` only, as networks with strides do."""

    def apply(params, image):
        if image.shape[1] % side or image.shape[2] % side:
            raise ValueError(f"{image.shape} is no multiple of {side}")
        return _seeing(params, image)

    return Partial(apply, *SEEING.args)


# interpolation


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (3, 8), (2, 3), (11, 13)])
def test_upsampling_is_the_literal_loop(size):
    logits = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    found = upsampled(jnp.asarray(logits), size)
    np.testing.assert_allclose(found, literal_bilinear(logits, size), atol=2e-6)


def test_upsampling_keeps_ramps_constants_and_sizes():
    ramp = jnp.arange(8, dtype=jnp.float32)[None, :, None] * jnp.ones((4, 1, 1))
    found = np.asarray(upsampled(ramp, (12, 24)))
    np.testing.assert_allclose(found[5, 1:-1, 0], ((np.arange(24) + 0.5) / 3 - 0.5)[1:-1], atol=1e-6)
    assert (found[:, 0] == 0).all() and (found[:, -1] == 7).all()  # edges are repeated
    assert (np.asarray(upsampled(jnp.full((3, 5, 2), 0.1), (9, 7))) == np.float32(0.1)).all()
    logits = jax.random.normal(jax.random.key(0), (3, 5, 2))
    np.testing.assert_array_equal(upsampled(logits, (3, 5)), logits)


# windows


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("size", [(8, 16), (9, 16), (30, 41), (16, 100)])
def test_windows_cover_the_image_and_overlap(size, overlap):
    window = (8, 16)
    for edges, length, side in zip(window_grid(size, window, overlap), size, window, strict=True):
        assert edges[0] == 0 and edges[-1] == length - side
        assert all(0 < b - a <= round(side * (1 - overlap)) for a, b in pairwise(edges))
        step = round(side * (1 - overlap))
        assert len(edges) == 1 + -(-(length - side) // step)  # not one more than needed


def literal_windows(segmenter, image, window, overlap):
    """Mean logits of all windows over each pixel. [h,w,C]"""
    total, count = np.zeros((*image.shape[:2], CLASSES)), np.zeros((*image.shape[:2], 1))
    tops, lefts = window_grid(image.shape[:2], window, overlap)
    for top in tops:
        for left in lefts:
            place = slice(top, top + window[0]), slice(left, left + window[1])
            total[place] += logits_of(segmenter, image[place])
            count[place] += 1
    return total / count


@pytest.mark.parametrize("size", [(20, 27), (40, 54), (33, 30)])
def test_sliding_windows_are_the_literal_mean_upsampled(four_devices, size):
    image = picture(1, 20, 27)
    wanted = literal_bilinear(literal_windows(SEEING, image, (8, 12), 0.4), size)
    (found,) = predictions_at(SEEING, [(image, size)], Views((8, 12), 0.4), 4, four_devices)
    assert found.shape == size and found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted.argmax(-1))
    whole = literal_bilinear(logits_of(SEEING, image), size).argmax(-1)
    assert (found != whole).any()


def test_one_window_is_the_whole_image(one_device):
    images = [picture(i, 8, 12) for i in range(3)]
    wanted = predict(SEEING, jnp.asarray(np.stack(images)))
    for views in (AS_IT_IS, Views((8, 12)), Views((8, 12), 0.0)):
        found = list(predictions_at(SEEING, [(image, (8, 12)) for image in images], views, 3, one_device))
        np.testing.assert_array_equal(found, wanted)
    twice = [list(predictions_at(SEEING, [(image, (16, 24)) for image in images], views, 3, one_device))
             for views in (AS_IT_IS, Views((8, 12)))]  # fmt: skip
    np.testing.assert_array_equal(*twice)


def test_images_smaller_than_the_window_are_padded_to_it(one_device):
    image = picture(2, 6, 20)
    padded = np.pad(image, ((0, 2), (0, 0), (0, 0)), mode="reflect")
    wanted = literal_windows(SEEING, padded, (8, 12), 0.5)[:6].argmax(-1)
    (found,) = predictions_at(SEEING, [(image, (6, 20))], Views((8, 12)), 1, one_device)
    np.testing.assert_array_equal(found, wanted)


# padding, mirror image


@pytest.mark.parametrize("size", [(10, 13), (20, 26), (8, 16)])
def test_padding_to_the_stride_is_cut_off_before_the_logits_grow(one_device, size):
    segmenter, image = choosy(4), picture(3, 10, 13)
    padded = np.pad(image, ((0, 2), (0, 3), (0, 0)), mode="reflect")
    wanted = literal_bilinear(logits_of(segmenter, padded)[:10, :13], size).argmax(-1)
    (found,) = predictions_at(segmenter, [(image, size)], AS_IT_IS, 1, one_device)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("window", [None, (8, 8)])
def test_flipping_averages_probabilities_and_knows_no_left_or_right(one_device, window):
    segmenter, image, size = choosy(4), picture(4, 10, 13), (15, 20)

    def seen(views, image):
        return next(predictions_at(segmenter, [(image, size)], views, 1, one_device))

    found = seen(Views(window, 0.5, flip=True), image)
    np.testing.assert_array_equal(seen(Views(window, 0.5, flip=True), image[:, ::-1]), found[:, ::-1])
    bare = seen(Views(window, 0.5), image)
    assert (seen(Views(window, 0.5), image[:, ::-1]) != bare[:, ::-1]).any()
    assert (found != bare).any()
    if window is None:
        padded = [np.pad(one, ((0, 2), (0, 3), (0, 0)), mode="reflect") for one in (image, image[:, ::-1])]
        plain, mirrored = (softmax(literal_bilinear(logits_of(segmenter, one)[:10, :13], size)) for one in padded)
        np.testing.assert_array_equal(found, (plain + mirrored[:, ::-1]).argmax(-1))


# batches


@pytest.mark.parametrize(("batch_size", "views"), [(8, AS_IT_IS), (4, Views((8, 8), 0.5, flip=True))])
def test_images_of_all_sizes_keep_their_order(four_devices, one_device, batch_size, views):
    segmenter = choosy(4)
    sides = [(8, 8), (8, 8), (9, 14), (12, 12), (12, 12), (8, 8)]
    wanted = [(picture(i, *side), (side[0] * 2, side[1] + i)) for i, side in enumerate(sides)]
    wanted[1] = (wanted[1][0], (8, 8))  # at its own size, between others
    found = list(predictions_at(segmenter, iter(wanted), views, batch_size, four_devices))
    assert [one.shape for one in found] == [size for _, size in wanted]
    for (image, size), labels in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(labels, next(predictions_at(segmenter, [(image, size)], views, 1, one_device)))


def test_batches_are_filled_with_images_and_windows(four_devices, monkeypatch):
    shown = []

    def counting(network, batch):
        shown.append(batch.shape[:3])
        return see(network, batch)

    monkeypatch.setattr("sgg_jax.prediction.see", counting)
    wanted = [(picture(i, 8, 12), (16, 24)) for i in range(9)]
    assert len(list(predictions_at(SEEING, wanted, AS_IT_IS, 1, four_devices))) == 9
    assert shown == [(4, 8, 12)] * 3
    shown.clear()
    assert len(list(predictions_at(SEEING, wanted, Views((8, 8), 0.5, flip=True), 2, four_devices))) == 9
    assert shown == [(8, 8, 8)] * 5  # 9 images, twice 2 windows of each


def test_the_network_compiles_once_for_each_size_that_it_sees(one_device):
    def compiled(views, sides):
        before = see._cache_size()
        wanted = [(picture(0, *side), (30, 30)) for side in sides]
        assert len(list(predictions_at(choosy(8), wanted, views, 2, one_device))) == len(sides)
        return see._cache_size() - before

    sides = [(16, 24), (15, 24), (9, 17), (24, 24)]
    assert compiled(AS_IT_IS, sides) == 2  # all but the last are padded to 16 x 24
    assert compiled(Views((16, 16), 0.0), sides) == 1


def test_images_are_padded_only_where_a_network_does_not_take_their_size():
    small = dict(classes=3, widths=(4, 4, 4), blocks=1)
    assert whole_size(Partial(*build(EncoderDecoder, 0, patch=2, **small)), (15, 24)) == (16, 24)
    assert whole_size(Partial(*build(EncoderDecoder, 0, patch=3, **small)), (15, 24)) == (24, 24)
    assert whole_size(SEEING, (15, 7)) == (15, 7)
    assert whole_size(choosy(257), (257, 514)) == (257, 514)
    with pytest.raises(InputError, match="takes no image"):
        whole_size(choosy(257), (256, 257))


def test_a_network_that_takes_all_sizes_from_some_on_sees_an_image_as_it_is(one_device):
    segformer = Partial(*build(SegFormer, 0, **SEGFORMER))
    image = picture(0, 64, 128)
    [found] = predictions_at(segformer, [(image, (64, 128))], AS_IT_IS, 1, one_device)
    np.testing.assert_array_equal(found, predict(segformer, image[None])[0])
    [mirrored] = predictions_at(segformer, [(image, (64, 128))], Views(flip=True), 1, one_device)
    views = [jax.nn.softmax(see(segformer, view[None]))[0] for view in (image, image[:, ::-1])]
    np.testing.assert_array_equal(mirrored, np.argmax(views[0] + views[1][:, ::-1], -1))


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_windows_that_do_not_move_are_refused(overlap):
    with pytest.raises(InputError, match=r"config\.evaluate\.overlap"):
        Views((8, 8), overlap)
