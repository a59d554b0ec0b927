"""Training steps in PyTorch: the losses of sgg_jax/losses.py, AdamW with a clipped gradient, and a weight average."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.guidance import VOID


class DenoisingLoss(nn.Module):
    """E w_k |eps - eps_theta(x_k, k)|^2. alpha_bars, weights: [N] of the whole process."""

    def __init__(self, denoiser: nn.Module, alpha_bars: np.ndarray, weights: np.ndarray):
        super().__init__()
        self.denoiser = denoiser
        tables = (np.sqrt(alpha_bars), np.sqrt(1 - alpha_bars), weights)
        for name, table in zip(("image_scale", "noise_scale", "weights"), tables, strict=True):
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32))

    def forward(self, image: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1], [B], [B,3,H,W] -> []."""
        image_scale, noise_scale = (s[step][:, None, None, None] for s in (self.image_scale, self.noise_scale))
        predicted = self.denoiser(image_scale * image + noise_scale * noise, step)
        return (self.weights[step] * (predicted - noise).square().mean((1, 2, 3))).mean()


class SegmentationLoss(nn.Module):
    """Class-weighted cross-entropy, averaged over the weight of all known pixels. class_weights: [C]."""

    def __init__(self, segmenter: nn.Module, class_weights: np.ndarray):
        super().__init__()
        self.segmenter = segmenter
        self.register_buffer("class_weights", torch.tensor(class_weights, dtype=torch.float32))

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.segmenter(image), labels, self.class_weights, ignore_index=VOID)


@dataclass(frozen=True)
class Rule:
    """Fields of sgg_jax's Recipe that a step knows; all weights decay."""

    weight_decay: float
    b2: float
    clip: float
    ema: float


class Trainer:
    """A network's weights, their average and AdamW's moments; `step` takes one step."""

    def __init__(self, network: nn.Module, loss: Callable[..., Tensor], rule: Rule):
        self.network, self.loss, self.rule, self.done = network, loss, rule, 0
        self.weights = list(network.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=0.0, betas=(0.9, rule.b2), eps=1e-8, weight_decay=rule.weight_decay, fused=True
        )

    def step(self, learning_rate: float, *batch: Any) -> tuple[Tensor, Tensor]:
        """Loss and norm of the gradient before it is clipped, both []."""
        self.optimizer.zero_grad()
        loss = self.loss(*batch)
        loss.backward()
        norm = self._clip()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        decay = min(self.rule.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)
        self.done += 1
        return loss.detach(), norm

    @torch.no_grad()
    def _clip(self) -> Tensor:
        """optax's rule: torch's own divides by the norm + 1e-6."""
        gradients = [weight.grad for weight in self.weights]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.rule.clip:
            torch._foreach_mul_(gradients, (self.rule.clip / norm).clamp_max(1.0))
        return norm
