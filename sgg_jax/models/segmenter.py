"""Encoder-decoder segmentation network for small images."""

import jax.numpy as jnp
from flax import nnx

from sgg_jax.models.layers import Conv, Downsample, GroupNorm, ResBlock, Rng
from sgg_jax.models.operations import Array, depth_to_space, repeat_pixels, space_to_depth


class EncoderDecoder(nnx.Module):
    """g: image [B,H,W,3] float32 in [-1,1] -> logits [B,H,W,classes] float32.

    A UNet-like network: space-to-depth stem of block `patch`, `blocks` residual blocks at each of `widths`
    (resolution halves between them), a decoder of one block each with additive skips, and sub-pixel logits, so that
    every pixel has its own although no layer runs at full resolution. H and W must be multiples of `stride`.
    """

    def __init__(
        self, classes: int, widths: tuple[int, ...], blocks: int, patch: int, *, dtype: str = "float32", rng: Rng
    ):
        self.stride = patch * 2 ** (len(widths) - 1)
        self.patch = patch

        def block(channels: int) -> ResBlock:
            return ResBlock(channels, channels, dtype=dtype, rng=rng)

        self.stem = Conv(3 * patch**2, widths[0], 3, dtype=dtype, rng=rng)
        self.down = nnx.List([nnx.List([block(w) for _ in range(blocks)]) for w in widths])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.shrink = nnx.List([Downsample(a, b, dtype=dtype, rng=rng) for a, b in pairs])
        self.narrow = nnx.List([Conv(b, a, 1, dtype=dtype, rng=rng) for a, b in reversed(pairs)])
        self.up = nnx.List([block(a) for a, _ in reversed(pairs)])
        self.norm = GroupNorm(widths[0])
        self.out = Conv(widths[0], classes * patch**2, 3, dtype=dtype, rng=rng)

    def _encode(self, image: Array) -> tuple[Array, list[Array]]:
        """The deepest map [B,H/stride,W/stride,widths[-1]] and the maps that the decoder adds, shallow first."""
        height, width = image.shape[1:3]
        if height % self.stride or width % self.stride:
            raise ValueError(f"image size {height}x{width} is no multiple of the segmenter's stride {self.stride}")
        h = self.stem(space_to_depth(image, self.patch))
        skips: list[Array] = []
        for level, row in enumerate(self.down):
            for block in row:
                h = block(h)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        return h, skips

    def features(self, image: Array) -> Array:
        """What an image as a whole looks like: the deepest map's mean over its places. -> [B,widths[-1]] float32."""
        return self._encode(image)[0].astype(jnp.float32).mean((1, 2))

    def __call__(self, image: Array) -> Array:
        h, skips = self._encode(image)
        for narrow, block in zip(self.narrow, self.up, strict=True):
            h = block(repeat_pixels(narrow(h)) + skips.pop())
        h = self.out(self.norm(h, silu=True))
        return depth_to_space(h, self.patch).astype(jnp.float32)
