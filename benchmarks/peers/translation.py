"""The guided ancestral chain in PyTorch, over rows of sgg_jax's noise schedule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.peers.guidance import (
    VOID,
    Gradient,
    Likelihoods,
    global_scene,
    local_class_batched,
    local_class_loop,
    present_pairs,
)

Noise = Callable[[int], Tensor]
"""Number of a draw -> standard normal noise [B,3,H,W]: 0 for the start, k + 1 at step k."""


class Row(NamedTuple):
    """Constants of one reverse step, as sgg_jax/schedule.py has them."""

    index: int
    step: int
    image_scale: float
    noise_scale: float
    variance: float
    mean_image: float
    mean_x: float


@dataclass(frozen=True)
class Settings:
    """Of a translation; as in configs/default.py where no other is said."""

    guidance: str  # "none", "gsg", "lcg" or "sgg"
    look: str  # "noisy" or "denoised"
    lcg_every: int
    scale: float
    fill: float
    limit: float
    clip_ratio: float
    microbatch: int  # 0: LCG class by class
    padded: bool = False  # see local_class_batched


class Networks(NamedTuple):
    denoiser: Callable[[Tensor, Tensor], Tensor]  # (x, step [1]) -> eps
    segmenter: nn.Module
    likelihood: Likelihoods


def translate(
    networks: Networks, rows: Sequence[Row], image: Tensor, labels: Tensor, noise: Noise, settings: Settings
) -> Tensor:
    """Noises images [B,3,H,W] to the last row's level and denoises them under guidance. Returns x_0 [B,3,H,W]."""
    pairs = present_pairs(labels) if settings.microbatch and settings.guidance in ("lcg", "sgg") else None
    x = rows[-1].image_scale * image + rows[-1].noise_scale * noise(0)
    for row in reversed(rows):
        with torch.no_grad():
            eps = networks.denoiser(x, torch.tensor([row.step], device=x.device))
        predicted = (x - row.noise_scale * eps) / row.image_scale
        gradient = torch.zeros_like(x)
        if row.variance:  # the last step has none and moves by none
            gradient = _guidance(networks, row, x, predicted, labels, pairs, settings)
        mean = row.mean_image * predicted.clamp(-settings.limit, settings.limit) + row.mean_x * x
        x = mean + row.variance * settings.scale * gradient + row.variance**0.5 * noise(row.step + 1)
    return x


def _guidance(
    networks: Networks, row: Row, x: Tensor, predicted: Tensor, labels: Tensor, pairs: Tensor | None, settings: Settings
) -> Tensor:
    """The gradient of one step, as far as it may be from the noise's size; [B,3,H,W]."""
    kind = settings.guidance
    if kind == "none":
        return torch.zeros_like(x)
    if kind == "sgg":
        kind = "lcg" if row.index % settings.lcg_every == settings.lcg_every - 1 else "gsg"
    gradient: Gradient
    if kind == "gsg":
        gradient = partial(global_scene, networks.likelihood, labels=labels)
    elif pairs is None:
        gradient = partial(local_class_loop, networks.likelihood, labels=labels, fill=settings.fill)
    else:
        packed = {"pairs": pairs, "microbatch": settings.microbatch, "padded": settings.padded}
        gradient = partial(local_class_batched, networks.likelihood, labels=labels, fill=settings.fill, **packed)
    found = gradient(x) if settings.look == "noisy" else gradient(predicted) / row.image_scale
    if not settings.clip_ratio:
        return found
    ratio = (row.variance * found.square().mean((1, 2, 3), keepdim=True)).sqrt()
    return found * (settings.clip_ratio / ratio.clamp_min(settings.clip_ratio))


def to_pixels(x: Tensor) -> Tensor:
    """[-1,1] float -> 0..255 uint8."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.no_grad()
def agreement(segmenter: nn.Module, translation: Tensor, labels: Tensor) -> Tensor:
    """Share of known pixels in which the guide finds their label. uint8 [B,3,H,W], [B,H,W] -> [B]."""
    known = labels != VOID
    found = (segmenter(translation.float() / 127.5 - 1).argmax(1) == labels) & known
    return found.sum((1, 2)) / known.sum((1, 2)).clamp_min(1)
