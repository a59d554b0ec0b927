"""The vocabulary: what the arrays are, and the three callables that everything is made of.

    Denoiser(x, step) -> eps        UNet of the target domain, predicts the noise in x
    Segmenter(image) -> logits      segmentation network
    Guidance(point) -> gradient     grad log p(labels | image), same shape as x, per image (guidance.py)

Functions are static to jit and weights are operands: a denoiser or segmenter is `Partial(apply, params)`, so new
weights never recompile.

All randomness of an image is `fold_in(fold_in(key(seed), image_id), step)`: no key is carried along a chain, so an
image's result depends neither on its batch nor on its device.
"""

from collections.abc import Callable
from typing import Any

import jax

from sgg_jax.data.dataset import VOID as VOID

Array = jax.Array

Image = Array
"""Clean (or seen) image [B,H,W,3], float32 in [-1,1]."""
NoisyImage = Array
"""`x`: image at a diffusion step [B,H,W,3], float32, unbounded."""
Labels = Array
"""[B,H,W] int32 train ids, VOID where no class is known."""
Logits = Array
"""[B,H,W,C] float32."""
StepIndex = Array
"""[B] int32 in [0, N): index of the noise level, 0 is the least noisy; [1] where all images are at the same."""
Params = Any
"""Weights: a nested dict of arrays."""
Batch = dict[str, Any]
"""Arrays of one batch by name: `image` uint8, `labels` uint8, `image_id` int32."""

Denoiser = Callable[[NoisyImage, StepIndex], NoisyImage]
Segmenter = Callable[[Image], Logits]
Features = Callable[[Image], Array]
"""What images look like as wholes: [B,H,W,3] -> [B,D] float32."""


def to_float(image: Array) -> Image:
    """uint8 0..255 -> float32 in [-1,1]."""
    return image.astype("float32") / 127.5 - 1.0


def image_keys(seed: Array, image_id: Array) -> Array:
    """One key per image: fold_in(key(seed), id). [], [B] -> [B] keys."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(image_id)
