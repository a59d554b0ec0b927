"""Random views: image and labels stay together, every operation has its closed form, and off means off.

Nearly all tests share one compile: strengths are operands here, and every batch is 32 images of 12x16.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgg_jax.augmentation import NONE, PATCHES, Strength, augment, diffused, pattern, recolor, retexture, warp
from sgg_jax.types import VOID

B, H, W = 32, 12, 16
OFF = NONE
FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time


def augmented(key, image, labels, strength):
    return augment(jax.random.split(key, len(image)), image, labels, strength)


@partial(jax.jit, compiler_options=FAST)
def view(key, image, labels, strength):
    """All operations but those that are left out of the program where they are 0."""
    return augmented(key, image, labels, strength._replace(recolor=0.0, texture=0.0, diffuse=0.0))


# Every pixel knows where it comes from: its label is its index, its colour its row and column (and a grey of 0.2).
ROWS, COLUMNS = (axis.astype(np.float32) for axis in np.mgrid[:H, :W])
LABELS = np.broadcast_to((ROWS * W + COLUMNS).astype(np.int32), (B, H, W))
IMAGE = np.broadcast_to(np.stack([0.1 + ROWS / 40, 0.1 + COLUMNS / 40, np.full((H, W), 0.2)], -1), (B, H, W, 3))
IMAGE = IMAGE.astype(np.float32)
RANDOM = np.random.default_rng(0).uniform(-0.2, 0.2, (B, H, W, 3)).astype(np.float32)  # far from the clipping at 1


def views(strength, image=IMAGE, seed=0):
    return tuple(np.asarray(part) for part in view(jax.random.key(seed), image, LABELS, strength))


def test_all_off_is_the_identity():
    image, labels = views(OFF, RANDOM)
    np.testing.assert_allclose(image, RANDOM, atol=1e-6)
    np.testing.assert_array_equal(labels, LABELS)


def test_a_warp_without_zoom_and_flip_is_exact():
    image, labels = jax.jit(warp, compiler_options=FAST)(jax.random.key(3), RANDOM[0], LABELS[0], OFF)
    np.testing.assert_array_equal(image, RANDOM[0])
    np.testing.assert_array_equal(labels, LABELS[0])


def test_flip_mirrors_image_and_labels_or_neither():
    image, labels = views(OFF._replace(flip=True), RANDOM)
    mirrored = labels[:, 0, 0] != 0
    for i in range(B):
        turn = slice(None, None, -1) if mirrored[i] else slice(None)
        np.testing.assert_array_equal(labels[i], LABELS[i][:, turn])
        np.testing.assert_allclose(image[i], RANDOM[i][:, turn], atol=1e-6)
    assert 6 <= mirrored.sum() <= 26  # of 32 fair coins, but for 1 in 5000


def test_image_and_labels_stay_together_under_warps():
    """At every pixel the colour, which was interpolated, lies within half a pixel of the label, which was not."""
    image, labels = views(OFF._replace(flip=True, scale=0.5))
    inside = labels != VOID
    row, column = (image[..., 0] - 0.1) * 40, (image[..., 1] - 0.1) * 40
    assert np.abs(row - labels // W)[inside].max() < 0.501
    assert np.abs(column - labels % W)[inside].max() < 0.501
    assert inside.mean() > 0.7 and np.abs(row - labels // W)[inside].max() > 0.3  # some lie between pixels


def test_zoom_is_one_factor_within_its_range():
    image, labels = views(OFF._replace(flip=True, scale=0.5))
    zooms = []
    for i in range(B):
        steps = [np.diff((image[i, ..., axis] - 0.1) * 40, axis=axis)[4:7, 5:10] for axis in (0, 1)]  # off the edges
        zooms.append(1 / np.abs(steps[0]).mean())
        np.testing.assert_allclose(np.abs(steps[0]), 1 / zooms[-1], atol=1e-3)
        np.testing.assert_allclose(np.abs(steps[1]), 1 / zooms[-1], atol=1e-3)
    zooms = np.array(zooms)
    assert 1 / 1.25 - 1e-3 < zooms.min() < 0.9 and 1.35 < zooms.max() < 1.5 + 1e-3
    inside = labels != VOID
    for zoom, rows, columns in zip(zooms, inside.any(2).sum(1), inside.any(1).sum(1), strict=True):
        assert abs(rows - min(H, H * zoom)) <= 1 and abs(columns - min(W, W * zoom)) <= 1  # a window of its size


def test_windows_are_placed_at_random():
    image, labels = views(OFF._replace(scale=0.5))
    known = np.where(labels == VOID, -1, labels)
    corners = {(known[i, 0, 0], known[i, -1, -1]) for i in range(B)}
    assert len(corners) > 12
    assert (image[:, :, 1:, 1] >= image[:, :, :-1, 1])[(labels != VOID)[:, :, 1:]].all()  # flip off: never mirrored


def test_zoom_out_brings_in_void_and_grey_together():
    image, labels = views(OFF._replace(flip=True, scale=0.5))
    outside = labels == VOID
    assert outside.any() and not outside.all((1, 2)).any()
    np.testing.assert_array_equal((image == 0).all(-1), outside)
    assert (image[~outside] > 0.05).all()  # no grey bleeds in at the border


def test_brightness_adds_one_number():
    image, _ = views(OFF._replace(brightness=0.3), RANDOM)
    added = (image - RANDOM).reshape(B, -1)
    np.testing.assert_allclose(added, added[:, :1] * np.ones_like(added), atol=1e-6)
    assert -0.3 <= added.min() < -0.15 and 0.15 < added.max() <= 0.3


def test_contrast_scales_around_the_mean_of_each_channel():
    image, _ = views(OFF._replace(contrast=0.5), RANDOM)
    mean = RANDOM.mean((1, 2), keepdims=True)
    factors = ((image - mean) * (RANDOM - mean)).sum((1, 2, 3)) / np.square(RANDOM - mean).sum((1, 2, 3))
    np.testing.assert_allclose(image, mean + factors[:, None, None, None] * (RANDOM - mean), atol=1e-6)
    assert -0.5 <= np.log(factors).min() < -0.25 and 0.25 < np.log(factors).max() <= 0.5


def test_colour_is_one_matrix_an_image():
    image, _ = views(OFF._replace(color=0.5), RANDOM)
    offsets = []
    for before, after in zip(RANDOM.reshape(B, -1, 3), image.reshape(B, -1, 3), strict=True):
        matrix = np.linalg.lstsq(before, after, rcond=None)[0]
        np.testing.assert_allclose(before @ matrix, after, atol=1e-5)
        offsets.append(matrix - np.eye(3))
    assert np.std(offsets) == pytest.approx(0.5 / np.sqrt(3), rel=0.2)
    assert abs(np.mean(offsets)) < 4 * 0.5 / np.sqrt(3 * 9 * B)


def test_blur_of_a_point_is_a_gaussian():
    point = np.zeros((B, H, W, 3), np.float32)
    point[:, 6, 8] = [0.9, -0.5, 0.1]
    image, _ = views(OFF._replace(blur=1.0), point)
    distance = (np.arange(H)[:, None] - 6) ** 2 + (np.arange(W)[None, :] - 8) ** 2
    sigmas = []
    for spread in image:
        ratio = spread[6, 9, 0] / spread[6, 8, 0]
        sigmas.append(np.sqrt(-0.5 / np.log(ratio)) if ratio > 0 else 0.0)
        wanted = float(ratio) ** distance
        wanted /= wanted.sum()
        np.testing.assert_allclose(spread, wanted[..., None] * point[0, 6, 8], atol=2e-5)
    assert min(sigmas) < 0.4 and 0.8 < max(sigmas) <= 1
    np.testing.assert_allclose(image.sum((1, 2)), point.sum((1, 2)), atol=1e-4)


def test_blur_leaves_a_plain_colour_alone():
    plain = np.broadcast_to(np.float32([0.9, -0.5, 0.1]), (B, H, W, 3))
    np.testing.assert_allclose(views(OFF._replace(blur=1.0), plain)[0], plain, atol=1e-6)


def test_noise_is_white_and_as_strong_as_drawn():
    image, _ = views(OFF._replace(noise=0.1), np.zeros_like(IMAGE))
    deviations = image.std((1, 2, 3))
    assert deviations.min() < 0.04 and 0.07 < deviations.max() < 0.1 * 1.1  # 576 values an image
    white = image / deviations[:, None, None, None]
    assert abs(white.mean()) < 5 / np.sqrt(white.size)
    assert abs((white[:, 1:] * white[:, :-1]).mean()) < 5 / np.sqrt(white.size)  # neighbours know nothing
    assert abs((white[1:] * white[:-1]).mean()) < 5 / np.sqrt(white.size)  # nor do images


def test_the_view_is_clipped():
    image, _ = views(OFF._replace(brightness=9.0, contrast=3.0), RANDOM)
    assert image.min() == -1 and image.max() == 1


def test_an_image_does_not_depend_on_the_others():
    first, others = views(Strength(), RANDOM), views(Strength(), np.concatenate([RANDOM[:1], -RANDOM[1:]]))
    np.testing.assert_array_equal(first[0][0], others[0][0])
    assert (first[0][1:] != others[0][1:]).any((1, 2, 3)).all()
    alone = view(jax.random.key(0), RANDOM[:1], LABELS[:1], Strength())  # the first key of a split is always the same
    np.testing.assert_allclose(alone[0][0], first[0][0], atol=1e-5)
    np.testing.assert_array_equal(alone[1][0], first[1][0])


def test_views_follow_from_the_key():
    one, two, other = views(Strength()), views(Strength()), views(Strength(), seed=1)
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert (one[0] != other[0]).any((1, 2, 3)).all() and (one[1] != other[1]).any((1, 2)).sum() > B - 3
    same = views(Strength(), np.broadcast_to(RANDOM[:1], RANDOM.shape))[0]
    assert len(np.unique(same.reshape(B, -1), axis=0)) == B  # every image of a batch draws its own


def test_strengths_may_be_static():
    static = jax.jit(augmented, static_argnums=3, compiler_options=FAST)(
        jax.random.key(0), jnp.asarray(RANDOM), LABELS, Strength()
    )
    image, labels = views(Strength(), RANDOM)
    np.testing.assert_allclose(static[0], image, atol=1e-5)
    np.testing.assert_array_equal(static[1], labels)


def test_recolor_adds_one_colour_to_each_class_and_none_to_void():
    labels = np.random.default_rng(1).choice([0, 1, 2, VOID], (H, W)).astype(np.int32)
    colors = []
    for seed in range(200):
        moved = np.asarray(recolor(jax.random.key(seed), RANDOM[0], labels, 0.5)) - RANDOM[0]
        np.testing.assert_allclose(moved[labels == VOID], 0, atol=1e-6)
        colors.append([moved[labels == c].mean(0) for c in range(3)])
        for c in range(3):
            assert np.ptp(moved[labels == c], axis=0).max() < 1e-6
    colors = np.array(colors).reshape(-1)
    assert colors.mean() == pytest.approx(0, abs=4 * 0.5 / np.sqrt(colors.size))
    assert colors.std() == pytest.approx(0.5, rel=4 / np.sqrt(2 * colors.size))


@pytest.mark.parametrize("size", PATCHES)
def test_patterns_are_squares_or_smooth_between_their_centres(size):
    draw = jax.jit(partial(pattern, height=H, width=W, size=size), compiler_options=FAST)
    drawn = np.stack([draw(jax.random.key(seed)) for seed in range(200)])
    # a square's border is met once in `size` pixels, so most neighbours of a hard pattern are equal
    equal = (drawn[:, 1:] == drawn[:, :-1]).all(-1).mean((1, 2))
    hard = equal > 0.3 if size > 1 else np.ones(200, bool)
    if size > 1:
        assert 65 <= hard.sum() <= 135  # of 200 fair coins
        assert equal[hard] == pytest.approx(1 - 1 / size, abs=1.01 / (H - 1))
        assert equal[~hard].max() < 0.05
    assert drawn[hard].var() == pytest.approx(1 if size > 1 else drawn.var(), rel=0.2)
    assert drawn.var() <= 1.1 and abs(drawn.mean()) < 0.15
    grey = drawn.mean(-1, keepdims=True)
    assert 0.75 < grey.var() / drawn.var() < 0.95  # 0.8 + 0.2 / 3


def test_retexture_gives_each_class_its_own_strength_and_void_none():
    labels = np.random.default_rng(1).choice([0, 1, VOID], (H, W)).astype(np.int32)
    draw = jax.jit(lambda key, s: retexture(key, RANDOM[0], labels, s) - RANDOM[0], compiler_options=FAST)
    moved = np.stack([draw(jax.random.key(seed), 0.3) for seed in range(200)])
    np.testing.assert_allclose(moved[:, labels == VOID], 0, atol=1e-6)
    np.testing.assert_allclose(draw(jax.random.key(3), 0.6), 2 * moved[3], atol=1e-5)
    strengths = np.log([moved[:, labels == c].std((1, 2)) for c in (0, 1)])
    assert abs(np.corrcoef(strengths)[0, 1]) < 0.4  # not drawn together
    assert 0.2 < moved[:, labels != VOID].std() / (0.3 * np.sqrt(len(PATCHES))) < 1.0


def test_diffused_images_have_the_moments_of_a_diffusion_step():
    """Unit variance in, unit variance out; correlation with the image is sqrt(1 - s^2), s uniform up to the most."""
    image = np.random.default_rng(2).standard_normal((64, 64, 3)).astype(np.float32)
    image = (image - image.mean()) / image.std()
    shares = []
    for seed in range(100):
        noisy = np.asarray(diffused(jax.random.key(seed), image, 0.9))
        assert noisy.std() == pytest.approx(1, abs=0.03)
        shares.append(np.sqrt(1 - np.clip((noisy * image).mean(), 0, 1) ** 2))
    assert max(shares) < 0.92 and min(shares) < 0.15
    assert np.mean(shares) == pytest.approx(0.45, abs=4 * 0.9 / np.sqrt(12 * 100))


def test_guides_augmentation_is_part_of_the_whole():
    strong = NONE._replace(recolor=0.5, texture=0.3, diffuse=0.9)
    image, labels = jax.jit(augmented, static_argnums=3, compiler_options=FAST)(
        jax.random.key(0), RANDOM, LABELS, strong
    )
    np.testing.assert_array_equal(labels, LABELS)
    assert float(jnp.abs(image).max()) > 1.5  # the noise of diffusion is not clipped
    assert Strength().recolor == Strength().texture == Strength().diffuse == 0


def test_colours_of_classes_are_drawn_apart_from_the_other_draws():
    """Class 0's colour tells nothing of the brightness, nor of whether the picture is mirrored."""
    strength = NONE._replace(flip=True, brightness=0.1, recolor=0.1)
    labels = jnp.zeros((400, 2, 2), jnp.int32).at[..., 1].set(VOID)  # void pixels keep what all pixels get
    draw = jax.jit(augmented, static_argnums=3, compiler_options=FAST)
    image, labels = map(np.asarray, draw(jax.random.key(0), jnp.zeros((400, 2, 2, 3)), labels, strength))
    mirrored = labels[:, 0, 0] == VOID
    brightness = np.where(mirrored[:, None], image[:, 0, 0], image[:, 0, 1]).mean(-1)
    color = np.where(mirrored[:, None], image[:, 0, 1], image[:, 0, 0]) - brightness[:, None]
    for other in (brightness, mirrored):
        assert np.abs([np.corrcoef(color[:, c], other)[0, 1] for c in range(3)]).max() < 4 / np.sqrt(400)
    assert color.std() == pytest.approx(0.1, rel=0.1)
