"""Strided, dilated and pooling layers of ImageNet-era networks, in forms whose gradients are fast; NHWC.

PyTorch's conventions of place: an odd kernel is centred on its pixel, an image of H rows has ceil(H/2) after stride 2,
and what lies outside is zero. Every form equals its plain counterpart to rounding, in values and in gradients.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sgg_jax.models.layers import Conv
from sgg_jax.models.operations import Array, space_to_depth


def plain_conv2d(x: Array, kernel: Array, stride: int = 1, rate: int = 1) -> Array:
    """What XLA and JAX make of a convolution: the measure of the forms below. [B,H,W,I], [h,w,I,O] -> [B,H',W',O]."""
    edges = [(rate * (size - 1) // 2,) * 2 for size in kernel.shape[:2]]
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), edges, rhs_dilation=(rate, rate), dimension_numbers=numbers
    )


def _conv(x: Array, kernel: Array, rate: int, edges: str) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), edges, rhs_dilation=(rate, rate), dimension_numbers=numbers)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def atrous_conv2d(x: Array, kernel: Array, rate: int = 1) -> Array:
    """Stride-1 convolution whose taps are `rate` pixels apart. [B,H,W,I], [h,w,I,O] -> [B,H,W,O].

    A kernel of even size reaches one tap further up and left than down and right. As `operations.conv2d`, its input
    gradient is a forward convolution. Reverse-mode only.
    """
    return _conv(x, kernel, rate, "SAME_LOWER")


def _atrous_forward(x: Array, kernel: Array, rate: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, rate, "SAME_LOWER"), (x, kernel)


def _atrous_backward(rate: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dx = _conv(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), rate, "SAME")
    dkernel = jax.linear_transpose(lambda k: _conv(x, k, rate, "SAME_LOWER"), kernel)(g)[0]
    return dx, dkernel


atrous_conv2d.defvjp(_atrous_forward, _atrous_backward)


def pad_to(x: Array, block: int) -> Array:
    """Zeros below and to the right, up to the next multiples of `block`. [B,H,W,C] -> [B,H',W',C]."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, -x.shape[2] % block), (0, 0)))


def _over_blocks(x: Array, kernel: Array) -> Array:
    """Stride 2 as stride 1: a kernel of half the size over 2x2 blocks of pixels (7x7 of 3 channels: 4x4 of 12)."""
    rows, columns, inputs, outputs = kernel.shape
    above, left = (size // 2 % 2 for size in (rows, columns))  # put the kernel's centre at a block's first pixel
    kernel = jnp.pad(kernel, ((above, 1 - above), (left, 1 - left), (0, 0), (0, 0)))
    kernel = kernel.reshape((rows + 1) // 2, 2, (columns + 1) // 2, 2, inputs, outputs).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape((rows + 1) // 2, (columns + 1) // 2, 4 * inputs, outputs)
    return atrous_conv2d(space_to_depth(pad_to(x, 2), 2), kernel)


@jax.custom_vjp
def halving_conv2d(x: Array, kernel: Array) -> Array:
    """Stride-2 convolution, odd kernel size. [B,H,W,I], [h,w,I,O] -> [B,ceil(H/2),ceil(W/2),O].

    Its input gradient is that of a stride-1 convolution over 2x2 blocks of pixels, again a forward convolution.
    Reverse-mode only.
    """
    return plain_conv2d(x, kernel, stride=2)


def _halving_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return halving_conv2d(x, kernel), (x, kernel)


def _halving_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dx = jax.vjp(lambda x: _over_blocks(x, kernel), x)[1](g)[0]
    dkernel = jax.linear_transpose(lambda k: plain_conv2d(x, k, stride=2), kernel)(g)[0]
    return dx, dkernel


halving_conv2d.defvjp(_halving_forward, _halving_backward)


def pooled_size(size: int, ceil: bool) -> int:
    """Rows that are left of `size` after 3x3 max-pooling of stride 2: as PyTorch with ceil_mode `ceil`."""
    return size // 2 + 1 if ceil else (size + 1) // 2


def plain_max_pool(x: Array, ceil: bool) -> Array:
    """3x3 max-pooling of stride 2 as XLA does it. [B,H,W,C] -> [B,H',W',C]."""
    edges = [(1, 2 * pooled_size(size, ceil) - size) for size in x.shape[1:3]]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), *edges, (0, 0)))


def max_pool(x: Array, ceil: bool) -> Array:
    """3x3 max-pooling of stride 2 as a running maximum of nine views: [B,H,W,C] -> [B,H',W',C].

    The first of equal values takes the gradient, as in PyTorch.
    """
    height, width = (pooled_size(size, ceil) for size in x.shape[1:3])
    edges = ((0, 0), (1, 2 * height + 1 - x.shape[1]), (1, 2 * width + 1 - x.shape[2]), (0, 0))
    b, _, _, c = x.shape
    x = jnp.pad(x, edges, constant_values=-jnp.inf).reshape(b, height + 1, 2, width + 1, 2, c)
    found = x[:, :height, 0, :width, 0]
    for i, j in list(np.ndindex(3, 3))[1:]:
        view = x[:, i // 2 : i // 2 + height, i % 2, j // 2 : j // 2 + width, j % 2]
        found = jnp.where(view > found, view, found)
    return found


def space_to_batch(x: Array, rate: int) -> Array:
    """The rate*rate images of every rate-th pixel, as a larger batch. [B,H,W,C] -> [rate*rate*B,H/rate,W/rate,C].

    A convolution of this rate becomes one of rate 1; rates multiply when it is done again.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // rate, rate, w // rate, rate, c).transpose(2, 4, 0, 1, 3, 5)
    return x.reshape(rate * rate * b, h // rate, w // rate, c)


def batch_to_space(x: Array, rate: int) -> Array:
    """[rate*rate*B,H,W,C] -> [B,H*rate,W*rate,C], inverse of space_to_batch."""
    b, h, w, c = x.shape
    x = x.reshape(rate, rate, b // rate**2, h, w, c).transpose(2, 3, 0, 4, 1, 5)
    return x.reshape(b // rate**2, h * rate, w * rate, c)


def pyramid_conv2d(x: Array, kernels: Array, rates: tuple[int, ...]) -> Array:
    """Sum of one 3x3 convolution of each rate, float32. [B,H,W,I], [rates,3,3,I,O] -> [B,H,W,O].

    One product makes what each pixel gives to each tap of each kernel; then those maps are shifted and added.
    """
    taps = list(np.ndindex(len(rates), 3, 3))
    given = x @ kernels.transpose(3, 0, 1, 2, 4).reshape(x.shape[-1], -1)
    total = jnp.zeros((), jnp.float32)
    for (k, i, j), part in zip(taps, jnp.split(given, len(taps), axis=-1), strict=True):
        down, right = rates[k] * (1 - i), rates[k] * (1 - j)
        shifted = lax.pad(part, jnp.zeros((), part.dtype), ((0, 0, 0), (down, -down, 0), (right, -right, 0), (0, 0, 0)))
        total = total + shifted.astype(jnp.float32)
    return total


def plain_pyramid_conv2d(x: Array, kernels: Array, rates: tuple[int, ...]) -> Array:
    """As `pyramid_conv2d`, one dilated convolution at a time."""
    parts = [atrous_conv2d(x, kernel, rate).astype(jnp.float32) for kernel, rate in zip(kernels, rates, strict=True)]
    return sum(parts[1:], parts[0])


def interpolation(old: int, new: int, align_corners: bool) -> np.ndarray:
    """Weights of linear interpolation from `old` samples to `new`, as PyTorch's interpolate. [new,old] float32."""
    place = np.arange(new)
    at = place * (old - 1) / max(new - 1, 1) if align_corners else np.maximum((place + 0.5) * old / new - 0.5, 0)
    low = np.minimum(at.astype(int), old - 1)
    weights = np.zeros((new, old))
    weights[place, low] = 1 - (at - low)
    weights[place, np.minimum(low + 1, old - 1)] += at - low
    return weights.astype(np.float32)


def resize_bilinear(x: Array, size: tuple[int, int], align_corners: bool) -> Array:
    """[B,h,w,C] -> [B,*size,C] float32; two small matrix products, so that the gradient is two more."""
    rows, columns = (interpolation(old, new, align_corners) for old, new in zip(x.shape[1:3], size, strict=True))
    x = jnp.einsum("Ww,bhwc->bhWc", columns, x.astype(jnp.float32), precision="highest")
    return jnp.einsum("Hh,bhWc->bHWc", rows, x, precision="highest")


class AtrousConv(Conv):
    """A convolution with bias that is called with its stride, 1 or 2, and its rate; `plain` takes XLA's gradient of
    a strided one."""

    def __call__(self, x: Array, *, stride: int = 1, rate: int = 1, plain: bool = False) -> Array:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        x = x.astype(self.dtype)
        if kernel.shape[:2] == (1, 1):
            # XLA:GPU (jaxlib 0.11.2) aborts where it fuses a strided slice of an odd size into a product
            seen = x if stride == 1 else lax.optimization_barrier(x[:, ::stride, ::stride])
            return seen @ kernel[0, 0] + bias
        if stride == 1:
            return atrous_conv2d(x, kernel, rate) + bias
        return (plain_conv2d(x, kernel, stride) if plain else halving_conv2d(x, kernel)) + bias
