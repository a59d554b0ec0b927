"""Small networks and scenes with known properties, for the tests of guidance, sampling and translation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sgg_jax.guidance import Pairs, Point, present_pairs
from sgg_jax.models.operations import conv2d
from sgg_jax.schedule import NoiseSchedule, linear, respace
from sgg_jax.types import VOID

CLASSES = 5


def _mixing(params, image):
    hidden = jnp.tanh(conv2d(image, params["a"]))
    hidden = jnp.tanh(conv2d(hidden, params["b"]) + hidden.mean((1, 2), keepdims=True))  # sees the whole image
    return hidden @ params["c"]


def _pixelwise(params, image):
    return jnp.tanh(image @ params["a"]) @ params["c"]


def mixing_segmenter(seed: int = 0):
    """Logits of every pixel depend on the whole image."""
    a, b, c = (jax.random.key(3 * seed + i) for i in range(3))
    params = {
        "a": jax.random.normal(a, (3, 3, 3, 8)) / 3,
        "b": jax.random.normal(b, (3, 3, 8, 8)) / 5,
        "c": jax.random.normal(c, (8, CLASSES)),
    }
    return Partial(_mixing, params)


def pixelwise_segmenter():
    """A 1x1 network: logits of a pixel depend on that pixel alone."""
    a, c = jax.random.split(jax.random.key(7))
    return Partial(_pixelwise, {"a": jax.random.normal(a, (3, 8)), "c": jax.random.normal(c, (8, CLASSES))})


def _shrinking(params, x, step):
    return jnp.tanh(params["w"] * conv2d(x, params["k"])) * (1 + step[:, None, None, None] / 1000)


def smooth_denoiser(seed: int = 0):
    """A nonlinear denoiser with a spatial kernel that looks at the step."""
    kernel = jax.random.normal(jax.random.key(seed), (3, 3, 3, 3)) / 5
    return Partial(_shrinking, {"w": jnp.float32(0.8), "k": kernel})


def labels(batch: int = 3, height: int = 8, width: int = 12, seed: int = 0, void: float = 0.1) -> jax.Array:
    """Blocky label maps; every image lacks some class (class 4 is in none), some pixels are void."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, CLASSES - 1, (batch, height // 4, width // 4))
    found = np.repeat(np.repeat(blocks, 4, 1), 4, 2).astype(np.int32)
    found[rng.random(found.shape) < void] = VOID
    return jnp.asarray(found)


def point(segmenter, given: jax.Array, *, microbatch: int = 4, fill: float = 0.0, k: int = 300, seed: int = 0) -> Point:
    """A point in the middle of a chain, at index 5 of a respaced schedule that ends at step k."""
    schedule = respace(linear(1000), k + 1, 6)
    x = jax.random.normal(jax.random.key(seed), (*given.shape, 3))
    row = schedule.row(5)
    denoiser = smooth_denoiser()
    eps = denoiser(x, jnp.broadcast_to(row.step, x.shape[:1]))
    return Point(
        seen=x,
        x=x,
        eps=eps,
        row=row,
        push=row.variance,
        turn=row.index,
        labels=given,
        pairs=pairs(given, microbatch),
        fill=jnp.float32(fill),
        denoiser=denoiser,
        segmenter=segmenter,
    )


def pairs(given: jax.Array, microbatch: int = 4) -> Pairs:
    return present_pairs(given, CLASSES, microbatch)


def short_schedule(depth: int = 400, steps: int = 6) -> NoiseSchedule:
    return respace(linear(1000), depth, steps)


def check_table(links):
    """No two links make one weight, or read one tensor."""
    for side in ("ours", "theirs"):
        names = [name for link in links for name in getattr(link, side)]
        assert len(set(names)) == len(names), side
