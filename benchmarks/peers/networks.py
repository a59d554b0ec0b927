"""UNet and EncoderDecoder of sgg_jax/models in PyTorch: the same layers under the same names, [B,C,H,W].

Space-to-depth is `pixel_unshuffle` here, which orders the channels of a block otherwise than sgg_jax does. Convolutions
next to it keep their weights in its order; `load` puts them there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unshuffled(channels: int, block: int) -> np.ndarray:
    """Which channel of sgg_jax's space-to-depth each of `channels` of `pixel_unshuffle` is. [channels] int."""
    return np.arange(channels).reshape(block**2, -1).T.reshape(-1)


class Conv(nn.Conv2d):
    """Stride-1 SAME convolution with bias. unshuffles, shuffles: block of the `pixel_unshuffle` before it and of the
    `pixel_shuffle` after it, 1 for none."""

    leaves = ("kernel", "bias")

    def __init__(self, inputs: int, outputs: int, size: int, *, unshuffles: int = 1, shuffles: int = 1):
        super().__init__(inputs, outputs, size, padding=size // 2)
        self.places = unshuffled(inputs, unshuffles), unshuffled(outputs, shuffles)

    def arranged(self, kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        """[h,w,I,O], [O] of sgg_jax as this layer keeps them."""
        inputs, outputs = self.places
        return {"weight": kernel[:, :, inputs][..., outputs].transpose(3, 2, 0, 1), "bias": bias[outputs]}


class Linear(nn.Linear):
    leaves = ("kernel", "bias")

    def arranged(self, kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        """[I,O], [O] of sgg_jax as this layer keeps them."""
        return {"weight": kernel.T, "bias": bias}


class GroupNorm(nn.GroupNorm):
    """Eight groups, optionally modulated by (scale, shift), each [B,C]."""

    leaves = ("scale", "bias")

    def __init__(self, channels: int):
        super().__init__(min(8, channels), channels, eps=1e-5)

    def arranged(self, scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        return {"weight": scale, "bias": bias}

    def forward(self, x: Tensor, modulation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        h = super().forward(x)
        if modulation is None:
            return h
        scale, shift = (part[:, :, None, None] for part in modulation)
        return torch.addcmul(shift, h, 1 + scale)


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, embedding: int = 0):
        super().__init__()
        self.norm1 = GroupNorm(inputs)
        self.conv1 = Conv(inputs, outputs, 3)
        self.norm2 = GroupNorm(outputs)
        self.conv2 = Conv(outputs, outputs, 3)
        self.skip = None if inputs == outputs else Conv(inputs, outputs, 1)
        self.modulation = Linear(embedding, 2 * outputs) if embedding else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        modulation = None
        if self.modulation is not None and embedding is not None:
            scale, shift = self.modulation(embedding).chunk(2, dim=1)
            modulation = scale, shift
        h = self.norm2(self.conv1(F.silu(self.norm1(x))), modulation)
        return self.conv2(F.silu(h)) + (x if self.skip is None else self.skip(x))


class Attention(nn.Module):
    """Self-attention over all positions with heads of 32 channels, residual."""

    def __init__(self, channels: int, head: int = 32):
        super().__init__()
        self.head = head
        self.norm = GroupNorm(channels)
        self.qkv = Conv(channels, 3 * channels, 1)
        self.out = Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(b, h * w, 3, c // self.head, self.head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B,heads,HW,head]
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h, w, c)
        return x + self.out(mixed.permute(0, 3, 1, 2))


class Downsample(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Conv(4 * inputs, outputs, 1, unshuffles=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pixel_unshuffle(x, 2))


def repeat_pixels(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def step_features(step: Tensor, channels: int) -> Tensor:
    """Sinusoidal features of the step index. [B] -> [B,channels]."""
    half = channels // 2
    rates = torch.exp(-np.log(10_000) * torch.arange(half, dtype=torch.float64, device=step.device) / half)
    angles = step[:, None].float() * rates.float()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class UNet(nn.Module):
    """(x [B,3,H,W], step [B] or [1]) -> what the denoiser puts out, [B,3,H,W]. Options as of sgg_jax's UNet."""

    def __init__(self, widths: Sequence[int], blocks: int, attention: Sequence[int], patch: int):
        super().__init__()
        self.patch, self.features, embedding = patch, widths[0], 4 * widths[0]
        self.embed1 = Linear(widths[0], embedding)
        self.embed2 = Linear(embedding, embedding)
        self.stem = Conv(3 * patch**2, widths[0], 3, unshuffles=patch)

        def layers(inputs: int, level: int) -> nn.ModuleList:
            width = widths[level]
            attend = [Attention(width)] if level in attention else []
            return nn.ModuleList([ResBlock(inputs, width, embedding), *attend])

        skips, channels = [widths[0]], widths[0]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList([layers(width if i else channels, level) for i in range(blocks)]))
            channels = width
            skips += [width] * blocks
        self.shrink = nn.ModuleList([Downsample(w, w) for w in widths[:-1]])
        block = [ResBlock(channels, channels, embedding) for _ in range(2)]
        self.middle = nn.ModuleList([block[0], Attention(channels), block[1]])
        for level, width in reversed(list(enumerate(widths))):
            row = nn.ModuleList()
            for _ in range(blocks):
                row.append(layers(channels + skips.pop(), level))
                channels = width
            self.up.append(row)
        self.grow = nn.ModuleList([Conv(w, w, 3) for w in reversed(widths[1:])])
        self.norm = GroupNorm(channels + widths[0])
        self.out = Conv(channels + widths[0], 3 * patch**2, 3, shuffles=patch)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        embedding = self.embed2(F.silu(self.embed1(step_features(step, self.features))))
        embedding = F.silu(embedding)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for level, row in enumerate(self.down):
            h = self.shrink[level - 1](h) if level else h
            for layers in row:
                h = _through(layers, h, embedding)
                skips.append(h)
        h = self.middle[2](self.middle[1](self.middle[0](h, embedding)), embedding)
        for level, row in enumerate(self.up):
            h = self.grow[level - 1](repeat_pixels(h)) if level else h
            for layers in row:
                h = _through(layers, torch.cat([h, skips.pop()], dim=1), embedding)
        h = self.out(F.silu(self.norm(torch.cat([h, skips.pop()], dim=1))))
        return F.pixel_shuffle(h, self.patch)


def _through(layers: nn.ModuleList, h: Tensor, embedding: Tensor) -> Tensor:
    """A residual block, and its attention where it has one."""
    h = layers[0](h, embedding)
    return layers[1](h) if len(layers) > 1 else h


class EncoderDecoder(nn.Module):
    """g: image [B,3,H,W] -> logits [B,classes,H,W]. Options as of sgg_jax's EncoderDecoder."""

    def __init__(self, classes: int, widths: Sequence[int], blocks: int, patch: int):
        super().__init__()
        self.patch = patch
        self.stem = Conv(3 * patch**2, widths[0], 3, unshuffles=patch)
        self.down = nn.ModuleList([nn.ModuleList([ResBlock(w, w) for _ in range(blocks)]) for w in widths])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.shrink = nn.ModuleList([Downsample(a, b) for a, b in pairs])
        self.narrow = nn.ModuleList([Conv(b, a, 1) for a, b in reversed(pairs)])
        self.up = nn.ModuleList([ResBlock(a, a) for a, _ in reversed(pairs)])
        self.norm = GroupNorm(widths[0])
        self.out = Conv(widths[0], classes * patch**2, 3, shuffles=patch)

    def forward(self, image: Tensor) -> Tensor:
        h, skips = self.stem(F.pixel_unshuffle(image, self.patch)), []
        for level, row in enumerate(self.down):
            for block in row:
                h = block(h)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        for narrow, block in zip(self.narrow, self.up, strict=True):
            h = block(repeat_pixels(narrow(h)) + skips.pop())
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch)


class Velocity(nn.Module):
    """The noise predicted by a network that puts out v (Salimans & Ho 2022): sqrt(alpha-bar) v + sqrt(1 - alpha-bar) x.

    alpha_bars: [N] float64, of the whole process.
    """

    def __init__(self, network: nn.Module, alpha_bars: np.ndarray):
        super().__init__()
        self.network = network
        self.register_buffer("image_scale", torch.tensor(np.sqrt(alpha_bars), dtype=torch.float32))
        self.register_buffer("noise_scale", torch.tensor(np.sqrt(1 - alpha_bars), dtype=torch.float32))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        image_scale, noise_scale = (s[step][:, None, None, None] for s in (self.image_scale, self.noise_scale))
        return image_scale * self.network(x, step) + noise_scale * x


def load(network: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Puts sgg_jax's weights, by dotted name, into a network: all of them, each once.

    ValueError, naming the weight, where one is missing, unknown or of another shape.
    """
    left: dict[str, Any] = dict(weights)
    for name, layer in network.named_modules():
        if not isinstance(layer, Conv | Linear | GroupNorm):
            continue
        own = {leaf: f"{name}.{leaf}" for leaf in layer.leaves}
        missing = [path for path in own.values() if path not in left]
        if missing:
            raise ValueError(f"there is no weight {missing[0]}")
        for target, array in layer.arranged(**{leaf: np.asarray(left.pop(path)) for leaf, path in own.items()}).items():
            parameter = getattr(layer, target)
            if tuple(parameter.shape) != array.shape:
                raise ValueError(f"{name}.{target} has the shape {tuple(parameter.shape)}, not {array.shape}")
            with torch.no_grad():
                parameter.copy_(torch.tensor(np.ascontiguousarray(array)))
    if left:
        raise ValueError(f"the network has no weight {sorted(left)[0]}")
