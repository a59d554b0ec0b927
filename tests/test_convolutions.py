"""Strided, dilated and pooling forms against numpy loops and against JAX's own gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgg_jax.models.convolutions import (
    AtrousConv,
    atrous_conv2d,
    batch_to_space,
    halving_conv2d,
    interpolation,
    max_pool,
    pad_to,
    plain_conv2d,
    plain_max_pool,
    plain_pyramid_conv2d,
    pyramid_conv2d,
    resize_bilinear,
    space_to_batch,
)

SIZES = [(8, 12), (7, 9), (6, 5)]
KERNELS = [(3, 3), (7, 7), (5, 3)]
RATES = (1, 2, 5)


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def literal_conv(x, kernel, stride=1, rate=1):
    """Zero padding of half the kernel, one output pixel at a time, in float64."""
    (b, height, width, _), (rows, columns, _, outputs) = x.shape, kernel.shape
    out = np.zeros((b, -(-height // stride), -(-width // stride), outputs))
    for i, j, di, dj in np.ndindex(*out.shape[1:3], rows, columns):
        y, z = stride * i + rate * (di - rows // 2), stride * j + rate * (dj - columns // 2)
        if 0 <= y < height and 0 <= z < width:
            out[:, i, j] += x[:, y, z].astype(np.float64) @ kernel[di, dj].astype(np.float64)
    return out


def gradients(function, *operands):
    """Of a nonlinear loss, with respect to every operand."""
    weight = draw(*jax.eval_shape(function, *operands).shape, seed=9)
    loss = jax.jit(jax.grad(lambda *values: jnp.sum(jnp.sin(function(*values)) * weight), tuple(range(len(operands)))))
    return loss(*operands)


def assert_equal(function, plain, *operands):
    """Values and gradients to rounding."""
    np.testing.assert_allclose(function(*operands), plain(*operands), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gradients(function, *operands), gradients(plain, *operands), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [1, 2, 4])
def test_dilated_convolution_is_the_literal_loop(rate):
    x, kernel = draw(2, 7, 9, 3), draw(3, 3, 3, 2)
    np.testing.assert_allclose(atrous_conv2d(x, kernel, rate), literal_conv(x, kernel, rate=rate), rtol=1e-4, atol=1e-5)
    assert_equal(lambda x, k: atrous_conv2d(x, k, rate), lambda x, k: plain_conv2d(x, k, rate=rate), x, kernel)


@pytest.mark.parametrize("size", [2, 4])
def test_even_kernels_reach_up_and_left(size):
    """As an odd kernel whose last row and column are zero."""
    x, kernel = draw(1, 6, 5, 2), draw(size, size, 2, 3)
    edges = ((0, 1), (0, 1), (0, 0), (0, 0))
    assert_equal(atrous_conv2d, lambda x, k: plain_conv2d(x, jnp.pad(k, edges)), x, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", SIZES)
def test_strided_convolution_is_the_literal_loop(size, kernel):
    x, kernel = draw(2, *size, 3), draw(*kernel, 3, 2)
    np.testing.assert_allclose(halving_conv2d(x, kernel), literal_conv(x, kernel, stride=2), rtol=1e-4, atol=1e-4)
    assert_equal(halving_conv2d, lambda x, k: plain_conv2d(x, k, 2), x, kernel)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_max_pool_is_the_literal_loop(size, ceil):
    x = draw(2, *size, 3)
    rows, columns = (s // 2 + 1 if ceil and s % 2 == 0 else -(-s // 2) for s in size)
    wanted = np.zeros((2, rows, columns, 3))
    for i, j in np.ndindex(rows, columns):
        wanted[:, i, j] = x[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].max((1, 2))
    np.testing.assert_array_equal(max_pool(x, ceil), wanted)
    assert_equal(lambda x: max_pool(x, ceil), lambda x: plain_max_pool(x, ceil), x)


def test_the_first_of_equal_maxima_takes_the_gradient():
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, False)))(jnp.ones((1, 4, 4, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("rate", [2, 3])
def test_dilation_is_convolution_of_every_rate_th_pixel(rate):
    x, kernel = draw(2, 6, 12, 3), draw(3, 3, 3, 2)
    split = space_to_batch(x, rate)
    np.testing.assert_array_equal(batch_to_space(split, rate), x)
    np.testing.assert_array_equal(split.reshape(rate, rate, 2, 6 // rate, -1, 3)[1, 0], x[:, 1::rate, ::rate])
    np.testing.assert_allclose(
        batch_to_space(atrous_conv2d(split, kernel), rate), literal_conv(x, kernel, rate=rate), rtol=1e-4, atol=1e-5
    )


def test_rates_multiply_when_a_batch_is_split_again():
    x, kernel = draw(2, 8, 12, 3), draw(3, 3, 3, 2)
    twice = atrous_conv2d(space_to_batch(space_to_batch(x, 2), 2), kernel)
    wanted = literal_conv(x, kernel, rate=4)
    np.testing.assert_allclose(batch_to_space(batch_to_space(twice, 2), 2), wanted, rtol=1e-4, atol=1e-5)


def test_padding_reaches_the_next_multiple():
    assert pad_to(jnp.ones((1, 5, 8, 2)), 4).shape == (1, 8, 8, 2)
    assert float(pad_to(jnp.ones((1, 5, 7, 2)), 4).sum()) == 5 * 7 * 2


@pytest.mark.parametrize("size", [(4, 3), (9, 14)])  # taps beyond the map, and within
def test_pyramid_is_the_sum_of_dilated_convolutions(size):
    x, kernels = draw(2, *size, 4), draw(3, 3, 3, 4, 2)
    wanted = sum(literal_conv(x, kernel, rate=rate) for kernel, rate in zip(kernels, RATES, strict=True))
    np.testing.assert_allclose(pyramid_conv2d(x, kernels, RATES), wanted, rtol=1e-4, atol=1e-4)
    assert_equal(lambda x, k: pyramid_conv2d(x, k, RATES), lambda x, k: plain_pyramid_conv2d(x, k, RATES), x, kernels)


@pytest.mark.parametrize(
    ("old", "new", "align"), [(5, 9, True), (4, 9, False), (1, 3, True), (3, 1, True), (6, 4, False)]
)
def test_interpolation_weighs_two_neighbours(old, new, align):
    weights = interpolation(old, new, align)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    at = np.arange(new) * (old - 1) / max(new - 1, 1) if align else (np.arange(new) + 0.5) * old / new - 0.5
    np.testing.assert_allclose(weights @ np.arange(old), np.clip(at, 0, old - 1), atol=1e-6)


@pytest.mark.parametrize("align", [False, True])
def test_resizing_is_pytorchs(align):
    torch = pytest.importorskip("torch", reason="the oracle of resizing")
    x = draw(2, 5, 8, 3)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), size=(33, 50), mode="bilinear", align_corners=align
    ).permute(0, 2, 3, 1)
    np.testing.assert_allclose(resize_bilinear(x, (33, 50), align), theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("size", "stride", "rate"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1)])
def test_the_layer_is_convolution_and_bias(size, stride, rate, plain):
    layer = AtrousConv(3, 4, size, dtype="float32", rng=np.random.default_rng(0))
    layer.bias[...] = jnp.asarray(draw(4))
    x = draw(2, 7, 10, 3)
    wanted = literal_conv(x, np.asarray(layer.kernel[...]), stride, rate) + draw(4)
    np.testing.assert_allclose(layer(x, stride=stride, rate=rate, plain=plain), wanted, rtol=1e-4, atol=1e-4)


def test_a_strided_view_does_not_meet_its_product():
    """XLA:GPU of jaxlib 0.11.2 aborts where it fuses the two and the size is odd; a stride of 1 makes no view."""
    layer = AtrousConv(3, 4, 1, dtype="float32", rng=np.random.default_rng(0))
    made = {stride: str(jax.make_jaxpr(lambda x, s=stride: layer(x, stride=s))(draw(1, 5, 5, 3))) for stride in (1, 2)}
    assert ("optimization_barrier" in made[1], "optimization_barrier" in made[2]) == (False, True)
