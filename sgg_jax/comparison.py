"""The comparison: methods side by side, each judged by a fresh student trained on what it makes.

Every row (method, seed) has the same student network and first weights of that seed, the same augmentation, budget,
judge and denoiser; guides and noise differ from seed to seed. Settings that a baseline may choose are chosen on
config.data.val by the students of config.seed; results are those on config.data.test.

compare.json, compare.md, compare.csv   the rows
compare/METHOD-SEED.json                one row each: a killed comparison goes on with the next
compare/METHOD.json                     what the candidates of a baseline's setting scored on data.val
methods/METHOD[-SETTING]/               translated/ and student/ of the config's seed; seeds/SEED/methods/ of others
"""

import sys
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jax.tree_util import Partial

from sgg_jax import hosts
from sgg_jax.calibration import Calibration
from sgg_jax.data.crops import steady_crop
from sgg_jax.data.dataset import Dataset, readable
from sgg_jax.distances import frechet, kid
from sgg_jax.errors import InputError
from sgg_jax.evaluation import descriptions
from sgg_jax.experiment import Experiment
from sgg_jax.methods import METHODS
from sgg_jax.progress import track
from sgg_jax.records import read_json, write_json, write_text
from sgg_jax.report.comparison import ROW, csv, markdown
from sgg_jax.results import FEATURES
from sgg_jax.stages import fit_segmenter, say, scored
from sgg_jax.types import Segmenter
from sgg_jax.workdir import commit


class Comparison:
    """The rows of one run directory."""

    def __init__(self, run: Experiment):
        self.run = run
        self.directory = run.workdir / "compare"
        self._check()

    def _check(self) -> None:
        """InputError for what cannot be compared; cheap, so that hours of work cannot end in it."""
        c, datasets = self.run.config.compare, self.run.datasets
        if datasets["test"] is None:
            raise InputError("compare scores students on labelled target images: name them in config.data.test")
        if "oracle" in c.methods and datasets["judge"] is None:
            raise InputError("compare: oracle trains on labelled target images: name them in config.data.judge")
        if not c.methods or not c.seeds:
            raise InputError("config.compare.methods and config.compare.seeds must name at least one each")
        whole = all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in c.seeds)
        if not whole or len(set(c.seeds)) < len(c.seeds):
            raise InputError(
                f"config.compare.seeds is {tuple(c.seeds)}: give different whole numbers in 0..{2**31 - 1}"
            )
        if self.run.judged and min(len(self.run.source), len(self.run.target), len(datasets["test"])) < 2:
            raise InputError("compare measures distances between sets of images: give every data set at least two")
        translate = self.run.config.translate
        if "sgg_ptl" in c.methods and (translate.guide, translate.guidance) != ("adapted", "sgg"):
            raise InputError(
                "compare: sgg_ptl is SGG under the guide of PTL: set config.translate.guidance to sgg and "
                "config.translate.guide to adapted, or leave it out of config.compare.methods"
            )
        for name in c.methods:
            if name not in METHODS:
                raise InputError(f"config.compare.methods has {name!r}: choose from {', '.join(METHODS)}")
            self._check_candidates(name, METHODS[name].candidates)
        self.rows()  # none of them is damaged

    def _check_candidates(self, method: str, field: str) -> None:
        c = self.run.config.compare
        if not field:
            return
        if not c[field]:
            raise InputError(f"config.compare.{field} is empty: give {method} at least one")
        if len(c[field]) > 1 and self.run.datasets["val"] is None:
            raise InputError(f"config.compare.{field} has several candidates, and no config.data.val to choose on")
        total = self.run.config.denoiser.total
        for depth in c.sdedit_depths:
            if not isinstance(depth, int) or not 1 <= depth <= total:
                raise InputError(f"config.compare.sdedit_depths has {depth!r}: a depth lies in 1..{total}")
            self.run.schedule(depth, self.run.sdedit_steps)
        for beta in c.fda_betas:
            if not isinstance(beta, int | float) or not 0 <= beta <= 0.5:
                raise InputError(f"config.compare.fda_betas has {beta!r}: a share of the image's side lies in 0..0.5")

    def wanted(self) -> list[tuple[str, int]]:
        """(method, seed) of every row that the config asks for, cheap to judge first: seed after seed."""
        c = self.run.config.compare
        return [(method, int(seed)) for seed in c.seeds for method in METHODS if method in c.methods]

    def rows(self) -> list[dict[str, Any]]:
        """All finished rows, also of methods and seeds that an earlier command asked for; seed after seed."""
        found = [read_json(path, ROW) for name in METHODS for path in self.directory.glob(f"{name}-[0-9]*.json")]
        return sorted(found, key=lambda row: row["seed"])

    def finish(self, method: str, seed: int) -> None:
        """Makes one row if it is not there yet."""
        path = self.directory / f"{method}-{seed}.json"
        if not path.exists():
            row = self._row(method, seed)
            if hosts.leads():
                write_json(path, row)

    def _row(self, method: str, seed: int) -> dict[str, Any]:
        way, setting, run = METHODS[method], self._setting(method), self.run.with_seed(seed)
        dataset = self._images(run, method, setting)
        student = run.segmenter(self._student(run, method, setting, dataset), "student")
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
            "commit": commit(),
        }

    def _setting(self, method: str) -> Any:
        """A baseline's own setting: the best of its candidates on data.val, by the student of the config's seed."""
        field = METHODS[method].candidates
        if not field:
            return None
        candidates = list(self.run.config.compare[field])
        if len(candidates) == 1:
            return candidates[0]
        path = self.directory / f"{method}.json"
        like = [{"setting": object, "val_miou": int | float | None}]
        found = {str(entry["setting"]): entry for entry in read_json(path, like)} if path.exists() else {}
        for setting in candidates:
            if str(setting) not in found:
                dataset = self._images(self.run, method, setting)
                student = self.run.segmenter(self._student(self.run, method, setting, dataset), "student")
                miou = self._score(student, "val", f"{method}, {field[:-1]} {setting} on val")["miou"]
                found[str(setting)] = {"setting": setting, "val_miou": miou}
                if hosts.leads():
                    write_json(path, list(found.values()))
        return max(candidates, key=lambda setting: found[str(setting)]["val_miou"] or 0.0)  # None: all of val is void

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

    def _score(self, network: Segmenter, role: str, label: str) -> dict[str, Any]:
        dataset = self.run.datasets[role]
        assert dataset is not None
        return scored(self.run, network, dataset, label)

    def _judged(self, method: str, dataset: Dataset) -> dict[str, float | None]:
        """How far the judge finds the labels in the images, and how far its features are from the target's."""
        if not self.run.judged:
            return {"agreement": None, "distance": None, "kid": None}
        if method == "oracle":  # what real images that the judge has not seen score: the best there is to reach
            dataset = self.run.datasets["test"] or dataset
        if len(dataset) < 2:
            raise InputError(
                f"{method} has kept {len(dataset)} translation, and distances are measured between sets of at least "
                "two: set config.translate.keep lower, in a new --workdir"
            )
        found = self._describe(dataset, f"features of {method}")
        return {
            "agreement": scored(self.run, self.run.segmenter_at("judge"), dataset, f"judge {method}")["miou"],
            "distance": frechet(found, self._target_features),
            "kid": kid(found, self._target_features),
        }

    @cached_property
    def _features(self) -> Any:
        """The judge's deepest features, averaged over the image."""
        return Partial(self.run.segmenter_outline("judge")[0].of("features"), self.run.segmenter_params("judge"))

    @cached_property
    def _target_features(self) -> np.ndarray:
        return self._describe(self.run.target, "features of the target")

    def _describe(self, dataset: Dataset, label: str) -> np.ndarray:
        """The judge's features of every image, cut to config.data.size. [n,D]"""
        todo = track(range(len(dataset)), len(dataset), label, unit="image")
        size, batch_size = tuple(self.run.config.data.size), self.run.config.evaluate.batch_size
        images = (
            steady_crop(example, size, dataset.image_id(index)).image for index, example in readable(dataset, todo)
        )
        return descriptions(self._features, images, batch_size, self.run.mesh)

    @cached_property
    def _calibration(self) -> Calibration:
        return Calibration(self.run)


def compare(run: Experiment) -> dict[str, Any]:
    """Methods side by side: students of every method and seed; compare.json, .md and .csv."""
    comparison = Comparison(run)
    for method, seed in comparison.wanted():
        comparison.finish(method, seed)
        if hosts.leads():
            write_comparison(run, comparison.rows())
    rows = comparison.rows()
    if rows:
        say(markdown(rows))
    return {"rows": [[row["method"], row["seed"]] for row in rows]}


def write_comparison(run: Experiment, rows: list[dict[str, Any]]) -> None:
    """compare.json, compare.md and compare.csv of the rows so far."""
    record = {
        "rows": rows,
        "commit": ", ".join(sorted({row["commit"] for row in rows})),
        "command": run.command,
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        },
        "features": FEATURES,
    }
    write_json(run.workdir / "compare.json", record)
    note = f"Distances are those of features: {FEATURES}. The oracle's agreement and distances are real test images'."
    write_text(run.workdir / "compare.md", f"{markdown(rows)}\n\n{note}\n")
    write_text(run.workdir / "compare.csv", csv(rows))
