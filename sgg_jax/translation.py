"""Translating labelled source images into the target domain: the one jitted entry of the sampler.

The device-parallel loop is `jax.shard_map` over the mesh axis `data`. There are no collectives inside: every device
runs its own images, and its own number of LCG microbatches, to the end.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby, islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sgg_jax.compiler import network_options
from sgg_jax.data.dataset import Dataset, Example, readable
from sgg_jax.devices import platform, replicate, shard
from sgg_jax.errors import InputError
from sgg_jax.guidance import log_likelihood, present_pairs
from sgg_jax.sampling import Given, Knobs, Method, State, advance, chain, start, step_noise
from sgg_jax.schedule import NoiseSchedule, Step, add_noise, predict_image
from sgg_jax.tiling import Tile, cover, covered_size, tiled
from sgg_jax.types import VOID, Array, Denoiser, Segmenter, image_keys, to_float


def translate(
    denoiser: Denoiser,
    segmenter: Segmenter,
    schedule: NoiseSchedule,
    image: Array,
    labels: Array,
    image_id: Array,
    knobs: Knobs,
    *,
    method: Method,
    mesh: Mesh,
) -> tuple[Array, Array, Array]:
    """Noises source images to the schedule's depth and denoises them under guidance (Peng et al. 2023; SDEdit).

    denoiser, segmenter: `Partial(apply, params)` of the target domain's denoiser and of the guide.
    image [B,H,W,3] uint8, labels [B,H,W] uint8 train ids, image_id [B] int32; B divides over the mesh. Rows with a
    negative id fill a batch up; a device that has no others takes no step.
    Returns the translations [B,H,W,3] uint8, the guidance-to-noise ratio of every step [B,K] float32, and the agreement
    [B] float32: the share of known pixels in which the guide finds their label in the translation. Ratios of an image
    that is not finite are nan.
    """
    return translator(method, mesh)(denoiser, segmenter, schedule, image, labels, image_id, knobs)


@cache
def translator(method: Method, mesh: Mesh) -> Any:
    """`translate` by a method on a mesh, jitted: a `jax.stages.Wrapped` of all its other arguments, in their order."""

    def local(
        denoiser: Denoiser,
        segmenter: Segmenter,
        schedule: NoiseSchedule,
        image: Array,
        labels: Array,
        image_id: Array,
        knobs: Knobs,
    ) -> tuple[Array, Array, Array]:
        image, labels = to_float(image), labels.astype(jnp.int32)
        keys = image_keys(jnp.asarray(knobs.seed), image_id)
        classes = jax.eval_shape(segmenter, image).shape[-1]
        pairs = present_pairs(labels, classes, method.microbatch)
        deepest = schedule.row(schedule.count - 1)
        x = add_noise(deepest, image, step_noise(keys, 0, image.shape[1:]))  # the SDEdit start
        given = Given(denoiser, segmenter, schedule, labels, pairs, keys, knobs)
        x, ratios = chain(method, given, x, (image_id >= 0).any())
        ratios = jnp.where(jnp.isfinite(x).all((1, 2, 3))[:, None], ratios, jnp.nan)  # as an image cannot tell
        translation = jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)
        found = segmenter(to_float(translation)).argmax(-1) == labels
        known = jnp.sum(labels != VOID, axis=(1, 2))
        return translation, ratios, jnp.sum(found, axis=(1, 2)) / jnp.maximum(known, 1)

    over_devices = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(), P(), P("data"), P("data"), P("data"), P()),
        out_specs=P("data"),
        check_vma=False,
    )
    return jax.jit(over_devices, compiler_options=network_options(platform(mesh)))


class Look(NamedTuple):
    """What one reverse step started from, image by image."""

    step: int  # k, of the whole process
    x: np.ndarray  # [B,H,W,3], x_k
    predicted: np.ndarray  # [B,H,W,3], x0-hat, bounded by the limit
    cross_entropy: np.ndarray  # [B], of the labels in x0-hat, in the eyes of the guide; nats a known pixel


def trace(
    denoiser: Denoiser,
    segmenter: Segmenter,
    schedule: NoiseSchedule,
    image: np.ndarray,
    labels: np.ndarray,
    image_id: np.ndarray,
    knobs: Knobs,
    *,
    method: Method,
) -> tuple[list[Look], np.ndarray]:
    """The very steps of `translate` on one device, one by one: a Look before each, and the last image [B,H,W,3]."""
    keys = image_keys(jnp.asarray(knobs.seed), jnp.asarray(image_id))
    known = jnp.asarray(labels).astype(jnp.int32)
    pairs = present_pairs(known, jax.eval_shape(segmenter, jnp.zeros(image.shape)).shape[-1], method.microbatch)
    given = Given(denoiser, segmenter, schedule, known, pairs, keys, knobs)
    count = int(schedule.count)
    x = add_noise(schedule.row(count - 1), to_float(jnp.asarray(image)), step_noise(keys, 0, image.shape[1:]))
    # where the networks lie, as after a step: else the first step would be compiled apart from the others
    place = getattr(jax.tree.leaves(denoiser)[0], "sharding", None)
    state = jax.device_put(start(method, given, x), place)
    looks = []
    for done in range(count):
        row = schedule.row(count - 1 - done)
        predicted, cross_entropy = _look(denoiser, segmenter, row, state.x, known, knobs)
        looks.append(Look(int(row.step), np.asarray(state.x), np.asarray(predicted), np.asarray(cross_entropy)))
        state = _advance(method, given, jnp.int32(done), state)
    return looks, np.asarray(state.x)


@jax.jit
def _look(
    denoiser: Denoiser, segmenter: Segmenter, row: Step, x: Array, labels: Array, knobs: Knobs
) -> tuple[Array, Array]:
    """x0-hat at x, and the cross-entropy of the labels in it, nats a known pixel [B]."""
    eps = denoiser(x, row.step[None])
    predicted = jnp.clip(predict_image(row, x, eps), -knobs.limit, knobs.limit)
    surprise = jax.vmap(lambda one, y: -log_likelihood(segmenter(one[None]), y[None]))(predicted, labels)
    return predicted, surprise / jnp.maximum(jnp.sum(labels != VOID, axis=(1, 2)), 1)


@partial(jax.jit, static_argnames="method")
def _advance(method: Method, given: Given, done: Array, state: State) -> State:
    return advance(method, given, done, state)[0]


def affordable(
    denoiser: Denoiser, segmenter: Segmenter, schedule: NoiseSchedule, knobs: Knobs, size: tuple[int, int],
    batch_size: int, method: Method, mesh: Mesh, memory: float,
) -> tuple[int, Method]:  # fmt: skip
    """How many images of that size (H, W) a device can translate at once, and the method with the pairs that fit.

    Both are halved until what XLA says that it needs is at most `memory`, bytes of a device: nothing is run, and what
    is compiled here is not compiled again. InputError if one image and one pair are too much.
    """
    rows, wanted, along = batch_size, method, NamedSharding(mesh, P("data"))

    def shaped(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows * mesh.size, *shape), dtype, sharding=along)

    while memory < math.inf:
        data = shaped((*size, 3), np.uint8), shaped(size, np.uint8), shaped((), np.int32)
        lowered = translator(method, mesh).lower(denoiser, segmenter, schedule, *data, knobs)
        found = lowered.compile().memory_analysis()
        if found is None:  # a backend that does not tell
            return rows, method
        need = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
        if need <= memory:
            break
        if rows == method.microbatch == 1:
            raise InputError(
                f"to translate one image of {size[0]}x{size[1]} takes {need / 2**30:.1f} GiB of a device, and there "
                f"are {memory / 2**30:.1f}: lower translate.tile or the data set's size"
            )
        rows, method = max(1, rows // 2), method._replace(microbatch=max(1, method.microbatch // 2))
    if (rows, method) != (batch_size, wanted):
        print(
            f"translations of {size[0]}x{size[1]}: {rows} images and {method.microbatch} pairs at once on a device, in "
            f"place of {batch_size} and {wanted.microbatch}, to fit into {memory / 2**30:.1f} GiB",
            file=sys.stderr,
            flush=True,
        )
    return rows, method


Row = tuple[int, Example]
"""An index in the data set, and its example."""
Placed = tuple[Row, bool]
"""A row of a batch, and whether it is wanted: others fill it up."""


@dataclass(frozen=True)
class Translated:
    """One finished image."""

    index: int  # in the data set
    image: np.ndarray  # [H,W,3] uint8
    labels: np.ndarray  # [H,W] uint8
    ratios: np.ndarray  # [K] float32
    agreement: float  # of the guide with the labels, in 0..1


def translate_all(
    denoiser: Denoiser,
    segmenter: Segmenter,
    schedule: NoiseSchedule,
    dataset: Dataset,
    blocks: Iterable[Sequence[int]],
    knobs: Knobs,
    *,
    batch_size: int,
    method: Method,
    mesh: Mesh,
    tile: Tile | None = None,
    memory: float = math.inf,
) -> Iterator[list[Translated]]:
    """Translates dataset[i] for i in each block of at most batch_size indices; gives a list for every block.

    A device does a block at a time, whatever the number of devices: where the same block is asked for again, every
    image has its place again, and the same bytes; in another block they are equal to rounding only. A block may be
    empty, and its device then rests. What fills a block up is not guided. What does not fit into `memory`, bytes of a
    device, is done in smaller parts, which stderr tells.

    tile: what the networks see at once, overlapping its neighbours; None for all of an image. Images that are smaller
    are extended by their mirror image, and that and the padding of a batch are cut off again. While blocks are
    written by the caller the next ones already run. Examples that the run goes on without are passed over. Raises
    InputError where a file cannot be read.
    """
    if tile is not None:
        denoiser, segmenter = tiled(denoiser, tile), tiled(segmenter, tile)
    denoiser, segmenter, schedule, knobs = replicate((denoiser, segmenter, schedule, knobs), mesh)

    def covered(example: Example) -> tuple[int, int]:
        size = example.image.shape[0], example.image.shape[1]
        return size if tile is None else covered_size(size, tile, mixed=dataset.size is None)

    @cache
    def fitting(size: tuple[int, int]) -> tuple[int, Method]:
        return affordable(denoiser, segmenter, schedule, knobs, size, batch_size, method, mesh, memory)

    def begun(placed: list[Placed], method: Method) -> tuple[Array, Array, Array]:
        rows, wanted = zip(*placed, strict=True)
        pairs = [(example.image, example.known_labels()) for _, example in rows]
        pairs = [cover(image, labels, covered(rows[0][1])) for image, labels in pairs]
        image, labels = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        ids = np.array([dataset.image_id(index) for index, _ in rows], np.int32)
        others = ~np.array(wanted)
        ids[others], labels[others] = -1, VOID  # no class to guide to
        data = shard((image, labels, ids), mesh)
        found: tuple[Array, Array, Array] = translator(method, mesh)(denoiser, segmenter, schedule, *data, knobs)
        return found

    rest, running = iter(blocks), None
    while together := list(islice(rest, mesh.size)):
        examples = [list(readable(dataset, block)) for block in together]
        batches = []
        for alike in _by_size(examples):
            few, fits = fitting(covered(next(rows[0] for rows in alike if rows)[1]))
            parts = _placed(alike, few, mesh.size)
            batches += [(placed, begun(placed, fits)) for placed in parts]
        before, running = running, (examples, batches)
        if before is not None:
            yield from _finished(dataset, *before)
    if running is not None:
        yield from _finished(dataset, *running)


def in_blocks(indices: Iterable[int], batch_size: int) -> list[list[int]]:
    """Indices, which grow, by blocks: b * batch_size to (b + 1) * batch_size - 1 are in one."""
    return [list(block) for _, block in groupby(indices, lambda index: index // batch_size)]


def _by_size(blocks: list[list[Row]]) -> Iterator[list[list[Row]]]:
    """The blocks' rows of one size after the other."""
    for size in dict.fromkeys(example.image.shape for block in blocks for _, example in block):
        yield [[row for row in block if row[1].image.shape == size] for block in blocks]


def _placed(blocks: list[list[Row]], few: int, devices: int) -> Iterator[list[Placed]]:
    """Batches of `few` rows for every device, those of its block, filled up with copies."""
    for first in range(0, max(map(len, blocks)), few):
        parts = [block[first : first + few] for block in blocks] + [[]] * (devices - len(blocks))
        other = next(rows[-1] for rows in parts if rows)
        placed: list[Placed] = []
        for rows in parts:
            copy = rows[-1] if rows else other
            placed += [(row, True) for row in rows] + [(copy, False)] * (few - len(rows))
        yield placed


def _finished(
    dataset: Dataset, blocks: list[list[Row]], batches: list[tuple[list[Placed], tuple[Array, Array, Array]]]
) -> Iterator[list[Translated]]:
    """A list for every block, from what the batches that its rows are in came to."""
    found = {}
    for batch, result in batches:
        image, ratios, agreement = (np.asarray(array) for array in result)
        for place, ((index, example), wanted) in enumerate(batch):
            if not wanted:
                continue
            if not np.isfinite(ratios[place]).all():
                raise InputError(
                    f"the translation of {dataset.name(index)} is not finite: lower translate.scale, or set "
                    "translate.clip_ratio; where it is not guided, look at its denoiser's weights"
                )
            labels = example.known_labels()
            cut = image[place, : labels.shape[0], : labels.shape[1]]
            found[index] = Translated(index, cut, labels, ratios[place], float(agreement[place]))
    for block in blocks:
        yield [found[index] for index, _ in block]
