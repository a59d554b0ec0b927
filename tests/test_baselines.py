"""Colour spaces against published values, matched statistics, and FDA against literal loops over frequencies."""

import math

import numpy as np
import pytest
from PIL import Image, ImageCms

from sgg_jax.baselines import (
    ColorStatistics,
    color_statistics,
    color_transfer,
    fda,
    grey,
    lab_to_rgb,
    periods,
    rgb_to_lab,
)


def picture(seed, shape=(16, 20), center=(120, 110, 130), contrast=12):
    """Independent noise in every pixel and channel about a colour."""
    noise = np.random.default_rng(seed).normal(size=(*shape, 3)) * contrast
    return np.clip(np.rint(np.array(center) + noise), 0, 255).astype(np.uint8)


# Lab


@pytest.mark.parametrize(
    ("rgb", "lab"),  # brucelindbloom.com, D65; L of #808080 is 53.585; near black L is 24389/27 * Y
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((0, 255, 255), (91.11, -48.09, -14.13)),
        ((255, 0, 255), (60.32, 98.23, -60.82)),
        ((255, 255, 0), (97.14, -21.55, 94.48)),
        ((255, 255, 255), (100, 0, 0)),
        ((128, 128, 128), (53.585, 0, 0)),
        ((1, 1, 1), (24389 / 27 / 255 / 12.92, 0, 0)),
        ((7, 7, 7), (24389 / 27 * 7 / 255 / 12.92, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_lab_of_known_colours(rgb, lab):
    np.testing.assert_allclose(rgb_to_lab(np.array(rgb) / 255), lab, atol=0.006)
    np.testing.assert_allclose(255 * lab_to_rgb(np.array(lab, float)), rgb, atol=0.15)  # two digits of Lab are not more


def test_lightness_of_greys_is_that_of_pillow():
    """Little CMS takes D50, where colours differ but greys do not. L is stored as 0..255."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    stored = ImageCms.applyTransform(Image.fromarray(greys), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    found = rgb_to_lab(greys / 255)[0]
    np.testing.assert_allclose(found[:, 0] * 2.55, np.asarray(stored)[0, :, 0], atol=0.75)
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-9)


def test_lab_round_trip():
    levels = np.stack(np.meshgrid(*[np.linspace(0, 1, 18)] * 3), -1)
    dark = np.random.default_rng(0).uniform(0, 0.06, (50, 3))  # about the knee
    knee = np.array([0.04045, 0.04045001, 0.04044999])  # where the standard's curve has a step of 3e-8
    for rgb, tolerance in ((levels, 1e-12), (dark, 1e-12), (knee, 1e-7)):
        lab = rgb_to_lab(rgb)
        assert lab.shape == rgb.shape and lab.dtype == np.float64
        np.testing.assert_allclose(lab_to_rgb(lab), rgb, atol=tolerance)
    assert rgb_to_lab(levels.astype(np.float32)).dtype == np.float64


def test_lab_without_a_colour_in_srgb_is_clipped_by_channel():
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(np.array([-0.05, 0.5, 1.2]))), [0, 0.5, 1], atol=1e-12)
    extremes = lab_to_rgb(np.array([[-20.0, 0, 0], [130, 0, 0], [50, 300, 0], [50, -300, 300], [0, 0, -300]]))
    assert extremes.min() >= 0 and extremes.max() <= 1
    np.testing.assert_allclose(extremes[:2], [[0, 0, 0], [1, 1, 1]], atol=1e-12)


# colour transfer


def test_statistics_are_those_of_all_pixels_at_once():
    images = [picture(1), picture(2, (3, 5), (200, 30, 90)), picture(3, (1, 1), (0, 255, 0)), picture(4, (40, 2))]
    pixels = rgb_to_lab(np.concatenate([image.reshape(-1, 3) for image in images]) / 255)
    for found in (color_statistics(iter(images)), color_statistics(images[::-1])):
        np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-12)
        assert found.mean.shape == found.std.shape == (3,)


def test_statistics_of_one_colour_have_no_spread():
    found = color_statistics(np.full((4, 5, 3), (7, 90, 201), np.uint8) for _ in range(3))
    np.testing.assert_allclose(found.mean, rgb_to_lab(np.array([7, 90, 201]) / 255), rtol=1e-12)
    np.testing.assert_allclose(found.std, 0, atol=1e-12)


def test_statistics_need_an_image():
    with pytest.raises(ValueError, match="no image"):
        color_statistics([])


@pytest.mark.parametrize("several", [False, True])
def test_transfer_reaches_the_statistics_of_the_target(several):
    image, target = picture(5, (64, 64)), picture(6, (30, 40), (140, 120, 90), 7)
    wanted = color_statistics([target, picture(7, (9, 9), (120, 110, 90), 7)] if several else [target])
    before, result = color_statistics([image]), color_transfer(image, wanted)
    assert (np.abs(before.mean - wanted.mean) > 1).all() and (np.abs(before.std - wanted.std) > 1).all()
    assert result.dtype == np.uint8 and result.shape == image.shape and result.min() > 0 and result.max() < 255
    found = color_statistics([result])
    np.testing.assert_allclose(found.mean, wanted.mean, atol=0.05)
    np.testing.assert_allclose(found.std, wanted.std, atol=0.05)


def test_transfer_is_the_formula_pixel_by_pixel():
    image, wanted = picture(8, (4, 5)), ColorStatistics(np.array([60.0, 5, -10]), np.array([9.0, 3, 12]))
    own, lab = color_statistics([image]), rgb_to_lab(image / 255)
    result = color_transfer(image, wanted)
    for place in np.ndindex(4, 5):
        moved = [(lab[place][c] - own.mean[c]) * wanted.std[c] / own.std[c] + wanted.mean[c] for c in range(3)]
        np.testing.assert_array_equal(result[place], np.rint(255 * lab_to_rgb(np.array(moved))))


def test_transfer_to_own_statistics_is_the_image():
    image = np.random.default_rng(9).integers(0, 256, (30, 31, 3), np.uint8)
    np.testing.assert_array_equal(color_transfer(image, color_statistics([image])), image)


def test_channels_without_contrast_only_shift():
    """a and b of a grey ramp are 0 up to rounding, which must not be amplified to the target's std."""
    ramp = np.repeat(np.linspace(90, 150, 48).astype(np.uint8).reshape(6, 8, 1), 3, 2)
    wanted = ColorStatistics(np.array([55.0, 8, -12]), np.array([6.0, 20, 20]))
    found = rgb_to_lab(color_transfer(ramp, wanted) / 255)
    np.testing.assert_allclose(found[..., 1:], np.broadcast_to([8, -12], (6, 8, 2)), atol=0.6)
    assert found[..., 0].std() == pytest.approx(6, abs=0.1)
    flat = color_transfer(np.full((3, 4, 3), (9, 99, 40), np.uint8), wanted)
    np.testing.assert_array_equal(flat, np.broadcast_to(np.rint(255 * lab_to_rgb(wanted.mean)), (3, 4, 3)))


def test_transfer_clips_where_srgb_ends():
    result = color_transfer(picture(10), ColorStatistics(np.array([95.0, 0, 0]), np.array([60.0, 5, 5])))
    assert result.dtype == np.uint8 and result.min() == 0 and result.max() == 255
    bright = rgb_to_lab(picture(10) / 255)[..., 0] > np.median(rgb_to_lab(picture(10) / 255)[..., 0]) + 5
    assert bright.any() and result[bright].mean() > 240  # no wrapping


# FDA


def literal_fda(image, target, beta):
    """Sums over pixels for every frequency, placed as in the paper's code: zero at (H // 2, W // 2)."""
    height, width, channels = image.shape
    half = math.floor(min(height, width) * beta)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    result = np.zeros(image.shape, complex)
    for c in range(channels):
        for v in range(height):
            for u in range(width):
                phase = 2j * np.pi * ((v - height // 2) * rows / height + (u - width // 2) * columns / width)
                source = np.sum(image[..., c] * np.exp(-phase))
                if abs(v - height // 2) <= half and abs(u - width // 2) <= half:
                    source *= abs(np.sum(target[..., c] * np.exp(-phase))) / abs(source)
                result[..., c] += source * np.exp(phase) / (height * width)
    assert np.abs(result.imag).max() < 1e-9
    return np.clip(np.rint(result.real), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (9, 6), (8, 8), (1, 5)])
@pytest.mark.parametrize("beta", [0, 0.01, 0.125, 0.249, 0.34, 0.5])
def test_fda_is_the_literal_loop(shape, beta):
    image, target = picture(11, shape, contrast=40), picture(12, shape, (80, 190, 140), 60)
    result = fda(image, target, beta)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, literal_fda(image, target, beta))


@pytest.mark.parametrize("shape", [(32, 48), (33, 49), (48, 31)])
def test_fda_changes_low_amplitudes_only(shape):
    """Up to the rounding to bytes, whose amplitude is about sqrt(H W / 12)."""
    beta, tolerance = 0.15, 5 * np.sqrt(shape[0] * shape[1] / 12)
    image, target = picture(13, shape), picture(14, shape, (140, 100, 110), 25)
    result = fda(image, target, beta)
    assert result.min() > 0 and result.max() < 255
    before, wanted, after = (
        np.fft.fftshift(np.fft.fft2(each.astype(float), axes=(0, 1)), (0, 1)) for each in (image, target, result)
    )
    low, half = np.zeros(shape, bool), math.floor(beta * min(shape))
    center = shape[0] // 2, shape[1] // 2
    low[center[0] - half : center[0] + half + 1, center[1] - half : center[1] + half + 1] = True
    assert low.sum() == (2 * half + 1) ** 2 < low.size / 4
    assert np.abs(after[~low] - before[~low]).max() < tolerance
    assert np.abs(np.abs(after[low]) - np.abs(wanted[low])).max() < tolerance
    assert np.abs(np.abs(before[low]) - np.abs(wanted[low])).max() > 5 * tolerance  # there was something to change
    clear = low[..., None] & (np.abs(wanted) > 4 * tolerance) & (np.abs(before) > 1)
    assert clear.sum() > 20 and np.abs(np.angle(after * before.conj()))[clear].max() < 0.3


@pytest.mark.parametrize("beta", [0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(12, 17), (15, 8)])
def test_fda_with_itself_is_the_image(shape, beta):
    image = np.random.default_rng(15).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(fda(image, image, beta), image)


def test_fda_at_zero_shifts_the_mean_of_each_channel():
    image, target = picture(16, (13, 10)), picture(17, (13, 10), (90, 140, 150), 20)
    shift = target.mean((0, 1)) - image.mean((0, 1))
    assert (np.abs(shift) > 10).all()
    for beta in (0, 0.09):  # less than one period
        np.testing.assert_array_equal(fda(image, target, beta), np.rint(image + shift).astype(np.uint8))


def test_fda_clips_and_does_not_wrap():
    image, target = picture(18, contrast=60), np.full((16, 20, 3), 250, np.uint8)
    wanted = np.clip(np.rint(image + (250 - image.mean((0, 1)))), 0, 255)
    assert (wanted == 255).any()
    np.testing.assert_array_equal(fda(image, target, 0), wanted)


@pytest.mark.parametrize("beta", [0, 0.3, 0.5])
def test_fda_of_images_without_amplitudes(beta):
    black, flat = np.zeros((8, 9, 3), np.uint8), np.full((8, 9, 3), (10, 200, 77), np.uint8)
    np.testing.assert_array_equal(fda(black, flat, beta), flat)
    np.testing.assert_array_equal(fda(flat, black, beta), black)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 49])
def test_periods_are_the_frequencies_of_numpy(size):
    np.testing.assert_array_equal(periods(size), np.rint(np.abs(np.fft.fftfreq(size)) * size))


def test_fda_says_what_does_not_fit():
    image = picture(19)
    with pytest.raises(ValueError, match=r"\[16, 20, 3\].*\[20, 16, 3\]"):
        fda(image, picture(19, (20, 16)), 0.1)
    for beta in (-0.01, 0.51, float("nan")):
        with pytest.raises(ValueError, match="beta"):
            fda(image, image, beta)


def test_grey_is_pillows_luma():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(image).convert("L")).astype(int)  # ITU-R 601-2, in whole numbers
    found = grey(image).astype(int)
    assert found.shape == image.shape and np.ptp(found, axis=-1).max() == 0
    assert np.abs(found[..., 0] - luma).max() <= 1
