"""A segmenter's prediction of images of any size, in the resolution where it is scored.

    image [h,w,3] -> windows -> logits of each -> their mean [h,w,C] -> upsampled [H,W,C] -> most likely class [H,W]

The network sees an image as a whole, padded where it does not take its size, or windows that slide over it; and its
mirror image where wanted. Logits are averaged over windows and upsampled (bilinear, half-pixel centres); only the
probabilities of an image and its mirror image are averaged, at full resolution. This is what the leaderboards' code
does (mmsegmentation: `slide_inference`, `aug_test`).

Compiled are: the network once for every size that it sees, which is one where images or windows have one size;
what follows once for every pair of sizes (image, prediction) on each device, without the network.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby, islice

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sgg_jax.devices import replicate, shard
from sgg_jax.errors import InputError
from sgg_jax.models.operations import softmax
from sgg_jax.types import Array, Logits, Segmenter, to_float

Size = tuple[int, int]
"""Height, width in pixels."""
Grid = tuple[tuple[int, ...], tuple[int, ...]]
"""Top and left edges of windows; there is one at every pair of them."""


@dataclass(frozen=True)
class Views:
    """What the network sees of an image. InputError where that makes no sense."""

    window: Size | None = None  # of the windows that slide over it, multiples of the network's stride; None: none do
    overlap: float = 0.5  # share of a window that the next one covers again, in each direction
    flip: bool = False  # its mirror image, too

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise InputError(f"config.evaluate.overlap is {self.overlap}: a share of a window lies in 0..1, below 1")


AS_IT_IS = Views()


@jax.jit
def predict(segmenter: Segmenter, image: Array) -> Array:
    """Most likely class of each pixel. [B,H,W,3] uint8 -> [B,H,W] uint8."""
    return segmenter(to_float(image)).argmax(-1).astype("uint8")


@jax.jit
def see(segmenter: Segmenter, image: Array) -> Logits:
    """[B,H,W,3] uint8 -> [B,H,W,C] float32."""
    return segmenter(to_float(image))


def upsampled(logits: Array, size: Size) -> Array:
    """Bilinear interpolation with half-pixel centres, edges repeated ("align_corners=False"). [h,w,C] -> [H,W,C]."""
    for axis, new in enumerate(size):
        old = logits.shape[axis]
        if new == old:
            continue
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = at.astype(int)
        share = np.expand_dims((at - low).astype(np.float32), (1, 2) if axis == 0 else (0, 2))
        first = jnp.take(logits, low, axis, mode="clip")
        second = jnp.take(logits, np.minimum(low + 1, old - 1), axis, mode="clip")
        logits = first + (second - first) * share
    return logits


def window_grid(size: Size, window: Size, overlap: float) -> Grid:
    """Windows that cover an image at least as large as one of them; the last ones end where the image does."""

    def edges(length: int, side: int) -> tuple[int, ...]:
        step = max(1, round(side * (1 - overlap)))
        return (*range(0, length - side, step), length - side)

    return edges(size[0], window[0]), edges(size[1], window[1])


def windows_of(size: Size, views: Views, segmenter: Segmenter) -> tuple[Size, Grid]:
    """What the network sees of an image of that size, and of its mirror image: the windows' size, and where they lie.
    The image is padded where they stick out."""
    window = views.window or whole_size(segmenter, size)
    return window, window_grid((max(size[0], window[0]), max(size[1], window[1])), window, views.overlap)


def whole_size(segmenter: Segmenter, size: Size) -> Size:
    """At what size the network is shown an image as a whole: at its own, if it takes that, else at the next multiples
    of the side of the least square that it takes. InputError if that is above 256."""
    if _takes(segmenter, size):
        return size
    for side in range(1, 257):
        if _takes(segmenter, (side, side)):
            return -(-size[0] // side) * side, -(-size[1] // side) * side
    raise InputError("the segmenter takes no image of up to 256 x 256 pixels: it cannot be scored at full resolution")


def _takes(segmenter: Segmenter, size: Size) -> bool:
    try:
        return jax.eval_shape(segmenter, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)).shape[1:3] == size
    except ValueError:
        return False


@dataclass
class _Job:
    """An image on its way to its labels."""

    inner: Size  # of the image
    size: Size  # of its labels
    window: Size
    grid: Grid
    views: int  # 1, or 2 with the mirror image
    seen: list[Array] = field(default_factory=list)  # logits [H,W,C] of its windows so far
    labels: Array | np.ndarray | None = None

    @property
    def plain(self) -> bool:
        """Whether it is shown once, as it is, and its prediction needs no change of size."""
        return self.views == 1 and self.inner == self.window == self.size

    def take(self, logits: Array) -> None:
        """Takes one window's logits, in order; with the last of them comes the prediction."""
        self.seen.append(logits)
        if len(self.seen) == self.views * len(self.grid[0]) * len(self.grid[1]):
            together = jax.device_put(tuple(self.seen), self.seen[0].device)
            self.labels = _most_likely(together, self.grid, self.inner, self.size)
            self.seen = []


def predictions_at(
    segmenter: Segmenter, wanted: Iterable[tuple[np.ndarray, Size]], views: Views, batch_size: int, mesh: Mesh
) -> Iterator[np.ndarray]:
    """Most likely class of each pixel for (image [h,w,3] uint8, (H, W)) one after the other: [H,W] uint8 each.

    The network sees batches of `batch_size` on each device. They have one size each and keep the order, so that a
    batch is filled up where the next size is another.
    """
    network, batch_size = replicate(segmenter, mesh), batch_size * mesh.size
    seen = cache(lambda inner: windows_of(inner, views, segmenter))
    jobs: deque[_Job] = deque()

    def windows() -> Iterator[tuple[_Job, np.ndarray]]:
        for image, size in wanted:
            inner: Size = (image.shape[0], image.shape[1])
            job, shown = _prepared(image, size, *seen(inner), views.flip)
            jobs.append(job)
            for pixels in shown:
                yield job, pixels

    for _, alike in groupby(windows(), key=lambda pair: pair[1].shape):
        while batch := list(islice(alike, batch_size)):
            _run(network, batch, batch_size, mesh)
            done = []
            while jobs and jobs[0].labels is not None:
                done.append(jobs.popleft().labels)
            yield from map(np.asarray, done)


def _prepared(image: np.ndarray, size: Size, window: Size, grid: Grid, flip: bool) -> tuple[_Job, Iterator[np.ndarray]]:
    """An image's job, and the windows that the network has to see for it."""
    inner: Size = (image.shape[0], image.shape[1])
    shown = [image, image[:, ::-1]] if flip else [image]
    margins = (0, max(window[0] - inner[0], 0)), (0, max(window[1] - inner[1], 0)), (0, 0)

    def cut() -> Iterator[np.ndarray]:
        for view in shown:
            whole = np.pad(view, margins, mode="reflect")
            for top in grid[0]:
                for left in grid[1]:
                    yield whole[top : top + window[0], left : left + window[1]]

    return _Job(inner, size, window, grid, len(shown)), cut()


def _run(network: Segmenter, batch: list[tuple[_Job, np.ndarray]], batch_size: int, mesh: Mesh) -> None:
    """Shows the network one batch of windows of equal size, and gives every job what belongs to it."""
    jobs, pixels = zip(*batch, strict=True)
    data = shard(np.stack([*pixels, *[pixels[-1]] * (batch_size - len(pixels))]), mesh)
    if all(job.plain for job in jobs):
        for job, labels in zip(jobs, np.asarray(predict(network, data)), strict=False):
            job.labels = labels
        return
    for job, logits in zip(jobs, _where_they_are(see(network, data)), strict=False):
        job.take(logits)


def _where_they_are(batch: Array) -> Iterator[Array]:
    """The rows of a batch, each on the device that has it: so all devices upsample, and one image at a time."""
    for part in sorted(batch.addressable_shards, key=lambda part: part.index[0].start or 0):
        yield from part.data


@partial(jax.jit, static_argnames=("grid", "inner", "size"))
def _most_likely(seen: tuple[Array, ...], grid: Grid, inner: Size, size: Size) -> Array:
    """Logits [H,W,C] of the windows of an image, then those of its mirror image if there are any -> [H,W] uint8."""
    count = len(grid[0]) * len(grid[1])
    views = [_mean(seen[at : at + count], grid)[: inner[0], : inner[1]] for at in range(0, len(seen), count)]
    logits = [upsampled(view, size) for view in views]
    if len(logits) == 1:
        return logits[0].argmax(-1).astype("uint8")
    image, mirrored = map(softmax, logits)
    return (image + mirrored[:, ::-1]).argmax(-1).astype("uint8")


def _mean(windows: tuple[Array, ...], grid: Grid) -> Array:
    """Windows put together, averaged where several lie over one another. [H,W,C] each -> [h,w,C]."""
    if len(windows) == 1:
        return windows[0]
    height, width, channels = windows[0].shape
    counts = _covered(grid[0], height)[:, None, None] * _covered(grid[1], width)[None, :, None]
    total = jnp.zeros((grid[0][-1] + height, grid[1][-1] + width, channels))
    corners = [(top, left, 0) for top in grid[0] for left in grid[1]]
    for window, corner in zip(windows, corners, strict=True):
        below = jax.lax.dynamic_slice(total, corner, window.shape)
        total = jax.lax.dynamic_update_slice(total, below + window, corner)
    return total / counts


def _covered(edges: tuple[int, ...], side: int) -> Array:
    """How many windows lie over each place along one axis."""
    counts = np.zeros(edges[-1] + side, np.float32)
    for edge in edges:
        counts[edge : edge + side] += 1
    return jnp.asarray(counts)
