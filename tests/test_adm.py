"""ADM against guided-diffusion's own network in torch, which needs Python 3.11; its calls and options."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_adm import ONE_LEVEL, OPTIONS, SMALL, draw, drawn, read, relative, write

from sgg_jax.models import DENOISERS, build
from sgg_jax.models.adm import ADM
from sgg_jax.models.functional import outline
from sgg_jax.published import adm

# against torch


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="guided-diffusion's network needs torch")
    pytest.importorskip("guided_diffusion", reason="development only: guided-diffusion-sdk")
    torch.set_num_threads(1)
    return torch


def theirs(options):
    """guided-diffusion's network of these options."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.cuda.amp.custom_fwd is deprecated
        from guided_diffusion.unet import UNetModel
    resample = options.get("resample", "block")
    return UNetModel(
        image_size=0,  # it does not use it
        in_channels=3,
        model_channels=options["channels"],
        out_channels=6 if options.get("learn_sigma", True) else 3,
        num_res_blocks=options["blocks"],
        attention_resolutions=options["attention"],
        channel_mult=tuple(width / options["channels"] for width in options["widths"]),
        conv_resample=resample == "conv",
        num_classes=options.get("classes"),
        num_heads=options.get("heads", 1),
        num_head_channels=-1 if options.get("heads") else options.get("head_channels", 64),
        use_scale_shift_norm=options.get("scale_shift_norm", True),
        resblock_updown=resample == "block",
        use_new_attention_order=options.get("new_attention_order", False),
    )


def loaded(torch, options, tensors):
    network = theirs(options).eval()
    network.load_state_dict({key: torch.tensor(tensor) for key, tensor in tensors.items()})
    return network


def their_values(torch, network, options, x, step, weight):
    """All outputs, and the gradient of sum(weight * outputs) with respect to the input; NHWC."""
    image = torch.tensor(x.transpose(0, 3, 1, 2)).requires_grad_()
    label = torch.full((len(x),), options["label"]) if options.get("classes") else None
    out = network(image, torch.tensor(step), label)
    (out * torch.tensor(weight.transpose(0, 3, 1, 2))).sum().backward()
    return tuple(array.detach().numpy().transpose(0, 2, 3, 1) for array in (out, image.grad))


@partial(jax.jit, static_argnums=0)
def our_values(apply, params, x, step, weight):
    def total(x):
        out = apply.of("with_variance")(params, x, step) if weight.shape[-1] == 6 else apply(params, x, step)
        out = jnp.concatenate(out, -1) if isinstance(out, tuple) else out
        return jnp.sum(out * weight), out

    gradient, out = jax.grad(total, has_aux=True)(x)
    return out, gradient


def inputs(options):
    """Two images that are not square, a step for each, and a weight of every output."""
    channels = 6 if options.get("learn_sigma", True) else 3
    return draw(2, 12, 20, 3), np.array([3, 977], np.int32), draw(2, 12, 20, channels, seed=1)


def assert_same(found, wanted):
    assert relative(found[0], wanted[0]) < 1e-4
    assert relative(found[1], wanted[1]) < 1e-3


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_outputs_and_input_gradients_are_those_of_guided_diffusion(torch, changes):
    options = SMALL | changes
    tensors, given = drawn(options), inputs(options)
    wanted = their_values(torch, loaded(torch, options, tensors), options, *given)
    assert_same(our_values(*read(tensors, options), *given), wanted)


def test_float16_files_are_read(torch):
    """As published: guided-diffusion keeps the convolutions of its blocks in float16."""
    network, given = loaded(torch, SMALL, drawn(SMALL)), inputs(SMALL)
    network.convert_to_fp16()
    tensors = {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}
    assert {tensor.dtype.name for tensor in tensors.values()} == {"float16", "float32"}
    network.convert_to_fp32()
    assert_same(our_values(*read(tensors, SMALL), *given), their_values(torch, network, SMALL, *given))


def test_our_weights_are_theirs(torch):
    apply, like = outline(ADM(**SMALL, rng=None))
    params = jax.tree.map(lambda leaf: jnp.asarray(draw(*leaf.shape) / leaf.shape[0] ** 0.5), like)
    network, given = loaded(torch, SMALL, write(params, SMALL)), inputs(SMALL)
    assert_same(our_values(apply, params, *given), their_values(torch, network, SMALL, *given))


@pytest.mark.parametrize("name", adm.PUBLISHED)
def test_published_networks_are_theirs_in_shape(torch, name):
    options = adm.PUBLISHED[name]
    with torch.device("meta"):  # no memory
        wanted = {key: tuple(tensor.shape) for key, tensor in theirs(options).state_dict().items()}
    assert adm.tensor_shapes(options) == wanted


# the network


def test_rematerialised_gradients_are_equal():
    x, step, _ = inputs(ONE_LEVEL)
    _, params = read(drawn(ONE_LEVEL), ONE_LEVEL)

    def values(remat):
        apply, _ = outline(ADM(**ONE_LEVEL, remat=remat, rng=None))

        def loss(params, x):
            return jnp.sum(jnp.sin(apply(params, x, step)))

        assert ("remat" in str(jax.make_jaxpr(loss)(params, x))) == remat
        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x))

    found, wanted = values(True), values(False)
    largest = max(np.abs(leaf).max() for leaf in wanted[1:])
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * largest)


def test_bfloat16_is_close():
    x, step, _ = inputs(ONE_LEVEL)
    apply, params = read(drawn(ONE_LEVEL), ONE_LEVEL)
    half, _ = outline(ADM(**ONE_LEVEL, dtype="bfloat16", rng=None))
    found, wanted = jax.jit(half)(params, x, step), jax.jit(apply)(params, x, step)
    assert found.dtype == jnp.float32
    assert 1e-5 < relative(found, wanted) < 3e-2


def test_a_fresh_network_predicts_zero_and_compiles_once():
    (apply, params), (again, _) = (build(DENOISERS["adm"], seed, **ONE_LEVEL) for seed in (0, 1))
    assert apply == again and hash(apply) == hash(again)
    eps, variance = jax.jit(apply.of("with_variance"))(params, *inputs(ONE_LEVEL)[:2])
    assert eps.shape == variance.shape == (2, 12, 20, 3) and eps.dtype == jnp.float32
    assert not eps.any() and not variance.any()
    assert np.asarray(params["up"][0][0]["conv1"]["kernel"]).std() > 0


def test_eps_and_variance_are_the_published_outputs_in_order():
    """The last convolution's biases alone: three of noise, then three of variance."""
    apply, params = read(drawn(ONE_LEVEL), ONE_LEVEL)
    params["out"] = {"kernel": jnp.zeros((3, 3, 32, 6)), "bias": jnp.arange(6.0)}
    x, step, _ = inputs(ONE_LEVEL)
    eps, variance = jax.jit(apply.of("with_variance"))(params, x, step)
    np.testing.assert_array_equal(eps[1, 5, 7], [0, 1, 2])
    np.testing.assert_array_equal(variance[1, 5, 7], [3, 4, 5])


def test_a_full_network_is_traced_at_a_street_scenes_size():
    apply, params = outline(ADM(**adm.PUBLISHED["256x256_diffusion_uncond"], dtype="bfloat16", remat=True, rng=None))
    x, step = jax.ShapeDtypeStruct((1, 512, 1024, 3), "float32"), jax.ShapeDtypeStruct((1,), "int32")
    assert jax.eval_shape(apply, params, x, step) == jax.ShapeDtypeStruct((1, 512, 1024, 3), "float32")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"widths": (32, 48)}, "48 channels do not divide into the 32 groups of ADM's norms"),
        ({"head_channels": 48}, "64 channels do not divide into attention heads of 48"),
        ({"heads": 3}, "64 channels do not divide into 3 attention heads"),
        ({"attention": (4,)}, r"attention is \(4,\); resolutions are downsampled by \[1, 2\]"),
        ({"resample": "linear"}, "resample is 'linear'; it is one of block, conv, plain"),
        ({"attention_kernel": "triton"}, "attention_kernel is 'triton'; it is one of xla, cudnn"),
        ({"attention_kernel": "cudnn"}, "dtype is 'float32' and heads have 16 channels"),
        ({"attention_kernel": "cudnn", "dtype": "bfloat16", "heads": 16}, "heads have 4 channels"),
        ({"classes": 5, "label": 5}, "label is 5; the network has 5 classes"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        ADM(**SMALL | changes, rng=None)


@pytest.mark.parametrize(
    ("changes", "height", "method", "sentence"),
    [
        ({}, 13, "__call__", "image size 13x20 is no multiple of the UNet's stride 2"),
        ({"classes": 5}, 12, "__call__", "the network is class-conditional: `label` says which class"),
        ({"learn_sigma": False}, 12, "with_variance", "predicts no variance: learn_sigma is False"),
        ({"attention_kernel": "cudnn", "dtype": "bfloat16"}, 12, "__call__", "'cudnn' needs a GPU"),
    ],
)
def test_calls_that_do_not_fit_are_refused(changes, height, method, sentence):
    apply, params = outline(ADM(**SMALL | changes, rng=None))
    x, step = jax.ShapeDtypeStruct((1, height, 20, 3), "float32"), jax.ShapeDtypeStruct((1,), "int32")
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(apply.of(method), params, x, step)
