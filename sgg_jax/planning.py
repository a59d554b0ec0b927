"""What a run will cost, before it starts: passes, FLOPs, time from a short calibration, memory and disk."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from PIL import Image

from sgg_jax.calibration import Calibration
from sgg_jax.costs import Row, comparison_work, stage_rows, trained_segmenters
from sgg_jax.data.dataset import readable
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.report.pictures import png_bytes
from sgg_jax.report.tables import text_table

KEPT = 2  # checkpoints (see Checkpoints); each holds parameters, EMA twice, and two moments of Adam
ARRAYS_PER_CHECKPOINT = 5
INDEX_PER_ARRAY = 2048  # bytes of Orbax's index; 1 to 3 KB were seen, more on a busy machine


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


def plan(run: Experiment, stages: list[str]) -> Plan:
    """The cost of the given stages of a run."""
    began = time.perf_counter()
    calibration = Calibration(run)
    rows = []
    for stage in stages:
        with enough_memory(stage):  # what does not fit is told here, since the calibration takes as much as the run
            rows += stage_rows(run, calibration, stage)
    return Plan(rows, time.perf_counter() - began, peak_memory(), disk(run, stages))


MEMORY = {
    "train_denoiser": "denoiser.training.batch_size",
    "train_segmenter": "segmenter.training.batch_size",
    "adapt": "translate.batch_size, translate.microbatch or adapt.training.batch_size",
    "translate": "translate.batch_size or translate.microbatch",
    "train_student": "student.training.batch_size",
    "compare": "translate.batch_size, translate.microbatch or student.training.batch_size",
    "evaluate": "evaluate.batch_size",
    "report": "report.examples",
}
"""What to lower where a stage runs out of the devices' memory."""


@contextmanager
def enough_memory(stage: str) -> Iterator[None]:
    """InputError naming the settings to lower where the block needs more memory than the devices have."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"{stage} needs more memory than there is: lower config.{MEMORY[stage]}") from error


def peak_memory() -> float:
    """Bytes: the device's peak where it tells, else this process's."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return float(stats["peak_bytes_in_use"])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def disk(run: Experiment, stages: list[str]) -> float:
    """Bytes that the stages will have written: checkpoints and PNG files."""

    def weights(params: Any) -> float:
        leaves = jax.tree.leaves(params)
        return (sum(leaf.nbytes for leaf in leaves) + INDEX_PER_ARRAY * len(leaves)) * ARRAYS_PER_CHECKPOINT * KEPT

    denoiser, segmenter = weights(run.denoiser_network[1]), weights(run.segmenter_network()[1])
    # A translation has a camera's textures: it packs like an image of the target.
    image = 1.15 * len(png_bytes(Image.fromarray(next(readable(run.target, range(len(run.target))))[1].image)))
    rounds = len(run.config.adapt.depths)
    work = comparison_work(run.config)
    images = len(run.source) * image
    parts = {
        "train_denoiser": 0.0 if run.config.denoiser.weights else denoiser,
        "train_segmenter": segmenter * trained_segmenters(run),
        "adapt": rounds * (segmenter + images),
        "translate": images + min(run.config.translate.unguided, len(run.source)) * image,
        "train_student": segmenter,
        "compare": segmenter * (work.students + work.guides + rounds * work.adapted)
        + images * (len(work.unguided) + work.guided + rounds * work.adapted),
    }
    return sum(parts.get(stage, 0.0) for stage in stages)
