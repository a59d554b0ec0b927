"""Blocks of OpenAI's guided-diffusion (Dhariwal & Nichol 2021), equal to theirs to rounding; NHWC."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from sgg_jax.models.convolutions import AtrousConv
from sgg_jax.models.layers import Conv, Linear, Rng, Upsample
from sgg_jax.models.operations import Array, attend, channel_mean, repeat_pixels


def average_pool(x: Array) -> Array:
    """Mean of each 2x2 block of pixels. [B,H,W,C] -> [B,H/2,W/2,C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


RESIZE = {"down": average_pool, "up": repeat_pixels}


class GroupNorm(nnx.Module):
    """GroupNorm of 32 groups (Wu & He 2018) in float32, optionally modulated by (scale, shift), each [B,C].

    The variance is the mean of squared deviations: trained networks have channels whose mean is far from zero, where
    the difference of moments (`layers.GroupNorm`) loses digits: an error of 4e-4 at a mean of 30 deviations, here 3e-6.
    """

    def __init__(self, channels: int):
        if channels % 32:
            raise ValueError(f"{channels} channels do not divide into the 32 groups of ADM's norms")
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))

    def __call__(self, x: Array, modulation: tuple[Array, Array] | None = None) -> Array:
        wide = x.astype(jnp.float32)

        def group_mean(values: Array) -> Array:  # [B,H,W,C] -> [B,1,1,C], equal within a group
            means = channel_mean(values).reshape(-1, 32, values.shape[-1] // 32).mean(-1)
            return jnp.repeat(means, values.shape[-1] // 32, axis=1)[:, None, None]

        mean = group_mean(wide)
        gain = lax.rsqrt(group_mean(jnp.square(wide - mean)) + 1e-5) * self.scale[...]
        offset = self.bias[...] - mean * gain
        if modulation is not None:
            scale, shift = (part[:, None, None] for part in modulation)
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        return (wide * gain + offset).astype(x.dtype)


class ResBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))) with the time embedding in its middle. [B,H,W,C], [B,E] -> [B,H,W,C'].

    direction: "down" halves the size before the first convolution, "up" doubles it, "" keeps it. scale_shift_norm: the
    embedding scales and shifts the second norm (AdaGN); otherwise it is added before that norm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        direction: str = "",
        embedding: int,
        scale_shift_norm: bool,
        dtype: str,
        rng: Rng,
    ):
        self.direction, self.scale_shift_norm = direction, scale_shift_norm
        self.norm1 = GroupNorm(inputs)
        first: type[Conv] = Upsample if direction == "up" else Conv
        self.conv1 = first(inputs, outputs, 3, dtype=dtype, rng=rng)
        self.modulation = Linear(embedding, (2 if scale_shift_norm else 1) * outputs, rng=rng)
        self.norm2 = GroupNorm(outputs)
        self.conv2 = Conv(outputs, outputs, 3, dtype=dtype, rng=rng, gain=0.0)
        self.skip = None if inputs == outputs else Conv(inputs, outputs, 1, dtype=dtype, rng=rng)

    def __call__(self, x: Array, embedding: Array) -> Array:
        h = jax.nn.silu(self.norm1(x))
        if self.direction == "down":
            h = average_pool(h)
        h = self.conv1(h)
        if self.direction:
            x = RESIZE[self.direction](x)
        modulation = self.modulation(jax.nn.silu(embedding))
        if self.scale_shift_norm:
            scale, shift = jnp.split(modulation, 2, axis=-1)
            h = self.norm2(h, (scale, shift))
        else:
            h = self.norm2(h + modulation[:, None, None].astype(h.dtype))
        h = self.conv2(jax.nn.silu(h))
        return h + (x if self.skip is None else self.skip(x))


class Attention(nnx.Module):
    """x + multi-head self-attention over all positions, softmax in float32. [B,H,W,C] -> [B,H,W,C].

    heads: how many; where 0, each has head_channels. new_order: of the channels of `qkv`, queries of all heads come
    first, then keys, then values (QKVAttention); otherwise those of one head follow each other (QKVAttentionLegacy).
    kernel: "xla", or "cudnn" for flash attention on a GPU.
    """

    def __init__(
        self, channels: int, *, heads: int, head_channels: int, new_order: bool, kernel: str, dtype: str, rng: Rng
    ):
        if channels % (heads or head_channels):
            parts = f"{heads} attention heads" if heads else f"attention heads of {head_channels}"
            raise ValueError(f"{channels} channels do not divide into {parts}")
        if kernel not in ("xla", "cudnn"):
            raise ValueError(f"attention_kernel is {kernel!r}; it is one of xla, cudnn")
        self.heads, self.new_order = heads or channels // head_channels, new_order
        self.flash = kernel == "cudnn"
        size = channels // self.heads
        if self.flash and (dtype == "float32" or size % 8 or size > 256):
            raise ValueError(
                "attention_kernel 'cudnn' takes 16-bit numbers and heads of a multiple of 8 channels, 256 at most; "
                f"dtype is {dtype!r} and heads have {size} channels"
            )
        self.norm = GroupNorm(channels)
        self.qkv = Conv(channels, 3 * channels, 1, dtype=dtype, rng=rng)
        self.out = Conv(channels, channels, 1, dtype=dtype, rng=rng, gain=0.0)

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        order = (3, self.heads) if self.new_order else (self.heads, 3)
        qkv = self.qkv(self.norm(x)).reshape(b, h * w, *order, c // self.heads)
        q, k, v = jnp.moveaxis(qkv, 2 if self.new_order else 3, 0)
        return x + self.out(attend(q, k, v, "cudnn" if self.flash else "xla").reshape(b, h, w, c))


class Resize(nnx.Module):
    """Half ("down") or twice ("up") the size, with a 3x3 convolution where `learned`. [B,H,W,C] -> [B,H',W',C].

    Down is the convolution at stride 2, or else an average; up repeats pixels and then convolves.
    """

    def __init__(self, channels: int, *, direction: str, learned: bool, dtype: str, rng: Rng):
        self.direction = direction
        kind: type[Conv] = AtrousConv if direction == "down" else Upsample
        self.conv = kind(channels, channels, 3, dtype=dtype, rng=rng) if learned else None

    def __call__(self, x: Array) -> Array:
        if self.conv is None:
            return RESIZE[self.direction](x)
        return self.conv(x, stride=2) if isinstance(self.conv, AtrousConv) else self.conv(x)
