"""Operations of the layers of all networks, NHWC, in forms whose gradients are fast on XLA:CPU too."""

from functools import partial
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Arrays = TypeVar("Arrays")

Edges = tuple[tuple[int, int], tuple[int, int]]
"""Zeros above and below, left and right of an image."""


def _plain(x: Array, kernel: Array, edges: Edges) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), edges, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, edges: Edges) -> Array:
    """Stride-1 convolution. Its input gradient is written as the forward convolution that it is: JAX's own transpose is
    6-10 times slower on XLA:CPU inside a loop, where every guided step runs. Reverse-mode only."""
    return _plain(x, kernel, edges)


def _conv_forward(x: Array, kernel: Array, edges: Edges) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, edges), (x, kernel)


def _conv_backward(edges: Edges, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (above, below), (left, right) = edges
    down, across = kernel.shape[0] - 1, kernel.shape[1] - 1
    turned = (down - above, down - below), (across - left, across - right)
    dx = _plain(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), turned)
    return dx, _kernel_gradient(x, kernel, g, edges)


MANY = 8
"""Images from which on XLA:CPU's weight gradients do not gain by written-out edges."""


def _kernel_gradient(x: Array, kernel: Array, g: Array, edges: Edges) -> Array:
    """Of [h,w,I,O], from [B,H,W,I] and [B,H,W,O]; on a CPU, few images get their edges of zeros written out first."""
    if jax.default_backend() == "cpu" and len(x) < MANY:
        x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
        return lax.conv_general_dilated(x, g, (1, 1), "VALID", dimension_numbers=("CHWN", "IHWO", "HWNC"))
    found: Array = jax.linear_transpose(lambda k: _plain(x, k, edges), kernel)(g)[0]
    return found


_conv.defvjp(_conv_forward, _conv_backward)


def conv2d(x: Array, kernel: Array) -> Array:
    """Stride-1 SAME convolution, odd kernel sizes. [B,H,W,I], [h,w,I,O] -> [B,H,W,O]. Reverse-mode only."""
    rows, columns = (size // 2 for size in kernel.shape[:2])
    return _conv(x, kernel, ((rows, rows), (columns, columns)))


def upsampled_conv2d(x: Array, kernel: Array) -> Array:
    """`conv2d(repeat_pixels(x), kernel)` for a 3x3 kernel, to rounding: [B,H,W,I], [3,3,I,O] -> [B,2H,2W,O].

    Of the three rows of taps, two always see the same row of x, and so do columns: a pixel of each of the four places
    in a block is a convolution of x by 2x2 sums of taps (taken in the kernel's dtype, then x's). 4/9 of the products.
    Reverse-mode only.
    """

    def at(row: int, column: int) -> Array:
        taps = _half_taps(_half_taps(kernel, 0, row), 1, column).astype(x.dtype)
        return _conv(x, taps, ((1 - row, row), (1 - column, column)))

    return depth_to_space(jnp.concatenate([at(row, column) for row in (0, 1) for column in (0, 1)], axis=-1), 2)


def _half_taps(kernel: Array, axis: int, place: int) -> Array:
    """Three taps along an axis as two, for the first or the second pixel of two that repeat one."""
    first, middle, last = jnp.split(kernel, 3, axis)
    return jnp.concatenate([first + middle, last] if place else [first, middle + last], axis)


def computed_once(x: Arrays) -> Arrays:
    """Arrays as they are, written to memory on a CPU, in programs with compiler.network_options.

    XLA:CPU would compute them again, where that is cheap, for each of their readers, and for each pixel what belongs to
    a channel: those that transpose take longest.
    """
    found: Arrays = lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
    return found


def channel_mean(x: Array) -> Array:
    """Mean over the places of each image, one side after the other: [B,H,W,C] -> [B,C]."""
    return x.mean(1).mean(1)


MOST_COLUMNS = 16
"""Columns that `channel_sums` adds at once."""


def channel_sums(x: Array, y: Array) -> tuple[Array, Array]:
    """Sums over the places of each image: twice [B,H,W,C] -> twice [B,C].

    Both in one pass, over a few columns and then over the rest: XLA:CPU takes 3 to 5 times as long for one sum after
    the other, up to 8 times for rows and columns at once, and 3 times for 48 columns, which it adds one channel after
    another (docs/performance.md).
    """
    b, h, w, c = x.shape
    few = max(columns for columns in range(1, MOST_COLUMNS + 1) if w % columns == 0)
    x, y = (one.reshape(b, h * (w // few), few, c) for one in (x, y))
    zeros = jnp.zeros((), x.dtype), jnp.zeros((), y.dtype)

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] + b[0], a[1] + b[1]

    first, second = lax.reduce(lax.reduce((x, y), zeros, add, (2,)), zeros, add, (1,))
    return first, second


@jax.custom_vjp
def moments(x: Array) -> tuple[Array, Array]:
    """Mean and mean square over the places of each image: [B,H,W,C] -> twice [B,C]. Reverse-mode only."""
    places = x.shape[1] * x.shape[2]
    total, square = channel_sums(x, x * x)
    return total / places, square / places


def _moments_backward(x: Array, g: tuple[Array, Array]) -> tuple[Array]:
    mean, square = computed_once(tuple(one / (x.shape[1] * x.shape[2]) for one in g))
    return (mean[:, None, None] + 2 * square[:, None, None] * x,)


moments.defvjp(lambda x: (moments(x), x), _moments_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def scale_shift(x: Array, gain: Array, offset: Array, silu: bool) -> Array:
    """x * gain + offset, channel by channel, and its SiLU if wanted. Reverse-mode only.

    [B,H,W,C], [B,C], [B,C] -> [B,H,W,C]. Its gradients are `channel_sums`, and nothing of x's size but x is kept for
    them.
    """
    z = x * gain[:, None, None] + offset[:, None, None]
    return jax.nn.silu(z) if silu else z


def _scale_shift_forward(x: Array, gain: Array, offset: Array, silu: bool) -> tuple[Array, tuple[Array, Array, Array]]:
    return scale_shift(x, gain, offset, silu), (x, gain, offset)


def _scale_shift_backward(silu: bool, saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, *channels = saved
    gain, offset = computed_once(channels)  # apart from the forward pass, which else would write its sigmoid for this
    if silu:
        z = x * gain[:, None, None] + offset[:, None, None]
        sigmoid = jax.nn.sigmoid(z)
        g = computed_once(g * sigmoid * (1 + z * (1 - sigmoid)))
    offset_gradient, gain_gradient = channel_sums(g, g * x)
    return g * gain[:, None, None], gain_gradient, offset_gradient


scale_shift.defvjp(_scale_shift_forward, _scale_shift_backward)


@jax.custom_vjp
def add_bias(x: Array, bias: Array) -> Array:
    """x + bias: [B,H,W,C], [C] -> [B,H,W,C]. The bias's gradient is summed in two steps, as in `channel_sums`.

    Every convolution ends here, so what it has for gradient is computed once for its bias, kernel and input.
    """
    return x + bias


def _add_bias_backward(_: None, g: Array) -> tuple[Array, Array]:
    g = computed_once(g)
    b, h, w, c = g.shape
    return g, g.reshape(b * h, w * c).sum(0).reshape(w, c).sum(0)


add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_backward)


VECTORS = 32
"""Numbers side by side from which on moving them gains by whole vectors."""


def space_to_depth(x: Array, block: int) -> Array:
    """[B,H,W,C] -> [B,H/b,W/b,b*b*C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block * c)
    if block * c >= VECTORS:
        x = computed_once(x)  # else XLA:CPU looks every number's place up, 6 times as long
    return x.swapaxes(2, 3).reshape(b, h // block, w // block, block * block * c)


def depth_to_space(x: Array, block: int) -> Array:
    """[B,H,W,b*b*C] -> [B,H*b,W*b,C], inverse of space_to_depth."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, block, c // block)
    return x.swapaxes(2, 3).reshape(b, h * block, w * block, c // block**2)


def repeat_pixels(x: Array) -> Array:
    """Nearest-neighbour upsampling by 2. [B,H,W,C] -> [B,2H,2W,C]."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


@jax.custom_jvp
def softmax(logits: Array) -> Array:
    """exp(logits) over its sum, over the last axis.

    In products alone: the gradient of jax.nn.softmax differs in its last bit between one device and several, and with
    it would translations (tests/test_layers.py).
    """
    found = jnp.exp(logits - logits.max(-1, keepdims=True))
    return found * (1 / found.sum(-1, keepdims=True))


@softmax.defjvp
def _softmax_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    found, tangent = softmax(*primals), tangents[0]
    return found, found * (tangent - (found * tangent).sum(-1, keepdims=True))


AttentionKernel = Literal["xla", "cudnn"]
"""What computes attention: XLA anywhere, or cuDNN's fused kernel (NVIDIA, 16-bit numbers only)."""


def attend(q: Array, k: Array, v: Array, kernel: AttentionKernel = "xla") -> Array:
    """Attention of N queries to M keys (Vaswani et al. 2017, eq. 1), softmax in float32.

    [B,N,heads,D], and two of [B,M,heads,D] -> [B,N,heads,D]. ValueError for "cudnn" where there is no GPU.
    """
    if kernel == "cudnn":
        if jax.default_backend() != "gpu":
            raise ValueError("attention_kernel 'cudnn' needs a GPU; 'xla' runs everywhere")
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    weights = jnp.einsum("bqnd,bknd->bnqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.einsum("bnqk,bknd->bqnd", softmax(weights).astype(v.dtype), v)
