"""Mix Transformer (MiT), the encoder of SegFormer (Xie et al. 2021, arXiv 2105.15203).

Published networks drop blocks at random while they train (stochastic depth) and never otherwise. Here no block is
dropped, so training and evaluation are the same function.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from sgg_jax.models.layers import Conv, Rng, lecun_normal
from sgg_jax.models.operations import Array, AttentionKernel, attend

_WIDE = {"widths": (64, 128, 320, 512)}
_COMMON = {"heads": (1, 2, 5, 8), "reductions": (8, 4, 2, 1), "mlp_ratios": (4, 4, 4, 4)}
VARIANTS = {
    "b0": {"widths": (32, 64, 160, 256), "depths": (2, 2, 2, 2), **_COMMON},
    "b1": {**_WIDE, "depths": (2, 2, 2, 2), **_COMMON},
    "b2": {**_WIDE, "depths": (3, 4, 6, 3), **_COMMON},
    "b3": {**_WIDE, "depths": (3, 4, 18, 3), **_COMMON},
    "b4": {**_WIDE, "depths": (3, 8, 27, 3), **_COMMON},
    "b5": {**_WIDE, "depths": (3, 6, 40, 3), **_COMMON},
}
"""Options of the published encoders: Table 6 of the paper."""

EMBEDDINGS = ((7, 4), (3, 2), (3, 2), (3, 2))
"""Kernel size and stride of the four overlapping patch embeddings."""


def patches(x: Array, size: int, stride: int) -> Array:
    """Windows of size x size pixels as channels, row by row. [B,H,W,C] -> [B,h,w,size*size*C].

    A product with them is a strided convolution. Its input gradient takes about half the time of lax's own inside a
    loop on XLA:CPU (15 ms for 25 at [2,32,64,64] -> 128 channels, 3x3/2; 15 for 32 at [2,16,32,128] -> 320; 4.4 for
    7.8 with 8x8/8), the forward pass about the same.
    """
    for axis in (2, 1):
        reach = (x.shape[axis] - size) // stride * stride + 1
        x = jnp.concatenate([lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(size)], -1)
    return x


def _depthwise(x: Array, kernel: Array, dilation: int) -> Array:
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    shifted = [padded[:, i * dilation :, j * dilation :][:, :height, :width] * kernel[i, j, 0] for i, j in taps]
    return sum(shifted[1:], shifted[0]).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(x: Array, kernel: Array, dilation: int) -> Array:
    """3x3 SAME convolution of each channel by itself, summed in float32. [B,H,W,C], [3,3,1,C] float32 -> [B,H,W,C].

    Nine shifted products, and as many for the input gradient: on XLA:CPU lax's grouped convolution takes 106 ms for
    4 at [2,32,64,256] forward, and 120 ms for 37 with the input gradient in a loop (163 where JAX derives it from the
    products). Reverse-mode only.
    """
    return _depthwise(x, kernel, dilation)


def _depthwise_forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel, dilation), (x, kernel)


def _depthwise_backward(dilation: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dx = _depthwise(g, jnp.flip(kernel, (0, 1)), dilation)
    dkernel = jax.linear_transpose(lambda k: _depthwise(x, k, dilation), kernel)(g)[0]
    return dx, dkernel


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


class DepthwiseConv(nnx.Module):
    """3x3 SAME convolution of each channel by itself, with bias."""

    def __init__(self, channels: int, dilation: int = 1, *, dtype: str, rng: Rng):
        self.kernel = nnx.Param(lecun_normal(rng, (3, 3, 1, channels)))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.dilation, self.dtype = dilation, dtype

    def __call__(self, x: Array) -> Array:
        return depthwise_conv(x.astype(self.dtype), self.kernel[...], self.dilation) + self.bias[...].astype(self.dtype)


class StridedConv(nnx.Module):
    """Convolution of `size` and `stride` over `padding` zeros, with bias."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, padding: int, *, dtype: str, rng: Rng):
        self.kernel = nnx.Param(lecun_normal(rng, (size, size, inputs, outputs)))
        self.bias = nnx.Param(np.zeros(outputs, np.float32))
        self.size, self.stride, self.padding, self.dtype = size, stride, padding, dtype

    def __call__(self, x: Array) -> Array:
        around = (self.padding, self.padding)
        windows = patches(jnp.pad(x.astype(self.dtype), ((0, 0), around, around, (0, 0))), self.size, self.stride)
        kernel = self.kernel[...].astype(self.dtype)
        return windows @ kernel.reshape(-1, kernel.shape[-1]) + self.bias[...].astype(self.dtype)


class LayerNorm(nnx.Module):
    """LayerNorm over channels (Ba et al. 2016), in float32."""

    def __init__(self, channels: int, epsilon: float):
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        inverse = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        return (centred * inverse * self.scale[...] + self.bias[...]).astype(x.dtype)


class Reduction(nnx.Module):
    """Each whole square of `size` x `size` places to one, normed. [B,H,W,C] -> [B,H//size,W//size,C]."""

    def __init__(self, channels: int, size: int, *, dtype: str, rng: Rng):
        self.conv = StridedConv(channels, channels, size, size, 0, dtype=dtype, rng=rng)
        self.norm = LayerNorm(channels, 1e-5)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.conv(x))


class EfficientAttention(nnx.Module):
    """Self-attention whose keys and values come from a reduced map (Section 3.1); softmax in float32.

    [B,H,W,C] -> [B,H,W,C].
    """

    def __init__(self, channels: int, heads: int, reduction: int, *, kernel: AttentionKernel, dtype: str, rng: Rng):
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} attention heads")
        if kernel not in ("xla", "cudnn"):
            raise ValueError(f"attention_kernel is {kernel!r}; it is one of xla, cudnn")
        if kernel == "cudnn" and dtype == "float32":
            raise ValueError("attention_kernel 'cudnn' computes in bfloat16 only, and dtype is 'float32'")
        self.heads, self.kernel = heads, kernel
        self.q = Conv(channels, channels, 1, dtype=dtype, rng=rng)
        self.kv = Conv(channels, 2 * channels, 1, dtype=dtype, rng=rng)
        self.out = Conv(channels, channels, 1, dtype=dtype, rng=rng)
        self.reduce = Reduction(channels, reduction, dtype=dtype, rng=rng) if reduction > 1 else None

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        memory = x if self.reduce is None else self.reduce(x)
        q = self.q(x).reshape(b, h * w, self.heads, c // self.heads)
        kv = self.kv(memory).reshape(b, -1, 2, self.heads, c // self.heads)
        mixed = attend(q, kv[:, :, 0], kv[:, :, 1], self.kernel)
        return self.out(mixed.reshape(b, h, w, c))


class MixFFN(nnx.Module):
    """linear(gelu(depthwise 3x3(linear(x)))): zero padding at the border tells places apart, without a positional
    encoding (Section 3.1). [B,H,W,C] -> [B,H,W,C]."""

    def __init__(self, channels: int, hidden: int, *, dtype: str, rng: Rng):
        self.widen = Conv(channels, hidden, 1, dtype=dtype, rng=rng)
        self.mix = DepthwiseConv(hidden, dtype=dtype, rng=rng)
        self.narrow = Conv(hidden, channels, 1, dtype=dtype, rng=rng)

    def __call__(self, x: Array) -> Array:
        return self.narrow(jax.nn.gelu(self.mix(self.widen(x)), approximate=False))


class Block(nnx.Module):
    """Pre-norm transformer block: x + attention(norm1(x)), then x + ffn(norm2(x)). [B,H,W,C] -> [B,H,W,C]."""

    def __init__(
        self,
        channels: int,
        heads: int,
        reduction: int,
        mlp_ratio: int,
        *,
        epsilon: float,
        attention_kernel: AttentionKernel,
        dtype: str,
        rng: Rng,
    ):
        self.norm1 = LayerNorm(channels, epsilon)
        self.attention = EfficientAttention(channels, heads, reduction, kernel=attention_kernel, dtype=dtype, rng=rng)
        self.norm2 = LayerNorm(channels, epsilon)
        self.ffn = MixFFN(channels, mlp_ratio * channels, dtype=dtype, rng=rng)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Stage(nnx.Module):
    """Overlapping patch embedding, blocks, norm. [B,H,W,inputs] -> [B,ceil(H/stride),ceil(W/stride),outputs]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: tuple[int, int],
        blocks: list[Block],
        *,
        epsilon: float,
        remat: bool,
        dtype: str,
        rng: Rng,
    ):
        size, stride = embedding
        self.embed = StridedConv(inputs, outputs, size, stride, size // 2, dtype=dtype, rng=rng)
        self.embed_norm = LayerNorm(outputs, 1e-5)
        self.blocks = nnx.List(blocks)
        self.norm = LayerNorm(outputs, epsilon)
        self.remat = remat

    def __call__(self, x: Array) -> Array:
        x = self.embed_norm(self.embed(x))
        for block in self.blocks:
            x = jax.checkpoint(block)(x) if self.remat else block(x)
        return self.norm(x)


class MixTransformer(nnx.Module):
    """[B,H,W,3], normalised -> maps at 1/4, 1/8, 1/16 and 1/32 of its size, rounded up, in `dtype`.

    widths, depths, heads, reductions, mlp_ratios: channels, blocks, attention heads, sequence reduction and ratio of
    the hidden layer of each stage. H and W are at least `smallest`, where each reduction still has one square.
    epsilon: of the norms of blocks and stages; those of embeddings and reductions have 1e-5 in every publication.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        reductions: tuple[int, ...],
        mlp_ratios: tuple[int, ...],
        epsilon: float = 1e-6,
        attention_kernel: AttentionKernel = "xla",
        remat: bool = False,
        dtype: str = "float32",
        rng: Rng,
    ):
        if {len(row) for row in (widths, depths, heads, reductions, mlp_ratios)} != {len(EMBEDDINGS)}:
            raise ValueError("widths, depths, heads, reductions and mlp_ratios have one number for each of four stages")
        strides = np.cumprod([stride for _, stride in EMBEDDINGS])
        self.smallest = max(int(s) * (r - 1) + 1 for s, r in zip(strides, reductions, strict=True))
        rows = list(zip(widths, heads, reductions, mlp_ratios, strict=True))

        def stage(level: int) -> Stage:
            common: dict[str, Any] = {"epsilon": epsilon, "dtype": dtype, "rng": rng}
            blocks = [Block(*rows[level], attention_kernel=attention_kernel, **common) for _ in range(depths[level])]
            return Stage((3, *widths)[level], widths[level], EMBEDDINGS[level], blocks, remat=remat, **common)

        self.stages = nnx.List([stage(level) for level in range(len(rows))])

    def __call__(self, x: Array) -> list[Array]:
        height, width = x.shape[1:3]
        if min(height, width) < self.smallest:
            raise ValueError(
                f"image size {height}x{width} is too small: the encoder takes {self.smallest} pixels or more"
            )
        return [x := stage(x) for stage in self.stages]
