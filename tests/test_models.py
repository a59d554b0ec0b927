"""The two networks and the seam to flax: invariances, precision, gradients, one trace a layout."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgg_jax.models import EncoderDecoder, UNet, build, flops
from sgg_jax.models.unet import step_features

UNET = dict(widths=(16, 32), blocks=1, attention=(1,), patch=2)
SEGMENTER = dict(classes=5, widths=(16, 32), blocks=1, patch=2)


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def names(tree):
    """{"a/b": array} of a nested dict."""
    return {
        "/".join(entry.key if isinstance(entry.key, str) else str(entry.key) for entry in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time


def fresh(network, seed, **options):
    """build, with one compile for all its random numbers. (apply, params)"""
    applies = []

    def init():
        apply, params = build(network, seed, **options)
        applies.append(apply)
        return params

    params = jax.jit(init, compiler_options=FAST)()
    return applies[0], params


@lru_cache
def make(network, dtype="float32"):
    """(jitted apply, params): every weight is random, those that start at 0 or 1 too, and none takes a compile."""
    applies = []

    def init():
        apply, params = build(network, 0, **(UNET if network is UNet else SEGMENTER), dtype=dtype)
        applies.append(apply)
        return params

    def fill(path, leaf):
        values = draw(*leaf.shape, seed=len(str(path))) / max(np.prod(leaf.shape[:-1]), 4) ** 0.5
        return jnp.asarray(values + (path[-1].key == "scale"), leaf.dtype)

    params = jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init))
    return jax.jit(applies[0], compiler_options=FAST), params


X, STEP = draw(3, 8, 12, 3), np.array([0, 40, 999], np.int32)  # not square


def test_an_image_does_not_depend_on_its_batch():
    apply, params = make(UNet)
    whole = apply(params, X, STEP)
    g, weights = make(EncoderDecoder)
    logits = g(weights, X)
    for i in range(3):
        np.testing.assert_allclose(apply(params, X[i : i + 1], STEP[i : i + 1])[0], whole[i], atol=1e-5)
        np.testing.assert_allclose(g(weights, X[i : i + 1])[0], logits[i], atol=1e-5)
    assert np.abs(whole[0] - whole[1]).max() > 1e-2  # the check has something to tell apart
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_the_step_matters():
    apply, params = make(UNet)
    same = np.repeat(X[:1], 3, 0)
    out = np.asarray(apply(params, same, STEP))
    assert np.abs(out[0] - out[1]).max() > 1e-3
    assert np.abs(out[1] - out[2]).max() > 1e-3


def test_a_fresh_unet_predicts_zero():
    apply, params = fresh(UNet, 0, **UNET)
    run = jax.jit(apply, compiler_options=FAST)
    assert not np.asarray(run(params, X, STEP)).any()
    params["out"]["bias"] += 1.0
    assert (np.asarray(run(params, X, STEP)) == 1).all()


@pytest.mark.parametrize("size", [(8, 6), (10, 8), (2, 2)])
def test_sizes_off_the_stride_are_refused(size):
    x = jnp.zeros((1, *size, 3))
    text = f"image size {size[0]}x{size[1]} is no multiple of the"
    with pytest.raises(ValueError, match=f"{text} UNet's stride 4"):
        jax.eval_shape(make(UNet)[0], make(UNet)[1], x, jnp.zeros(1, "int32"))
    with pytest.raises(ValueError, match=f"{text} segmenter's stride 4"):
        jax.eval_shape(make(EncoderDecoder)[0], make(EncoderDecoder)[1], x)


def test_height_and_width_are_treated_alike():
    """Transposed kernels on the transposed image give the transposed logits, so no axis is taken for another."""
    g, weights = make(EncoderDecoder)
    wide = np.asarray(g(weights, X))
    mirrored = jax.tree_util.tree_map_with_path(transposed, weights)
    np.testing.assert_allclose(g(mirrored, X.swapaxes(1, 2)), wide.swapaxes(1, 2), atol=1e-4)


def transposed(path, weight):
    """The kernel of a convolution that acts on transposed images as `weight` does on images."""
    if weight.ndim < 4:
        return weight if path[0].key != "out" else _swap_blocks(weight, -1, 2)
    weight = weight.swapaxes(0, 1)
    if path[0].key in ("stem", "shrink"):
        weight = _swap_blocks(weight, 2, 2)
    return _swap_blocks(weight, 3, 2) if path[0].key == "out" else weight


def _swap_blocks(weight, axis, block):
    """Transposes the block x block pixels that space-to-depth laid along `axis`."""
    weight = jnp.moveaxis(weight, axis, -1)
    channels = weight.shape[-1] // block**2
    parts = weight.reshape(*weight.shape[:-1], block, block, channels).swapaxes(-3, -2)
    return jnp.moveaxis(parts.reshape(weight.shape), -1, axis)


def test_bfloat16_is_near_float32():
    for network, inputs in ((UNet, (X, STEP)), (EncoderDecoder, (X,))):
        (fast, params), (exact, _) = make(network, "bfloat16"), make(network)
        coarse, fine = np.asarray(fast(params, *inputs)), np.asarray(exact(params, *inputs))
        assert coarse.dtype == np.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
        error = np.sqrt(np.mean((fine - coarse) ** 2) / np.mean(fine**2))
        assert 1e-5 < error < 0.03  # not float32 in disguise, and no more than the rounding


def test_step_features_closed_form():
    features = np.asarray(step_features(jnp.array([0, 1, 500]), 8))
    for row, step in zip(features, (0, 1, 500), strict=True):
        angles = [step / 10_000 ** (i / 4) for i in range(4)]
        np.testing.assert_allclose(row, np.r_[np.cos(angles), np.sin(angles)], atol=1e-4)


def test_every_weight_learns():
    """The bias of attention's keys is the one exception: softmax does not see a constant added to every key's score."""

    def check(gradients):
        for name, gradient in names(gradients).items():
            size = np.abs(gradient)
            if name.endswith("qkv/bias"):
                query, key, value = np.split(size, 3)
                assert key.max() < 1e-5 * value.max(), name
                size = np.r_[query, value]
            assert (size > 0).mean() > 0.9 and np.isfinite(size).all(), name

    for network, inputs in ((UNet, (X, STEP)), (EncoderDecoder, (X,))):
        apply, params = make(network)

        def loss(params, apply=apply.__wrapped__, inputs=inputs):
            out = apply(params, *inputs)
            return jnp.sum(jnp.sin(out) * draw(*out.shape))

        check(jax.jit(jax.grad(loss), compiler_options=FAST)(params))


SMALL = dict(classes=2, widths=(8,), blocks=1, patch=1)


def test_modules_of_one_layout_are_one_function():
    traces = []

    def run(apply, params, image):
        traces.append(apply)
        return apply(params, image)

    jitted = jax.jit(run, static_argnums=0, compiler_options=FAST)
    (apply1, params1), (apply2, params2) = (fresh(EncoderDecoder, seed, **SMALL) for seed in (0, 1))
    one, two = np.asarray(jitted(apply1, params1, X)), np.asarray(jitted(apply2, params2, X))
    assert apply1 == apply2 and hash(apply1) == hash(apply2) and len(traces) == 1
    assert np.abs(one - two).max() > 1e-2  # other weights, other output


@pytest.mark.parametrize("option", [dict(blocks=2), dict(patch=2), dict(widths=(8, 8)), dict(dtype="bfloat16")])
def test_other_layouts_are_other_functions(option):
    applies = []
    for options in (SMALL, SMALL | option):
        jax.eval_shape(lambda options=options: applies.append(build(EncoderDecoder, 0, **options)[0]))
    assert applies[0] != applies[1]


def test_seeds_are_reproducible():
    one, two, other = (names(fresh(EncoderDecoder, seed, **SMALL)[1]) for seed in (3, 3, 4))
    assert all((one[name] == two[name]).all() for name in one)
    assert all((one[name] != other[name]).any() for name in one if name.endswith("kernel"))


@pytest.mark.parametrize(("network", "options"), [(UNet, UNET), (EncoderDecoder, SEGMENTER)])
def test_params_are_a_plain_nested_dict(network, options):
    params = jax.eval_shape(lambda: build(network, 0, **options)[1])

    def check(node):
        if type(node) is dict:
            return bool(node) and all(check(child) for child in node.values())
        return type(node) is jax.ShapeDtypeStruct and node.dtype == jnp.float32

    assert type(params) is dict and check(params)


def test_flops_of_arrays_and_of_shapes_alone():
    left, right = np.ones((3, 5), np.float32), jax.ShapeDtypeStruct((5, 7), np.float32)
    assert flops(jnp.matmul, left, right) == 2 * 3 * 5 * 7


def test_flops_are_counted_by_what_there_is_where_there_is_no_cpu(monkeypatch):
    def missing(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", missing)
    assert flops(jnp.matmul, draw(2, 3), draw(3, 4)) == 2 * 2 * 3 * 4  # the default backend counts here
