"""Where the config's numbers may lie. Without jax: what is out of range is told before anything starts."""

import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sgg_jax.errors import InputError
from sgg_jax.roles import ROLES

FINITE = sys.float_info.max


class Range(NamedTuple):
    least: float
    most: float = FINITE
    below: bool = False  # the most itself is out of it

    def has(self, value: float) -> bool:
        return self.least <= value and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        if self.most >= FINITE:
            return f"at least {self.least}"
        return f"in {self.least}..{self.most}" + (f", below {self.most}" if self.below else "")


SHARE, PROPER_SHARE = Range(0, 1), Range(0, 1, below=True)
AMOUNT, COUNT = Range(0), Range(1)

TRAINING = {
    "steps": COUNT,
    "batch_size": COUNT,
    "learning_rate": AMOUNT,
    "power": AMOUNT,
    "warmup": AMOUNT,
    "weight_decay": AMOUNT,
    "b2": PROPER_SHARE,
    "clip": AMOUNT,
    "ema": SHARE,
    "save_every": COUNT,
    "weight_shards": COUNT,
}
AUGMENTATION = {
    **dict.fromkeys(("scale", "color", "brightness", "contrast", "blur", "noise", "recolor", "texture"), AMOUNT),
    "diffuse": PROPER_SHARE,
}
RANGES: dict[str, Range] = {
    "seed": Range(0, 2**31 - 1),
    "data.workers": AMOUNT,
    "data.max_bad": AMOUNT,
    "data.crop.most": SHARE,
    "data.crop.rare": AMOUNT,
    "denoiser.total": COUNT,
    "segmenter.class_balance": AMOUNT,
    **{f"segmenter.augmentation.{name}": found for name, found in AUGMENTATION.items()},
    **{f"guide.{name}": AUGMENTATION[name] for name in ("recolor", "texture", "diffuse")},
    **{
        f"{section}.training.{name}": found
        for section in ("denoiser", "segmenter", "adapt", "student")
        for name, found in TRAINING.items()
    },
    "translate.donors": COUNT,
    "translate.donor_confidence": PROPER_SHARE,
    "translate.depth": COUNT,
    "translate.steps": AMOUNT,
    "translate.eta": AMOUNT,
    "translate.limit": Range(0, math.inf),
    "translate.lcg_every": Range(2),
    "translate.gradient_every": COUNT,
    "translate.deep_every": COUNT,
    "translate.scale": AMOUNT,
    "translate.fill": Range(-1, 1),
    "translate.blur": Range(0, 1000),
    "translate.chroma": AMOUNT,
    "translate.clip_ratio": AMOUNT,
    "translate.batch_size": COUNT,
    "translate.microbatch": COUNT,
    "translate.memory": Range(0, math.inf),
    "translate.overlap": PROPER_SHARE,
    "translate.keep": SHARE,
    "translate.unguided": AMOUNT,
    "compare.sdedit_steps": AMOUNT,
    "evaluate.batch_size": COUNT,
    "evaluate.overlap": PROPER_SHARE,
    "evaluate.overlays": AMOUNT,
    "report.examples": COUNT,
}
"""By dotted name."""


def check_numbers(config: ConfigDict) -> None:
    """InputError naming the first field whose numbers mean nothing."""
    for name, wanted in RANGES.items():
        value = _field(config, name)
        if not wanted.has(value):
            finite = "" if math.isfinite(value) else " and finite"
            raise InputError(f"config.{name} is {value}: it must be {wanted}{finite}")
    for name in ("data.size", "translate.tile", *(f"data.{role}.size" for role in ROLES)):
        size = tuple(_field(config, name))
        if not (_whole(size, 1) and len(size) == 2) and (size or name == "data.size"):
            raise InputError(f"config.{name} is {size}: give (height, width), whole numbers of at least 1")
    low, high = _pair(config, "data.crop.scale")
    if not 0 < low <= high <= FINITE:
        raise InputError(f"config.data.crop.scale is {(low, high)}: give (least, largest) zoom, both above 0")
    low, high = _pair(config, "translate.interval")
    if not 0 <= low < high <= 1:
        raise InputError(f"config.translate.interval is {(low, high)}: give (low, high) within 0..1")
    for name, least in _whole_numbers():
        if not _whole(values := tuple(_field(config, name)), least):
            raise InputError(f"config.{name} is {values}: give whole numbers of at least {least}")


def _whole_numbers() -> Iterator[tuple[str, int]]:
    """Fields that are tuples of whole numbers, and the least that each may be."""
    yield "adapt.depths", 1
    for role in ROLES:
        yield f"data.{role}.folder.void_ids", 0
        yield f"data.{role}.tfds.void_ids", 0


def _field(config: ConfigDict, name: str) -> Any:
    found = config
    for part in name.split("."):
        if not isinstance(found, ConfigDict) or part not in found:
            raise InputError(f"the config has no field {name}: let its file begin with configs/default.py's get_config")
        found = found[part]
    return found


def _pair(config: ConfigDict, name: str) -> tuple[float, float]:
    pair = tuple(_field(config, name))
    if len(pair) != 2 or not all(isinstance(value, int | float) for value in pair):
        raise InputError(f"config.{name} is {pair}: give two numbers, (low, high)")
    return pair


def _whole(values: tuple[Any, ...], least: int) -> bool:
    return all(isinstance(value, int) and value >= least for value in values)
