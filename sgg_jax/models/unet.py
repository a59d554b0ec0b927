"""UNet denoiser for small images: residual blocks with scale-shift time conditioning (ADM, Dhariwal & Nichol 2021)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sgg_jax.models.layers import Attention, Conv, Downsample, GroupNorm, Linear, ResBlock, Rng, Upsample
from sgg_jax.models.operations import Array, depth_to_space, space_to_depth


def step_features(step: Array, channels: int) -> Array:
    """Sinusoidal features of the step index (Vaswani et al. 2017; DDPM's period of 10,000). [B] -> [B,channels]."""
    if channels % 2:
        raise ValueError(f"the step's features are sines and cosines, an even number of channels, and not {channels}")
    rates = jnp.asarray(np.exp(-np.log(10_000) * np.arange(channels // 2) / (channels // 2)), jnp.float32)
    angles = step.astype(jnp.float32)[:, None] * rates
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class UNet(nnx.Module):
    """eps_theta: (x [B,H,W,3] float32, step [B] int32) -> predicted noise [B,H,W,3] float32.

    widths: channels of each resolution, from the stem (H/patch) down, halving; blocks: residual blocks at each;
    attention: indices into `widths` where self-attention follows each block (the bottleneck always has one);
    patch: block of the space-to-depth stem, 1 for none. H and W must be multiples of `stride`.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        patch: int,
        *,
        dtype: str = "float32",
        rng: Rng,
    ):
        self.stride = patch * 2 ** (len(widths) - 1)
        self.patch = patch
        self.features = widths[0]
        embedding = 4 * widths[0]
        self.embed1 = Linear(widths[0], embedding, rng=rng)
        self.embed2 = Linear(embedding, embedding, rng=rng)
        self.stem = Conv(3 * patch**2, widths[0], 3, dtype=dtype, rng=rng)

        def block(inputs: int, outputs: int) -> ResBlock:
            return ResBlock(inputs, outputs, embedding=embedding, dtype=dtype, rng=rng)

        def attend(level: int) -> Attention | None:
            return Attention(widths[level], dtype=dtype, rng=rng) if level in attention else None

        skips, channels = [widths[0]], widths[0]
        down: list[nnx.List] = []
        for level, width in enumerate(widths):
            row = []
            for _ in range(blocks):
                row.append(nnx.List([block(channels, width), attend(level)]))
                skips.append(channels := width)
            down.append(nnx.List(row))
        self.down = nnx.List(down)
        self.shrink = nnx.List([Downsample(w, w, dtype=dtype, rng=rng) for w in widths[:-1]])
        self.middle = nnx.List(
            [block(channels, channels), Attention(channels, dtype=dtype, rng=rng), block(channels, channels)]
        )
        up: list[nnx.List] = []
        for level, width in reversed(list(enumerate(widths))):
            row = []
            for _ in range(blocks):
                row.append(nnx.List([block(channels + skips.pop(), width), attend(level)]))
                channels = width
            up.append(nnx.List(row))
        self.up = nnx.List(up)
        self.grow = nnx.List([Upsample(w, w, 3, dtype=dtype, rng=rng) for w in reversed(widths[1:])])
        self.norm = GroupNorm(channels + widths[0])
        self.out = Conv(channels + widths[0], 3 * patch**2, 3, dtype=dtype, rng=rng, gain=0.0)

    def __call__(self, x: Array, step: Array) -> Array:
        return self.with_deep(x, step)[0]

    def with_deep(self, x: Array, step: Array) -> tuple[Array, Array]:
        """The noise, and the map that the lower resolutions hand up, for `on_deep`."""
        embedding, skips = self._enter(x, step)
        deep = self._below(skips[-1], embedding)
        return self._leave(deep, skips, embedding), deep

    def on_deep(self, x: Array, step: Array, deep: Array) -> Array:
        """The noise by the layers of the first resolution alone, on an earlier map (DeepCache, Ma et al. 2024)."""
        embedding, skips = self._enter(x, step)
        return self._leave(deep, skips, embedding)

    def _enter(self, x: Array, step: Array) -> tuple[Array, list[Array]]:
        """The step's embedding, and the maps of the first resolution on the way down."""
        if x.shape[1] % self.stride or x.shape[2] % self.stride:
            raise ValueError(f"image size {x.shape[1]}x{x.shape[2]} is no multiple of the UNet's stride {self.stride}")
        embedding = self.embed2(jax.nn.silu(self.embed1(step_features(step, self.features))))
        embedding = jax.nn.silu(embedding)
        h = self.stem(space_to_depth(x, self.patch))
        return embedding, [h, *self._down(self.down[0], h, embedding)]

    def _below(self, h: Array, embedding: Array) -> Array:
        """All lower resolutions, down and up again: [B,H/patch,W/patch,C] -> the same size."""
        skips: list[Array] = []
        for shrink, row in zip(self.shrink, self.down[1:], strict=True):
            skips += self._down(row, shrink(h), embedding)
            h = skips[-1]
        h = self.middle[2](self.middle[1](self.middle[0](h, embedding)), embedding)
        for row, grow in zip(self.up[:-1], self.grow, strict=True):
            h = grow(self._up(row, h, skips, embedding))
        return h

    def _leave(self, h: Array, skips: list[Array], embedding: Array) -> Array:
        """The first resolution on the way up, and the output."""
        h = self._up(self.up[-1], h, skips, embedding)
        h = self.norm(jnp.concatenate([h, skips.pop()], axis=-1), silu=True)
        return depth_to_space(self.out(h), self.patch).astype(jnp.float32)

    def _down(self, row: nnx.List, h: Array, embedding: Array) -> list[Array]:
        """The map after each of a resolution's blocks."""
        skips = []
        for block, attend in row:
            h = block(h, embedding)
            h = h if attend is None else attend(h)
            skips.append(h)
        return skips

    def _up(self, row: nnx.List, h: Array, skips: list[Array], embedding: Array) -> Array:
        """Blocks of a resolution on the way up; each takes the last of `skips`."""
        for block, attend in row:
            h = block(jnp.concatenate([h, skips.pop()], axis=-1), embedding)
            h = h if attend is None else attend(h)
        return h
