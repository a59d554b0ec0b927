"""Layers against literal numpy: loops, formulas and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from sgg_jax.compiler import network_options
from sgg_jax.models.layers import Attention, Conv, Downsample, GroupNorm, ResBlock, Upsample
from sgg_jax.models.operations import (
    MANY,
    attend,
    channel_sums,
    conv2d,
    depth_to_space,
    repeat_pixels,
    softmax,
    space_to_depth,
    upsampled_conv2d,
)

KERNELS = [(1, 1), (3, 3), (5, 1)]


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def literal_conv(x, kernel):
    """Stride 1, zero padding, one output value at a time, in float64."""
    (b, height, width, _), (rows, columns, _, outputs) = x.shape, kernel.shape
    out = np.zeros((b, height, width, outputs))
    for i in range(height):
        for j in range(width):
            for di in range(rows):
                for dj in range(columns):
                    y, z = i + di - rows // 2, j + dj - columns // 2
                    if 0 <= y < height and 0 <= z < width:
                        out[:, i, j] += x[:, y, z].astype(np.float64) @ kernel[di, dj].astype(np.float64)
    return out


def literal_norm(x, groups, scale, bias):
    x = np.asarray(x, np.float64)
    out, size = np.empty_like(x), x.shape[-1] // groups
    for b in range(x.shape[0]):
        for group in range(groups):
            part = x[b, :, :, group * size : (group + 1) * size]
            out[b, :, :, group * size : (group + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return out * scale + bias


def made(kind, *args, **options):
    """A layer whose weights are all random, drawn by numpy: no compile for each of their shapes."""
    graph, state = nnx.split(kind(*args, dtype="float32", rng=np.random.default_rng(0), **options))
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(draw(*leaf.shape)) / leaf.size**0.5, state))


def literal_layer(layer, x):
    return literal_conv(x, np.asarray(layer.kernel[...])) + np.asarray(layer.bias[...])


# convolution


@pytest.mark.parametrize("size", KERNELS)
def test_conv2d_is_the_literal_loop(size):
    x, kernel = draw(2, 5, 4, 3), draw(*size, 3, 2)
    np.testing.assert_allclose(conv2d(x, kernel), literal_conv(x, kernel), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [2, MANY])
@pytest.mark.parametrize("size", KERNELS)
def test_conv2d_gradients_are_those_of_jax(size, images):
    x, kernel, weight = draw(images, 5, 4, 3), draw(*size, 3, 2), draw(images, 5, 4, 2)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def gradients(conv):
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel)) * weight), (0, 1)))(x, kernel)

    for ours, theirs in zip(gradients(conv2d), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", KERNELS)
def test_conv2d_gradients_are_finite_differences(size):
    """In float64, where central differences of a cubic-free loss are good to eight digits."""
    with jax.enable_x64(True):
        x, kernel, weight = (draw(*shape).astype(np.float64) for shape in ((1, 4, 3, 2), (*size, 2, 2), (1, 4, 3, 2)))
        loss = jax.jit(lambda x, kernel: jnp.sum(jnp.square(conv2d(x, kernel)) * weight))
        gradients = jax.grad(loss, (0, 1))(x, kernel)
        for place, value in enumerate((x, kernel)):
            for index in np.random.default_rng(1).permutation(value.size)[:8]:
                step = np.zeros(value.size)
                step[index] = 1e-4
                step = step.reshape(value.shape)
                high, low = ((x + s * step, kernel) if place == 0 else (x, kernel + s * step) for s in (1, -1))
                slope = (float(loss(*high)) - float(loss(*low))) / 2e-4
                assert float(gradients[place].ravel()[index]) == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_conv_layer_is_convolution_and_bias(size):
    layer, x = made(Conv, 3, 4, size), draw(2, 4, 5, 3)
    wanted = literal_conv(x, np.asarray(layer.kernel[...])) + np.asarray(layer.bias[...])
    assert layer.bias[...].any()
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-5, atol=1e-5)


def test_a_gradient_of_many_readers_is_computed_once_on_a_cpu():
    """Without the barrier XLA:CPU computes the product by w again for the bias, the kernel and the input."""
    conv = Conv(2, 3, 1, dtype="float32", rng=np.random.default_rng(0))
    graph, state = nnx.split(conv)
    w = jnp.ones((1, 4, 4, 3))

    def gradient(state, x):
        return jax.grad(lambda state, x: (jnp.sin(nnx.merge(graph, state)(x)) * w).sum(), (0, 1))(state, x)

    inputs = state, jnp.ones((1, 4, 4, 2))
    compiled = jax.jit(gradient, compiler_options=network_options("cpu")).lower(*inputs).compile()
    assert compiled.as_text().count(" opt-barrier(") == 1
    for found, wanted in zip(jax.tree.leaves(compiled(*inputs)), jax.tree.leaves(gradient(*inputs)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_conv_layer_starts_with_unit_variance_times_gain():
    def kernel(gain):
        return Conv(64, 64, 3, dtype="float32", rng=np.random.default_rng(0), gain=gain).kernel[...]

    assert float(np.std(kernel(0.5))) == pytest.approx(0.5 / np.sqrt(9 * 64), rel=0.02)
    assert not np.asarray(kernel(0.0)).any()


# normalisation


@pytest.mark.parametrize(("channels", "groups"), [(6, 3), (4, 8), (16, 8)])
def test_group_norm_is_the_formula(channels, groups):
    norm = GroupNorm(channels, groups=groups)
    scale, bias = draw(channels), draw(channels, seed=1)
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    x = 3 * draw(2, 4, 5, channels) + 2 * draw(channels, seed=2)
    np.testing.assert_allclose(norm(x), literal_norm(x, min(groups, channels), scale, bias), rtol=1e-4, atol=1e-4)


def test_group_norm_is_modulated_per_image():
    norm = GroupNorm(4, groups=2)
    norm.scale[...], norm.bias[...] = jnp.asarray(draw(4)), jnp.asarray(draw(4, seed=1))
    x, scale, shift = draw(3, 4, 4, 4), draw(3, 4), draw(3, 4, seed=1)
    plain = literal_norm(x, 2, draw(4), draw(4, seed=1))
    wanted = plain * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(norm(x, (scale, shift)), wanted, rtol=1e-4, atol=1e-4)


def test_group_norm_takes_its_moments_in_float32():
    norm = GroupNorm(8, groups=2)
    x = jnp.asarray(10 + draw(1, 16, 16, 8), jnp.bfloat16)
    out = norm(x)
    assert out.dtype == jnp.bfloat16
    wanted = literal_norm(np.asarray(x, np.float64), 2, 1.0, 0.0)
    np.testing.assert_allclose(np.asarray(out, np.float64), wanted, rtol=5e-3, atol=1e-3)  # the rounding of the output


def test_what_belongs_to_a_channel_is_computed_once_on_a_cpu():
    """Without barriers XLA:CPU computes gain and offset again for every pixel, and gradients for each of their sums."""
    norm = GroupNorm(8, groups=2)
    graph, state = nnx.split(norm)
    inputs = state, jnp.asarray(draw(2, 4, 6, 8)), jnp.asarray(draw(2, 4, 6, 8, seed=1))

    def forward(state, x, w):
        return (nnx.merge(graph, state)(x, silu=True) * w).sum()

    for function, barriers in ((forward, 1), (jax.grad(forward, (0, 1)), 5)):
        compiled = jax.jit(function, compiler_options=network_options("cpu")).lower(*inputs).compile()
        assert compiled.as_text().count(" opt-barrier(") == barriers
        for found, wanted in zip(*map(jax.tree.leaves, (compiled(*inputs), function(*inputs))), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_groups_must_divide():
    with pytest.raises(ValueError, match="12 channels do not divide into 8 groups"):
        GroupNorm(12)


# rearrangement


@pytest.mark.parametrize("width", [1, 7, 17, 34, 48])
def test_channel_sums_take_every_place_once(width):
    x, y = draw(2, 3, width, 5), draw(2, 3, width, 5, seed=1)
    for found, given in zip(jax.jit(channel_sums)(x, y), (x, y), strict=True):
        np.testing.assert_allclose(found, given.astype(np.float64).sum((1, 2)), rtol=1e-5, atol=1e-5)


def test_space_to_depth_index_by_index():
    x, block = draw(2, 4, 6, 3), 2
    out = np.asarray(space_to_depth(x, block))
    for i, j, di, dj, c in np.ndindex(2, 3, block, block, 3):
        np.testing.assert_array_equal(out[:, i, j, (di * block + dj) * 3 + c], x[:, i * block + di, j * block + dj, c])


@pytest.mark.parametrize("block", [1, 2, 3])
def test_depth_to_space_is_the_inverse(block):
    x = draw(2, 6, 12, 2)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, block), block), x)
    deep = draw(2, 2, 3, 2 * block**2)
    np.testing.assert_array_equal(space_to_depth(depth_to_space(deep, block), block), deep)


def repeated(x):
    return x.repeat(2, 1).repeat(2, 2)


def test_upsampled_conv2d_is_the_literal_loop_over_repeated_pixels():
    x, kernel = draw(2, 3, 4, 3), draw(3, 3, 3, 2)
    np.testing.assert_allclose(upsampled_conv2d(x, kernel), literal_conv(repeated(x), kernel), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [2, MANY])
def test_upsampled_conv2d_gradients_are_those_of_repeating_and_convolving(images):
    x, kernel, weight = draw(images, 3, 4, 3), draw(3, 3, 3, 2), draw(images, 6, 8, 2)

    def plain(x, kernel):
        return lax.conv_general_dilated(
            jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def gradients(conv):
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel)) * weight), (0, 1)))(x, kernel)

    for ours, theirs in zip(gradients(upsampled_conv2d), gradients(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_upsampled_conv2d_saves_five_ninths_of_the_products():
    x, kernel = jnp.zeros((1, 64, 64, 16)), jnp.zeros((3, 3, 16, 16))

    def flops(function):
        return jax.jit(function).lower(x, kernel).cost_analysis()["flops"]

    plain = flops(lambda x, kernel: conv2d(repeat_pixels(x), kernel))
    assert flops(upsampled_conv2d) == pytest.approx(4 / 9 * plain, rel=0.02)


def test_upsampled_conv2d_sums_its_taps_before_they_are_rounded():
    """Taps that cancel in float32, but not once each is rounded to bfloat16."""
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1], kernel[1, 2] = 1 + 2**-10, -1
    x = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    np.testing.assert_array_equal(np.ravel(upsampled_conv2d(x, kernel)), [2**-10, 1, 2**-10, 1])


def test_upsample_is_convolution_and_bias_of_repeated_pixels():
    layer, x = made(Upsample, 3, 4, 3), draw(2, 3, 4, 3)
    assert layer.bias[...].any()
    np.testing.assert_allclose(layer(x), literal_layer(layer, repeated(x)), rtol=1e-5, atol=1e-5)


def test_repeat_pixels_is_numpy_repeat():
    x = draw(2, 3, 4, 5)
    np.testing.assert_array_equal(repeat_pixels(x), x.repeat(2, 1).repeat(2, 2))


def test_downsample_is_a_stride_two_convolution():
    layer = made(Downsample, 3, 4)
    x, kernel = draw(2, 4, 6, 3), np.asarray(layer.conv.kernel[...])[0, 0].reshape(2, 2, 3, 4)
    wanted = sum(x[:, di::2, dj::2] @ kernel[di, dj] for di in range(2) for dj in range(2))
    np.testing.assert_allclose(layer(x), wanted + layer.conv.bias[...], rtol=1e-5, atol=1e-5)


# blocks


def silu(x):
    return x / (1 + np.exp(-x))


def normed(norm, groups, x):
    return literal_norm(x, groups, np.asarray(norm.scale[...]), np.asarray(norm.bias[...]))


def test_res_block_is_its_formula():
    block, x = made(ResBlock, 4, 4), draw(2, 4, 4, 4)
    h = literal_layer(block.conv1, silu(normed(block.norm1, 4, x)))
    h = literal_layer(block.conv2, silu(normed(block.norm2, 4, h)))
    np.testing.assert_allclose(block(x), x + h, rtol=1e-4, atol=1e-4)


def test_conditioned_res_block_is_its_formula():
    block = made(ResBlock, 4, 6, embedding=5)
    x, embedding = draw(2, 4, 4, 4), draw(2, 5)
    weights, biases = np.asarray(block.modulation.kernel[...]), np.asarray(block.modulation.bias[...])
    scale, shift = np.split(embedding @ weights + biases, 2, axis=-1)
    h = literal_layer(block.conv1, silu(normed(block.norm1, 4, x)))
    h = normed(block.norm2, 6, h) * (1 + scale[:, None, None]) + shift[:, None, None]
    h = literal_layer(block.conv2, silu(h))
    np.testing.assert_allclose(block(x, embedding), literal_layer(block.skip, x) + h, rtol=1e-4, atol=1e-4)


def test_attention_is_the_literal_softmax():
    channels, head = 8, 4
    layer, x = made(Attention, channels, head=head), draw(2, 3, 2, channels)
    layer.norm.scale[...] = jnp.full(channels, 8.0)  # far from even weights
    qkv = literal_layer(layer.qkv, normed(layer.norm, 8, x)).reshape(2, 6, 3 * channels)
    mixed = np.zeros((2, 6, channels))
    for b, n, query in np.ndindex(2, channels // head, 6):
        q, k, v = (qkv[b, :, part * channels + n * head : part * channels + (n + 1) * head] for part in range(3))
        weights = np.array([np.exp(q[query] @ k[key] / np.sqrt(head)) for key in range(6)])
        mixed[b, query, n * head : (n + 1) * head] = weights / weights.sum() @ v
        assert query or weights.max() > 2 * weights.min()
    wanted = x + literal_layer(layer.out, mixed.reshape(x.shape))
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-4, atol=1e-4)


def test_softmax_and_its_gradient_are_those_of_jax():
    logits, pull = 30 * draw(4, 5, 7), draw(4, 5, 7, seed=1)
    for ours, theirs in zip(jax.vjp(softmax, logits), jax.vjp(jax.nn.softmax, logits), strict=True):
        ours, theirs = (one(pull)[0] if callable(one) else one for one in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(softmax(jnp.array([1e30, -1e30, -jnp.inf])), [1, 0, 0])


def test_attention_and_its_gradient_are_the_same_bits_on_any_number_of_devices():
    """With jax.nn.softmax the gradient is not."""
    q, k, v, pull = (jnp.asarray(3 * draw(8, 24, 2, 8, seed=seed)) for seed in range(4))

    def pushed(q, k, v, pull):
        mixed, back = jax.vjp(attend, q, k, v)
        return mixed, *back(pull)

    found = {}
    for devices in (1, 2, 4):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        on_each = jax.jit(jax.shard_map(pushed, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False))
        rows = 2 * devices
        parts = [on_each(*(a[i : i + rows] for a in (q, k, v, pull))) for i in range(0, 8, rows)]
        found[devices] = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    for devices in (2, 4):
        for one, several in zip(found[1], found[devices], strict=True):
            np.testing.assert_array_equal(one, several)


def test_attention_heads_must_divide():
    with pytest.raises(ValueError, match="48 channels do not divide into attention heads of 32"):
        Attention(48, dtype="float32", rng=np.random.default_rng(0))
