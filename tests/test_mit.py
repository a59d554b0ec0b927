"""MiT's layers against literal numpy and lax; both heads and the whole network against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sgg_jax.models import build
from sgg_jax.models.functional import functional, outline
from sgg_jax.models.mit import (
    VARIANTS,
    Block,
    DepthwiseConv,
    EfficientAttention,
    LayerNorm,
    Stage,
    StridedConv,
    depthwise_conv,
    patches,
)
from sgg_jax.models.segformer import MLPHead, SegFormer, enlarge

TINY = dict(
    widths=(8, 12, 16, 20), depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), reductions=(8, 4, 2, 1), mlp_ratios=(2, 2, 3, 2)
)
NETWORK = dict(classes=5, channels=12, **TINY)
BOTH = pytest.mark.parametrize("head", ["mlp", "daformer"])


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def made(kind, *args, **options):
    """A module whose weights are all random."""
    graph, state = nnx.split(kind(*args, rng=np.random.default_rng(0), **options))
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(draw(*leaf.shape)) / leaf.size**0.5, state))


def network(**options):
    """(apply, params) of a tiny network, its weights large enough to matter."""
    apply, params = build(SegFormer, 0, **NETWORK, **options)
    return jax.jit(apply), jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.1 * draw(*leaf.shape)), params)


def close(found, wanted, tolerance):
    """Largest difference by largest value."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


# layers


@pytest.mark.parametrize(("size", "stride"), [(7, 4), (3, 2), (2, 2)])
def test_patches_are_windows_row_by_row(size, stride):
    x = draw(2, 11, 14, 3)
    out = np.asarray(patches(x, size, stride))
    assert out.shape == (2, (11 - size) // stride + 1, (14 - size) // stride + 1, size * size * 3)
    for i, j in np.ndindex(*out.shape[1:3]):
        window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
        np.testing.assert_array_equal(out[:, i, j], window.reshape(2, -1))


@pytest.mark.parametrize(("size", "stride", "padding"), [(7, 4, 3), (3, 2, 1), (4, 4, 0)])
@pytest.mark.parametrize("height", [12, 13, 15])
def test_strided_conv_and_its_gradients_are_those_of_lax(size, stride, padding, height):
    layer, x = made(StridedConv, 3, 5, size, stride, padding, dtype="float32"), draw(2, height, 10, 3)
    graph, params = nnx.split(layer)

    def ours(x, params):
        return nnx.merge(graph, params)(x)

    def theirs(x, params):
        layer = nnx.merge(graph, params)
        around = ((padding, padding),) * 2
        kernel, numbers = layer.kernel[...], ("NHWC", "HWIO", "NHWC")
        return (
            lax.conv_general_dilated(x, kernel, (stride, stride), around, dimension_numbers=numbers) + layer.bias[...]
        )

    def gradients(form):
        return jax.jit(jax.grad(lambda x, params: jnp.square(form(x, params)).sum(), (0, 1)))(x, params)

    close(ours(x, params), theirs(x, params), 1e-5)
    jax.tree.map(lambda a, b: close(a, b, 1e-5), gradients(ours), gradients(theirs))


@pytest.mark.parametrize("dilation", [1, 2, 6])
def test_depthwise_conv_and_its_gradients_are_those_of_lax(dilation):
    x, kernel, weight = draw(2, 5, 7, 4), draw(3, 3, 1, 4), draw(2, 5, 7, 4, seed=1)

    def plain(x, kernel):
        around = ((dilation, dilation),) * 2
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            around,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    def gradients(form):
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(form(x, kernel)) * weight), (0, 1)))(x, kernel)

    def ours(x, kernel):
        return depthwise_conv(x, kernel, dilation)

    close(ours(x, kernel), plain(x, kernel), 1e-5)
    for a, b in zip(gradients(ours), gradients(plain), strict=True):
        close(a, b, 1e-5)


def test_depthwise_conv_sums_in_float32():
    layer, x = made(DepthwiseConv, 4, dtype="bfloat16"), jnp.asarray(draw(1, 6, 6, 4), jnp.bfloat16)
    wide = depthwise_conv(x.astype(jnp.float32), layer.kernel[...], 1)
    found = depthwise_conv(x, layer.kernel[...], 1)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wide.astype(jnp.bfloat16))


def test_layer_norm_is_the_formula():
    norm, x = LayerNorm(6, 0.5), 3 * draw(2, 3, 4, 6) + 2
    norm.scale[...], norm.bias[...] = jnp.asarray(draw(6)), jnp.asarray(draw(6, seed=1))
    wide = np.asarray(x, np.float64)
    wanted = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.5)
    close(norm(x), wanted * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...]), 1e-5)


def test_attention_is_the_literal_softmax_over_reduced_places():
    layer = made(EfficientAttention, 8, 2, 2, kernel="xla", dtype="float32")
    for linear in (layer.q, layer.kv):
        linear.kernel[...] *= 8  # far from even weights
    x = draw(2, 4, 5, 8)  # the fifth column gives no key
    few = np.asarray(layer.reduce(x)).reshape(2, 4, 8)
    q = (x @ layer.q.kernel[...][0, 0] + layer.q.bias[...]).reshape(2, 20, 8)
    k, v = np.split(few @ np.asarray(layer.kv.kernel[...][0, 0]) + np.asarray(layer.kv.bias[...]), 2, axis=-1)
    mixed = np.zeros((2, 20, 8))
    for b, head, query in np.ndindex(2, 2, 20):
        part = slice(4 * head, 4 * head + 4)
        weights = np.exp(np.asarray(k[b, :, part] @ q[b, query, part], np.float64) / 2)
        mixed[b, query, part] = weights / weights.sum() @ v[b, :, part]
        assert query or weights.max() > 1.1 * weights.min()
    wanted = mixed.reshape(2, 4, 5, 8) @ np.asarray(layer.out.kernel[...][0, 0]) + np.asarray(layer.out.bias[...])
    close(layer(x), wanted, 1e-5)


# heads and networks


def test_mlp_head_is_its_definition():
    """Enlarged, concatenated with the deepest map first, fused."""
    head = made(MLPHead, (4, 6, 8), 5, 3, dtype="float32")
    maps = [draw(2, 8 >> level, 12 >> level, 4 + 2 * level) for level in range(3)]
    embedded = [enlarge(embed(x), 8, 12) for x, embed in zip(maps, head.embed, strict=True)]
    wanted = head.classify(jax.nn.relu(head.fuse(jnp.concatenate(embedded[::-1], -1))))
    close(head(maps), wanted, 1e-5)


def test_enlarging_is_linear_between_centres():
    """A ramp stays a ramp where two centres enclose the pixel, and is held beyond the outermost."""
    ramp = jnp.asarray(np.arange(4.0, dtype=np.float32)).reshape(1, 1, 4, 1)
    wanted = np.clip((np.arange(16) + 0.5) / 4 - 0.5, 0, 3)
    np.testing.assert_allclose(enlarge(ramp, 3, 16)[0, 2, :, 0], wanted, atol=1e-6)


@BOTH
def test_every_size_from_the_smallest_on(head):
    apply, params = build(SegFormer, 0, **NETWORK, head=head)
    everything = jax.jit(lambda *inputs: [apply.of(name)(*inputs) for name in ("__call__", "logits", "features")])
    logits, coarse, features = everything(params, draw(2, 29, 37, 3))
    assert (logits.shape, coarse.shape, features.shape) == ((2, 29, 37, 5), (2, 8, 10, 5), (2, 20))
    assert {logits.dtype, coarse.dtype, features.dtype} == {jnp.dtype("float32")}
    close(logits, enlarge(coarse, 29, 37), 1e-6)
    with pytest.raises(ValueError, match="image size 64x28 is too small: the encoder takes 29 pixels or more"):
        apply(params, draw(1, 64, 28, 3))


def test_features_are_the_mean_of_the_deepest_map():
    graph, params = nnx.split(made(SegFormer, **NETWORK))

    @jax.jit
    def both(params, image):
        model = nnx.merge(graph, params)
        deepest = model.encoder(((image + 1) / 2 - jnp.asarray(model.mean)) / jnp.asarray(model.std))[-1]
        return model.features(image), deepest.mean((1, 2))

    close(*both(params, draw(2, 32, 64, 3)), 1e-6)


def test_remat_changes_nothing():
    def stage(remat):
        rng = np.random.default_rng(0)
        blocks = [Block(8, 2, 2, 2, epsilon=1e-6, attention_kernel="xla", dtype="float32", rng=rng) for _ in range(2)]
        return nnx.split(Stage(3, 8, (3, 2), blocks, epsilon=1e-6, remat=remat, dtype="float32", rng=rng))

    def loss(params, x, graph):
        return jnp.sin(nnx.merge(graph, params)(x)).mean()

    results = []
    for remat in (False, True):
        graph, params = stage(remat)
        gradients = jax.value_and_grad(lambda params, x, graph=graph: loss(params, x, graph), (0, 1))
        x = draw(2, 8, 12, 3)
        assert (
            str(jax.make_jaxpr(lambda x, p=params, graph=graph: loss(p, x, graph))(x)).count("prevent_cse") == 2 * remat
        )
        results.append(jax.jit(gradients)(params, x))
    jax.tree.map(lambda a, b: close(a, b, 1e-5), *results)


def test_remat_is_passed_to_every_block():
    apply, params = outline(SegFormer(**NETWORK, remat=True, rng=None))
    jaxpr = jax.make_jaxpr(apply)(params, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert str(jaxpr).count("prevent_cse") == sum(NETWORK["depths"])


@BOTH
def test_bfloat16_is_near_float32(head):
    (wide, params), (narrow, _) = network(head=head), network(head=head, dtype="bfloat16")
    image = draw(1, 40, 32, 3)
    found, wanted = narrow(params, image), wide(params, image)
    assert found.dtype == jnp.float32
    assert np.abs(found - wanted).max() > 0
    close(found, wanted, 0.05)


def test_one_program_serves_all_weights_of_a_structure():
    first, second = (functional(SegFormer(**NETWORK, rng=np.random.default_rng(seed)))[0] for seed in (0, 1))
    assert first == second
    assert hash(first) == hash(second)
    assert first != functional(SegFormer(**NETWORK, epsilon=1e-5, rng=np.random.default_rng(0)))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(heads=(1, 5, 2, 4)), "12 channels do not divide into 5 attention heads"),
        (dict(depths=(1, 1)), "have one number for each of four stages"),
        (dict(head="unet"), "head is 'unet'; it is one of mlp, daformer"),
        (dict(attention_kernel="flash"), "attention_kernel is 'flash'; it is one of xla, cudnn"),
        (dict(attention_kernel="cudnn"), "'cudnn' computes in bfloat16 only"),
    ],
)
def test_options_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SegFormer(**{**NETWORK, **change}, rng=None)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there it runs")
def test_cudnn_attention_is_accepted_in_bfloat16_and_refused_without_a_gpu():
    apply, params = outline(SegFormer(**NETWORK, attention_kernel="cudnn", dtype="bfloat16", rng=None))
    with pytest.raises(ValueError, match="'cudnn' needs a GPU"):  # told where the config is checked
        jax.eval_shape(apply, params, jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.float32))


# Paper, Table 1: ADE20K's 150 classes, in millions. BatchNorm counts there with scale and bias, and once folded with
# bias alone.
PAPER = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_of_the_published_variants(name):
    channels = 256 if name in ("b0", "b1") else 768
    params = outline(SegFormer(**VARIANTS[name], classes=150, channels=channels, rng=None))[1]
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) + channels
    assert round(count / 1e6, 1) == PAPER[name]


def test_full_size_network_has_its_shapes():
    apply, params = outline(
        SegFormer(**VARIANTS["b5"], classes=19, channels=256, head="daformer", remat=True, dtype="bfloat16", rng=None)
    )
    image = jax.ShapeDtypeStruct((2, 512, 1024, 3), jnp.float32)
    assert jax.eval_shape(apply, params, image).shape == (2, 512, 1024, 19)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 85_150_931
