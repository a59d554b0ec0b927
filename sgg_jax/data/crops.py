"""Random crops for training on images larger than what a network sees at once."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from sgg_jax.data.dataset import VOID, Example
from sgg_jax.errors import InputError

TRIES = 10
"""Crops that are drawn, at most, until one suits: the number of DAFormer (Hoyer et al. 2022) and MMSegmentation."""
RARE_SHARE = 0.01
"""Share of a crop that the class it was drawn for has to have: about DAFormer's 3,000 of 512x512 pixels."""


class Crop(NamedTuple):
    """How training images are cut."""

    size: tuple[int, int]  # (H, W) of a crop, pixels
    scale: tuple[float, float] = (1.0, 1.0)  # range of the random zoom, uniform; never so small that edges would show
    most: float = 1.0  # largest share of the known pixels that one class may have, where a try gives such a crop

    def keeps(self, example: Example) -> bool:
        """Whether the example comes back as it is: of that size already, and no zoom."""
        return example.image.shape[:2] == self.size and self.scale == (1.0, 1.0)


def random_crop(example: Example, crop: Crop, rng: np.random.Generator, wanted: int | None = None) -> Example:
    """A crop of the example: image [H,W,3] and labels [H,W] of crop.size, uint8, both with the same geometry.

    wanted: a class that the crop should show. An example that the crop keeps comes back as it is.
    """
    if crop.keeps(example):
        return example
    height, width = example.image.shape[:2]
    least = max(crop.size[0] / height, crop.size[1] / width)
    labels, box = None, (0.0, 0.0, 0.0, 0.0)
    for _ in range(TRIES):
        scale = max(rng.uniform(*crop.scale), least)
        # rounding may make a crop of the whole side a hair longer than it
        high, wide = min(crop.size[0] / scale, height), min(crop.size[1] / scale, width)
        top, left = rng.uniform(0, height - high), rng.uniform(0, width - wide)
        if scale == 1:  # whole pixels are copied, not interpolated
            top, left = round(top), round(left)
        box = (left, top, left + wide, top + high)
        if example.labels is None:
            break
        labels = cut(example.labels, crop.size, box)
        if _suits(labels, crop.most, wanted):
            break
    return Example(cut(example.image, crop.size, box), labels)


def steady_crop(example: Example, size: tuple[int, int], image_id: int) -> Example:
    """The crop of that size (H, W) that an image always gets where no training draws it."""
    return random_crop(example, Crop(size), np.random.default_rng(image_id))


def _suits(labels: np.ndarray, most: float, wanted: int | None) -> bool:
    counts = np.bincount(labels.ravel(), minlength=256)
    if wanted is not None and counts[wanted] < RARE_SHARE * labels.size:
        return False
    counts[VOID] = 0
    return bool(counts.max() <= most * max(counts.sum(), 1))


def cut(array: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """The box (left, top, right, bottom, pixels) of an image (smoothly) or labels (nearest) at size (H, W); uint8."""
    if all(float(edge).is_integer() for edge in box) and (box[3] - box[1], box[2] - box[0]) == size:
        left, top, right, bottom = map(int, box)
        return array[top:bottom, left:right]
    resample = Image.Resampling.BICUBIC if array.ndim == 3 else Image.Resampling.NEAREST
    return np.array(Image.fromarray(array).resize((size[1], size[0]), resample, box=box))


class RareClasses:
    """Draws images so that rare classes are seen (Hoyer et al. 2022, Eq. 7 and 8): P(c) ~ exp((1 - f_c) / T).

    pixels: [n,C] pixels of each class in each image; f_c is a class's share of all of them. Classes in no image are
    never drawn. InputError where no image has any.
    """

    def __init__(self, pixels: np.ndarray, temperature: float) -> None:
        there = pixels.any(0)
        if not there.any():
            raise InputError(
                "config.data.crop.rare draws images by their classes, and no pixel of the data set that is trained on "
                "has one: look at its labels with check_data, or set it to 0"
            )
        exponent = np.where(there, (1 - pixels.sum(0) / pixels.sum()) / temperature, -np.inf)
        weight = np.exp(exponent - exponent.max())
        self.probability = weight / weight.sum()
        self._images = [np.flatnonzero(column) for column in pixels.T]

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """(index of an image, the class it was drawn for)."""
        label = int(rng.choice(len(self.probability), p=self.probability))
        return int(rng.choice(self._images[label])), label
