"""What a run will cost, before it starts: passes, FLOPs, time from a short calibration, memory and disk.

The calibration calls the very functions that the run will call, so what it compiles is not compiled again.
"""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from PIL import Image

from sgg_jax.data.dataset import VOID, Dataset
from sgg_jax.data.loader import Batches
from sgg_jax.devices import replicate, shard
from sgg_jax.evaluation import predict
from sgg_jax.experiment import Experiment
from sgg_jax.report.pictures import png_bytes
from sgg_jax.report.tables import text_table
from sgg_jax.schedule import NoiseSchedule, noise_schedule
from sgg_jax.training import init_state, make_step
from sgg_jax.translation import Method, translate

KEPT = 2  # checkpoints (see Checkpoints); each holds parameters, EMA twice, and two moments of Adam
ARRAYS_PER_CHECKPOINT = 5
PIECES = {"gsg": (1.0, 0.0), "lcg": (0.0, 1.0), "sgg": (0.5, 0.5), "none": (0.0, 0.0)}
"""Share of the reverse steps that are global and local. A variant that is not listed counts as global."""


@dataclass(frozen=True)
class Row:
    """One stage's cost."""

    stage: str
    denoiser_passes: float  # forward passes of one image; a training step counts 3 an image
    segmenter_passes: float  # likewise; an input gradient counts 2
    flops: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    rows: list[Row]
    preparation: float  # seconds to compile (done when the plan is printed)
    memory: float  # bytes, peak of this process or device so far
    disk: float  # bytes

    def text(self, hedge: str = "about") -> str:
        """The table and two lines below it."""
        total = Row(
            "all",
            *(
                sum(getattr(row, name) for row in self.rows)
                for name in ("denoiser_passes", "segmenter_passes", "flops", "seconds")
            ),
        )
        cells = [
            [
                row.stage,
                _count(row.denoiser_passes),
                _count(row.segmenter_passes),
                f"{row.flops / 1e12:.2f}",
                duration(row.seconds),
            ]
            for row in (*self.rows, total)
        ]
        table = text_table(["stage", "denoiser passes", "segmenter passes", "TFLOP", "time"], cells)
        return (
            f"This run will take {hedge} {duration(total.seconds)} on {jax.device_count()} "
            f"{jax.devices()[0].platform} device(s):\n\n{table}\n\n"
            f"memory: about {self.memory / 2**30:.1f} GiB; disk: about {self.disk / 2**20:.0f} MiB; "
            f"compiling and calibrating took {duration(self.preparation)}"
        )

    def record(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "rows": [vars(row) for row in self.rows],
            "preparation": self.preparation,
            "memory": self.memory,
            "disk": self.disk,
        }


def duration(seconds: float) -> str:
    """4000 -> "1 h 07 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def timed(call: Callable[[], Any], repeats: int = 3) -> float:
    """Median seconds of a call after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


class Calibration:
    """Seconds and FLOPs of the run's functions on this machine, each measured on first use."""

    def __init__(self, run: Experiment):
        self.run = run
        self._known: dict[Any, float] = {}

    def _once(self, key: Any, measure: Callable[[], float]) -> float:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]

    def flops(self, kind: str) -> float:
        """FLOPs of one forward pass of one image, as XLA counts them before optimisation."""
        return self._once(kind, lambda: self._flops(kind))

    def _flops(self, kind: str) -> float:
        run = self.run
        image = jax.ShapeDtypeStruct((1, *run.source.size, 3), jnp.float32)
        if kind == "denoiser":
            lowered = jax.jit(run.denoiser_network[0]).lower(
                run.denoiser_network[1], image, jax.ShapeDtypeStruct((1,), jnp.int32)
            )
        else:
            network = run.segmenter_network()
            lowered = jax.jit(network[0]).lower(network[1], image)
        return float((lowered.cost_analysis() or {}).get("flops", 0.0))

    def training_step(self, section: str, dataset: Dataset) -> float:
        """Seconds of one training step by the recipe of config.<section>."""
        recipe = self.run.recipe(section)
        key = (section == "denoiser", recipe.batch_size)
        return self._once(key, lambda: self._training_step(section, dataset))

    def _training_step(self, section: str, dataset: Dataset) -> float:
        run, recipe = self.run, self.run.recipe(section)
        if section == "denoiser":
            objective, params = run.denoiser_objective(), run.denoiser_network[1]
            constants: Any = noise_schedule(run.betas)
        else:
            objective, params = run.segmenter_objective(), run.segmenter_network()[1]
            constants = jnp.ones(len(run.names))
        step = make_step(objective, recipe.weight_decay, recipe.clip, recipe.ema)
        state, constants = replicate((init_state(params, recipe), constants), run.mesh)
        batch = Batches(dataset, recipe.batch_size, 0)(0)
        batch = shard({name: batch[name] for name in ("image", "labels") if name in batch}, run.mesh)

        def call() -> Any:
            nonlocal state  # each step takes its state's memory
            state, metrics = step(state, constants, batch, 0, np.float32(0.0))
            return metrics

        return timed(call)

    def translation_step(self, method: Method) -> float:
        """Seconds of one reverse step of one batch, the mean of a few from all over the chain."""
        return self._once(method, lambda: self._translation_step(method))

    def _translation_step(self, method: Method) -> float:
        run, size = self.run, self.run.config.translate.batch_size
        schedule = replicate(thinned(run.schedule(run.config.translate.depth), 4), run.mesh)
        knobs = replicate(run.knobs, run.mesh)
        examples = [run.source[i % len(run.source)] for i in range(size)]
        image = np.stack([example.image for example in examples])
        labels = np.stack([example.known_labels() for example in examples])
        data = shard((image, labels, np.arange(size, dtype=np.int32)), run.mesh)
        networks = replicate((Partial(*run.denoiser_network), run.segmenter(run.segmenter_network()[1])), run.mesh)
        call = partial(translate, *networks, schedule, *data, knobs, method=method, mesh=run.mesh)
        return timed(call, repeats=2) / int(schedule.count)

    def prediction(self) -> float:
        """Seconds of one batch of evaluation."""
        run, size = self.run, self.run.config.evaluate.batch_size
        batch = shard(np.zeros((size, *run.source.size, 3), np.uint8), run.mesh)
        network = replicate(run.segmenter(run.segmenter_network()[1]), run.mesh)
        return timed(lambda: predict(network, batch))


def thinned(schedule: NoiseSchedule, count: int) -> NoiseSchedule:
    """`count` rows from all over a schedule, for timing only: same shapes, the mix of guided steps kept."""
    used = int(schedule.count)
    rows = np.linspace(0, used - 1, min(count, used)).round().astype(int)
    kept = jnp.asarray(np.resize(rows, len(schedule)))
    table = jax.tree.map(lambda column: column[kept], schedule.table)
    return NoiseSchedule(replace(table, index=jnp.arange(len(schedule), dtype=jnp.int32)), jnp.int32(len(rows)))


def plan(run: Experiment, stages: list[str]) -> Plan:
    """The cost of the given stages of a run."""
    began = time.perf_counter()
    calibration = Calibration(run)
    rows = [row for stage in stages for row in _stage_rows(run, calibration, stage)]
    return Plan(rows, time.perf_counter() - began, peak_memory(), disk(run, stages))


def _stage_rows(run: Experiment, calibration: Calibration, stage: str) -> list[Row]:
    c = run.config
    source, target, judge, test = run.source, run.target, run.datasets["judge"], run.datasets["test"]
    if stage == "train_denoiser":
        return [_training(calibration, stage, "denoiser", target, 1)]
    if stage == "train_segmenter":
        return [_training(calibration, stage, "segmenter", source, 1 if judge is None else 2)]
    if stage == "train_student":
        return [_training(calibration, stage, "student", source, 1)]
    if stage == "adapt":
        depths = list(c.adapt.depths)
        return [
            _translation(calibration, "adapt: translate", depths, len(source), guided=True),
            _training(calibration, "adapt: fine-tune", "adapt", source, len(depths)),
        ]
    if stage == "translate":
        compare = min(c.translate.compare, len(source))
        rows = [_translation(calibration, stage, [c.translate.depth], len(source), guided=True)]
        return rows + (
            [_translation(calibration, "translate: unguided", [c.translate.depth], compare, guided=False)]
            if compare
            else []
        )
    if stage == "evaluate":
        images = 4 * len(test or []) + 2 * min(c.translate.compare, len(source)) * (judge is not None)
        batches = images / c.evaluate.batch_size
        return [Row(stage, 0, images, images * calibration.flops("segmenter"), batches * calibration.prediction())]
    return []


def _training(calibration: Calibration, title: str, section: str, dataset: Dataset, runs: int) -> Row:
    recipe = calibration.run.recipe(section)
    kind = "denoiser" if section == "denoiser" else "segmenter"
    passes = 3.0 * runs * recipe.steps * recipe.batch_size  # forward, and a backward pass of twice that
    seconds = runs * recipe.steps * calibration.training_step(section, dataset)
    counts = (passes, 0.0) if kind == "denoiser" else (0.0, passes)
    return Row(title, *counts, passes * calibration.flops(kind), seconds)


def _translation(calibration: Calibration, title: str, depths: list[int], images: int, *, guided: bool) -> Row:
    run = calibration.run
    c = run.config.translate
    steps = sum(int(run.schedule(depth).count) for depth in depths)
    whole, local = PIECES.get(c.guidance, (1.0, 0.0)) if guided else (0.0, 0.0)
    present = np.mean(
        [
            len(np.setdiff1d(run.source[i].known_labels(), [VOID]))
            for i in range(0, len(run.source), max(1, len(run.source) // 20))
        ]
    )
    low, high = (share * run.config.denoiser.total for share in c.interval)
    guided_steps = sum(int(run.schedule(d).count) * np.clip((min(high, d) - low) / d, 0, 1) for d in depths)
    guides = 2 * images * guided_steps * (whole + local * present)
    through = 2 * images * guided_steps * (guided and c.look == "through_denoiser" and c.guidance != "none")
    denoiser = images * steps + through
    flops = denoiser * calibration.flops("denoiser") + guides * calibration.flops("segmenter")
    batches = -(-images // c.batch_size)
    method = run.method if guided else run.unguided
    return Row(title, denoiser, guides, flops, batches * steps * calibration.translation_step(method))


def peak_memory() -> float:
    """Bytes: the device's peak where it tells, else this process's."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def disk(run: Experiment, stages: list[str]) -> float:
    """Bytes that the stages will have written: checkpoints and PNG files."""

    def weights(params: Any) -> float:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(params)) * ARRAYS_PER_CHECKPOINT * KEPT

    denoiser, segmenter = weights(run.denoiser_network[1]), weights(run.segmenter_network()[1])
    # A translation has a camera's textures: it packs like an image of the target.
    image = 1.15 * len(png_bytes(Image.fromarray(run.target[0].image)))
    rounds = len(run.config.adapt.depths)
    images = len(run.source) * image
    parts = {
        "train_denoiser": denoiser,
        "train_segmenter": segmenter * (2 if run.datasets["judge"] is not None else 1),
        "adapt": rounds * (segmenter + images),
        "translate": images + min(run.config.translate.compare, len(run.source)) * image,
        "train_student": segmenter,
    }
    return sum(parts.get(stage, 0.0) for stage in stages)
