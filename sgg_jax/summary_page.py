"""The summary page of a run: report.html, from the files in its directory."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sgg_jax.experiment import Experiment
from sgg_jax.records import read_json, read_lines
from sgg_jax.report import comparison
from sgg_jax.report.page import Picture, Section, Settings, Svg, Table, page, write_page
from sgg_jax.report.pictures import save
from sgg_jax.report.plots import class_bars, curves
from sgg_jax.results import FEATURES, agreement_rows, curve_rows, network_rows
from sgg_jax.sheets import gallery_sheet, prediction_sheet, strip_sheet, traces, translation_sheet
from sgg_jax.translation import Look


def read_scores(run: Experiment) -> dict[str, Any]:
    """scores.json; InputError where it is damaged."""
    like = {"networks": dict, "agreement": dict}
    found: dict[str, Any] = read_json(run.workdir / "scores.json", like, "delete it and run evaluate again")
    return found


def write_report(run: Experiment) -> Path:
    """report.html and pictures/*.png from what is there. Returns the page's path."""
    scores = read_scores(run)
    sections = []
    if run.stages.result("compare") is not None:
        mend = "delete it and run compare again"
        rows = read_json(run.workdir / "compare.json", {"rows": [comparison.ROW]}, mend)["rows"]
        sections.append(comparison.section(rows, run.names, FEATURES))
        if any(row["seed"] == run.config.seed and row["translations"] for row in rows):
            sections.append(_gallery_section(run, rows))
    if scores["networks"]:
        sections.append(_scores_section(run, scores))
    if run.stages.result("translate") is not None:
        sections.append(_translations_section(run, scores))
    if run.datasets["test"] is not None:
        sections.append(Section("Predictions", [_picture(run, "predictions", prediction_sheet, "Target test images.")]))
    sections += [_training_section(run), _settings_section(run)]
    lead = (
        f"{len(run.source)} labelled source images, translated into the target domain by a diffusion model under "
        "semantic-gradient guidance and progressive translation learning (Peng et al., ICCV 2023)."
    )
    path = run.workdir / "report.html"
    write_page(path, page("sgg_jax: translated, adapted, scored", lead, sections))
    return path


def _gallery_section(run: Experiment, rows: list[dict[str, Any]]) -> Section:
    def draw(run: Experiment, count: int) -> Any:
        return gallery_sheet(run, rows, count)

    caption = "Source images and what every method makes of them; then the last translation seen by two networks."
    return Section("Gallery", [_picture(run, "gallery", draw, caption)])


def _scores_section(run: Experiment, scores: dict[str, Any]) -> Section:
    header, rows = network_rows(scores)
    bars = {
        title: [math.nan if value is None else value for value in entry["iou"].values()]
        for title, entry in scores["networks"].items()
    }
    table = Table(header, rows, "Target test set, percent.", dict.fromkeys(header[1:], "max"))
    blocks: list[Any] = [table, Svg(class_bars(run.names, bars, "IoU"), "IoU by class.")]
    plot, overlays = (run.workdir / "evaluation" / name for name in ("student_confusion.svg", "overlays/student.png"))
    if plot.exists():
        caption = "What the student takes the pixels of each class for, in percent of that class: a row adds up to 100."
        blocks.append(Svg(plot.read_text(encoding="utf-8"), caption))
    if overlays.exists():
        blocks.append(Picture(overlays.read_bytes(), "The student on target test images, at full resolution."))
    return Section("Segmentation of the target", blocks)


def _translations_section(run: Experiment, scores: dict[str, Any]) -> Section:
    blocks: list[Any] = [_picture(run, "translations", translation_sheet, "Source images and their translations.")]
    if scores["agreement"]:
        caption = (
            "Agreement of translations with their labels in the eyes of the judge, a network trained with target "
            "labels that guides nothing; percent."
        )
        blocks.append(Table(*agreement_rows(scores), caption))
    looks = traces(run, run.config.report.examples)
    blocks.append(_picture(run, "steps", lambda run, count: strip_sheet(looks), "One image through the reverse steps."))
    caption = (
        "Cross-entropy of the labels in the predicted image, in the eyes of the guide, by reverse step; mean over "
    )
    blocks.append(Svg(_surprise_curves(looks), f"{caption}{len(next(iter(looks.values()))[0].x)} images."))
    records = read_lines(run.workdir / "translated" / "manifest.jsonl", {"ratios": [int | float]})
    if records:
        caption = "rms(lambda Sigma gradient) / sigma by reverse step, mean over images."
        blocks.append(Svg(_ratio_curve(run, records), caption))
    return Section("Translations", blocks)


def _training_section(run: Experiment) -> Section:
    blocks: list[Any] = [Svg(_loss_curves(logs, title), title) for title, logs in _trained(run).items()]
    if (run.workdir / "denoiser" / "heldout.json").exists():
        blocks.insert(0, _held_out_curve(run))
    samples = run.workdir / "denoiser" / "samples.png"
    if samples.exists():
        blocks.insert(0, Picture(samples.read_bytes(), "Unconditional samples of the denoiser."))
    return Section("Training", blocks)


def _settings_section(run: Experiment) -> Section:
    rows = [
        [name, result["seconds"]]
        for name in ("train_denoiser", "train_segmenter", "adapt", "translate", "train_student", "compare", "evaluate")
        if (result := run.stages.result(name)) is not None
    ]
    return Section(
        "Settings", [Table(["stage", "seconds"], rows, "Time of each stage."), Settings(run.config.to_dict())]
    )


def _picture(run: Experiment, name: str, draw: Callable[[Experiment, int], Any], caption: str) -> Picture:
    image = draw(run, run.config.report.examples)
    (run.workdir / "pictures").mkdir(exist_ok=True)
    save(image, run.workdir / "pictures" / f"{name}.png")
    return Picture(image, caption)


def _surprise_curves(looks: dict[str, list[Look]]) -> str:
    series = {
        title: ([look.step for look in found], [float(look.cross_entropy.mean()) for look in found])
        for title, found in looks.items()
    }
    return curves(series, "step k (from right to left)", "nats a pixel", logy=True)


def _held_out_curve(run: Experiment) -> Svg:
    found = read_json(
        run.workdir / "denoiser" / "heldout.json",
        {"step": [int], "error": [int | float], "images": int},
        "delete it and stages/train_denoiser.json and run again",
    )
    plot = curves({"": (found["step"], found["error"])}, "step k", "mean square error", logy=True)
    return Svg(plot, f"Error of the predicted noise by noise level, on {found['images']} images held out of training.")


def _ratio_curve(run: Experiment, records: list[dict[str, Any]]) -> str:
    ratios = np.mean([record["ratios"] for record in records], axis=0)
    schedule = run.schedule(run.config.translate.depth)
    steps = np.asarray(schedule.table.step)[curve_rows(int(schedule.count))]
    return curves(
        {"guidance-to-noise ratio": (steps.tolist(), ratios.tolist())}, "step k (from right to left)", "ratio"
    )


def _trained(run: Experiment) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Loss plots: title -> {curve: records of its steps}."""
    like = {"step": int, "loss": int | float}
    rounds = {f"round {n}": f"adapt/round{n}" for n in range(1, len(run.config.adapt.depths) + 1)}
    plots = {
        "Loss of the denoiser": {"denoiser": "denoiser"},
        "Loss of the segmenters": {"source": "source", "judge": "judge", **rounds, "student": "student"},
    }
    found = {}
    for title, places in plots.items():
        logs = {name: read_lines(run.workdir / place / "metrics.jsonl", like) for name, place in places.items()}
        found[title] = {name: log for name, log in logs.items() if log}
    return {title: logs for title, logs in found.items() if logs}


def _loss_curves(logs: dict[str, list[dict[str, Any]]], title: str) -> str:
    """Losses smoothed over 25 steps."""
    series = {}
    for name, records in logs.items():
        width = min(25, len(records))
        smooth = np.convolve([r["loss"] for r in records], np.ones(width) / width, mode="valid")
        series[name] = ([r["step"] for r in records][width - 1 :], smooth.tolist())
    return curves(series, "step", "loss", logy=True, title=title)
