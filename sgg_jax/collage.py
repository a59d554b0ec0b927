"""Where a translation may start from: the source's regions in the target's pixels, placed by what the guide sees.

Every pixel of a source image takes the nearest pixel of its class in a target image, by the guide's labels of that
image. Shapes are the source's, so labels fit exactly; colours and textures are the target's. Denoising makes one
picture of it.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from sgg_jax.data.dataset import VOID

CHOICES = 8  # target images of which the one with the most similar layout gives its pixels
LEAST = 20  # pixels of a class below which an image does not give them


class Donors(NamedTuple):
    """Target images and what the guide sees in them."""

    images: np.ndarray  # [n,H,W,3] uint8
    labels: np.ndarray  # [n,H,W] uint8, VOID where the guide is not sure
    counts: np.ndarray  # [n,C] pixels of each class

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray, classes: int) -> "Donors":
        return cls(images, labels, np.stack([(labels == label).sum((1, 2)) for label in range(classes)], axis=1))


def collage(image: np.ndarray, labels: np.ndarray, given: Donors, seed: tuple[int, ...]) -> np.ndarray:
    """The image in the donors' pixels. [H,W,3] uint8, [H,W] train ids -> [H,W,3] uint8. Donors may be of another size.

    The first donor is the best of CHOICES drawn ones, by how many known pixels have equal labels; for a class that it
    lacks another one with that class is drawn. VOID pixels take the first donor's. A class that no donor has keeps the
    source's pixels.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(given.images), size=CHOICES)
    there = _spread(given.labels.shape[1:], labels.shape)  # the source's pixel at each of a donor's
    here = _spread(labels.shape, given.labels.shape[1:])  # a donor's pixel at each of the source's
    layout = labels[there]
    first = max(drawn, key=lambda donor: ((given.labels[donor] == layout) & (layout != VOID)).sum())
    filled = np.where((labels == VOID)[..., None], given.images[first][here], image)
    for label in np.setdiff1d(labels, [VOID]):
        donor = first
        if given.counts[first, label] < LEAST:
            others = np.flatnonzero(given.counts[:, label] >= LEAST)
            if not len(others):
                continue
            donor = rng.choice(others)
        rows, columns = distance_transform_edt(
            given.labels[donor] != label, return_distances=False, return_indices=True
        )
        region = labels == label
        filled[region] = given.images[donor][rows[here][region], columns[here][region]]
    return filled


def _spread(onto: tuple[int, ...], size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Index arrays [H,1], [1,W] of the pixel of an image of `size` that lies at each pixel of one of size `onto`."""
    rows, columns = (np.arange(a) * b // a for a, b in zip(onto, size, strict=True))
    return rows[:, None], columns[None]
