"""One geometry for an image and its labels: from the size of the file to the size that is asked for."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from sgg_jax.data.dataset import Example
from sgg_jax.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the file."""


def crop_box(width: int, height: int, size: tuple[int, int]) -> Box:
    """The largest middle part of the file that has the proportions of `size` (H, W)."""
    wide, high = float(width), float(height)
    if width * size[0] > height * size[1]:
        wide = height * size[1] / size[0]
    else:
        high = width * size[0] / size[1]
    # whole offsets: a cut without scaling then copies pixels instead of interpolating half way between them
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def whole_box(width: int, height: int, size: tuple[int, int]) -> Box:
    """The whole file."""
    return 0, 0, width, height


BOXES = {"crop": crop_box, "stretch": whole_box, "native": whole_box}


def check_fit(fit: str, size: tuple[int, int]) -> None:
    """InputError unless `fit` is one of BOXES and size is (H, W)."""
    if fit not in BOXES:
        raise InputError(f"fit is {fit!r}, but it must be one of {', '.join(BOXES)}")
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"size is {tuple(size)}, but it must be a height and a width of at least 1 pixel")


def fitted(array: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """An image [h,w,3] (smoothly) or labels [h,w] (nearest) resampled to size (H, W), both with the same geometry.

    uint8; the array itself if it has that size already, or fit is "native".
    """
    if fit == "native" or array.shape[:2] == tuple(size):
        return array
    resample = Image.Resampling.BICUBIC if array.ndim == 3 else Image.Resampling.NEAREST
    box = BOXES[fit](array.shape[1], array.shape[0], size)
    return np.array(Image.fromarray(array).resize((size[1], size[0]), resample, box=box))


def uncut(array: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """The part of the file's own pixels that `fitted` shows, to whole pixels: [h,w,...] -> [h',w',...]."""
    left, top, right, bottom = (round(edge) for edge in BOXES[fit](array.shape[1], array.shape[0], size))
    return array[top:bottom, left:right]


def reshaped(
    example: Example,
    geometry: Callable[[np.ndarray, tuple[int, int], str], np.ndarray],
    size: tuple[int, int],
    fit: str,
) -> Example:
    """`fitted` or `uncut` of image and labels alike."""
    labels = None if example.labels is None else geometry(example.labels, size, fit)
    return Example(geometry(example.image, size, fit), labels)
