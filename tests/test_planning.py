"""The plan's counts against numbers worked out by hand; its time against a clock of our own."""

import jax
import numpy as np
import pytest
from tiny_run import tiny

from sgg_jax import calibration, methods, pipeline, planning
from sgg_jax.calibration import Calibration, thinned
from sgg_jax.costs import Work, comparison_work, gradients
from sgg_jax.data.dataset import LeftOutError
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.planning import duration, plan
from sgg_jax.schedule import linear, respace


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "timed", lambda call, repeats=3: (2.0, 5.0))  # seconds of every call
    config = tiny()
    config.translate.memory = float("inf")  # so that nothing is compiled to see whether it fits
    return Experiment(config, tmp_path)


def test_passes_and_seconds_are_counted(run):
    rows = {row.stage: row for row in plan(run, ["train_denoiser", "train_segmenter", "adapt", "translate"]).rows}
    assert rows["train_denoiser"].denoiser_passes == 3 * 4 * 4  # forward and backward, steps, images a step
    assert rows["train_denoiser"].seconds == 4 * 2.0 + 2 * 2.0  # steps, checkpoints
    assert rows["train_segmenter"].segmenter_passes == 2 * 3 * 4 * 4  # source and judge
    assert rows["translate"].denoiser_passes == 6 * 3  # images, steps
    present = np.mean([len(np.unique(run.source[i].labels)) for i in range(6)])
    # of three steps one is global, an input gradient of two passes; one local, one for each class present; the last
    # one takes none
    assert rows["translate"].segmenter_passes == pytest.approx(2 * 6 * (1 + present))
    assert rows["translate"].seconds == pytest.approx(3 * 3 * 2.0 / 3)  # batches of two, steps, seconds of a step
    assert rows["translate: unguided"].denoiser_passes == 5 * 3
    assert rows["translate: unguided"].segmenter_passes == 0
    assert rows["adapt: translate"].denoiser_passes == 2 * 6 * 3  # two rounds
    assert rows["adapt: fine-tune"].segmenter_passes == 2 * 3 * 4 * 4


def test_what_does_not_fit_into_memory_is_told_before_the_run(run, monkeypatch):
    def large(call, repeats=3):
        return jax.block_until_ready(jax.numpy.zeros(2**50, "uint8"))

    monkeypatch.setattr(calibration, "timed", large)
    with pytest.raises(InputError, match=r"translate needs more memory .*: lower config.translate.batch_size"):
        plan(run, ["translate"])


def test_starts_scores_and_the_report_are_counted(run, monkeypatch):
    monkeypatch.setattr(Calibration, "collage", 0.25)  # seconds an image
    run.config.compare.methods, run.config.compare.seeds = ("none", "sgg"), (0, 1)
    image = 2.0 / 4  # seconds to score an image: four a call
    rows = {row.stage: row for row in plan(run, ["adapt", "translate", "compare", "report"]).rows}
    donors = 12 * image  # of every guide: all target images
    assert rows["adapt: starts"].seconds == pytest.approx(2 * donors + 2 * 6 * 0.25)  # two guides, two sets of six
    assert rows["translate: starts"].seconds == pytest.approx(2 * donors + (6 + 5) * 0.25)  # guided and unguided
    assert rows["compare: starts"].seconds == pytest.approx((2 + 2) * donors + 2 * 6 * 0.25)  # two are timed again
    # four students on test and val; the judge's scores and features of six images each, and of the target's
    assert rows["compare: scores"].seconds == pytest.approx((4 * (8 + 4) + 2 * 4 * 6 + 12) * image)
    assert rows["report"].seconds == pytest.approx(2 * 5.0, abs=0.1)  # guided and unguided steps are compiled
    assert rows["report: starts"].seconds == pytest.approx(donors + run.config.report.examples * 0.25)
    run.config.translate.start = "image"
    assert "translate: starts" not in [row.stage for row in plan(run, ["translate"]).rows]


def test_starts_are_timed_without_bad_images(run, monkeypatch):
    class Partly(list):
        def __getitem__(self, index):
            if index == 1:
                raise LeftOutError("0001.png is empty")
            return super().__getitem__(index)

    monkeypatch.setattr(run, "start", lambda guide, depth: Partly(range(6)))
    monkeypatch.setattr(run, "segmenter_params", lambda place: None)
    assert 0 < methods.start_time(run) < 60


def test_a_plan_is_of_its_config(run, capsys):
    assert not pipeline._planned(run)
    pipeline.plan(run, ["evaluate"])
    assert pipeline._planned(run)
    run.config.translate.steps += 1
    assert not pipeline._planned(run)
    (run.workdir / "plan.json").write_text("{")
    assert not pipeline._planned(run)


def test_a_collage_is_timed(run):
    assert 0 < Calibration(run).collage < 60


def test_what_several_steps_share_is_counted_once(run):
    run.config.translate.update(lcg_every=4, gradient_every=2, deep_every=3)
    calibrated = Calibration(run)
    assert calibrated.cycle == 24  # gradients come again after eight steps, deep features after three
    row = next(row for row in plan(run, ["translate"]).rows if row.stage == "translate")
    assert row.segmenter_passes == 2 * 6  # the first of three steps takes one, which serves the second; the last none
    share = calibrated.flops("on_deep") / calibrated.flops("denoiser")
    assert 0.1 < share < 0.9
    assert row.denoiser_passes == pytest.approx(6 * 3 * (1 + 2 * share) / 3)


def test_gradients_are_counted(run):
    c = run.config.translate
    c.depth, run.config.denoiser.total = 250, 1000
    cases = [
        # guidance, sampler, lcg_every, gradient_every, steps: global, local
        ("sgg", "ddpm", 2, 1, 12, (5, 6)),
        ("sgg", "ddpm", 2, 1, 5, (2, 2)),
        ("sgg", "dpm", 2, 1, 5, (3, 2)),  # its last step takes one, too
        ("sgg", "ddpm", 4, 1, 12, (8, 3)),
        ("sgg", "ddpm", 2, 2, 12, (3, 3)),  # at steps 0, 2, ... 10: the last step takes none of its own anyway
        ("gsg", "ddpm", 2, 1, 12, (11, 0)),
        ("lcg", "ddpm", 2, 1, 12, (0, 11)),
        ("none", "ddpm", 2, 1, 12, (0, 0)),
        ("sgg", "ddpm", 2, 1, 1, (0, 0)),
    ]
    for guidance, sampler, lcg_every, gradient_every, steps, counts in cases:
        c.update(guidance=guidance, sampler=sampler, lcg_every=lcg_every, gradient_every=gradient_every)
        found = gradients(run.config, respace(linear(1000), 250, steps))
        assert tuple(found) == counts, (guidance, sampler, lcg_every, gradient_every, steps)
    c.update(guidance="sgg", lcg_every=2, gradient_every=1)
    twelve = respace(linear(1000), 250, 12)
    for interval, counts in (((0.125, 1.0), (3, 3)), ((0.0, 0.125), (2, 3)), ((0.3, 1.0), (0, 0))):
        c.interval = interval  # the upper six steps, the lower six with the last one, which takes none, and none at all
        assert tuple(gradients(run.config, twelve)) == counts, interval


def test_flops_are_two_per_multiply_add(run):
    """The tiny segmenter's convolutions, counted by hand; borders make it a little less, norms a little more."""
    half, quarter = 8 * 16, 4 * 8  # pixels
    stem, out = 9 * 12 * 8 * half, 9 * 8 * 32 * half
    blocks = 2 * (2 * 9 * 8 * 8 * half) + 2 * 9 * 16 * 16 * quarter
    between = (32 * 16 + 16 * 8) * quarter
    assert Calibration(run).flops("segmenter") == pytest.approx(2 * (stem + out + blocks + between), rel=0.2)


def test_disk_counts_checkpoints_and_images(run):
    import jax

    weights = sum(leaf.nbytes + 2048 for leaf in jax.tree.leaves(run.denoiser_network[1]))
    assert planning.disk(run, ["train_denoiser"]) == 10 * weights  # 5 arrays a weight, 2 checkpoints
    assert planning.disk(run, ["translate"]) > 11 * 500  # 6 guided and 5 unguided PNG files
    assert planning.disk(run, ["report"]) == 0


def test_thinned_keeps_the_shape_and_spans_the_chain():
    schedule = respace(linear(1000), 600, 20)
    few = thinned(schedule, 4)
    assert len(few) == 20
    assert int(few.count) == 4
    assert [int(few.row(i).step) for i in (0, 3)] == [32, 599]  # the last step is not as the others
    assert [int(few.row(i).index) for i in range(4)] == [0, 1, 2, 3]
    assert [int(thinned(schedule, 1).row(0).step), int(thinned(schedule, 1).count)] == [599, 1]
    for used in (1, 3, 4):
        few = thinned(respace(linear(1000), used, 20), 4)
        assert [int(few.row(i).step) for i in range(int(few.count))] == list(range(used))  # all of them


def test_plan_stops_at_what_is_asked(run):
    text = plan(run, ["evaluate"]).text()
    assert "evaluate" in text
    assert "train_denoiser" not in text
    assert "memory: about" in text


def test_durations_read_well():
    assert [duration(s) for s in (3, 89, 91, 3000, 4000)] == ["3 s", "89 s", "2 min", "50 min", "1 h 07 min"]


def test_the_comparisons_work_is_counted(run):
    c = run.config
    c.compare.methods, c.compare.seeds = ("none", "sdedit", "sgg", "sgg_ptl"), (0, 1, 2)
    c.compare.sdedit_depths, c.compare.fda_betas = (200, 300), (0.1, 0.2)
    # 4 students for each of 3 seeds, but that of sgg_ptl of the run's own seed; one more for the other depth
    assert comparison_work(c) == Work(
        students=12 - 1 + 1, guides=2, adapted=2, unguided=[200, 300, 300, 300], guided=3 + 2
    )
    c.seed = 5  # candidates are tried with a seed that no row has
    assert comparison_work(c) == Work(students=12 + 2, guides=3, adapted=3, unguided=[200, 300] + 3 * [300], guided=6)
    c.seed, c.segmenter.as_it_is = 0, True  # nobody trains the guide
    assert comparison_work(c).guides == 0
    c.compare.methods = ("none", "fda", "oracle")
    assert comparison_work(c) == Work(students=9 + 1, guides=0, adapted=0, unguided=[], guided=0)
    assert not [row for row in plan(run, ["compare"]).rows if "guided" in row.stage]


def test_a_given_denoiser_costs_no_training(run):
    run.config.denoiser.weights = "streets"
    (row,) = plan(run, ["train_denoiser"]).rows
    assert row.stage == "train_denoiser: a look"
    assert row.denoiser_passes == 13 * 4 + 8 * 50  # levels of 4 validation images, samples of 50 steps
    assert planning.disk(run, ["train_denoiser"]) == 0


def test_scoring_counts_windows_and_mirror_images_at_the_sets_own_size(run):
    rows = {row.stage: row for row in plan(run, ["evaluate"]).rows}
    assert rows["evaluate: networks"].segmenter_passes == 4 * 8  # networks, test images
    assert rows["evaluate: networks"].seconds == 4 * 8 * 2.0 / 4  # a call of 2 s scores a batch of 4
    assert rows["evaluate: translations"].segmenter_passes == 2 * 5  # guided and unguided
    whole = rows["evaluate: networks"].flops
    run.config.data.test.size = (24, 48)
    run.config.evaluate.sliding = run.config.evaluate.flip = True
    rows = {row.stage: row for row in plan(Experiment(run.config, run.workdir), ["evaluate"]).rows}
    # windows of 16 x 32, half over each other: two rows, two columns; twice, for the mirror image
    assert rows["evaluate: networks"].segmenter_passes == 4 * 8 * (2 * 2 * 2)
    assert rows["evaluate: networks"].flops == 8 * whole
    assert rows["evaluate: networks"].seconds == 4 * 8 * 2.0  # an image at a time
    assert rows["evaluate: translations"].segmenter_passes == 2 * 5 * 2
