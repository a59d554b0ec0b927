"""ADM's blocks against literal numpy and XLA's own convolutions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_adm import draw, relative

from sgg_jax.models.adm_blocks import Attention, GroupNorm, Resize
from sgg_jax.models.functional import outline


def made(layer):
    """The layer with all its weights random."""
    apply, like = outline(layer)
    params = jax.tree.map(lambda leaf: jnp.asarray(draw(*leaf.shape) / leaf.size**0.5), like)
    return partial(jax.jit(apply), params), params


def literal_norm(x, scale=1.0, bias=0.0):
    groups = np.asarray(x, np.float64).reshape(len(x), -1, 32, x.shape[-1] // 32)
    deviation = np.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
    return ((groups - groups.mean((1, 3), keepdims=True)) / deviation).reshape(x.shape) * scale + bias


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (30, 1), (100, 1), (0, 3e-3)])
def test_norm_keeps_its_digits_far_from_zero_and_near_it(mean, deviation):
    x = np.float32(deviation) * draw(2, 16, 24, 64) + np.float32(mean)
    scale, shift = draw(2, 64), draw(2, 64, seed=1)
    found = jax.jit(lambda x: GroupNorm(64)(x, (scale, shift)))(x)
    wanted = literal_norm(x) * (1 + scale[:, None, None]) + shift[:, None, None]
    assert relative(found, wanted) < 1e-4


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_is_the_literal_softmax(new_order):
    layer, weights = made(
        Attention(32, heads=4, head_channels=0, new_order=new_order, kernel="xla", dtype="float32", rng=None)
    )
    x = 3 * draw(2, 3, 5, 32)
    normed = literal_norm(x, weights["norm"]["scale"], weights["norm"]["bias"])
    qkv = normed.reshape(2, 15, 32) @ np.asarray(weights["qkv"]["kernel"])[0, 0] + weights["qkv"]["bias"]
    q, k, v = (np.zeros((2, 15, 4, 8)) for _ in range(3))
    for head in range(4):
        for part, array in enumerate((q, k, v)):
            start = 8 * (4 * part + head if new_order else 3 * head + part)
            array[:, :, head] = qkv[:, :, start : start + 8]
    weight = np.exp(np.einsum("bqnd,bknd->bnqk", q, k) / np.sqrt(8))
    weight /= weight.sum(-1, keepdims=True)
    mixed = np.einsum("bnqk,bknd->bqnd", weight, v).reshape(2, 3, 5, 32)
    assert relative(layer(x), x + mixed @ weights["out"]["kernel"][0, 0] + weights["out"]["bias"]) < 1e-5


@pytest.mark.parametrize("learned", [True, False])
def test_halving_is_a_convolution_with_one_pixel_of_padding_or_an_average(learned):
    layer, weights = made(Resize(3, direction="down", learned=learned, dtype="float32", rng=None))
    x, weight = draw(2, 6, 8, 3), draw(2, 3, 4, 3)
    kernel = weights["conv"]["kernel"] if learned else np.eye(3).reshape(1, 1, 3, 3).repeat(2, 0).repeat(2, 1) / 4
    bias = weights["conv"]["bias"] if learned else 0

    def plain(x):
        edges = [(1, 1)] * 2 if learned else [(0, 0)] * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, jnp.asarray(kernel, "float32"), (2, 2), edges, dimension_numbers=numbers)

    assert relative(layer(x), plain(x) + bias) < 1e-6
    gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x) * weight))(x) for f in (layer, plain)]
    assert relative(*gradients) < 1e-6
