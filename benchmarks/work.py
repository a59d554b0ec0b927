"""What both sides are given to compute, in numpy alone: a process of one side need not load the other."""

from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = {
    "ours": "sgg_jax, jitted",
    "a": "PyTorch, eager; LCG class by class, guidance and translation at batch 1 (as public code does it)",
    "b": "PyTorch, eager, batched over present classes, channels_last",
    "c": "torch.compile of (b)",
}
"""Kinds of implementation."""
TRANSLATIONS = {"GSG step (with its denoiser pass)": "gsg", "LCG step (with its denoiser pass)": "lcg"}
"""Translations of one step, by their guidance."""
CALLS = (
    "denoiser forward",
    "denoiser training step",
    "segmenter forward",
    "segmenter training step",
    "segmenter input gradient",
    "LCG gradient",
    *TRANSLATIONS,
    "whole translation",
    "PTL round",
)
"""What is timed; both sides have a call of each name."""
TRAINING = ("denoiser training step", "segmenter training step")
FINE_TUNING = 10
"""Training steps of a PTL round."""


@dataclass(frozen=True)
class Network:
    options: dict[str, Any]  # of its constructor
    weights: dict[str, np.ndarray]  # by dotted name


@dataclass(frozen=True)
class Work:
    changes: dict[str, Any]  # of configs/default.py, by dotted name
    image: np.ndarray  # [B,H,W,3] uint8
    labels: np.ndarray  # [B,H,W] uint8 train ids, 255 where no class is known
    denoiser: Network
    segmenter: Network
    prediction: str  # what the denoiser puts out, "eps" or "v"
    alpha_bars: np.ndarray  # [N] float64, of the whole process
    level_weights: np.ndarray  # [N] float32, of noise levels in the denoiser's loss
    class_weights: np.ndarray  # [C] float32
    chain: dict[str, list[float]]  # columns of the noise schedule of a translation, least noisy first
    step: dict[str, list[float]]  # of a translation of one step
    round: dict[str, list[float]]  # of PTL's deepest round
    translate: dict[str, Any]  # fields of config.translate
    rules: dict[str, dict[str, float]]  # of "denoiser" and "segmenter": fields of a training step's rule
    learning_rates: dict[str, float]  # of each

    @property
    def present(self) -> float:
        """Classes present in an image, the mean."""
        return float(np.mean([np.setdiff1d(one, 255).size for one in self.labels]))
