"""What a run directory holds: finished networks, translations to compare, and their scores as tables."""

from typing import Any

import numpy as np

from sgg_jax.data.dataset import Dataset, Subset
from sgg_jax.data.exports import open_export
from sgg_jax.data.writer import DROPPED, MANIFEST
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.records import read_lines
from sgg_jax.report.tables import csv_text, text_table

HELD_OUT_LEVELS = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
"""Noise levels of the denoiser's held-out loss, as shares of the whole process."""
SAMPLES, SAMPLE_STEPS = (2, 4), 50
"""Rows and columns of the denoiser's unconditional samples; reverse steps that make them."""
FEATURES = "the judge's deepest layer, averaged over the image"
"""From what the comparison's distances are taken."""


def adapted_place(run: Experiment) -> str:
    """Directory of PTL's last guide, below the run's."""
    return f"adapt/round{len(run.config.adapt.depths)}"


def guide_place(run: Experiment) -> str:
    """Directory of the guide of the final translations, below the run's."""
    return "source" if run.config.translate.guide == "source" else adapted_place(run)


def networks(run: Experiment) -> dict[str, str]:
    """Segmenters whose training is finished: title -> directory below the run's."""
    stages = {
        "first guide (source only)": ("source", "train_segmenter"),
        "PTL's last guide": (adapted_place(run), "adapt"),
        "student on translations": ("student", "train_student"),
    }
    if run.judged:
        stages["judge (target labels)"] = ("judge", "train_segmenter")
    return {title: place for title, (place, stage) in stages.items() if run.stages.result(stage) is not None}


def finished_set(run: Experiment, place: str) -> Dataset:
    """The translations in that directory of a run, which the stage translate left; InputError where some are gone."""
    directory = run.workdir / place
    found = open_export(str(directory), run.source.size)
    there = {found.name(index) for index in range(len(found))}
    lines = read_lines(directory / MANIFEST, {"name": str})
    gone = [line["name"] for line in lines if DROPPED not in line and line["name"] not in there]
    if gone:
        raise InputError(
            f"{len(gone)} of the translations that {directory / MANIFEST} lists are gone, the first is {gone[0]}: "
            f"delete {run.workdir / 'stages' / 'translate.json'} and run again, which makes them anew"
        )
    return found


def guided_and_unguided(run: Experiment) -> dict[str, Dataset]:
    """The same source images as guided and as unguided translations of the same depth."""
    if run.stages.result("translate") is None or not (run.workdir / "unguided").is_dir():
        return {}
    unguided, guided = finished_set(run, "unguided"), finished_set(run, "translated")
    at = {guided.name(i): i for i in range(len(guided))}
    both = [i for i in range(len(unguided)) if unguided.name(i) in at]  # guided ones may have been dropped
    return {
        "guided": Subset(guided, [at[unguided.name(i)] for i in both]),
        "unguided": Subset(unguided, both),
    }


# tables --------------------------------------------------------------------------------------------------------------


def network_rows(scores: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mIoU, accuracy and the IoU of every class, in percent, on the target's test set."""
    return _score_rows("network", scores["networks"])


def agreement_rows(scores: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: how far the judge finds the labels in the translations."""
    return _score_rows("translations", scores["agreement"])


def score_csv(scores: dict[str, Any]) -> str:
    """The table of the networks, nothing rounded, in 0..1."""
    columns = {title: _columns(entry) for title, entry in scores["networks"].items()}
    header = ["network", *next(iter(columns.values()), {"mIoU": None})]
    return csv_text(header, [[title, *found.values()] for title, found in columns.items()])


def _score_rows(first: str, entries: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    columns = {title: _columns(entry) for title, entry in entries.items()}
    header = [first, *next(iter(columns.values()), {"mIoU": None, "accuracy": None})]
    return header, [[title, *map(_percent, found.values())] for title, found in columns.items()]


def _columns(entry: dict[str, Any]) -> dict[str, float | None]:
    """Everything that a table tells of one network: the mean over each subset, accuracy, the IoU of every class."""
    subsets = {f"mIoU {title.removesuffix(' classes')}": value for title, value in entry.get("subsets", {}).items()}
    return {**(subsets or {"mIoU": entry["miou"]}), "accuracy": entry["accuracy"], **entry["iou"]}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def score_tables(scores: dict[str, Any]) -> str:
    """Both tables for the terminal."""
    parts = []
    if scores["networks"]:
        parts.append("Target test set, percent:\n" + text_table(*network_rows(scores)))
    if scores["agreement"]:
        parts.append(
            "Agreement of translations with their labels, by the judge, percent:\n"
            + text_table(*agreement_rows(scores))
        )
    return "\n\n".join(parts) or "no labelled target images in the config: nothing to score"


def curve_rows(count: int) -> np.ndarray:
    """Rows of a schedule with `count` steps whose ratios are kept for the curve: all, or 25 spread over them."""
    return np.linspace(0, count - 1, min(count, 25)).round().astype(int)
