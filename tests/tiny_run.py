"""A run of all stages on tiny networks, and the pictures that it leaves, for the tests of stages."""

import shutil
from pathlib import Path

from configs import quick


def tiny():
    """Every stage in seconds on four virtual devices."""
    config = quick.get_config()
    config.data.size = (16, 32)
    for role, count in dict(source=6, target=12, judge=8, val=4, test=8).items():
        config.data[role].streets.count = count
    config.denoiser.unet.widths = (32,)
    config.segmenter.encoder_decoder.widths = (8, 16)
    config.denoiser.unet.blocks = config.segmenter.encoder_decoder.blocks = 1
    for section in (config.denoiser, config.segmenter, config.adapt, config.student):
        section.training.steps = 4
        section.training.batch_size = 4
        section.training.save_every = 2
    config.translate.batch_size = 2
    config.translate.steps = 3
    config.translate.unguided = 5
    config.evaluate.batch_size = 1
    config.compare.methods = ()  # tests/test_comparison.py
    config.report.examples = 2
    return config


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*.png"))}


LEFT = {
    "train_denoiser": ["denoiser"], "train_segmenter": ["source", "judge"], "adapt": ["adapt"],
    "translate": ["translated", "unguided"], "train_student": ["student"],
}  # fmt: skip


def copy_of(finished: Path, workdir: Path, *stages: str) -> None:
    """What is there after these stages."""
    (workdir / "stages").mkdir(exist_ok=True)
    for stage in stages:
        shutil.copy(finished / "stages" / f"{stage}.json", workdir / "stages")
        for place in LEFT[stage]:
            shutil.copytree(finished / place, workdir / place)
