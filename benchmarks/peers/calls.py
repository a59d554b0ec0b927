"""PyTorch's side of benchmarks/speed.py: a call of every row, by kind (work.KINDS)."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Call
from benchmarks.peers.guidance import (
    Likelihood,
    global_scene,
    local_class_batched,
    local_class_loop,
    present_pairs,
)
from benchmarks.peers.networks import EncoderDecoder, UNet, Velocity, load
from benchmarks.peers.training import DenoisingLoss, Rule, SegmentationLoss, Trainer
from benchmarks.peers.translation import Networks, Noise, Row, Settings, agreement, to_pixels, translate
from benchmarks.work import FINE_TUNING, TRAINING, TRANSLATIONS, Work

PAIRS = 64
"""(image, class) pairs of LCG that PyTorch takes at once: of 8, 16, 32 and 64 what is fastest for it on two cores."""


class Peer:
    """One kind's networks and functions, on the same weights and images as ours."""

    def __init__(self, work: Work, kind: str):
        self.work, self.kind = work, kind
        self.format = torch.contiguous_format if kind == "a" else torch.channels_last
        self.images = len(work.image)
        self.settings = Settings(**work.translate, microbatch=0 if kind == "a" else PAIRS, padded=kind == "c")
        self.labels = torch.tensor(work.labels, dtype=torch.int64)

    # networks -------------------------------------------------------------------------------------------------------

    def denoiser_network(self) -> nn.Module:
        """Predicts the noise, whatever its network puts out."""
        network = UNet(**self.work.denoiser.options)
        load(network, self.work.denoiser.weights)
        network = network.to(memory_format=self.format)
        return Velocity(network, self.work.alpha_bars) if self.work.prediction == "v" else network

    def segmenter_network(self) -> nn.Module:
        network = EncoderDecoder(**self.work.segmenter.options)
        load(network, self.work.segmenter.weights)
        return network.to(memory_format=self.format)

    def compiled(self, module: nn.Module) -> Any:
        return torch.compile(module, dynamic=False) if self.kind == "c" else module

    @cached_property
    def networks(self) -> Networks:
        """Frozen, as guidance uses them."""
        denoiser, segmenter = (n.requires_grad_(False) for n in (self.denoiser_network(), self.segmenter_network()))
        return Networks(*(self.compiled(module) for module in (denoiser, segmenter, Likelihood(segmenter))))

    # what is computed -----------------------------------------------------------------------------------------------

    def float_image(self, image: np.ndarray | None = None) -> Tensor:
        """The batch, or other images of its shape, [B,3,H,W] in [-1,1]."""
        pixels = torch.tensor(self.work.image if image is None else image)
        return self.placed(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)

    def placed(self, array: Tensor) -> Tensor:
        return array.contiguous(memory_format=self.format)

    def drawn(self, images: int) -> Tensor:
        """Noise of that many images."""
        return torch.empty((images, 3, *self.work.image.shape[1:3]), memory_format=self.format).normal_()

    def local_class(self, x: Tensor, labels: Tensor) -> Tensor:
        s = self.settings
        if self.kind == "a":
            return local_class_loop(self.networks.likelihood, x, labels, s.fill)
        pairs = present_pairs(labels)
        return local_class_batched(self.networks.likelihood, x, labels, s.fill, pairs, s.microbatch, s.padded)

    def translated(self, columns: dict[str, list[float]], settings: Settings, some: slice, noise: Noise) -> Tensor:
        """Of some images, before rounding to pixels."""
        return translate(
            self.networks, rows(columns), self.float_image(self.work.image[some]), self.labels[some], noise, settings
        )

    def translation(self, variant: str, columns: dict[str, list[float]], some: slice) -> Callable[[], Tensor]:
        """Translates some images to pixels and asks the guide how far their labels fit."""
        settings = replace(self.settings, guidance=variant) if variant else self.settings
        labels = self.labels[some]

        def call() -> Tensor:
            pixels = to_pixels(self.translated(columns, settings, some, lambda _: self.drawn(len(labels))))
            agreement(self.networks.segmenter, pixels, labels)
            return pixels

        return call

    def trainer(self, section: str) -> Trainer:
        work, rule = self.work, Rule(**self.work.rules[section])
        network = self.denoiser_network() if section == "denoiser" else self.segmenter_network()
        loss: nn.Module
        if section == "denoiser":
            loss = DenoisingLoss(network, work.alpha_bars, work.level_weights)
        else:
            loss = SegmentationLoss(network, work.class_weights)
        return Trainer(network, self.compiled(loss), rule)

    # calls ----------------------------------------------------------------------------------------------------------

    def seen(self, name: str) -> int:
        """Images that a call of that name works on: (a) takes them one by one but where it trains."""
        return 1 if self.kind == "a" and name not in (*TRAINING, "PTL round") else self.images

    def call(self, name: str) -> Call:
        """A call of work.CALLS on the first `seen` images."""
        some = slice(0, self.seen(name))
        if name in TRANSLATIONS:
            return self.translation(TRANSLATIONS[name], self.work.step, some)
        if name == "whole translation":
            return self.translation("", self.work.chain, some)
        if name == "PTL round":
            return self.round()
        if name in TRAINING:
            return self.training(name.split()[0])
        x, labels = self.placed(self.float_image()[some]), self.labels[some]
        if name == "LCG gradient":
            return lambda: self.local_class(x, labels)
        if name == "segmenter input gradient":
            return lambda: global_scene(self.networks.likelihood, x, labels)
        step = torch.tensor([self.work.chain["step"][-1]])
        network, inputs = (self.networks[0], (x, step)) if name == "denoiser forward" else (self.networks[1], (x,))

        def forward() -> Tensor:
            with torch.no_grad():
                return network(*inputs)

        return forward

    def training(self, section: str, trainer: Trainer | None = None, image: np.ndarray | None = None) -> Call:
        """A step on the batch; the denoiser's mirrors half of the images and draws levels and noise."""
        found = trainer or self.trainer(section)
        rate = self.work.learning_rates[section]

        def call() -> Any:
            x = self.float_image(image)
            if section == "segmenter":
                return found.step(rate, x, self.labels)
            mirrored = torch.rand(self.images) < 0.5
            x = self.placed(torch.where(mirrored[:, None, None, None], x.flip(-1), x))
            level = torch.randint(len(self.work.alpha_bars), (self.images,))
            return found.step(rate, x, level, self.drawn(self.images))

        return call

    def round(self) -> Call:
        """Translates the batch, (a) image by image, and takes some steps of fine-tuning on it."""
        size = 1 if self.kind == "a" else self.images
        parts = [self.translation("", self.work.round, slice(i, i + size)) for i in range(0, self.images, size)]
        trainer = self.trainer("segmenter")

        def call() -> None:
            image = torch.cat([part() for part in parts]).permute(0, 2, 3, 1).numpy()
            step = self.training("segmenter", trainer, image)
            for _ in range(FINE_TUNING):
                step()

        return call


def rows(columns: dict[str, list[float]]) -> list[Row]:
    """Steps of a chain, least noisy first."""
    return [Row(*values) for values in zip(*(columns[name] for name in Row._fields), strict=True)]
