"""ADM, the UNet of OpenAI's guided-diffusion (Dhariwal & Nichol 2021, arXiv 2105.05233), for its published weights."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sgg_jax.models.adm_blocks import Attention, GroupNorm, ResBlock, Resize
from sgg_jax.models.layers import Conv, Linear, Rng, lecun_normal
from sgg_jax.models.operations import Array
from sgg_jax.models.unet import step_features

RESAMPLE = ("block", "conv", "plain")


class Layer(NamedTuple):
    kind: str  # "block", "attention", "conv" or "plain"
    inputs: int
    outputs: int
    direction: str = ""  # "down" and "up" change the size


Rows = list[list[Layer]]


def layout(widths: tuple[int, ...], blocks: int, attention: tuple[int, ...], resample: str) -> tuple[Rows, Rows, Rows]:
    """Layers of the way down, of the one row between, and of the way up; options as in `ADM`.

    The stem and each row down leave a map. Each row up takes one back, the last first.
    """
    channels, skips = widths[0], [widths[0]]
    down: Rows = []
    up: Rows = []

    def row(inputs: int, level: int) -> list[Layer]:
        width = widths[level]
        attend = [Layer("attention", width, width)] if 2**level in attention else []
        return [Layer("block", inputs, width), *attend]

    for level, width in enumerate(widths):
        for _ in range(blocks):
            down.append(row(channels, level))
            skips.append(channels := width)
        if level < len(widths) - 1:
            down.append([Layer(resample, width, width, "down")])
            skips.append(width)
    block = Layer("block", channels, channels)
    middle = [[block, Layer("attention", channels, channels), block]]
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(blocks + 1):
            up.append(row(channels + skips.pop(), level))
            channels = width
        if level:
            up[-1].append(Layer(resample, width, width, "up"))
    return down, middle, up


class ADM(nnx.Module):
    """eps_theta: (x [B,H,W,3] float32, step [B] int32) -> predicted noise [B,H,W,3] float32.

    channels: sinusoidal features of the step, a quarter of the embedding's; widths: channels of each resolution, each
    half the one before; blocks: residual blocks at each, on the way down (one more on the way up); attention: by how
    much resolutions with self-attention are downsampled, as (8, 16, 32); the bottleneck always has it. heads: attention
    heads of every layer; where 0, heads have head_channels each. new_attention_order: see `Attention`. resample: sizes
    change in residual "block"s, in "conv"olutions or "plain"ly, by averaging and repeating. scale_shift_norm: see
    `ResBlock`. learn_sigma: the network predicts variances too (`with_variance`). classes: of a class-conditional
    network, of which `label` is the one for all images. remat: layers are computed again for their gradients.

    H and W must be multiples of `stride`.
    """

    def __init__(
        self,
        *,
        channels: int,
        widths: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        heads: int = 0,
        head_channels: int = 64,
        new_attention_order: bool = False,
        resample: str = "block",
        scale_shift_norm: bool = True,
        learn_sigma: bool = True,
        classes: int = 0,
        label: int = -1,
        attention_kernel: str = "xla",
        remat: bool = False,
        dtype: str = "float32",
        rng: Rng,
    ):
        self.stride = 2 ** (len(widths) - 1)
        if resample not in RESAMPLE:
            raise ValueError(f"resample is {resample!r}; it is one of {', '.join(RESAMPLE)}")
        factors = [2**level for level in range(len(widths))]
        if not set(attention) <= set(factors):
            raise ValueError(f"attention is {attention}; resolutions are downsampled by {factors}")
        if classes and not -1 <= label < classes:
            raise ValueError(f"label is {label}; the network has {classes} classes, from 0 on")
        self.features, self.learn_sigma, self.label, self.remat = channels, learn_sigma, label, remat
        self.blocks = blocks

        block = partial(ResBlock, embedding=4 * channels, scale_shift_norm=scale_shift_norm, dtype=dtype, rng=rng)
        attend = partial(
            Attention,
            heads=heads,
            head_channels=head_channels,
            new_order=new_attention_order,
            kernel=attention_kernel,
            dtype=dtype,
            rng=rng,
        )

        def made(layer: Layer) -> nnx.Module:
            if layer.kind == "block":
                return block(layer.inputs, layer.outputs, direction=layer.direction)
            if layer.kind == "attention":
                return attend(layer.inputs)
            return Resize(layer.inputs, direction=layer.direction, learned=layer.kind == "conv", dtype=dtype, rng=rng)

        def rows(part: Rows) -> nnx.List:
            return nnx.List([nnx.List([made(layer) for layer in row]) for row in part])

        self.embed1 = Linear(channels, 4 * channels, rng=rng)
        self.embed2 = Linear(4 * channels, 4 * channels, rng=rng)
        self.labels = nnx.Param(lecun_normal(rng, (classes, 4 * channels))) if classes else None
        self.stem = Conv(3, widths[0], 3, dtype=dtype, rng=rng)
        down, middle, up = layout(widths, blocks, attention, resample)
        self.down, self.middle, self.up = rows(down), rows(middle)[0], rows(up)
        self.norm = GroupNorm(widths[0])
        self.out = Conv(widths[0], 6 if learn_sigma else 3, 3, dtype="float32", rng=rng, gain=0.0)

    def __call__(self, x: Array, step: Array) -> Array:
        return self.with_deep(x, step)[0]

    def with_deep(self, x: Array, step: Array) -> tuple[Array, Array]:
        """eps, and the map that the lower resolutions hand up, for `on_deep`."""
        outputs, deep = self._predict(x, step)
        return outputs[..., :3], deep

    def on_deep(self, x: Array, step: Array, deep: Array) -> Array:
        """eps by the layers of full resolution alone, on an earlier step's map (DeepCache, Ma et al. 2024)."""
        embedding, skips = self._enter(x, step)
        return self._leave(deep, skips, embedding)[..., :3]

    def with_variance(self, x: Array, step: Array) -> tuple[Array, Array]:
        """eps, and where in log space the variance lies between beta-tilde and beta; both [B,H,W,3] float32.

        Of the second, v' in [-1,1]: sigma^2 = exp(v log beta + (1-v) log beta-tilde), v = (v' + 1) / 2
        (Nichol & Dhariwal 2021, Eq. 15). ValueError where the network does not predict it.
        """
        if not self.learn_sigma:
            raise ValueError("this network predicts no variance: learn_sigma is False")
        eps, variance = jnp.split(self._predict(x, step)[0], 2, axis=-1)
        return eps, variance

    def _predict(self, x: Array, step: Array) -> tuple[Array, Array]:
        """All outputs [B,H,W,3 or 6] float32, and the map from below full resolution."""
        embedding, skips = self._enter(x, step)
        deep = self._below(skips[-1], embedding)
        return self._leave(deep, skips, embedding), deep

    def _enter(self, x: Array, step: Array) -> tuple[Array, list[Array]]:
        """The step's embedding, and the maps of full resolution on the way down."""
        if x.shape[1] % self.stride or x.shape[2] % self.stride:
            raise ValueError(f"image size {x.shape[1]}x{x.shape[2]} is no multiple of the UNet's stride {self.stride}")
        embedding = self.embed2(jax.nn.silu(self.embed1(step_features(step, self.features))))
        if self.labels is not None:
            if self.label < 0:
                raise ValueError("the network is class-conditional: `label` says which class it is to draw")
            embedding = embedding + self.labels[...][self.label]
        skips = [self.stem(x)]
        for row in self.down[: self.blocks]:
            skips.append(self._through(row, skips[-1], embedding))
        return embedding, skips

    def _below(self, h: Array, embedding: Array) -> Array:
        """All lower resolutions, down and up again."""
        skips: list[Array] = []
        for row in self.down[self.blocks :]:
            h = self._through(row, h, embedding)
            skips.append(h)
        h = self._through(self.middle, h, embedding)
        return self._back(self.up[: len(skips)], h, skips, embedding)

    def _leave(self, h: Array, skips: list[Array], embedding: Array) -> Array:
        """Full resolution on the way up, and the output."""
        h = self._back(self.up[-len(skips) :], h, skips, embedding)
        return self.out(jax.nn.silu(self.norm(h.astype(jnp.float32))))

    def _back(self, rows: list[nnx.List], h: Array, skips: list[Array], embedding: Array) -> Array:
        """Rows of the way up; each takes the last of `skips`."""
        for row in rows:
            h = self._through(row, jnp.concatenate([h, skips.pop()], axis=-1), embedding)
        return h

    def _through(self, row: nnx.List, h: Array, embedding: Array) -> Array:
        for layer in row:
            inputs = (h, embedding) if isinstance(layer, ResBlock) else (h,)
            h = jax.checkpoint(layer)(*inputs) if self.remat else layer(*inputs)
        return h
