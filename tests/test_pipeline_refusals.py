"""Stages that cannot work are refused: settings, their order, too little memory; a plan binds its directory to none."""

import jax
import pytest
from tiny_run import tiny

from sgg_jax import calibration, pipeline, planning
from sgg_jax.errors import InputError
from sgg_jax.pipeline import main


def test_a_plan_does_not_tie_the_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "timed", lambda call, repeats=3: (2.0, 5.0))  # seconds of every call
    config = tiny()
    main("plan", config, tmp_path)
    config.translate.steps = 2
    main("train_segmenter", config, tmp_path)


def test_too_little_memory_names_the_setting_to_lower(tmp_path, monkeypatch):
    def large(run):
        return jax.block_until_ready(jax.numpy.zeros(2**50, "uint8"))

    assert set(planning.MEMORY) == set(pipeline.STAGES)
    monkeypatch.setitem(pipeline.STAGES, "train_segmenter", large)
    with pytest.raises(InputError, match=r"more memory than there is: lower config.segmenter.training.batch_size"):
        main("train_segmenter", tiny(), tmp_path)


def test_stages_out_of_order_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"adapt needs what train_denoiser, train_segmenter makes"):
        main("adapt", tiny(), tmp_path)
    with pytest.raises(InputError, match="guide to source"):
        main("translate", tiny(), tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.update(seed=-1), "seed"),
        (lambda c: c.translate.update(guidance="ssg"), "config.translate.guidance is 'ssg': choose one of none, gsg"),
        (lambda c: c.translate.update(look="x"), "translate.look"),
        (lambda c: c.translate.update(sampler="x"), "ddpm, ddim"),
        (lambda c: c.translate.update(spacing="x"), "even, trailing"),
        (lambda c: c.translate.update(lcg_every=1), "translate.lcg_every is 1: it must be at least 2"),
        (lambda c: c.translate.update(gradient_every=0), "translate.gradient_every is 0"),
        (lambda c: c.translate.update(normalize=True), "clip_ratio=0.5 would cut them again"),
        (lambda c: c.translate.update(guidance="sgg", steps=1), "depth.* leaves one reverse step"),
        (lambda c: c.adapt.training.update(weight_shards=3), r"config\.adapt\.training\.weight_shards is 3"),
        (lambda c: c.adapt.update(depths=(1, 30)), "adapt.depths=1 leaves one reverse step"),
        (lambda c: c.translate.update(gradient_every=2, normalize=True), "gradient_every is 2.*normalize=False"),
        (
            lambda c: c.translate.update(gradient_every=2, interval=(0.0, 0.5)),
            r"gradient_every is 2.*interval=\(0, 1\)",
        ),
        (
            lambda c: c.translate.update(deep_every=2, tile=(16, 16)),
            "deep_every is 2, and the source's images are",
        ),
        (lambda c: c.translate.update(guide="x"), "adapted, source"),
        (lambda c: c.translate.update(depth=1001), r"depth is 1001: it must lie in 1\.\.1000"),
        (lambda c: c.adapt.update(depths=(300, 200)), "each larger than the one before"),
        (lambda c: c.data.update(size=(18, 32)), "multiple"),
        (lambda c: (c.data.update(size=(24, 32)), c.denoiser.unet.update(widths=4 * (32,))), "multiple of the UNet"),
        (lambda c: c.denoiser.update(schedule="x"), "linear, cosine"),
        (lambda c: c.denoiser.update(network="x"), "choose one of unet"),
        (lambda c: c.denoiser.unet.update(widths=(30, 30)), "denoiser.unet does not describe a network"),
        (lambda c: c.segmenter.training.update(batch_size=0), "at least 1"),
        (lambda c: c.student.training.update(batch_size=6), "student.training.batch_size is 6.* 4 devices"),
        (lambda c: c.evaluate.update(batch_size=0), "evaluate.batch_size is 0"),
        (lambda c: c.evaluate.update(sliding=True, overlap=1.0), "evaluate.overlap is 1.0"),
        (lambda c: c.evaluate.update(overlays=-1), "evaluate.overlays is -1"),
        (lambda c: c.translate.update(batch_size=0), "translate.batch_size is 0"),
        (lambda c: c.translate.update(microbatch=0), "microbatch is 0"),
        (lambda c: c.data.test.update(name="folder"), r"config.data.test \(folder\): images: there is no folder"),
        (lambda c: c.data.test.update(name="nothing"), "data.test.name"),
        (lambda c: c.translate.update(clip_ratio=-1.0), "translate.clip_ratio is -1.0: it must be at least 0"),
        (lambda c: c.translate.update(blur=-1.0), "translate.blur is -1.0"),
        (lambda c: c.translate.update(interval=(0.5,)), "translate.interval is"),
        (lambda c: c.guide.update(diffuse=2.0), "guide.diffuse is 2.0"),
        (lambda c: c.translate.update(start="collages"), "'collages': choose one of image, grey, collage"),
        (lambda c: c.translate.update(donors=0), "translate.donors is 0"),
        (lambda c: c.translate.update(donor_confidence=1.0), "translate.donor_confidence is 1.0"),
        (lambda c: c.guide.update(recolor=float("nan")), "guide.recolor is nan"),
        (lambda c: c.denoiser.update(weights="nowhere"), "config.denoiser.weights is 'nowhere', and there is no such"),
        (lambda c: c.denoiser.update(weights="streets"), "does not fit config.denoiser: for "),
        (lambda c: c.denoiser.update(prediction="x"), "choose one of eps, v"),
        (lambda c: c.denoiser.update(weighting="x"), "choose one of even, velocity, min_snr"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(tmp_path, change, sentence):
    config = tiny()
    change(config)
    with pytest.raises(InputError, match=sentence):
        main("train_segmenter", config, tmp_path / "new")
    assert not (tmp_path / "new" / "source").exists()
