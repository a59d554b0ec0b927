"""What the run's functions cost on this machine: seconds and FLOPs, each measured once.

It calls the very functions that the run will call, so what it compiles is not compiled again.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sgg_jax.accumulation import groups_of
from sgg_jax.checkpoints import write_one
from sgg_jax.collage import Donors, collage
from sgg_jax.data.dataset import Dataset, readable
from sgg_jax.data.fit import fitted
from sgg_jax.devices import replicate, shard, split_mesh, spread
from sgg_jax.evaluation import examine
from sgg_jax.experiment import Experiment, role_of
from sgg_jax.models import flops
from sgg_jax.prediction import Size, windows_of
from sgg_jax.sampling import Method
from sgg_jax.schedule import NoiseSchedule
from sgg_jax.tiling import cover, covered_size, tile_count, tiled
from sgg_jax.training import init_state, make_step
from sgg_jax.translation import affordable, translator
from sgg_jax.types import Params


def timed(call: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
    """Seconds of a call, the median of some, and how much longer the one before them took, which compiles."""
    seconds = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    median = float(np.median(seconds[1:]))
    return median, max(seconds[0] - median, 0.0)


SAVED = 2**25
"""Bytes of a network's weights that are written to see how long a checkpoint takes; larger ones are extrapolated."""
STREAMS = {"segmenter": "source"}
"""Whose augmentation a section's step is timed with, where the stream is not named as the section."""


class Calibration:
    """Seconds and FLOPs of the run's functions on this machine, each measured on first use."""

    def __init__(self, run: Experiment):
        self.run = run
        self._known: dict[Any, float] = {}
        self._compiling: dict[Method, float] = {}
        self._together: dict[Method, int] = {}

    def _once(self, key: Any, measure: Callable[[], float]) -> float:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]

    def flops(self, kind: str, size: Size | None = None) -> float:
        """FLOPs of one forward pass of one image of that size, by default data.size, as XLA counts them before
        optimisation."""
        seen = size or tuple(self.run.config.data.size)
        return self._once((kind, seen), lambda: self._flops(kind, seen))

    @property
    def denoiser_share(self) -> float:
        """Cost of the denoiser in a reverse step, where several share its deep features: share of a whole pass."""
        every = self.run.config.translate.deep_every
        if every == 1 or not self.flops("denoiser"):
            return 1.0
        return (1 + (every - 1) * self.flops("on_deep") / self.flops("denoiser")) / every

    def _flops(self, kind: str, size: Size) -> float:
        run = self.run
        image, step = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
        if kind in ("denoiser", "on_deep"):
            apply, params = run.denoiser_network
            if kind == "on_deep":
                deep = jax.eval_shape(apply.with_deep, params, image, step)[1]
                return flops(apply.on_deep, params, image, step, deep)
            return flops(apply, params, image, step)
        return flops(*run.segmenter_network(), image)

    def training_step(self, section: str, dataset: Dataset) -> float:
        """Seconds of one training step by the recipe of config.<section>; of "segmenter" as the source guide's."""
        recipe = self.run.recipe(section)
        stream = STREAMS.get(section, section)
        network = "denoiser" if section == "denoiser" else self.run.segmenter_outline(role_of(stream))[0]
        key = (network, recipe.batch_size, recipe.groups, recipe.weight_shards, recipe.rule, self.run.strength(stream))
        return self._once(key, lambda: self._training_step(section, dataset))

    def _training_step(self, section: str, dataset: Dataset) -> float:
        run, recipe = self.run, self.run.recipe(section)
        if section == "denoiser":
            objective, params = run.denoiser_objective(), run.denoiser_network[1]
            constants: Any = run.denoiser_constants()
        else:
            stream = STREAMS.get(section, section)
            objective = run.segmenter_objective(run.strength(stream), role_of(stream))
            params = run.segmenter_network(role_of(stream))[1]
            constants = jnp.ones(len(run.names))
        mesh = split_mesh(run.mesh, recipe.weight_shards)
        step = make_step(objective, recipe.rule, mesh, groups_of(recipe, mesh))
        state, constants = spread(init_state(params, recipe), mesh), replicate(constants, mesh)
        batch = run.batches(dataset, recipe.batch_size, 0)(0)
        batch = shard({name: batch[name] for name in ("image", "labels") if name in batch}, mesh)

        def call() -> Any:
            nonlocal state  # each step takes its state's memory
            state, metrics = step(state, constants, batch, 0, np.float32(0.0))
            return metrics

        return timed(call)[0]

    def saving(self, section: str) -> float:
        """Seconds to write a checkpoint of the network of config.<section>, on the disk of temporary files."""
        network = self.run.denoiser_network if section == "denoiser" else self.run.segmenter_network()
        return self._once(("saving", network[0]), lambda: self._saving(network[1]))

    def _saving(self, params: Params) -> float:
        leaves = jax.tree.leaves(params)
        sizes = np.cumsum([leaf.nbytes for leaf in leaves])
        few = {str(place): leaf for place, leaf in enumerate(leaves[: 1 + int((sizes < SAVED).sum())])}
        state = {
            f"{name} {copy}": leaf for name, leaf in few.items() for copy in ("weight", "average", "mean", "square")
        }

        def save() -> None:
            with TemporaryDirectory() as place:
                write_one(Path(place), state, few)

        return timed(save, repeats=1)[0] * float(sizes[-1] / sizes[len(few) - 1])

    def translation_step(self, method: Method) -> float:
        """Seconds of one reverse step of a batch on every device, the mean of a chain or of a few from all over it."""
        return self._once(method, lambda: self._translation_step(method))

    def _translation_step(self, method: Method) -> float:
        run = self.run
        whole = run.schedule(run.config.translate.depth)
        short = int(whole.count) <= 2 * self.cycle  # where the last step, without a gradient, is a large share
        mesh = run.translation_mesh
        schedule = replicate(whole if short else thinned(whole, self.cycle), mesh)
        knobs = replicate(run.knobs, mesh)
        shown = self.source_size
        covered = covered_size(shown, run.tile, mixed=run.source.size is None)
        both = Partial(*run.denoiser_network), run.segmenter(run.segmenter_network()[1])
        denoiser, guide = replicate(tuple(tiled(network, run.tile) for network in both), mesh)
        batch_size, began = run.config.translate.batch_size, time.perf_counter()
        rows, fits = affordable(denoiser, guide, schedule, knobs, covered, batch_size, method, mesh, run.memory)
        size, compiled = rows * mesh.size, time.perf_counter() - began
        few = [example for _, example in readable(run.source, range(min(size, len(run.source))))]
        examples = [few[i % len(few)] for i in range(size)]
        pairs = [
            cover(fitted(e.image, shown, "crop"), fitted(e.known_labels(), shown, "crop"), covered) for e in examples
        ]
        image, labels = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        data = shard((image, labels, np.arange(size, dtype=np.int32)), mesh)
        call = partial(translator(fits, mesh), denoiser, guide, schedule, *data, knobs)
        seconds, first = timed(call, repeats=2)
        self._together[method], self._compiling[method] = size, compiled + first
        return seconds / int(schedule.count)

    def compiling(self, method: Method) -> float:
        """Seconds that compiling a translation took."""
        self.translation_step(method)
        return self._compiling[method]

    @cached_property
    def collage(self) -> float:
        """Seconds to make an image's start of target pixels, the mean of a few; the source gives them here."""
        examples = [example for _, example in readable(self.run.source, range(min(8, len(self.run.source))))]
        pairs = [
            (fitted(e.image, self.source_size, "crop"), fitted(e.known_labels(), self.source_size, "crop"))
            for e in examples
        ]
        images, labels = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        given = Donors.of(images, labels, len(self.run.names))
        began = time.perf_counter()
        for place, (image, known) in enumerate(pairs):
            collage(image, known, given, (0, place))
        return (time.perf_counter() - began) / len(pairs)

    @cached_property
    def source_size(self) -> tuple[int, int]:
        """(H, W) of the source images; of the first where each has its own."""
        first = next(readable(self.run.source, range(len(self.run.source))))[1]
        height, width = self.run.source.size or first.image.shape[:2]
        return height, width

    def together(self, method: Method) -> int:
        """Images that are translated at once, over all devices."""
        self.translation_step(method)
        return self._together[method]

    @property
    def tiles(self) -> int:
        """Tiles of a source image, each a pass of the networks."""
        return tile_count(self.source_size, self.run.tile)

    @property
    def cycle(self) -> int:
        """Reverse steps after which the same kinds of steps come again, or a multiple of at least four."""
        c = self.run.config.translate
        steps = math.lcm(c.lcg_every * c.gradient_every, c.deep_every)
        return steps * -(-4 // steps)

    def translation(self, method: Method, depth: int, steps: int | None = None) -> float:
        """Seconds per image of a translation of that depth; steps: by default config.translate.steps."""
        steps = int(self.run.schedule(depth, steps).count)
        return self.translation_step(method) * steps / self.together(method)

    def scoring(self, dataset: Dataset) -> tuple[float, float, float]:
        """What it costs to score an image of a labelled set: passes of the segmenter, FLOPs, seconds."""
        run, views = self.run, self.run.views
        network = run.segmenter(run.segmenter_network()[1])
        first, example = next(readable(dataset, range(len(dataset))))
        window, grid = windows_of(example.image.shape[:2], views, network)
        passes = len(grid[0]) * len(grid[1]) * (2 if views.flip else 1)
        together = run.config.evaluate.batch_size * run.mesh.size
        few = range(first, min(first + max(1, together // passes), len(dataset)))

        def look() -> None:
            for _ in examine(network, dataset, few, run.config.evaluate.batch_size, run.mesh, views):
                pass

        size = dataset.size or window
        seconds = self._once(("scoring", size, len(few)), lambda: timed(look, repeats=1)[0] / len(few))
        return passes, passes * self.flops("segmenter", window), seconds


def thinned(schedule: NoiseSchedule, count: int) -> NoiseSchedule:
    """`count` rows from all over a schedule, for timing only: same shapes, the mix of guided steps kept.

    Where they are fewer than all, the last step is not among them: an ancestral chain takes no gradient there.
    """
    used = int(schedule.count)
    rows = np.arange(used) if used <= count else np.linspace(used - 1, 1, count).round().astype(int)[::-1]
    kept = jnp.asarray(np.resize(rows, len(schedule)))
    table = jax.tree.map(lambda column: column[kept], schedule.table)
    return NoiseSchedule(replace(table, index=jnp.arange(len(schedule), dtype=jnp.int32)), jnp.int32(len(rows)))
