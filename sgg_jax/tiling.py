"""Networks that see a large image tile by tile, blended so that no seam shows.

A tiled denoiser or segmenter is a denoiser or segmenter of any image, so guidance and sampling stay as they are: every
reverse step works on the whole image, with one noise for it, from predictions that were blended from those of
overlapping tiles. (MultiDiffusion, Bar-Tal et al. 2023, Eq. 5: the weighted mean is nearest to all tiles' predictions.)

    starts, weights: where tiles lie and how much of each counts       Tiled, tiled: a network that uses them
    covered_size, cover: an image that is smaller than a tile, or of one size among many
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from sgg_jax.errors import InputError
from sgg_jax.types import VOID, Array, Params

GRID = 64
"""Sides of images of many sizes are brought to multiples of so many pixels, lest every one is compiled for."""


class Tile(NamedTuple):
    """What a network sees at once."""

    height: int
    width: int
    overlap: int  # pixels that neighbouring tiles share at least


def tile_of(size: tuple[int, int], share: float) -> Tile:
    """A tile of that size (H, W) that has `share` of its smaller side in common with its neighbours.

    InputError unless the share lies in 0..1, below 1.
    """
    if not 0 <= share < 1:
        raise InputError(f"config.translate.overlap is {share}: it is a share of a tile, in 0..1 and below 1")
    return Tile(int(size[0]), int(size[1]), min(round(share * min(size)), min(size) - 1))


def tile_count(size: tuple[int, int], tile: Tile) -> int:
    """Tiles of an image of that size (H, W)."""
    return len(starts(size[0], tile.height, tile.overlap)) * len(starts(size[1], tile.width, tile.overlap))


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest tiles that cover `length` pixels and share `overlap` at least, evenly spread."""
    if length <= tile:
        return [0]
    count = 1 + -(-(length - tile) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def weights(begin: list[int], length: int, tile: int) -> np.ndarray:
    """How much of each tile counts at its pixels along one side: [tiles, tile] float32 in [0,1].

    Where two tiles share pixels, the quarter next to a tile's own border counts nothing, since a network sees least
    of the surroundings there, and the half between rises smoothly; at the borders of the image everything counts.
    """
    found = np.ones((len(begin), tile), np.float32)
    at = np.arange(tile) + 0.5
    for i, (before, after) in enumerate(zip(begin, begin[1:], strict=False)):
        shared = before + tile - after
        if shared <= 0:
            continue
        rise = np.clip((at - shared / 4) / (shared / 2), 0, 1)
        rise = rise * rise * (3 - 2 * rise)  # smooth at both ends
        found[i + 1] *= rise
        found[i] *= rise[::-1]
    return found


@cache
def _plan(height: int, width: int, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """Corners [T,2] of the tiles of an image and their weights [T,h,w], which sum to 1 at every pixel."""
    rows, columns = starts(height, tile.height, tile.overlap), starts(width, tile.width, tile.overlap)
    down, across = weights(rows, height, tile.height), weights(columns, width, tile.width)
    corners = np.array([(r, c) for r in rows for c in columns], np.int32)
    window = np.stack([np.outer(d, a) for d in down for a in across])
    total = np.zeros((height, width), np.float32)
    for (r, c), one in zip(corners, window, strict=True):
        total[r : r + tile.height, c : c + tile.width] += one
    for (r, c), one in zip(corners, window, strict=True):
        one /= total[r : r + tile.height, c : c + tile.width]
    return corners, window


@dataclass(frozen=True)
class Tiled:
    """`apply` of images larger than a tile: apply(params, image [B,H,W,I], ...) -> [B,H,W,O], tile after tile.

    An image that fits into a tile is seen whole. Equal settings give equal functions, so jit compiles once.
    """

    apply: Any
    tile: Tile

    def with_deep(self, params: Params, image: Array, *rest: Array) -> Any:
        return self._whole(image).with_deep(params, image, *rest)

    def on_deep(self, params: Params, image: Array, *rest: Array) -> Any:
        return self._whole(image).on_deep(params, image, *rest)

    def _whole(self, image: Array) -> Any:
        """The network, for what it can only do to a whole image; ValueError where that has tiles."""
        if image.shape[1] > self.tile.height or image.shape[2] > self.tile.width:
            raise ValueError("features are kept for images of one tile only")
        return self.apply

    def __call__(self, params: Params, image: Array, *rest: Array) -> Array:
        height, width = image.shape[1:3]
        tile = Tile(min(self.tile.height, height), min(self.tile.width, width), self.tile.overlap)
        if (tile.height, tile.width) == (height, width):
            whole: Array = self.apply(params, image, *rest)
            return whole
        corners, window = _plan(height, width, tile)
        size = (image.shape[0], tile.height, tile.width)

        # a gradient would keep what every tile's network has computed; it is computed again instead
        @jax.checkpoint
        def see(corner: Array) -> Array:
            part = lax.dynamic_slice(image, (0, corner[0], corner[1], 0), (*size, image.shape[3]))
            seen: Array = self.apply(params, part, *rest)
            return seen

        def add(canvas: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
            corner, weight = item
            place = (0, corner[0], corner[1], 0)
            seen = see(corner)
            there = lax.dynamic_slice(canvas, place, seen.shape)
            return lax.dynamic_update_slice(canvas, there + weight[..., None] * seen, place), None

        depth = jax.eval_shape(see, jnp.asarray(corners[0])).shape[-1]
        canvas = jnp.zeros((image.shape[0], height, width, depth), jnp.float32)
        return lax.scan(add, canvas, (jnp.asarray(corners), jnp.asarray(window)))[0]


def tiled(network: Any, tile: Tile) -> Partial:
    """The denoiser or segmenter `Partial(apply, params)`, seeing large images tile by tile."""
    return Partial(Tiled(network.func, tile), *network.args)


def covered_size(size: tuple[int, int], tile: Tile, *, mixed: bool) -> tuple[int, int]:
    """(H, W) that an image of that size is extended to: no side is smaller than the tile's.

    mixed: the image is one of many sizes; sides larger than the tile's are then multiples of GRID.
    """

    def side(length: int, least: int) -> int:
        if length <= least:
            return least
        return -(-length // GRID) * GRID if mixed else length

    return side(size[0], tile.height), side(size[1], tile.width)


def cover(image: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image [h,w,3] and labels [h,w] extended to the right and below to `size` (H, W): mirrored pixels, VOID."""
    below, right = size[0] - image.shape[0], size[1] - image.shape[1]
    if not (below or right):
        return image, labels
    mirrored = np.pad(image, ((0, below), (0, right), (0, 0)), "symmetric")
    return mirrored, np.pad(labels, ((0, below), (0, right)), constant_values=VOID)
