"""What each stage of a run costs: passes of the networks, FLOPs and seconds, from a calibration."""

from dataclasses import dataclass, replace

import numpy as np
from ml_collections import ConfigDict

from sgg_jax.calibration import Calibration
from sgg_jax.data.dataset import VOID, Dataset, readable
from sgg_jax.experiment import Experiment
from sgg_jax.guidance import GUIDING
from sgg_jax.results import HELD_OUT_LEVELS, SAMPLE_STEPS, SAMPLES
from sgg_jax.sampling import SAMPLERS
from sgg_jax.schedule import NoiseSchedule


@dataclass(frozen=True)
class Row:
    """One stage's cost."""

    stage: str
    denoiser_passes: float  # forward passes of one image; a training step counts 3 an image
    segmenter_passes: float  # likewise; an input gradient counts 2
    flops: float
    seconds: float


def stage_rows(run: Experiment, calibration: Calibration, stage: str) -> list[Row]:
    """The rows of one stage of pipeline.STAGES."""
    c = run.config
    source, target, test = run.source, run.target, run.datasets["test"]
    if stage == "train_denoiser":
        rows = [_looking(calibration)]
        return rows if c.denoiser.weights else [_training(calibration, stage, "denoiser", target, 1), *rows]
    if stage == "train_segmenter":
        return [_training(calibration, stage, "segmenter", source, trained_segmenters(run))]
    if stage == "train_student":
        return [_training(calibration, stage, "student", source, 1)]
    if stage == "adapt":
        depths = list(c.adapt.depths)
        return [
            _translation(calibration, "adapt: translate", depths, len(source), guided=True),
            _training(calibration, "adapt: fine-tune", "adapt", source, len(depths)),
            *_starting(calibration, "adapt: starts", len(depths), len(depths)),
        ]
    if stage == "translate":
        unguided = min(c.translate.unguided, len(source))
        rows = [_translation(calibration, stage, [c.translate.depth], len(source), guided=True)]
        if unguided:
            rows.append(_translation(calibration, "translate: unguided", [c.translate.depth], unguided, guided=False))
        sets = 1 + unguided / len(source)
        return rows + _starting(calibration, "translate: starts", 1 + bool(unguided), sets)
    if stage == "compare":
        return _comparison_rows(calibration)
    if stage == "evaluate":
        rows = [] if test is None else [_scoring(calibration, "evaluate: networks", test, 4 * len(test))]
        compared = min(c.translate.unguided, len(source))
        if run.judged and compared:
            rows.append(_scoring(calibration, "evaluate: translations", source, 2 * compared))
        return rows
    assert stage == "report", stage  # pictures; what takes long is compiling the steps that it shows
    seconds = calibration.compiling(run.method()) + calibration.compiling(run.method("none"))
    shown = min(c.report.examples, len(source)) / len(source)
    return [Row(stage, 0, 0, 0.0, seconds), *_starting(calibration, "report: starts", 1, shown)]


def trained_segmenters(run: Experiment) -> int:
    """How many networks train_segmenter trains: the source's and the judge's, but for those that are given."""
    there = {"source": True, "judge": run.datasets["judge"] is not None}
    return sum(there[place] and not run.given_segmenter(place) for place in there)


def _scoring(calibration: Calibration, title: str, dataset: Dataset, images: int) -> Row:
    passes, flops, seconds = calibration.scoring(dataset)
    return Row(title, 0, images * passes, images * flops, images * seconds)


def _starting(calibration: Calibration, title: str, guides: int, sets: float) -> list[Row]:
    """What is noised, where it is a collage: guides that look at the donors, and sets of the source's images."""
    run, c = calibration.run, calibration.run.config.translate
    if c.start != "collage":
        return []
    row = _scoring(calibration, title, run.source, guides * min(c.donors, len(run.target)))
    return [replace(row, seconds=row.seconds + sets * len(run.source) * calibration.collage)]


@dataclass(frozen=True)
class Work:
    """What a comparison adds to the other stages, in whole trainings and sets of translations."""

    students: int
    guides: int  # source segmenters of further seeds
    adapted: int  # PTL runs of further seeds
    unguided: list[int]  # depths
    guided: int  # at config.translate.depth


def comparison_work(config: ConfigDict) -> Work:
    """Counted from config.compare; the whole method of the run's own seed is the other stages' work."""
    c = config.compare
    methods, seeds = set(c.methods), len(c.seeds)
    further = len(set(c.seeds) - {config.seed})
    depths = list(c.sdedit_depths) if "sdedit" in methods else []
    betas = list(c.fda_betas) if "fda" in methods else []
    own = "sgg_ptl" in methods and further < seeds
    steered = len(methods.intersection(GUIDING))
    # candidates are tried with the run's own seed, of which the best is a row, too, where that seed is asked for
    tried = [len(found) - (further < seeds) for found in (depths, betas) if len(found) > 1]
    trained = not config.segmenter.as_it_is
    return Work(
        students=len(methods) * seeds - own + sum(tried),
        guides=further if trained and (steered or "sgg_ptl" in methods) else 0,
        adapted=further if "sgg_ptl" in methods else 0,
        unguided=depths + [max(depths)] * (further if len(depths) > 1 else seeds - 1) if depths else [],
        guided=steered * seeds + (further if "sgg_ptl" in methods else 0),
    )


def _comparison_rows(calibration: Calibration) -> list[Row]:
    run, work = calibration.run, comparison_work(calibration.run.config)
    c, images = run.config, len(run.source)
    rows = [_training(calibration, "compare: students", "student", run.source, work.students)]
    if work.guides:
        rows.append(_training(calibration, "compare: guides", "segmenter", run.source, work.guides))
    if work.adapted:
        rounds = len(c.adapt.depths) * work.adapted
        rows.append(_training(calibration, "compare: fine-tune", "adapt", run.source, rounds))
    if work.unguided:
        each = run.sdedit_steps
        rows.append(_translation(calibration, "compare: unguided", work.unguided, images, guided=False, each=each))
    if depths := list(c.adapt.depths) * work.adapted + [c.translate.depth] * work.guided:
        rows.append(_translation(calibration, "compare: guided", depths, images, guided=True))
    timed = len(c.compare.seeds) * len(set(c.compare.methods) & {*GUIDING, "sgg_ptl"})
    rows += _starting(calibration, "compare: starts", len(depths) + timed, len(depths))
    return [*rows, _judging(calibration)]


def _judging(calibration: Calibration) -> Row:
    """Scores of every row's student, and what the judge thinks of its images; every image of those counts twice, for
    its features, too."""
    run = calibration.run
    rows = len(run.config.compare.methods) * len(run.config.compare.seeds)
    labelled = sum(len(dataset) for role in ("test", "val") if (dataset := run.datasets[role]) is not None)
    judged = run.judged * (2 * rows * len(run.source) + len(run.target))
    return _scoring(calibration, "compare: scores", run.source, rows * labelled + judged)


def _looking(calibration: Calibration) -> Row:
    """Held-out loss and samples of the denoiser, at the speed of an unguided reverse step; either is compiled apart."""
    run, method = calibration.run, calibration.run.method("none")
    held_out = run.datasets["val"] or run.datasets["test"]
    passes = len(HELD_OUT_LEVELS) * (len(held_out) if held_out else 0) + SAMPLES[0] * SAMPLES[1] * min(
        SAMPLE_STEPS, run.config.denoiser.total
    )
    seconds = passes / calibration.together(method) * calibration.translation_step(method)
    seconds += 2 * calibration.compiling(method)
    return Row("train_denoiser: a look", passes, 0.0, passes * calibration.flops("denoiser"), seconds)


def _training(calibration: Calibration, title: str, section: str, dataset: Dataset, runs: int) -> Row:
    recipe = calibration.run.recipe(section)
    kind = "denoiser" if section == "denoiser" else "segmenter"
    passes = 3.0 * runs * recipe.steps * recipe.batch_size  # forward, and a backward pass of twice that
    saves = -(-recipe.steps // recipe.save_every)
    each = recipe.steps * calibration.training_step(section, dataset) + saves * calibration.saving(section)
    seconds = runs * each
    counts = (passes, 0.0) if kind == "denoiser" else (0.0, passes)
    return Row(title, *counts, passes * calibration.flops(kind), seconds)


def gradients(config: ConfigDict, schedule: NoiseSchedule) -> np.ndarray:
    """How many gradients a translation by that schedule takes, the global and the local ones. [2]

    A variant of guidance that is not known here counts as global.
    """
    c, count = config.translate, int(schedule.count)
    done = np.arange(count)
    turn = (count - 1) // c.gradient_every - done // c.gradient_every
    step = np.asarray(schedule.table.step)[:count][::-1]
    low, high = (round(share * config.denoiser.total) for share in c.interval)
    taken = (done % c.gradient_every == 0) & (low <= step) & (step < high) & (c.guidance != "none")
    taken &= np.asarray(SAMPLERS[c.sampler](c.eta).push(schedule.table))[:count][::-1] > 0  # guidance.where_it_moves
    local = {"lcg": taken, "sgg": taken & (turn % c.lcg_every == c.lcg_every - 1)}.get(c.guidance, taken & False)
    return np.array([taken.sum() - local.sum(), local.sum()], float)


def _translation(
    calibration: Calibration, title: str, depths: list[int], images: int, *, guided: bool, each: int | None = None
) -> Row:
    """each: reverse steps of every translation, by default config.translate.steps."""
    run = calibration.run
    c = run.config.translate
    steps = sum(int(run.schedule(depth, each).count) for depth in depths)
    present = np.mean(
        [
            len(np.setdiff1d(example.known_labels(), [VOID]))
            for _, example in readable(run.source, range(0, len(run.source), max(1, len(run.source) // 20)))
        ]
    )
    taken = np.array([gradients(run.config, run.schedule(depth)) for depth in depths if guided]).reshape(-1, 2)
    globally, locally = map(float, taken.sum(0))
    guides = 2 * images * (globally + locally * float(present))
    through = 2 * images * (globally + locally) * (c.look == "through_denoiser")
    denoiser = images * steps * calibration.denoiser_share + through
    denoiser, guides = denoiser * calibration.tiles, guides * calibration.tiles
    flops = denoiser * calibration.flops("denoiser") + guides * calibration.flops("segmenter")
    method = run.method() if guided else run.method("none")
    batches = -(-images // calibration.together(method))
    return Row(title, denoiser, guides, flops, batches * steps * calibration.translation_step(method))
