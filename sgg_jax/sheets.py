"""Pictures of a run: contact sheets from the files in its directory."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from sgg_jax.data.dataset import Dataset, readable
from sgg_jax.data.exports import open_export
from sgg_jax.data.fit import fitted, reshaped
from sgg_jax.devices import replicate
from sgg_jax.evaluation import Seen
from sgg_jax.experiment import Experiment
from sgg_jax.guidance import unguided
from sgg_jax.prediction import predictions_at
from sgg_jax.records import write_text
from sgg_jax.report.comparison import in_order
from sgg_jax.report.comparison import title as title_of
from sgg_jax.report.pictures import colorize, mistakes, overlaid, save, sheet
from sgg_jax.report.plots import confusion
from sgg_jax.results import SAMPLE_STEPS, SAMPLES, guide_place, guided_and_unguided, networks
from sgg_jax.sampling import Method, ddim
from sgg_jax.schedule import respace
from sgg_jax.translation import Look, trace, translate


def sample_sheet(run: Experiment, few: int) -> None:
    """denoiser/samples.png: unconditional samples, pure noise denoised at full depth by deterministic DDIM, whose few
    steps show what the denoiser knows; ancestral ones, with the posterior's variance, would blur it.

    few: images at once on a device, at most."""
    (rows, columns), mesh = SAMPLES, run.translation_mesh
    together = min(few, -(-rows * columns // mesh.size)) * mesh.size
    grey = jnp.full((together, *run.config.data.size, 3), 127, jnp.uint8)  # hidden by the noise at full depth
    total = run.config.denoiser.total
    # The guide is not looked at, but it is an operand: its untrained weights will do.
    denoiser, guide = replicate((run.denoiser(), run.segmenter(run.segmenter_network()[1])), mesh)
    schedule, blank = respace(run.betas, total, min(SAMPLE_STEPS, total)), jnp.zeros(grey.shape[:3], jnp.uint8)
    how: dict[str, Any] = dict(method=Method(unguided, ddim(0.0), run.config.translate.microbatch), mesh=mesh)
    cells: list[np.ndarray] = []
    for first in range(0, rows * columns, together):
        ids = jnp.arange(first, first + together)
        images, _, _ = translate(denoiser, guide, schedule, grey, blank, ids, run.knobs, **how)
        cells += list(np.asarray(images))
    save(
        sheet(
            [cells[r * columns : (r + 1) * columns] for r in range(rows)],
            [""] * columns,
            title=f"unconditional samples of the denoiser, DDIM of {min(SAMPLE_STEPS, total)} steps",
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
    if "unguided" in (both := guided_and_unguided(run)):
        sets.append(("unguided", both["unguided"]))
    rows = []
    everywhere = set.intersection(*({dataset.name(i) for i in range(len(dataset))} for _, dataset in sets))
    shown = [index for index in range(len(run.source)) if run.source.name(index) in everywhere]
    for index, example in readable(run.source, shown[:count]):
        name = run.source.name(index)
        cells = [colorize(example.known_labels(), run.source.classes), example.image]
        cells += [_by_name(dataset, name) for _, dataset in sets]
        _, near = next(readable(run.target, (i % len(run.target) for i in range(index, index + len(run.target)))))
        rows.append([*cells, near.image])
    columns = ["labels", "source", *(title for title, _ in sets), "a target image"]
    return sheet(rows, columns, classes=run.source.classes)


def _by_name(dataset: Dataset, name: str) -> np.ndarray:
    return next(dataset[i].image for i in range(len(dataset)) if dataset.name(i) == name)


def prediction_sheet(run: Experiment, count: int) -> Any:
    """A row per test image: the image, its labels and what every network predicts."""
    test = run.datasets["test"]
    assert test is not None
    examples = [example for _, example in readable(test, range(min(count, len(test))))]
    images = [example.image for example in examples]
    truth = [colorize(e.known_labels(), test.classes) for e in examples]
    columns: list[Iterable[np.ndarray]] = [images, truth]
    titles = ["target image", "labels"]
    for title, place in networks(run).items():
        columns.append(_predicted(run, place, images))
        titles.append(title)
    return sheet([list(row) for row in zip(*columns, strict=True)], titles, classes=test.classes)


def _predicted(run: Experiment, place: str, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the network in that directory sees in images of any sizes, as it is scored, in colours."""
    wanted, size = ((image, image.shape[:2]) for image in images), run.config.evaluate.batch_size
    found = predictions_at(run.segmenter_at(place), wanted, run.views, size, run.mesh)
    return [colorize(labels, run.source.classes) for labels in found]


def evaluation_pictures(run: Experiment, title: str, place: str, found: dict[str, Any], shown: list[Seen]) -> None:
    """evaluation/NETWORK_confusion.svg and, of the examples shown, evaluation/overlays/NETWORK.png.

    found: evaluation.summary of the network in the directory `place`, whose first part is NETWORK.
    """
    test, name = run.datasets["test"], place.split("/")[0]
    assert test is not None
    plot = confusion(run.names, np.array(found["confusion"]))
    write_text(run.workdir / "evaluation" / f"{name}_confusion.svg", f"{plot}\n")
    if shown:
        save(overlay_sheet(test, shown, title), run.workdir / "evaluation" / "overlays" / f"{name}.png")


def overlay_sheet(dataset: Dataset, shown: list[Seen], title: str) -> Any:
    """A row per example at full resolution: the image, its labels and the prediction over it, where that is wrong."""
    rows = []
    for seen in shown:
        image = dataset.full(seen.example).image
        painted = [overlaid(image, labels, dataset.classes) for labels in (seen.labels, seen.predicted)]
        rows.append([image, *painted, mistakes(image, seen.labels, seen.predicted)])
    columns = ["target image", "labels", "prediction", "wrong: red; no label: black"]
    return sheet(rows, columns, classes=dataset.classes, title=title)


def gallery_sheet(run: Experiment, rows: list[dict[str, Any]], count: int) -> Any:
    """A row per source image: labels, source, every method's translation, and of the last of them what the judge and
    the student see in it.

    rows: of compare.json; those of the config's seed that made translations are shown, of which there must be one.
    """
    made = {row["method"]: row for row in rows if row["seed"] == run.config.seed and row["translations"]}
    sets = {method: open_export(str(run.workdir / made[method]["translations"]), run.source.size)
            for method in in_order(made)}  # fmt: skip
    everywhere = set.intersection(*({dataset.name(i) for i in range(len(dataset))} for dataset in sets.values()))
    shown = [index for index in range(len(run.source)) if run.source.name(index) in everywhere][:count]
    names = [run.source.name(index) for index in shown]
    examples = [example for _, example in readable(run.source, shown)]
    columns: list[list[np.ndarray]] = [
        [colorize(example.known_labels(), run.source.classes) for example in examples],
        [example.image for example in examples],
        *([_by_name(dataset, name) for name in names] for dataset in sets.values()),
    ]
    titles = ["labels", "source", *map(title_of, sets)]
    if "sgg_ptl" in sets:
        translated = columns[-1]
        for title, place in (("seen by the judge", "judge"), ("by the student", "student")):
            if run.judged if place == "judge" else (run.workdir / place).is_dir():
                columns.append(_predicted(run, place, translated))
                titles.append(title)
    return sheet([list(row) for row in zip(*columns, strict=True)], titles, classes=run.source.classes)


def traces(run: Experiment, count: int) -> dict[str, list[Look]]:
    """The reverse steps of the first `count` source images, guided as configured and unguided."""
    count = min(count, len(run.source))
    guide = run.segmenter_params(guide_place(run))
    depth = run.config.translate.depth
    start, schedule = run.start(guide, depth), run.schedule(depth)
    few = [(index, reshaped(example, fitted, run.config.data.size, "crop"))
           for index, example in readable(start, range(count))]  # fmt: skip
    image = np.stack([example.image for _, example in few])
    labels = np.stack([example.known_labels() for _, example in few])
    ids = np.array([run.source.image_id(index) for index, _ in few], np.int32)
    networks = run.denoiser(), run.segmenter(guide)
    return {
        title: trace(*networks, schedule, image, labels, ids, run.knobs, method=run.method(variant))[0]
        for title, variant in (("guided", ""), ("unguided", "none"))
    }


def strip_sheet(looks: dict[str, list[Look]], columns: int = 8) -> Any:
    """The first image through the reverse steps: x_k, and the predicted image at it, guided and unguided."""
    steps = next(iter(looks.values()))
    picked = np.linspace(0, len(steps) - 1, min(columns, len(steps))).round().astype(int)

    def shown(image: np.ndarray) -> np.ndarray:
        return np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)

    rows = []
    for found in looks.values():
        rows += [[shown(found[i].x[0]) for i in picked], [shown(found[i].predicted[0]) for i in picked]]
    headings = [f"k = {steps[i].step}" for i in picked]
    return sheet(rows, headings, title=f"{', '.join(looks)}: noisy image, and below it the image predicted from it")
