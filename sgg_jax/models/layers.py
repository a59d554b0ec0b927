"""Layers of all networks: NHWC, float32 parameters, compute in `dtype`.

Convolutions have stride 1; resolution changes by space-to-depth and nearest-neighbour repetition. GroupNorm keeps no
running state, so training and evaluation are the same function.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from numpy.random import Generator

from sgg_jax.models.operations import (
    Array,
    add_bias,
    attend,
    computed_once,
    conv2d,
    moments,
    scale_shift,
    space_to_depth,
    upsampled_conv2d,
)

Rng = Generator | None
"""What draws fresh weights; None for an outline of a network, whose weights take no memory."""


def lecun_normal(rng: Rng, shape: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    """Normal weights of standard deviation gain / sqrt(fan-in); the last axis is the outputs. float32.

    Drawn by numpy: jax would compile a program for every shape, seconds for a network.
    """
    if rng is None:
        return np.broadcast_to(np.float32(0), shape)
    return rng.standard_normal(shape, np.float32) * np.float32(gain / np.prod(shape[:-1]) ** 0.5)


class Conv(nnx.Module):
    """Stride-1 SAME convolution with bias. gain 0 starts the layer at zero."""

    def __init__(self, inputs: int, outputs: int, size: int, *, dtype: str, rng: Rng, gain: float = 1.0):
        self.kernel = nnx.Param(lecun_normal(rng, (size, size, inputs, outputs), gain))
        self.bias = nnx.Param(np.zeros(outputs, np.float32))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        x = x.astype(self.dtype)
        if kernel.shape[:2] == (1, 1):
            return add_bias(x @ kernel[0, 0], bias)
        return add_bias(conv2d(x, kernel), bias)


class Upsample(Conv):
    """Convolution, of size 3, of the image whose pixels are repeated: [B,H,W,I] -> [B,2H,2W,O]."""

    def __call__(self, x: Array) -> Array:
        return add_bias(upsampled_conv2d(x.astype(self.dtype), self.kernel[...]), self.bias[...].astype(self.dtype))


class Linear(nnx.Module):
    """x @ kernel + bias in float32: [B,inputs] -> [B,outputs]."""

    def __init__(self, inputs: int, outputs: int, *, rng: Rng):
        self.kernel = nnx.Param(lecun_normal(rng, (inputs, outputs)))
        self.bias = nnx.Param(np.zeros(outputs, np.float32))

    def __call__(self, x: Array) -> Array:
        return x @ self.kernel[...] + self.bias[...]


class GroupNorm(nnx.Module):
    """GroupNorm (Wu & He 2018) from per-channel moments in float32, optionally modulated by (scale, shift), each [B,C],
    and followed by SiLU.

    Moments are reduced per channel first and grouped afterwards, so the large tensor is never reshaped.
    """

    def __init__(self, channels: int, *, groups: int = 8):
        self.groups = min(groups, channels)
        if channels % self.groups:
            raise ValueError(f"{channels} channels do not divide into {self.groups} groups")
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))

    def __call__(self, x: Array, modulation: tuple[Array, Array] | None = None, *, silu: bool = False) -> Array:
        wide, spread = x.astype(jnp.float32), x.shape[-1] // self.groups
        mean, square = (one.reshape(-1, self.groups, spread).mean(-1) for one in moments(wide))  # [B,groups]
        inverse = lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + 1e-5)
        gain = jnp.repeat(inverse, spread, axis=1) * self.scale[...]
        offset = self.bias[...] - jnp.repeat(mean, spread, axis=1) * gain
        if modulation is not None:
            scale, shift = modulation
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        gain, offset = computed_once((gain, offset))  # else again for every pixel
        return scale_shift(wide, gain, offset, silu).astype(x.dtype)


class ResBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the second norm modulated by a time embedding where there is one.

    Pre-activation block of guided-diffusion's UNet (Dhariwal & Nichol 2021); `embedding` 0 means no conditioning.
    """

    def __init__(self, inputs: int, outputs: int, *, embedding: int = 0, dtype: str, rng: Rng):
        self.norm1 = GroupNorm(inputs)
        self.conv1 = Conv(inputs, outputs, 3, dtype=dtype, rng=rng)
        self.norm2 = GroupNorm(outputs)
        self.conv2 = Conv(outputs, outputs, 3, dtype=dtype, rng=rng, gain=0.1)
        self.skip = None if inputs == outputs else Conv(inputs, outputs, 1, dtype=dtype, rng=rng)
        self.modulation = Linear(embedding, 2 * outputs, rng=rng) if embedding else None

    def __call__(self, x: Array, embedding: Array | None = None) -> Array:
        h = self.conv1(self.norm1(x, silu=True))
        if (self.modulation is None) != (embedding is None):
            raise ValueError("a block takes an embedding if, and only if, it was built for one")
        if self.modulation is not None and embedding is not None:
            scale, shift = jnp.split(self.modulation(embedding), 2, axis=-1)
            h = self.norm2(h, (scale, shift), silu=True)
        else:
            h = self.norm2(h, silu=True)
        h = self.conv2(h)
        return h + (x if self.skip is None else self.skip(x))


class Attention(nnx.Module):
    """Multi-head self-attention over all positions, residual, softmax in float32. [B,H,W,C] -> [B,H,W,C]."""

    def __init__(self, channels: int, *, head: int = 32, dtype: str, rng: Rng):
        if channels % head:
            raise ValueError(f"{channels} channels do not divide into attention heads of {head}")
        self.head = head
        self.norm = GroupNorm(channels)
        self.qkv = Conv(channels, 3 * channels, 1, dtype=dtype, rng=rng)
        self.out = Conv(channels, channels, 1, dtype=dtype, rng=rng, gain=0.1)

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, h * w, 3, c // self.head, self.head)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        return x + self.out(attend(q, k, v).reshape(b, h, w, c))


class Downsample(nnx.Module):
    """Space-to-depth by 2 and a 1x1 convolution: every input pixel is used, no strided convolution."""

    def __init__(self, inputs: int, outputs: int, *, dtype: str, rng: Rng):
        self.conv = Conv(4 * inputs, outputs, 1, dtype=dtype, rng=rng)

    def __call__(self, x: Array) -> Array:
        return self.conv(space_to_depth(x, 2))
