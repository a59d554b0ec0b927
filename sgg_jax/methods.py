"""The methods of the comparison: how each makes its labelled training images, and what an image costs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgg_jax import hosts
from sgg_jax.baselines import color_statistics, color_transfer, fda
from sgg_jax.calibration import Calibration
from sgg_jax.data.dataset import Dataset, Subset, readable
from sgg_jax.data.exports import open_export
from sgg_jax.data.fit import fitted
from sgg_jax.data.writer import TranslationWriter
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.guidance import GUIDING
from sgg_jax.progress import track
from sgg_jax.stages import adapt, fit_segmenter, translate_guided
from sgg_jax.translated_sets import translate_into

PAINTED = ".painted"
"""File in a set that is painted to its end."""
Paint = Callable[[np.ndarray, np.ndarray, Any], np.ndarray]
"""(source image, a target image, setting) -> translation, all [H,W,3] uint8."""


class Way(NamedTuple):
    """How a method makes its labelled training images."""

    make: Callable[[Experiment, Path, Any], Dataset]  # (run, directory for translations, setting) -> images
    cost: Callable[[Experiment, Calibration, Any], float] = lambda run, calibration, setting: 0.0  # seconds per image
    candidates: str = ""  # field of config.compare that lists the settings to choose from
    augmented: bool = True  # whether its student's images are


def guide(run: Experiment) -> Any:
    """The source segmenter of the run's seed, trained if it is not yet; a given one as it is."""
    if run.given_segmenter("source"):
        return run.segmenter_params("source")
    return fit_segmenter(run, "source", run.source, "segmenter", label=f"guide, seed {run.config.seed}")


def source_images(run: Experiment, directory: Path, setting: Any) -> Dataset:
    return run.source


def target_images(run: Experiment, directory: Path, setting: Any) -> Dataset:
    """As many labelled target images as there are source images."""
    labelled = run.datasets["judge"]
    assert labelled is not None
    return Subset(labelled, range(min(len(labelled), len(run.source))))


def painted(paint: Paint) -> Callable[[Experiment, Path, Any], Dataset]:
    """Every source image painted after a target image that its id and the seed draw."""

    def make(run: Experiment, directory: Path, setting: Any) -> Dataset:
        if hosts.leads():
            paint_all(run, directory, setting)
        hosts.wait_for(lambda: (directory / PAINTED).exists())
        return open_export(str(directory), run.source.size)

    def paint_all(run: Experiment, directory: Path, setting: Any) -> None:
        source, target = run.source, run.target
        writer = TranslationWriter(str(directory), source.classes)
        finished = writer.finished()
        todo = [index for index in range(len(source)) if source.name(index) not in finished]
        for index, example in readable(source, track(todo, len(todo), directory.parent.name, unit="image")):
            rng = np.random.default_rng((run.config.seed, source.image_id(index)))
            image = paint(example.image, drawn(target, rng, example.image.shape[:2]), setting)
            record = {"image_id": source.image_id(index), "seed": run.config.seed, "setting": setting}
            writer.write(source.name(index), image, example.known_labels(), record)
        (directory / PAINTED).touch()

    return make


def drawn(target: Dataset, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A random target image that can be used, brought to a size (H, W)."""
    for _, example in readable(target, (int(rng.integers(len(target))) for _ in range(100))):
        return fitted(example.image, size, "crop")
    raise InputError("hundred target images in a row cannot be used")


def painting_time(paint: Paint) -> Callable[[Experiment, Calibration, Any], float]:
    def cost(run: Experiment, calibration: Calibration, setting: Any) -> float:
        few, rng = range(min(16, len(run.source))), np.random.default_rng(0)
        images = [example.image for _, example in readable(run.source, few)]
        pairs = [(image, drawn(run.target, rng, image.shape[:2])) for image in images]
        began = time.perf_counter()
        for image, target in pairs:
            paint(image, target, setting)
        return (time.perf_counter() - began) / len(pairs)

    return cost


def lab(image: np.ndarray, target: np.ndarray, setting: Any) -> np.ndarray:
    return color_transfer(image, color_statistics([target]))


def sdedit(run: Experiment, directory: Path, depth: int) -> Dataset:
    """Unguided and without labels, from the source image itself; the guide is an operand that is not looked at."""
    label, params, every = f"sdedit, n={depth}", run.segmenter_network()[1], range(len(run.source))
    return translate_into(
        run, directory, params, depth, run.method("none"), every, label, "none", run.source, steps=run.sdedit_steps
    )


def start_time(run: Experiment) -> float:
    """Seconds per image of making what is noised; what the guide sees in the donors is shared by all images."""
    guide, few = run.segmenter_params("source"), range(min(16, len(run.source)))
    began = time.perf_counter()
    start = run.start(guide, run.config.translate.depth)
    opened = time.perf_counter()
    made = sum(1 for _ in readable(start, few))
    return (opened - began) / len(run.source) + (time.perf_counter() - opened) / max(made, 1)


def guided(variant: str) -> Way:
    """Guided by the source segmenter, at config.translate.depth."""

    def make(run: Experiment, directory: Path, setting: Any) -> Dataset:
        c, method, every = run.config.translate, run.method(variant), range(len(run.source))
        return translate_into(run, directory, guide(run), c.depth, method, every, variant, variant, keep=c.keep)

    def cost(run: Experiment, calibration: Calibration, setting: Any) -> float:
        return start_time(run) + calibration.translation(run.method(variant), run.config.translate.depth)

    return Way(make, cost)


def sgg_ptl(run: Experiment, directory: Path, setting: Any) -> Dataset:
    """The whole method: the run's own stages."""
    guide(run)
    adapt(run)
    return translate_guided(run)


def ptl_time(run: Experiment, calibration: Calibration, setting: Any) -> float:
    """All rounds' translations and the last one; the fine-tuning between them is not counted."""
    depths = (*run.config.adapt.depths, run.config.translate.depth)
    return len(depths) * start_time(run) + sum(calibration.translation(run.method(), depth) for depth in depths)


METHODS = {
    "none_plain": Way(source_images, augmented=False),
    "none": Way(source_images),
    "color": Way(painted(lab), painting_time(lab)),
    "fda": Way(painted(fda), painting_time(fda), "fda_betas"),
    "sdedit": Way(sdedit, lambda run, calibration, depth: calibration.translation(run.method("none"), depth,
                                                                                  run.sdedit_steps), "sdedit_depths"),
    **{variant: guided(variant) for variant in GUIDING},
    "sgg_ptl": Way(sgg_ptl, ptl_time),
    "oracle": Way(target_images),
}  # fmt: skip
