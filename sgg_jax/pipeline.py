"""The stages in their order: what each needs, what is finished, one command for all."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sgg_jax import hosts, stopping
from sgg_jax.checks import check, claim
from sgg_jax.comparison import Comparison, compare
from sgg_jax.data.dataset import Dataset
from sgg_jax.data.exports import export
from sgg_jax.data.writer import CITYSCAPES, FOLDERS
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.planning import enough_memory
from sgg_jax.planning import plan as plan_run
from sgg_jax.progress import Progress
from sgg_jax.records import read_json, write_json
from sgg_jax.results import score_tables
from sgg_jax.roles import ROLES, choose, open_role
from sgg_jax.stages import (
    Stage,
    adapt,
    evaluate,
    report,
    say,
    train_denoiser,
    train_segmenter,
    train_student,
    translate,
)
from sgg_jax.summary_page import read_scores

STAGES: dict[str, Stage] = {
    "train_denoiser": train_denoiser,
    "train_segmenter": train_segmenter,
    "adapt": adapt,
    "translate": translate,
    "train_student": train_student,
    "compare": compare,
    "evaluate": evaluate,
    "report": report,
}
"""The stages of `run`, in order."""

NEEDS = {
    "adapt": ("train_denoiser", "train_segmenter"),
    "translate": ("train_denoiser", "train_segmenter"),
    "train_student": ("translate",),
    "compare": ("train_denoiser", "train_segmenter"),
    "evaluate": ("train_segmenter",),
    "report": ("evaluate",),
}

PLACES = {"folders": FOLDERS, "cityscapes": CITYSCAPES}
"""Layouts of export_streets."""


def stages(run: Experiment) -> list[str]:
    """Stages that make up this run: a comparison needs labelled target images to score on, and methods."""
    comparable = run.datasets["test"] is not None and len(run.config.compare.methods) > 0
    return [name for name in STAGES if name != "compare" or comparable]


LOOKING = ("evaluate", "report")
"""Stages that look at what the others made: finished only while that is the same."""


def made(run: Experiment) -> list[str]:
    """Finished stages that make something, and the rows of the comparison, which may grow."""
    compared = run.stages.result("compare") or {"rows": []}
    names = [name for name in run.stages.finished() if name not in LOOKING]
    return names + [f"compare: {method}, seed {seed}" for method, seed in compared["rows"]]


LEFT = {"compare": "compare.json", "evaluate": "scores.json", "report": "report.html"}
"""Files by which these stages are known: one whose file was deleted makes it again."""


def recorded(run: Experiment, name: str) -> dict[str, Any] | None:
    """What a finished stage recorded; None if it is not finished, or what it left is gone."""
    return run.stages.result(name) if (run.workdir / LEFT.get(name, "")).exists() else None


def is_finished(run: Experiment, name: str) -> bool:
    """Whether a stage has nothing left to do."""
    result = recorded(run, name)
    if result is None:
        return False
    if name == "compare":  # it may be asked for more
        return {tuple(row) for row in result["rows"]} >= set(Comparison(run).wanted())
    return name not in LOOKING or result["made"] == made(run)


def run_stage(run: Experiment, name: str) -> None:
    """Runs one stage and marks it finished; says so where it is finished already."""
    if is_finished(run, name):
        say(f"{name}: finished already in {run.workdir}")
        return
    if name in LOOKING and not hosts.leads():  # nothing in them is shared
        hosts.wait_for(lambda: is_finished(run, name))
        return
    there = {
        stage: is_finished(run, stage) if stage in LOOKING else recorded(run, stage) for stage in NEEDS.get(name, ())
    }
    missing = [stage for stage, found in there.items() if not found]
    if name == "translate" and run.config.translate.guide == "adapted" and run.stages.result("adapt") is None:
        missing.append("adapt (or set config.translate.guide to source)")
    if missing:
        raise InputError(f"{name} needs what {', '.join(missing)} makes: run that stage first on {run.workdir}")
    say(f"{name}: {STAGES[name].__doc__}")
    began = time.monotonic()
    with enough_memory(name):
        result = STAGES[name](run)
    if hosts.leads():
        run.stages.finish(name, {**result, "made": made(run)}, began)
    else:
        hosts.wait_for(lambda: is_finished(run, name))


def run_all(run: Experiment) -> None:
    """Says what is to be done and how long it takes, then does it."""
    if "compare" in stages(run):
        Comparison(run)  # what is wrong with its settings is told before hours of work
    unfinished = [name for name in stages(run) if not is_finished(run, name)]
    if unfinished and _planned(run):  # a minute's calibration at every restart would add up
        say(f"Goes on with {', '.join(unfinished)}; what all of it was expected to take is in plan.json.")
    elif unfinished and hosts.leads():
        say(
            f"Translates {len(run.source)} labelled source images into the domain of {len(run.target)} target images "
            f"and trains on them: {', '.join(unfinished)}.\n"
            "First a calibration, a minute or two where nothing is compiled yet, to tell how long it takes."
        )
        plan(run, unfinished)
    for name in stages(run):
        run_stage(run, name)
    if not unfinished:
        say(score_tables(read_scores(run)))
    say(f"done: open {run.workdir / 'report.html'}")


def compare_all(run: Experiment) -> None:
    """The comparison, and before it the stages that its methods need."""
    Comparison(run)  # what is wrong with its settings is told before hours of work
    whole = "sgg_ptl" in run.config.compare.methods
    needed = ("train_denoiser", "train_segmenter", *(("adapt", "translate", "train_student") if whole else ()))
    for name in (*needed, "compare"):
        run_stage(run, name)


def plan(run: Experiment, names: list[str] | None = None) -> None:
    """Prints what the stages (by default all) will cost, from a short calibration; writes plan.json."""
    estimate = plan_run(run, stages(run) if names is None else names)
    # what an interrupted stage has done already is not subtracted
    say(estimate.text("at most" if run.stages.finished() or (run.workdir / "denoiser").exists() else "about"))
    write_json(run.workdir / "plan.json", {**estimate.record(), "config": _settings(run)})


def _planned(run: Experiment) -> bool:
    """Whether plan.json is of this very config. One that is damaged is made again."""
    path = run.workdir / "plan.json"
    try:
        return path.exists() and bool(read_json(path, {"config": dict})["config"] == _settings(run))
    except InputError:
        return False


def _settings(run: Experiment) -> Any:
    """The config as JSON gives it back."""
    return json.loads(json.dumps(run.config.to_dict()))


def export_streets(run: Experiment) -> None:
    """Writes the data sets of all roles as folders of PNG files, as config.export says."""
    places = choose(PLACES, run.config.export.layout, "export.layout")
    for role in ROLES if hosts.leads() else ():
        dataset = open_role(run.config.data, role, target_labels=True)
        if dataset is None:
            continue
        if run.config.data[role].name != "streets":
            raise InputError(
                f"config.data.{role}.name is {run.config.data[role].name!r}: this stage writes streets only"
            )
        directory = run.workdir / "streets" / role
        with Progress(len(dataset), f"export {role}", unit="image") as progress:

            def advance(progress: Progress = progress) -> None:
                progress.advance()
                stopping.check()

            export(dataset, str(directory), advance, places)
        say(f"{role}: {len(dataset)} images in {directory}")


WHOLE: dict[str, Callable[[Experiment], None]] = {
    "run": run_all,
    "compare": compare_all,
    "export_streets": export_streets,
}
"""What is more than one stage, or none."""


def main(
    stage: str, config: ConfigDict, workdir: Path, command: str = "", datasets: dict[str, Dataset | None] | None = None
) -> None:
    """Runs `stage` ("run" for all of them) of `config` in `workdir`; `command` is recorded where results are.

    datasets: of config.data by role, where they are open already.
    """
    run = Experiment(config, workdir, command)
    if datasets is not None:
        run.datasets = datasets
    if stage == "plan":  # so that a plan that is too dear can be changed
        check(run)
        return plan(run) if hosts.leads() else None
    with hosts.joined(workdir):
        claim(run)
        if stage in WHOLE:
            WHOLE[stage](run)
        else:
            run_stage(run, stage)
