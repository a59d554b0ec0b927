"""What a finished run shows: tables, pictures and the summary page, from the files in its directory."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sgg_jax.data.dataset import Dataset
from sgg_jax.data.writer import open_export
from sgg_jax.devices import replicate
from sgg_jax.evaluation import predictions
from sgg_jax.experiment import Experiment
from sgg_jax.records import read_json, read_lines
from sgg_jax.report.page import Picture, Section, Settings, Svg, Table, page, write_page
from sgg_jax.report.pictures import colorize, save, sheet
from sgg_jax.report.plots import class_bars, curves
from sgg_jax.report.tables import text_table
from sgg_jax.schedule import respace
from sgg_jax.translation import translate


def adapted_place(run: Experiment) -> str:
    """Directory of PTL's last guide, below the run's."""
    return f"adapt/round{len(run.config.adapt.depths)}"


def networks(run: Experiment) -> dict[str, str]:
    """Segmenters whose training is finished: title -> directory below the run's."""
    stages = {
        "source only": ("source", "train_segmenter"),
        "PTL's last guide": (adapted_place(run), "adapt"),
        "student on translations": ("student", "train_student"),
    }
    if run.datasets["judge"] is not None:
        stages["target labels (oracle)"] = ("judge", "train_segmenter")
    return {title: place for title, (place, stage) in stages.items() if run.stages.result(stage) is not None}


def compared(run: Experiment) -> dict[str, tuple[Dataset, list[int]]]:
    """The same source images as guided and as unguided translations of the same depth: title -> set, indices."""
    if run.stages.result("translate") is None or not (run.workdir / "unguided").is_dir():
        return {}
    unguided = open_export(str(run.workdir / "unguided"), run.source.size)
    guided = open_export(str(run.workdir / "translated"), run.source.size)
    at = {guided.name(i): i for i in range(len(guided))}
    everything = list(range(len(unguided)))
    return {"guided": (guided, [at[unguided.name(i)] for i in everything]), "unguided": (unguided, everything)}


# tables --------------------------------------------------------------------------------------------------------------


def network_rows(scores: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mIoU, accuracy and the IoU of every class, in percent, on the target's test set."""
    return _score_rows("network", scores["networks"])


def agreement_rows(scores: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: how far the judge finds the labels in the translations."""
    return _score_rows("translations", scores["agreement"])


def _score_rows(first: str, entries: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    names = list(next(iter(entries.values()))["iou"]) if entries else []
    rows = [
        [title, *(_percent(v) for v in (entry["miou"], entry["accuracy"], *entry["iou"].values()))]
        for title, entry in entries.items()
    ]
    return [first, "mIoU", "accuracy", *names], rows


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


# pictures ------------------------------------------------------------------------------------------------------------


def sample_sheet(run: Experiment, rows: int = 2, columns: int = 4) -> None:
    """denoiser/samples.png: unconditional samples, pure noise denoised by the configured sampler at full depth."""
    count = -(-rows * columns // run.mesh.size) * run.mesh.size
    grey = np.full((count, *run.source.size, 3), 127, np.uint8)  # hidden by the noise at full depth
    total = run.config.denoiser.total
    # The guide is not looked at, but it is an operand: its untrained weights will do.
    networks = replicate((run.denoiser(), run.segmenter(run.segmenter_network()[1])), run.mesh)
    images, _ = translate(
        *networks,
        respace(run.betas, total, min(50, total)),
        grey,
        np.zeros(grey.shape[:3], np.uint8),
        jnp.arange(count),
        run.knobs,
        method=run.method("none"),
        mesh=run.mesh,
    )
    cells = list(np.asarray(images)[: rows * columns])
    save(
        sheet(
            [cells[r * columns : (r + 1) * columns] for r in range(rows)],
            [""] * columns,
            title="unconditional samples of the denoiser",
        ),
        run.workdir / "denoiser" / "samples.png",
    )


def translation_sheet(run: Experiment, count: int) -> Any:
    """A row per source image: labels, source, every round's and the final translation, unguided, a target image."""
    translated = open_export(str(run.workdir / "translated"), run.source.size)
    sets: list[tuple[str, Dataset]] = []
    for number, depth in enumerate(run.config.adapt.depths, 1):
        place = run.workdir / "adapt" / f"round{number}" / "translated"
        if place.is_dir():
            sets.append((f"round {number}, n={depth}", open_export(str(place), run.source.size)))
    sets.append((f"translated, n={run.config.translate.depth}", translated))
    if "unguided" in (c := compared(run)):
        sets.append(("unguided", c["unguided"][0]))
    rows = []
    for index in range(min(count, len(run.source), *(len(s) for _, s in sets))):
        name, example = run.source.name(index), run.source[index]
        cells = [colorize(example.known_labels(), run.source.classes), example.image]
        cells += [_by_name(dataset, name) for _, dataset in sets]
        rows.append([*cells, run.target[index % len(run.target)].image])
    columns = ["labels", "source", *(title for title, _ in sets), "a target image"]
    return sheet(rows, columns, classes=run.source.classes)


def _by_name(dataset: Dataset, name: str) -> np.ndarray:
    return next(dataset[i].image for i in range(len(dataset)) if dataset.name(i) == name)


def prediction_sheet(run: Experiment, count: int) -> Any:
    """A row per test image: the image, its labels and what every network predicts."""
    test = run.datasets["test"]
    assert test is not None
    examples = [test[i] for i in range(min(count, len(test)))]
    images = [example.image for example in examples]
    truth = [colorize(e.known_labels(), test.classes) for e in examples]
    columns: list[Iterable[np.ndarray]] = [images, truth]
    titles = ["target image", "labels"]
    for title, place in networks(run).items():
        network = run.segmenter(run.segmenter_params(place))
        found = predictions(network, images, run.config.evaluate.batch_size, run.mesh)
        columns.append([colorize(labels, test.classes) for labels in found])
        titles.append(title)
    return sheet([list(row) for row in zip(*columns, strict=True)], titles, classes=test.classes)


# the page ------------------------------------------------------------------------------------------------------------


def write_report(run: Experiment) -> Path:
    """report.html and pictures/*.png from what is there. Returns the page's path."""
    scores = read_json(run.workdir / "scores.json")
    sections = []
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


def _scores_section(run: Experiment, scores: dict[str, Any]) -> Section:
    header, rows = network_rows(scores)
    bars = {title: [value or 0.0 for value in entry["iou"].values()] for title, entry in scores["networks"].items()}
    table = Table(header, rows, "Target test set, percent.", dict.fromkeys(header[1:], "max"))
    return Section("Segmentation of the target", [table, Svg(class_bars(run.names, bars, "IoU"), "IoU by class.")])


def _translations_section(run: Experiment, scores: dict[str, Any]) -> Section:
    blocks: list[Any] = [_picture(run, "translations", translation_sheet, "Source images and their translations.")]
    if scores["agreement"]:
        caption = (
            "Agreement of translations with their labels in the eyes of the judge, a network trained with target "
            "labels that guides nothing; percent."
        )
        blocks.append(Table(*agreement_rows(scores), caption))
    blocks.append(Svg(_ratio_curve(run), "rms(lambda Sigma gradient) / sigma by reverse step, mean over images."))
    return Section("Translations", blocks)


def _training_section(run: Experiment) -> Section:
    blocks: list[Any] = [Svg(_loss_curves(run, places, title), title) for title, places in _trained(run).items()]
    samples = run.workdir / "denoiser" / "samples.png"
    if samples.exists():
        blocks.insert(0, Picture(samples.read_bytes(), "Unconditional samples of the denoiser."))
    return Section("Training", blocks)


def _settings_section(run: Experiment) -> Section:
    rows = [
        [name, result["seconds"]]
        for name in ("train_denoiser", "train_segmenter", "adapt", "translate", "train_student", "evaluate")
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


def curve_rows(count: int) -> np.ndarray:
    """Rows of a schedule with `count` steps whose ratios are kept for the curve: all, or 25 spread over them."""
    return np.linspace(0, count - 1, min(count, 25)).round().astype(int)


def _ratio_curve(run: Experiment) -> str:
    records = read_lines(run.workdir / "translated" / "manifest.jsonl")
    ratios = np.mean([record["ratios"] for record in records], axis=0)
    schedule = run.schedule(run.config.translate.depth)
    steps = np.asarray(schedule.table.step)[curve_rows(int(schedule.count))]
    return curves(
        {"guidance-to-noise ratio": (steps.tolist(), ratios.tolist())}, "step k (from right to left)", "ratio"
    )


def _trained(run: Experiment) -> dict[str, dict[str, str]]:
    """Loss plots: title -> {curve: directory}."""
    rounds = {f"round {n}": f"adapt/round{n}" for n in range(1, len(run.config.adapt.depths) + 1)}
    plots = {
        "Loss of the denoiser": {"denoiser": "denoiser"},
        "Loss of the segmenters": {"source": "source", "judge": "judge", **rounds, "student": "student"},
    }
    return {
        title: present
        for title, places in plots.items()
        if (present := {k: p for k, p in places.items() if (run.workdir / p / "metrics.jsonl").exists()})
    }


def _loss_curves(run: Experiment, places: dict[str, str], title: str) -> str:
    """Losses smoothed over 25 steps."""
    series = {}
    for name, place in places.items():
        records = read_lines(run.workdir / place / "metrics.jsonl")
        width = min(25, len(records))
        smooth = np.convolve([r["loss"] for r in records], np.ones(width) / width, mode="valid")
        series[name] = ([r["step"] for r in records][width - 1 :], smooth.tolist())
    return curves(series, "step", "loss", logy=True, title=title)
