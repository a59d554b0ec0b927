"""Translations without a network, for comparison: matched colours, and amplitudes of low frequencies.

Both bring an image closer to one target image and know nothing of what the image shows.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

TO_XYZ = np.array(  # linear sRGB -> CIE XYZ at D65; IEC 61966-2-1 in more digits (brucelindbloom.com)
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ.sum(1)  # (0.95047, 1, 1.08883), D65 seen at 2 degrees; as a sum, so that greys have no colour
GAMMA_KNEE = 0.04045  # sRGB is linear below
LAB_KNEE = 6 / 29  # f of CIE 15:2004 is linear below
NO_CONTRAST = 1e-6  # Lab std; below it is rounding, of about 1e-13 (a and b of a grey image), and not to be amplified


def rgb_to_lab(image: np.ndarray) -> np.ndarray:
    """sRGB in [0,1] -> CIE L*a*b* (D65, 2 degrees). [...,3] -> [...,3] float64, L in [0,100], a and b in [-108,99]."""
    image = np.asarray(image, np.float64)
    linear = np.where(image > GAMMA_KNEE, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    xyz = linear @ (TO_XYZ / WHITE[:, None]).T
    x, y, z = np.moveaxis(np.where(xyz > LAB_KNEE**3, np.cbrt(xyz), xyz / (3 * LAB_KNEE**2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """Inverse of rgb_to_lab. [...,3] -> [...,3] float64; colours that sRGB lacks are clipped to [0,1] by channel."""
    lightness, a, b = np.moveaxis(np.asarray(lab, np.float64), -1, 0)
    y = (lightness + 16) / 116
    roots = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(roots > LAB_KNEE, roots**3, 3 * LAB_KNEE**2 * (roots - 4 / 29))
    linear = np.clip(xyz @ np.linalg.inv(TO_XYZ / WHITE[:, None]).T, 0, 1)
    return np.where(linear > GAMMA_KNEE / 12.92, 1.055 * linear ** (1 / 2.4) - 0.055, linear * 12.92)


class ColorStatistics(NamedTuple):
    """Of pixels in Lab, by channel."""

    mean: np.ndarray  # [3] float64
    std: np.ndarray  # [3] float64, of the population


def color_statistics(images: Iterable[np.ndarray]) -> ColorStatistics:
    """Over all pixels of all images [H,W,3] uint8, of any sizes, one at a time in memory. ValueError without any."""
    count, mean, squares = 0, np.zeros(3), np.zeros(3)
    for image in images:
        lab = rgb_to_lab(image / 255.0).reshape(-1, 3)
        new, shift = len(lab), lab.mean(0) - mean
        squares += lab.var(0) * new + shift**2 * (count * new / (count + new))  # Chan et al. 1983
        mean += shift * (new / (count + new))
        count += new
    if not count:
        raise ValueError("there is no image to take colour statistics of")
    return ColorStatistics(mean, np.sqrt(squares / count))


def color_transfer(image: np.ndarray, target: ColorStatistics) -> np.ndarray:
    """The image with the mean and std of each Lab channel of the target. [H,W,3] uint8 -> [H,W,3] uint8.

    Reinhard et al. 2001, Eq. 10-11, in Lab. A channel without contrast only shifts. Colours outside sRGB are clipped.
    """
    lab = rgb_to_lab(image / 255.0)
    mean, std = lab.mean((0, 1)), lab.std((0, 1))
    scale = np.where(std > NO_CONTRAST, target.std / np.maximum(std, NO_CONTRAST), 1.0)
    return to_uint8(255 * lab_to_rgb((lab - mean) * scale + target.mean))


def grey(image: np.ndarray) -> np.ndarray:
    """The image's luma (Rec. 601) in all three channels. uint8 [H,W,3] -> uint8 [H,W,3]."""
    luma = np.round(image @ np.array([0.299, 0.587, 0.114]))
    return np.repeat(luma[..., None], 3, axis=-1).astype(np.uint8)


def fda(image: np.ndarray, target: np.ndarray, beta: float) -> np.ndarray:
    """The image with the target's amplitudes at low frequencies, its own phases. Two [H,W,3] uint8 -> [H,W,3] uint8.

    Fourier Domain Adaptation, Yang & Soatto 2020, Eq. 3-4, each channel for itself. Low are frequencies of at most
    floor(beta * min(H,W)) periods along both axes; beta in [0,0.5], at 0 only the mean is the target's.
    ValueError for another beta, or images of two sizes.
    """
    if not 0 <= beta <= 0.5:
        raise ValueError(f"beta is {beta}, not in [0,0.5]")
    if image.shape != target.shape:
        raise ValueError(f"the image is {list(image.shape)}, its target {list(target.shape)}: resize one of them first")
    height, width = image.shape[:2]
    half = int(beta * min(height, width))
    low = np.ix_(periods(height) <= half, periods(width) <= half)
    spectrum, wanted = (np.fft.fft2(each.astype(np.float64), axes=(0, 1)) for each in (image, target))
    spectrum[low] = np.abs(wanted[low]) * np.exp(1j * np.angle(spectrum[low]))
    return to_uint8(np.fft.ifft2(spectrum, axes=(0, 1)).real)


def periods(size: int) -> np.ndarray:
    """|frequency| of each entry of a discrete Fourier transform, periods per size. [size] int."""
    index = np.arange(size)
    return np.minimum(index, size - index)


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
