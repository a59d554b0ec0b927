"""The stages of a run, each a function of the Experiment: objects -> loops -> files in the run directory.

denoiser/      checkpoints, metrics.jsonl, samples.png          train_denoiser
source/        the segmenter trained on the source: the guide   train_segmenter
judge/         the one trained with target labels               train_segmenter
adapt/roundR/  translated/, checkpoints, metrics.jsonl          adapt
translated/    the labelled translations; unguided/ to compare  translate
student/       a fresh segmenter trained on translated/         train_student
scores.json    evaluate;  report.html, pictures/  report;  stages/, config.json, plan.json
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from sgg_jax import ptl
from sgg_jax.data.dataset import Dataset
from sgg_jax.data.loader import Batches
from sgg_jax.data.streets import Streets
from sgg_jax.data.writer import TranslationWriter, export, open_export
from sgg_jax.errors import InputError
from sgg_jax.evaluation import score, summary
from sgg_jax.experiment import Experiment
from sgg_jax.planning import plan as plan_run
from sgg_jax.progress import Progress, track
from sgg_jax.records import read_json, write_json
from sgg_jax.results import adapted_place, compared, curve_rows, networks, sample_sheet, score_tables, write_report
from sgg_jax.schedule import noise_schedule
from sgg_jax.training import fit
from sgg_jax.translation import Method, translate_all
from sgg_jax.types import Params

Stage = Callable[[Experiment], dict[str, Any]]
"""Does its work, or the rest of it, and returns what is worth recording."""


def say(text: str) -> None:
    print(text, flush=True)


# training ------------------------------------------------------------------------------------------------------------


def train_denoiser(run: Experiment) -> dict[str, Any]:
    """The target domain's denoiser; then a sheet of unconditional samples."""
    recipe, seed = run.recipe("denoiser"), run.seed("denoiser")
    fit(
        run.workdir / "denoiser",
        run.denoiser_objective(),
        run.denoiser_network[1],
        noise_schedule(run.betas),
        Batches(run.target, recipe.batch_size, seed),
        recipe,
        seed=seed,
        mesh=run.mesh,
        label="denoiser",
    )
    sample_sheet(run)
    return {"steps": recipe.steps, "images": len(run.target)}


def train_segmenter(run: Experiment) -> dict[str, Any]:
    """The source segmenter (the first guide) and, where the target has labels for it, the judge."""
    judged = run.datasets["judge"]
    fit_segmenter(run, "source", run.source, "segmenter", label="source segmenter")
    if judged is not None:
        fit_segmenter(run, "judge", judged, "segmenter", label="judge")
    return {"source_images": len(run.source), "judge_images": len(judged or [])}


def fit_segmenter(
    run: Experiment, stream: str, dataset: Dataset, section: str, *, label: str, place: Path | None = None,
    start: Params | None = None,
) -> Params:  # fmt: skip
    """Trains a segmenter by the recipe of config.<section>, in `place` or the directory named after its stream.

    stream: of its seeds (experiment.STREAMS); start: weights to start from, by default fresh ones.
    """
    recipe, seed = run.recipe(section), run.seed(stream)
    return fit(
        place or run.workdir / stream,
        run.segmenter_objective(),
        run.segmenter_network(stream)[1] if start is None else start,
        jnp.asarray(run.class_weights(dataset)),
        Batches(dataset, recipe.batch_size, seed),
        recipe,
        seed=seed,
        mesh=run.mesh,
        label=label,
    )


def train_student(run: Experiment) -> dict[str, Any]:
    """A fresh segmenter on the exported translations."""
    dataset = open_export(str(run.workdir / "translated"), run.source.size)
    fit_segmenter(run, "student", dataset, "student", label="student")
    return {"images": len(dataset)}


# translation ---------------------------------------------------------------------------------------------------------


def translate_into(
    run: Experiment, directory: Path, guide: Params, depth: int, method: Method, count: int, label: str
) -> Dataset:
    """Translates the first `count` source images into `directory`, doing what is missing there; opens the result."""
    source = run.source
    writer = TranslationWriter(str(directory), source.classes)
    finished = writer.finished()
    todo = [index for index in range(count) if source.name(index) not in finished]
    if todo:
        schedule = run.schedule(depth)
        used = int(schedule.count)
        translations = translate_all(
            run.denoiser(),
            run.segmenter(guide),
            schedule,
            source,
            todo,
            run.knobs,
            batch_size=run.config.translate.batch_size,
            method=method,
            mesh=run.mesh,
        )
        with Progress(count, label, unit="image", start=count - len(todo)) as progress:
            for done in translations:
                writer.write(
                    source.name(done.index),
                    done.image,
                    done.labels,
                    {
                        "image_id": source.image_id(done.index),
                        "depth": depth,
                        "seed": run.config.seed,
                        "guidance": run.config.translate.guidance if method == run.method else "none",
                        "scale": float(run.knobs.scale),
                        "ratio": float(done.ratios[:used].mean()),
                        "ratios": [float(f"{value:.4g}") for value in done.ratios[curve_rows(used)]],
                    },
                )
                progress.advance()
    return open_export(str(directory), source.size)


def adapt(run: Experiment) -> dict[str, Any]:
    """PTL: the guide adapts over growing depths."""

    def translate_round(directory: Path, guide: Params, depth: int) -> Dataset:
        return translate_into(run, directory, guide, depth, run.method, len(run.source), f"translate to depth {depth}")

    def fine_tune(directory: Path, guide: Params, translated: Dataset, label: str) -> Params:
        return fit_segmenter(run, "adapt", translated, "adapt", label=label, place=directory, start=guide)

    depths = tuple(run.config.adapt.depths)
    ptl.adapt(run.workdir / "adapt", run.segmenter_params("source"), depths, translate_round, fine_tune)
    return {"depths": depths}


def translate(run: Experiment) -> dict[str, Any]:
    """The labelled translations, and some unguided ones of the same depth to compare them with."""
    c = run.config.translate
    guide = run.segmenter_params("source" if c.guide == "source" else adapted_place(run))
    count = len(run.source)
    translate_into(run, run.workdir / "translated", guide, c.depth, run.method, count, "translate")
    compare = min(c.compare, count)
    if compare:
        translate_into(run, run.workdir / "unguided", guide, c.depth, run.unguided, compare, "unguided")
    return {"images": count, "unguided": compare, "depth": c.depth}


# scores --------------------------------------------------------------------------------------------------------------


def evaluate(run: Experiment) -> dict[str, Any]:
    """Scores of every network on the target's test set, and the judge's agreement with the translations' labels."""
    size = run.config.evaluate.batch_size
    scores: dict[str, Any] = {"networks": {}, "agreement": {}}
    test = run.datasets["test"]
    if test is not None:
        for title, place in networks(run).items():
            network = run.segmenter(run.segmenter_params(place))
            todo = track(range(len(test)), len(test), f"score {title}", unit="image")
            confusion = score(network, test, todo, size, run.mesh)
            scores["networks"][title] = summary(confusion, run.names)
    if (run.workdir / "judge").is_dir():
        judge = run.segmenter(run.segmenter_params("judge"))
        for title, (dataset, indices) in compared(run).items():
            confusion = score(judge, dataset, indices, size, run.mesh)
            scores["agreement"][title] = {"images": len(indices), **summary(confusion, run.names)}
    write_json(run.workdir / "scores.json", scores)
    say(score_tables(scores))
    return scores


def report(run: Experiment) -> dict[str, Any]:
    """Pictures and the summary page, from what the run directory holds."""
    path = write_report(run)
    say(f"the summary page is {path}")
    return {"page": str(path)}


# all of them ---------------------------------------------------------------------------------------------------------

STAGES: dict[str, Stage] = {
    "train_denoiser": train_denoiser,
    "train_segmenter": train_segmenter,
    "adapt": adapt,
    "translate": translate,
    "train_student": train_student,
    "evaluate": evaluate,
    "report": report,
}
"""The stages of `run`, in order."""

NEEDS = {
    "adapt": ("train_denoiser", "train_segmenter"),
    "translate": ("train_denoiser", "train_segmenter"),
    "train_student": ("translate",),
    "evaluate": ("train_segmenter",),
    "report": ("evaluate",),
}


LOOKING = ("evaluate", "report")
"""Stages that look at what the others made: finished only while that is the same."""


def made(run: Experiment) -> list[str]:
    """Finished stages that make something."""
    return [name for name in run.stages.finished() if name not in LOOKING]


def is_finished(run: Experiment, name: str) -> bool:
    """Whether a stage has nothing left to do."""
    result = run.stages.result(name)
    return result is not None and (name not in LOOKING or result["made"] == made(run))


def run_stage(run: Experiment, name: str) -> None:
    """Runs one stage and marks it finished; says so where it is finished already."""
    if is_finished(run, name):
        say(f"{name}: finished already in {run.workdir}")
        return
    missing = [stage for stage in NEEDS.get(name, ()) if run.stages.result(stage) is None]
    if name == "translate" and run.config.translate.guide == "adapted" and run.stages.result("adapt") is None:
        missing.append("adapt (or set config.translate.guide to source)")
    if missing:
        raise InputError(f"{name} needs what {', '.join(missing)} makes: run that stage first on {run.workdir}")
    say(f"{name}: {STAGES[name].__doc__}")
    began = time.monotonic()
    run.stages.finish(name, {**STAGES[name](run), "made": made(run)}, began)


def run_all(run: Experiment) -> None:
    """Says what is to be done and how long it takes, then does it."""
    unfinished = [name for name in STAGES if not is_finished(run, name)]
    if unfinished:
        say(
            f"Translates {len(run.source)} labelled source images into the domain of {len(run.target)} target images "
            f"and trains on them: {', '.join(unfinished)}.\n"
            "First a calibration of a minute or less, to tell how long it takes."
        )
        plan(run, unfinished)
    for name in STAGES:
        run_stage(run, name)
    if not unfinished:
        say(score_tables(read_json(run.workdir / "scores.json")))
    say(f"done: open {run.workdir / 'report.html'}")


def plan(run: Experiment, stages: list[str] | None = None) -> None:
    """Prints what the stages (by default all) will cost, from a short calibration; writes plan.json."""
    estimate = plan_run(run, list(STAGES) if stages is None else stages)
    # what an interrupted stage has done already is not subtracted
    say(estimate.text("at most" if run.stages.finished() or (run.workdir / "denoiser").exists() else "about"))
    write_json(run.workdir / "plan.json", estimate.record())


def export_streets(run: Experiment) -> None:
    """Writes the data sets of all roles as folders of PNG files that the folder pair reads."""
    for role, dataset in run.datasets.items():
        if dataset is None:
            continue
        if not isinstance(dataset, Streets):
            raise InputError(
                f"config.data.{role}.name is {run.config.data[role].name!r}: this stage writes streets only"
            )
        directory = run.workdir / "streets" / role
        with Progress(len(dataset), f"export {role}", unit="image") as progress:
            export(dataset, str(directory), progress.advance)
        say(f"{role}: {len(dataset)} images in {directory}")


def main(stage: str, config: ConfigDict, workdir: Path) -> None:
    """Runs `stage` ("run" for all of them) of `config` in `workdir`."""
    run = Experiment(config, workdir)
    if stage == "plan":  # so that a plan that is too dear can be changed
        run.check()
    else:
        run.claim()
    whole: dict[str, Callable[[Experiment], None]] = {"run": run_all, "plan": plan, "export_streets": export_streets}
    if stage in whole:
        whole[stage](run)
    else:
        run_stage(run, stage)
