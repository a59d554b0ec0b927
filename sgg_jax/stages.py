"""What the stages of a run do, each a function of the Experiment: objects -> loops -> files in the run directory.

denoiser/      checkpoints, metrics.jsonl, weights.safetensors  train_denoiser
               heldout.json, samples.png; of given weights, too
source/        the segmenter trained on the source: the guide   train_segmenter
judge/         the one trained with target labels               train_segmenter
adapt/roundR/  translated/, checkpoints, metrics.jsonl          adapt
translated/    the labelled translations; unguided/ to compare  translate
student/       a fresh segmenter trained on translated/         train_student
scores.json    scores.csv; evaluation/, pictures of them        evaluate
report.html    pictures/                                        report
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from sgg_jax import hosts, ptl
from sgg_jax.data import streets
from sgg_jax.data.dataset import Dataset
from sgg_jax.evaluation import Seen, denoising_error, examine, summary, tally
from sgg_jax.experiment import Experiment, role_of
from sgg_jax.given import save_network
from sgg_jax.pretrained import load_pretrained, locate, read_story, save_weights, trained_steps
from sgg_jax.progress import track
from sgg_jax.published.importing import WEIGHTS
from sgg_jax.records import write_json, write_text
from sgg_jax.results import (
    HELD_OUT_LEVELS,
    finished_set,
    guide_place,
    guided_and_unguided,
    networks,
    score_csv,
    score_tables,
)
from sgg_jax.sheets import evaluation_pictures, sample_sheet
from sgg_jax.summary_page import write_report
from sgg_jax.training import fit
from sgg_jax.translated_sets import translate_into
from sgg_jax.types import Params, Segmenter

Stage = Callable[[Experiment], dict[str, Any]]
"""Does its work, or the rest of it, and returns what is worth recording."""


def say(text: str) -> None:
    if hosts.leads():
        print(text, flush=True)


# training ------------------------------------------------------------------------------------------------------------


def train_denoiser(run: Experiment) -> dict[str, Any]:
    """The target domain's denoiser, trained or given; its held-out loss and a sheet of unconditional samples."""
    given = run.config.denoiser.weights
    if given:
        say(f"the denoiser is {locate(given)}, trained for {trained_steps(read_story(locate(given)))} steps")
        made = {"weights": given}
    else:
        made = fit_denoiser(run)
    if hosts.leads():
        look_at_denoiser(run)
    return made


def fit_denoiser(run: Experiment) -> dict[str, Any]:
    """Trains by the recipe of config.denoiser and writes denoiser/weights.safetensors, a file for denoiser.weights."""
    recipe, seed, start = run.recipe("denoiser"), run.seed("denoiser"), run.config.denoiser.start
    fresh = run.denoiser_network[1]
    weights = fit(
        run.workdir / "denoiser",
        run.denoiser_objective(),
        load_pretrained(locate(start), fresh) if start else fresh,
        run.denoiser_constants(),
        run.batches(run.target, recipe.batch_size, seed),
        recipe,
        seed=seed,
        mesh=run.everywhere,
        label="denoiser",
        about=run.about(run.target),
    )
    story = {
        **run.denoiser_story(),
        "command": run.command,
        "steps": recipe.steps,
        "images": len(run.target),
        "seed": run.config.seed,
        "streets_version": streets.VERSION,
        "size": run.config.data.size,
        "denoiser": run.config.denoiser.to_dict(),
        "target": run.config.data.target.to_dict(),
        "start": read_story(locate(start)) if start else None,  # how the weights it started from were made
    }
    if hosts.leads():
        save_weights(run.workdir / "denoiser" / "weights.safetensors", weights, story)
    return {"steps": recipe.steps, "images": len(run.target)}


def look_at_denoiser(run: Experiment) -> None:
    """denoiser/heldout.json, the error by noise level on images it was not trained on, and denoiser/samples.png."""
    held_out = run.datasets["val"] or run.datasets["test"]
    few = max(1, run.recipe("denoiser").batch_size // run.everywhere.size)  # as a device trains on
    if held_out is not None:
        total = run.config.denoiser.total
        steps = sorted({min(round(share * total), total - 1) for share in HELD_OUT_LEVELS})
        size = tuple(run.config.data.size)
        networks = run.denoiser(), run.denoiser_constants()[0]
        error = denoising_error(*networks, held_out, steps, size, min(few, 16), run.mesh)
        write_json(run.workdir / "denoiser" / "heldout.json", {"step": steps, "error": error, "images": len(held_out)})
        by_step = ", ".join(f"{k}: {e:.4f}" for k, e in zip(steps, error, strict=True))
        say(f"error of the predicted noise by step: {by_step}")
    sample_sheet(run, few)


def train_segmenter(run: Experiment) -> dict[str, Any]:
    """The source segmenter (the first guide) and, where the target has labels for it, the judge."""
    images: dict[str, Dataset | None] = {"source": run.source, "judge": run.datasets["judge"]}
    for place, label in (("source", "source segmenter"), ("judge", "judge")):
        given, dataset = run.given_segmenter(place), images[place]
        if given:
            say(f"the {label} is the network in {given}, as it is")
        elif dataset is not None:
            fit_segmenter(run, place, dataset, "segmenter", label=label)
    return {"source_images": len(run.source), "judge_images": len(images["judge"] or [])}


def fit_segmenter(
    run: Experiment, stream: str, dataset: Dataset, section: str, *, label: str, place: Path | None = None,
    start: Params | None = None, plain: bool = False, number: int = 0,
) -> Params:  # fmt: skip
    """Trains a segmenter by the recipe of config.<section>, in `place` or the directory named after its stream.

    stream: of its seeds (experiment.STREAMS), guides are augmented as guides; start: weights to start from, by default
    fresh ones; plain: without augmentation; number: of trainings that follow each other, each of which draws its own
    batches and augmentation. In its own directory weights.safetensors is left, too (see given.py).
    """
    recipe, seed, own = run.recipe(section), run.seed(stream, number), place is None
    place = place or run.workdir / stream
    weights = fit(
        place,
        run.segmenter_objective(None if plain else run.strength(stream), role_of(stream)),
        run.segmenter_network(role_of(stream), stream)[1] if start is None else start,
        jnp.asarray(run.class_weights(dataset)),
        run.batches(dataset, recipe.batch_size, seed, place),
        recipe,
        seed=seed,
        mesh=run.everywhere,
        label=label,
        about=run.about(dataset),
    )
    if own and hosts.leads():  # one of the run's three: left as a directory that another run can be given
        save_network(place / WEIGHTS, weights, run.segmenter_story(role_of(stream)))
    return weights


def train_student(run: Experiment) -> dict[str, Any]:
    """A fresh segmenter on the exported translations."""
    dataset = finished_set(run, "translated")
    fit_segmenter(run, "student", dataset, "student", label="student")
    return {"images": len(dataset)}


# translation ---------------------------------------------------------------------------------------------------------


def adapt(run: Experiment) -> dict[str, Any]:
    """PTL: the guide adapts over growing depths."""
    depths = tuple(run.config.adapt.depths)

    def translate_round(directory: Path, guide: Params, depth: int) -> Dataset:
        label = f"translate to depth {depth}"
        return translate_into(run, directory, guide, depth, run.method(), range(len(run.source)), label)

    def fine_tune(directory: Path, guide: Params, translated: Dataset, number: int) -> Params:
        start = None if run.config.adapt.fresh else guide
        label = f"round {number}/{len(depths)}, depth {depths[number - 1]}"
        return fit_segmenter(
            run, "adapt", translated, "adapt", label=label, place=directory, start=start, number=number
        )

    ptl.adapt(run.workdir / "adapt", run.segmenter_params("source"), depths, translate_round, fine_tune)
    return {"depths": depths}


def translate(run: Experiment) -> dict[str, Any]:
    """The labelled translations, and some unguided ones of the same depth to compare them with."""
    c = run.config.translate
    translated = translate_guided(run)
    lost = len(run.source) - len(translated)
    if lost:
        manifest = run.workdir / "translated" / "manifest.jsonl"
        say(f"kept {len(translated)} of {len(run.source)} translations; {manifest} tells why the others were dropped")
    kept = {translated.name(index) for index in range(len(translated))}
    unguided = [index for index in range(len(run.source)) if run.source.name(index) in kept][: c.unguided]
    if unguided:
        place, guide = run.workdir / "unguided", run.segmenter_params(guide_place(run))
        translate_into(run, place, guide, c.depth, run.method("none"), unguided, "unguided", "none")
    return {"images": len(translated), "dropped": lost, "unguided": len(unguided), "depth": c.depth}


def translate_guided(run: Experiment) -> Dataset:
    """translated/: all source images under the configured guide, but those whose labels it does not find again."""
    c, guide = run.config.translate, run.segmenter_params(guide_place(run))
    place, every = run.workdir / "translated", range(len(run.source))
    return translate_into(run, place, guide, c.depth, run.method(), every, "translate", keep=c.keep)


# scores --------------------------------------------------------------------------------------------------------------


def scored(run: Experiment, network: Segmenter, dataset: Dataset, label: str) -> dict[str, Any]:
    """mIoU, accuracy and IoU by class of a segmenter on a labelled set (evaluation.summary)."""
    return summary(tally(seen_by(run, network, dataset, label), len(run.names)), run.names)


def seen_by(run: Experiment, network: Segmenter, dataset: Dataset, label: str) -> Iterator[Seen]:
    """What a segmenter sees in a labelled set, at full resolution, as config.evaluate says."""
    todo = track(range(len(dataset)), len(dataset), label, unit="image")
    return examine(network, dataset, todo, run.config.evaluate.batch_size, run.mesh, run.views)


def evaluate(run: Experiment) -> dict[str, Any]:
    """Scores of every network on the target's test set, and the judge's agreement with the translations' labels."""
    scores: dict[str, Any] = {"networks": {}, "agreement": {}}
    test = run.datasets["test"]
    if test is not None:
        for title, place in networks(run).items():
            found = seen_by(run, run.segmenter_at(place), test, f"score {title}")
            shown = list(islice(found, run.config.evaluate.overlays))
            scores["networks"][title] = summary(tally(chain(shown, found), len(run.names)), run.names)
            evaluation_pictures(run, title, place, scores["networks"][title], shown)
    if run.judged:
        for title, dataset in guided_and_unguided(run).items():
            agreement = scored(run, run.segmenter_at("judge"), dataset, f"judge {title} translations")
            scores["agreement"][title] = {"images": len(dataset), **agreement}
    write_json(run.workdir / "scores.json", scores)
    write_text(run.workdir / "scores.csv", score_csv(scores))
    say(score_tables(scores))
    return scores


def report(run: Experiment) -> dict[str, Any]:
    """Pictures and the summary page, from what the run directory holds."""
    path = write_report(run)
    say(f"the summary page is {path}")
    return {"page": str(path)}
