"""The comparison: methods side by side, each judged by a fresh student trained on what it makes.

Every row (method, seed) has the same student network and first weights of that seed, the same augmentation, budget,
judge and denoiser; guides and noise differ from seed to seed. Settings that a baseline may choose are chosen on
config.data.val by the students of the first seed; results are those on config.data.test.

compare.json, compare.md, compare.csv   the rows
compare/METHOD-SEED.json                one row each: a killed comparison goes on with the next
compare/METHOD.json                     what the candidates of a baseline's setting scored on data.val
methods/METHOD[-SETTING]/               translated/ and student/ of the config's seed; seeds/SEED/methods/ of others
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.tree_util import Partial

from sgg_jax.baselines import color_statistics, color_transfer, fda
from sgg_jax.calibration import Calibration
from sgg_jax.data.dataset import Dataset
from sgg_jax.data.writer import TranslationWriter, open_export
from sgg_jax.distances import frechet, kid
from sgg_jax.errors import InputError
from sgg_jax.evaluation import descriptions, score, summary
from sgg_jax.experiment import Experiment
from sgg_jax.progress import track
from sgg_jax.records import read_json, write_json, write_text
from sgg_jax.report.comparison import csv, markdown
from sgg_jax.stages import adapt, fit_segmenter, say, translate_guided, translate_into

Paint = Callable[[np.ndarray, np.ndarray, Any], np.ndarray]
"""(source image, a target image, setting) -> translation, all [H,W,3] uint8."""


class Way(NamedTuple):
    """How a method makes its labelled training images."""

    make: Callable[[Experiment, Path, Any], Dataset]  # (run, directory for translations, setting) -> images
    cost: Callable[[Experiment, Calibration, Any], float] = lambda run, calibration, setting: 0.0  # seconds per image
    candidates: str = ""  # field of config.compare that lists the settings to choose from
    augmented: bool = True  # whether its student's images are


# making training images ----------------------------------------------------------------------------------------------


def guide(run: Experiment) -> Any:
    """The source segmenter of the run's seed, trained if it is not yet."""
    return fit_segmenter(run, "source", run.source, "segmenter", label=f"guide, seed {run.config.seed}")


def source_images(run: Experiment, directory: Path, setting: Any) -> Dataset:
    return run.source


def target_images(run: Experiment, directory: Path, setting: Any) -> Dataset:
    labelled = run.datasets["judge"]
    assert labelled is not None
    return labelled


def painted(paint: Paint) -> Callable[[Experiment, Path, Any], Dataset]:
    """Every source image painted after a target image that its id and the seed draw."""

    def make(run: Experiment, directory: Path, setting: Any) -> Dataset:
        source, target = run.source, run.target
        writer = TranslationWriter(str(directory), source.classes)
        finished = writer.finished()
        for index in track(range(len(source)), len(source), directory.parent.name, unit="image"):
            if source.name(index) in finished:
                continue
            example = source[index]
            rng = np.random.default_rng((run.config.seed, source.image_id(index)))
            image = paint(example.image, target[int(rng.integers(len(target)))].image, setting)
            record = {"image_id": source.image_id(index), "seed": run.config.seed, "setting": setting}
            writer.write(source.name(index), image, example.known_labels(), record)
        return open_export(str(directory), source.size)

    return make


def painting_time(paint: Paint) -> Callable[[Experiment, Calibration, Any], float]:
    def cost(run: Experiment, calibration: Calibration, setting: Any) -> float:
        pairs = [(run.source[i].image, run.target[i].image) for i in range(min(16, len(run.source), len(run.target)))]
        began = time.perf_counter()
        for image, target in pairs:
            paint(image, target, setting)
        return (time.perf_counter() - began) / len(pairs)

    return cost


def lab(image: np.ndarray, target: np.ndarray, setting: Any) -> np.ndarray:
    return color_transfer(image, color_statistics([target]))


def sdedit(run: Experiment, directory: Path, depth: int) -> Dataset:
    """Unguided; the guide is an operand that is not looked at."""
    label, params = f"sdedit, n={depth}", run.segmenter_network()[1]
    return translate_into(run, directory, params, depth, run.method("none"), len(run.source), label, "none")


def guided(variant: str) -> Way:
    """Guided by the source segmenter, at config.translate.depth."""

    def make(run: Experiment, directory: Path, setting: Any) -> Dataset:
        depth, method = run.config.translate.depth, run.method(variant)
        return translate_into(run, directory, guide(run), depth, method, len(run.source), variant, variant)

    def cost(run: Experiment, calibration: Calibration, setting: Any) -> float:
        return calibration.translation(run.method(variant), run.config.translate.depth)

    return Way(make, cost)


def sgg_ptl(run: Experiment, directory: Path, setting: Any) -> Dataset:
    """The whole method: the run's own stages."""
    guide(run)
    adapt(run)
    return translate_guided(run)


def ptl_time(run: Experiment, calibration: Calibration, setting: Any) -> float:
    """All rounds' translations and the last one; the fine-tuning between them is not counted."""
    depths = (*run.config.adapt.depths, run.config.translate.depth)
    return sum(calibration.translation(run.method(), depth) for depth in depths)


METHODS = {
    "none_plain": Way(source_images, augmented=False),
    "none": Way(source_images),
    "color": Way(painted(lab), painting_time(lab)),
    "fda": Way(painted(fda), painting_time(fda), "fda_betas"),
    "sdedit": Way(sdedit, lambda run, calibration, depth: calibration.translation(run.method("none"), depth),
                  "sdedit_depths"),
    "gsg": guided("gsg"),
    "lcg": guided("lcg"),
    "sgg": guided("sgg"),
    "sgg_ptl": Way(sgg_ptl, ptl_time),
    "oracle": Way(target_images),
}  # fmt: skip


# rows ----------------------------------------------------------------------------------------------------------------


class Comparison:
    """The rows of one run directory."""

    def __init__(self, run: Experiment):
        self.run = run
        self.directory = run.workdir / "compare"
        if run.datasets["test"] is None:
            raise InputError("compare scores students on labelled target images: name them in config.data.test")
        for name in run.config.compare.methods:
            if name not in METHODS:
                raise InputError(f"config.compare.methods has {name!r}: choose from {', '.join(METHODS)}")
            field = METHODS[name].candidates
            if field and len(run.config.compare[field]) > 1 and run.datasets["val"] is None:
                raise InputError(f"config.compare.{field} has several candidates, and no config.data.val to choose on")
        if "oracle" in run.config.compare.methods and run.datasets["judge"] is None:
            raise InputError("compare: oracle trains on labelled target images: name them in config.data.judge")

    def wanted(self) -> list[tuple[str, int]]:
        """(method, seed) of every row that the config asks for, cheap to judge first: seed after seed."""
        c = self.run.config.compare
        return [(method, int(seed)) for seed in c.seeds for method in METHODS if method in c.methods]

    def rows(self) -> list[dict[str, Any]]:
        """All finished rows of those that are wanted."""
        paths = [self.directory / f"{method}-{seed}.json" for method, seed in self.wanted()]
        return [read_json(path) for path in paths if path.exists()]

    def finish(self, method: str, seed: int) -> None:
        """Makes one row if it is not there yet."""
        path = self.directory / f"{method}-{seed}.json"
        if not path.exists():
            write_json(path, self._row(method, seed))

    def _row(self, method: str, seed: int) -> dict[str, Any]:
        way, setting, run = METHODS[method], self._setting(method), self.run.with_seed(seed)
        dataset = self._images(run, method, setting)
        student = run.segmenter(self._student(run, method, setting, dataset))
        on_test = self._score(student, "test", f"score {method}, seed {seed}")
        return {
            "method": method,
            "seed": seed,
            "miou": on_test["miou"],
            "per_class": on_test["iou"],
            **self._judged(method, dataset),
            "seconds_per_image": way.cost(run, self._calibration, setting),
            "val_miou": self._score(student, "val", "score on val")["miou"] if self.run.datasets["val"] else None,
            "setting": setting,
            "images": len(dataset),
            "translations": self._translations(run, method, setting),
        }

    def _setting(self, method: str) -> Any:
        """A baseline's own setting: the best of its candidates on data.val, by the student of the first seed."""
        field = METHODS[method].candidates
        if not field:
            return None
        candidates = list(self.run.config.compare[field])
        if len(candidates) == 1:
            return candidates[0]
        path = self.directory / f"{method}.json"
        found = {str(entry["setting"]): entry for entry in read_json(path)} if path.exists() else {}
        run = self.run.with_seed(int(self.run.config.compare.seeds[0]))
        for setting in candidates:
            if str(setting) not in found:
                dataset = self._images(run, method, setting)
                student = run.segmenter(self._student(run, method, setting, dataset))
                miou = self._score(student, "val", f"{method}, {field[:-1]} {setting} on val")["miou"]
                found[str(setting)] = {"setting": setting, "val_miou": miou}
                write_json(path, list(found.values()))
        return max(candidates, key=lambda setting: found[str(setting)]["val_miou"])

    @staticmethod
    def _place(run: Experiment, method: str, setting: Any) -> Path:
        """Where a method's files of one seed are. SGG with PTL is the run itself."""
        if method == "sgg_ptl":
            return run.workdir
        return run.workdir / "methods" / (method if setting is None else f"{method}-{setting}")

    def _translations(self, run: Experiment, method: str, setting: Any) -> str | None:
        """Where a method's translations are, below the run directory; None where it makes none."""
        place = self._place(run, method, setting) / "translated"
        return str(place.relative_to(self.run.workdir)) if place.is_dir() else None

    def _images(self, run: Experiment, method: str, setting: Any) -> Dataset:
        return METHODS[method].make(run, self._place(run, method, setting) / "translated", setting)

    def _student(self, run: Experiment, method: str, setting: Any, dataset: Dataset) -> Any:
        label = f"student of {method}, seed {run.config.seed}"
        place = self._place(run, method, setting) / "student"
        plain = not METHODS[method].augmented
        return fit_segmenter(run, "student", dataset, "student", label=label, place=place, plain=plain)

    def _score(self, student: Any, role: str, label: str) -> dict[str, Any]:
        dataset = self.run.datasets[role]
        assert dataset is not None
        todo = track(range(len(dataset)), len(dataset), label, unit="image")
        size = self.run.config.evaluate.batch_size
        return summary(score(student, dataset, todo, size, self.run.mesh), self.run.names)

    def _judged(self, method: str, dataset: Dataset) -> dict[str, float | None]:
        """How far the judge finds the labels in the images, and how far its features are from the target's."""
        if self.run.datasets["judge"] is None:
            return {"agreement": None, "distance": None, "kid": None}
        size, todo = self.run.config.evaluate.batch_size, range(len(dataset))
        agreement = summary(score(self.run.judge(), dataset, todo, size, self.run.mesh), self.run.names)["miou"]
        found = descriptions(self._features, (dataset[i].image for i in todo), size, self.run.mesh)
        return {
            "agreement": agreement,
            "distance": frechet(found, self._target_features),
            "kid": kid(found, self._target_features),
        }

    @cached_property
    def _features(self) -> Any:
        """The judge's deepest features, averaged over the image."""
        return Partial(self.run.segmenter_network()[0].of("features"), self.run.segmenter_params("judge"))

    @cached_property
    def _target_features(self) -> np.ndarray:
        target, size = self.run.target, self.run.config.evaluate.batch_size
        todo = track(range(len(target)), len(target), "features of the target", unit="image")
        return descriptions(self._features, (target[i].image for i in todo), size, self.run.mesh)

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration(self.run)


def compare(run: Experiment) -> dict[str, Any]:
    """Methods side by side: students of every method and seed; compare.json, .md and .csv."""
    comparison = Comparison(run)
    for method, seed in comparison.wanted():
        comparison.finish(method, seed)
        write_comparison(run, comparison.rows())
    rows = comparison.rows()
    if rows:
        say(markdown(rows))
    return {"rows": [[row["method"], row["seed"]] for row in rows]}


def write_comparison(run: Experiment, rows: list[dict[str, Any]]) -> None:
    """compare.json, compare.md and compare.csv of the rows so far."""
    record = {
        "rows": rows,
        "commit": commit(),
        "command": run.command,
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        },
    }
    write_json(run.workdir / "compare.json", record)
    write_text(run.workdir / "compare.md", markdown(rows) + "\n")
    write_text(run.workdir / "compare.csv", csv(rows))


def commit() -> str:
    """The commit of the code that runs, with "+" where files differ from it; "unknown" outside a git checkout."""
    try:
        asked = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        here = Path(__file__).parent
        return subprocess.run(asked, cwd=here, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
