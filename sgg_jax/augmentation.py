"""Random views of training images: one definition for every segmenter, on the device, by key.

Every operation draws per image. Geometry is separable (scale, crop, flip), so images are resampled by two small
matrix products and labels by nearest-neighbour indexing with the same coordinates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sgg_jax.types import VOID, Array, Image, Labels


class Strength(NamedTuple):
    """How strong each operation is; 0 switches it off. All static to jit."""

    flip: bool = True  # mirror left-right with probability 1/2
    scale: float = 0.5  # zoom factor drawn log-uniformly from [1 / (1 + scale / 2), 1 + scale], crop placed at random
    color: float = 0.5  # standard deviation of a random 3x3 colour matrix around the identity
    brightness: float = 0.3  # largest offset added to all channels, in units of [-1,1]
    contrast: float = 0.5  # largest log of the factor around the image's mean
    blur: float = 1.0  # largest standard deviation of a Gaussian blur, pixels
    noise: float = 0.1  # largest standard deviation of added white noise, in units of [-1,1]
    recolor: float = 0.0  # standard deviation of a random colour added to all pixels of one class, class by class
    texture: float = 0.0  # standard deviation of random patterns added to all pixels of one class, class by class
    diffuse: float = 0.0  # largest s of sqrt(1 - s^2) image + s noise, as the steps of diffusion show an image


NONE = Strength(False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""The image as it is."""
PATCHES = (1, 2, 4, 8, 16)
"""Sizes of the patterns of `texture`, pixels."""


def augment(keys: Array, image: Image, labels: Labels, strength: Strength) -> tuple[Image, Labels]:
    """A random view of each image and its labels, by its key. [B], [B,H,W,3], [B,H,W] -> the last two shapes.

    The image stays in [-1,1], but for the noise of `diffuse`. Pixels that a zoom out brings in from outside are
    mid-grey and VOID. Where a number that was computed divides an array, its inverse is multiplied instead: XLA
    divides in one way or another (docs/hosts.md).
    """

    def one(key: Array, image: Array, labels: Array) -> tuple[Array, Array]:
        geometry, color, noise, classes = jax.random.split(key, 4)
        image, labels = warp(geometry, image, labels, strength)
        if strength.recolor:
            image = recolor(classes, image, labels, strength.recolor)
        if strength.texture:
            image = retexture(jax.random.fold_in(classes, 1), image, labels, strength.texture)
        image = photometric(color, image, strength)
        amount = jax.random.uniform(jax.random.fold_in(noise, 0), maxval=strength.noise)
        image = image + amount * jax.random.normal(jax.random.fold_in(noise, 1), image.shape)
        image = jnp.clip(image, -1.0, 1.0)
        if strength.diffuse:
            image = diffused(jax.random.fold_in(noise, 2), image, strength.diffuse)
        return image, labels

    return jax.vmap(one)(keys, image, labels)


def warp(key: Array, image: Array, labels: Array, strength: Strength) -> tuple[Array, Array]:
    """Random flip, zoom and crop of one image [H,W,3] and its labels [H,W]."""
    zoom_key, y_key, x_key, flip_key = jax.random.split(key, 4)
    low, high = -jnp.log(1 + strength.scale / 2), jnp.log(1 + strength.scale)
    shrink = jnp.exp(-jax.random.uniform(zoom_key, minval=low, maxval=high))
    mirrored = strength.flip & jax.random.bernoulli(flip_key)
    height, width = labels.shape
    y, x = _coordinates(y_key, height, shrink), _coordinates(x_key, width, shrink)
    x = jnp.where(mirrored, width - 1 - x, x)
    inside = _inside(y, height)[:, None] & _inside(x, width)[None, :]
    resampled = jnp.einsum("yh,hwc,xw->yxc", _bilinear(y, height), image, _bilinear(x, width))
    nearest = labels[_nearest(y, height)[:, None], _nearest(x, width)[None, :]]
    return jnp.where(inside[..., None], resampled, 0.0), jnp.where(inside, nearest, VOID)


def _coordinates(key: Array, size: int, shrink: Array) -> Array:
    """Where each output pixel of one axis is read, in input pixels: a window of size * shrink at a random place.
    [size]"""
    start = jax.random.uniform(key) * (size - size * shrink)
    return (jnp.arange(size) + 0.5) * shrink + start - 0.5


def _inside(at: Array, size: int) -> Array:
    return (at >= -0.5) & (at <= size - 0.5)


def _nearest(at: Array, size: int) -> Array:
    return jnp.clip(jnp.round(at), 0, size - 1).astype(jnp.int32)


def _bilinear(at: Array, size: int) -> Array:
    """Rows of linear interpolation weights at clamped positions. [n] -> [n,size]"""
    distance = jnp.abs(jnp.clip(at, 0, size - 1)[:, None] - jnp.arange(size)[None, :])
    return jnp.maximum(1.0 - distance, 0.0)


def photometric(key: Array, image: Array, strength: Strength) -> Array:
    """Random colour matrix, brightness, contrast and blur of one image [H,W,3]; not clipped."""
    color, brightness, contrast, blur = jax.random.split(key, 4)
    matrix = jnp.eye(3) + strength.color * jax.random.normal(color, (3, 3)) * 3.0**-0.5
    image = image @ matrix
    mean = image.mean((0, 1))
    factor = jnp.exp(jax.random.uniform(contrast, minval=-1.0, maxval=1.0) * strength.contrast)
    image = mean + factor * (image - mean)
    image = image + jax.random.uniform(brightness, minval=-1.0, maxval=1.0) * strength.brightness
    sigma = jax.random.uniform(blur, maxval=1.0) * strength.blur
    height, width = image.shape[:2]
    return jnp.einsum("yh,hwc,xw->yxc", _gaussian(height, sigma), image, _gaussian(width, sigma))


def recolor(key: Array, image: Array, labels: Array, strength: float) -> Array:
    """One random colour added to all pixels of each class; not clipped. [H,W,3], [H,W] -> [H,W,3].

    Shapes and textures stay, what is known by its colour does not: a guide that knows classes by the source's colours
    would paint them back.
    """
    colors = strength * jax.random.normal(key, (VOID + 1, 3))
    return image + colors.at[VOID].set(0.0)[labels]


def retexture(key: Array, image: Array, labels: Array, strength: float) -> Array:
    """Random patterns of PATCHES pixels added to the image, each class with its own strength of each; not clipped.

    Domain randomisation (Tobin et al. 2017) by class: what has a texture in the target is flat in many a source.
    [H,W,3], [H,W] -> [H,W,3].
    """
    amount_key, *keys = jax.random.split(key, 1 + len(PATCHES))
    amount = strength * jax.random.normal(amount_key, (VOID + 1, len(PATCHES)))
    amount = amount.at[VOID].set(0.0)[labels]  # [H,W,P]
    height, width = labels.shape
    for place, (size, key) in enumerate(zip(PATCHES, keys, strict=True)):
        image = image + amount[..., place, None] * pattern(key, height, width, size)
    return image


def pattern(key: Array, height: int, width: int, size: int) -> Array:
    """Squares of `size` pixels at a random offset, of unit variance, more grey than coloured; as often, what is
    linear between their centres, of less. [H,W,3]"""
    grey, tint, offset, kind = jax.random.split(key, 4)
    cells = ((height - 1) // size + 3, (width - 1) // size + 3)
    values = 0.8**0.5 * jax.random.normal(grey, (*cells, 1)) + 0.2**0.5 * jax.random.normal(tint, (*cells, 3))
    dy, dx = jax.random.uniform(offset, (2,))
    y, x = jnp.arange(height) * (1 / size) + dy, jnp.arange(width) * (1 / size) + dx
    hard = values[y.astype(jnp.int32)[:, None], x.astype(jnp.int32)[None, :]]
    soft = jnp.einsum("yh,hwc,xw->yxc", _bilinear(y, cells[0]), values, _bilinear(x, cells[1]))
    return jnp.where(jax.random.bernoulli(kind), hard, soft)


def diffused(key: Array, image: Array, most: float) -> Array:
    """sqrt(1 - s^2) image + s noise, s uniform in [0, most]: a diffusion step of some noise level, DDPM Eq. 4."""
    level_key, noise_key = jax.random.split(key)
    level = jax.random.uniform(level_key, maxval=most)
    return jnp.sqrt(1 - level**2) * image + level * jax.random.normal(noise_key, image.shape)


def _gaussian(size: int, sigma: Array) -> Array:
    """Rows of normalised Gaussian blur weights; the identity at sigma 0. [size,size]"""
    distance = jnp.arange(size)[:, None] - jnp.arange(size)[None, :]
    weights = jnp.exp(-0.5 * jnp.square(distance * (1 / jnp.maximum(sigma, 1e-3))))
    return weights * (1 / weights.sum(1, keepdims=True))
