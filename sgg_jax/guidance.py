"""Semantic-gradient guidance: how a segmentation network pulls a reverse step towards the labels.

Source: Peng, Hu, Ke, Liu, "Diffusion-based Image Translation with Label Guidance for Domain Adaptive Semantic
Segmentation", ICCV 2023. A guidance returns grad log p(labels | image), so that *adding* scale * Sigma * gradient to
the mean of a reverse step *descends* the cross-entropy. (The formulas as printed add the gradient of the
cross-entropy itself, which would ascend it.) Log-likelihoods are summed over pixels and images: an image's gradient
is then the same alone and in any batch.

A variant is one pure function Point -> gradient and one line in VARIANTS; wrappers take a guidance and return one, and
are cached so that equal arguments give the same function object, which jit compiles once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from sgg_jax.losses import log_probability
from sgg_jax.schedule import Step, predict_image
from sgg_jax.types import VOID, Array, Denoiser, Image, Labels, Logits, NoisyImage, Segmenter


@partial(jax.tree_util.register_dataclass, data_fields=["image", "label", "count"], meta_fields=[])
@dataclass(frozen=True)
class Pairs:
    """The (image, class) pairs that are present in a batch of labels, packed into n microbatches of M."""

    image: Array  # [n,M] int32, index in the batch
    label: Array  # [n,M] int32 train id; -1 in unused places
    count: Array  # int32 [], microbatches in use


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["seen", "x", "eps", "row", "push", "turn", "labels", "pairs", "fill", "denoiser", "segmenter"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Point:
    """Where a chain stands at one reverse step, and all that a guidance may look at."""

    seen: Image  # [B,H,W,3], what the segmenter looks at: guidances take their gradient HERE; starts as x
    x: NoisyImage  # [B,H,W,3], the chain's x_k
    eps: Array  # [B,H,W,3], the noise predicted at x_k
    row: Step  # constants of this reverse step
    push: Array  # float32 [], by how much of a gradient the sampler moves x_{k-1}: Sigma, for the paper's
    turn: Array  # int32 [], guidances that are due after this one: 0 is the last
    labels: Labels  # [B,H,W]
    pairs: Pairs  # present (image, class) pairs of the labels
    fill: Array  # float32 [], what hides the other classes from LCG; 0 is mid-grey
    denoiser: Denoiser
    segmenter: Segmenter


Guidance = Callable[[Point], Array]
"""Point -> grad log p(labels | image) [B,H,W,3]."""


def log_likelihood(logits: Logits, labels: Labels) -> Array:
    """log p(labels | image) = -CE, summed over images and all pixels that are not VOID. float32 []."""
    return jnp.sum(log_probability(logits, labels))


def present_pairs(labels: Labels, classes: int, microbatch: int) -> Pairs:
    """All (image, class) pairs with at least one pixel, sorted by image; [B,H,W] -> Pairs of ceil(B*C/M) microbatches.

    How many are used is data: the loop over them runs `count` times, so absent classes cost nothing.
    """
    batch = labels.shape[0]
    present = jax.vmap(lambda c: (labels == c).any((1, 2)), out_axes=1)(jnp.arange(classes)).reshape(-1)  # [B*C]
    order = jnp.argsort(~present, stable=True)
    label = jnp.where(present[order], order % classes, -1)
    rows = -(-batch * classes // microbatch)
    padding = (0, rows * microbatch - batch * classes)
    return Pairs(
        image=jnp.pad(order // classes, padding).reshape(rows, microbatch).astype(jnp.int32),
        label=jnp.pad(label, padding, constant_values=-1).reshape(rows, microbatch).astype(jnp.int32),
        count=(-(-present.sum() // microbatch)).astype(jnp.int32),
    )


def unguided(point: Point) -> Array:
    """No guidance: plain SDEdit."""
    return jnp.zeros_like(point.x)


def global_scene(point: Point) -> Array:
    """GSG, global scene-harmonious guidance: the gradient of log p(labels | whole image)."""
    return jax.grad(lambda image: log_likelihood(point.segmenter(image), point.labels))(point.seen)


def local_class(point: Point) -> Array:
    """LCG, local class-regional guidance: for every present class c, log p(c | image with all else hidden) over c's
    pixels.

    Each term depends on the image only inside its own region and the regions are disjoint, so the printed sum over
    classes m_c * (mu + s * grad_c) is mu + s * (sum of the masked gradients), and one VJP serves a microbatch of
    (image, class) pairs. Void pixels lie in no region and are not moved.
    """

    def add_microbatch(j: Array, gradient: Array) -> Array:
        image, label = point.pairs.image[j], point.pairs.label[j][:, None, None]  # [M], [M,1,1]
        region = point.labels[image] == label  # [M,H,W]; empty where label is -1
        labels = jnp.where(region, label, VOID)
        hidden = jnp.where(region[..., None], point.seen[image], point.fill)  # m_c * x for fill 0
        slope = jax.grad(lambda masked: log_likelihood(point.segmenter(masked), labels))(hidden)
        return gradient.at[image].add(jnp.where(region[..., None], slope, 0.0))

    return jax.lax.fori_loop(0, point.pairs.count, add_microbatch, jnp.zeros_like(point.seen))


@cache
def alternate(mostly: Guidance, at_times: Guidance, every: int = 2) -> Guidance:
    """One guidance at a time: the second one every so many turns, but not in the last one."""

    def guide(point: Point) -> Array:
        return jax.lax.cond(point.turn % every == every - 1, at_times, mostly, point)

    return guide


def semantic_gradients(lcg_every: int = 2) -> Guidance:
    """SGG: GSG, and LCG every so many turns; 2 in the paper."""
    return alternate(global_scene, local_class, lcg_every)


VARIANTS: dict[str, Guidance] = {
    "none": unguided,
    "gsg": global_scene,
    "lcg": local_class,
    "sgg": semantic_gradients(),
}
GUIDING = tuple(name for name in VARIANTS if name != "none")


@cache
def where_it_moves(guidance: Guidance) -> Guidance:
    """No gradient where the sampler would not move x by it: in the last ancestral step, whose Sigma is 0. Costs no pass
    there."""

    def guide(point: Point) -> Array:
        return jax.lax.cond(point.push > 0, guidance, unguided, point)

    return guide


def at_noisy(guidance: Guidance) -> Guidance:
    """The segmenter looks at x_k itself, as in the paper."""
    return guidance


@cache
def at_denoised(guidance: Guidance) -> Guidance:
    """The segmenter looks at x0-hat with the noise estimate held: d x0-hat / dx = 1 / sqrt(alpha-bar)."""

    def guide(point: Point) -> Array:
        seen = predict_image(point.row, point.x, point.eps)
        return guidance(replace(point, seen=seen)) * point.row.inverse_scale

    return guide


@cache
def through_denoiser(guidance: Guidance) -> Guidance:
    """The segmenter looks at x0-hat and the gradient runs through the denoiser too (one more denoiser VJP a step).

    The denoiser mixes pixels, so with LCG a class's term also moves other regions and void pixels: the gradient is that
    of the sum over classes, not the sum of gradients cut to their regions.
    """

    def guide(point: Point) -> Array:
        step = point.row.step[None]
        seen, pull_back = jax.vjp(lambda x: predict_image(point.row, x, point.denoiser(x, step)), point.x)
        return pull_back(guidance(replace(point, seen=seen)))[0]

    return guide


LOOKS: dict[str, Callable[[Guidance], Guidance]] = {
    "noisy": at_noisy,
    "denoised": at_denoised,
    "through_denoiser": through_denoiser,
}


def noise_ratio(push: Array, gradient: Array) -> Array:
    """rms(Sigma * gradient) / sigma of each image: how far guidance moves the mean, in units of the noise. [B]

    push: Sigma of the ancestral step. A sampler without noise has one that moves x as far, and it is measured by that.
    """
    return jnp.sqrt(push * jnp.mean(jnp.square(gradient), axis=(1, 2, 3)))


@cache
def blurred(guidance: Guidance, sigma: float) -> Guidance:
    """The gradient smoothed by a Gaussian of `sigma` pixels, reflected at the borders.

    Regions are larger than the pixel patterns that fool a network: a smooth gradient moves what people see.
    """

    def guide(point: Point) -> Array:
        gradient = guidance(point)
        rows, columns = (jnp.asarray(_smoothing(size, sigma)) for size in gradient.shape[1:3])
        return jnp.einsum("yh,bhwc,xw->byxc", rows, gradient, columns)

    return guide


def _smoothing(size: int, sigma: float) -> np.ndarray:
    """Gaussian weights with reflection, a symmetric matrix whose rows sum to 1. [size,size] float32."""
    here, radius = np.arange(size), int(np.ceil(4 * sigma))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * np.square(offsets / sigma))
    there = (here[:, None] + offsets) % (2 * size)
    there = np.where(there < size, there, 2 * size - 1 - there)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (here[:, None], there), weights / weights.sum())
    return matrix.astype(np.float32)


@cache
def muted(guidance: Guidance, chroma: float) -> Guidance:
    """The gradient with `chroma` of its colour: 0 moves brightness alone, so no guide can paint its colours."""

    def guide(point: Point) -> Array:
        gradient = guidance(point)
        grey = gradient.mean(-1, keepdims=True)
        return grey + chroma * (gradient - grey)

    return guide


@cache
def normalized(guidance: Guidance) -> Guidance:
    """Each image's gradient scaled to a noise ratio of 1: then `scale` *is* the ratio, at any step and image size."""

    def guide(point: Point) -> Array:
        gradient = guidance(point)
        ratio = noise_ratio(point.push, gradient)[:, None, None, None]
        return jnp.where(ratio > 0, gradient / jnp.where(ratio > 0, ratio, 1.0), 0.0)

    return guide


@cache
def clipped(guidance: Guidance, limit: float) -> Guidance:
    """Each image's gradient shrunk where its noise ratio (before `scale`) exceeds `limit`."""

    def guide(point: Point) -> Array:
        gradient = guidance(point)
        ratio = noise_ratio(point.push, gradient)[:, None, None, None]
        return gradient * jnp.minimum(1.0, limit / jnp.maximum(ratio, limit))

    return guide


@cache
def interval(guidance: Guidance, low: int, high: int) -> Guidance:
    """Guides only at steps low <= k < high of the whole process; the others cost no segmenter pass."""

    def guide(point: Point) -> Array:
        inside = (point.row.step >= low) & (point.row.step < high)
        return jax.lax.cond(inside, guidance, unguided, point)

    return guide
