"""DeepLabV2 against the same network in torch.nn.functional, through the tables of its published weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import check_table

from sgg_jax.errors import InputError
from sgg_jax.models import SEGMENTERS
from sgg_jax.models.deeplab import FASTER, FORMS, DeepLabV2
from sgg_jax.models.functional import functional, named, outline
from sgg_jax.published import deeplab, resnet

TINY = {"classes": 5, "blocks": (1, 2, 2, 1), "widths": (4, 6, 8, 10)}
CAFFE = {"normalisation": "caffe", "stride_place": "1x1", "ceil_pool": True, "align_corners": True}
CASES = [  # options and an image's size
    (CAFFE, (65, 97)),
    (CAFFE | {"rates": (6, 12), "forms": FORMS}, (48, 64)),
    ({"normalisation": "imagenet", "stride_place": "3x3", "ceil_pool": False, "align_corners": False}, (41, 58)),
    ({"stride_place": "3x3", "ceil_pool": True, "align_corners": False, "forms": FORMS}, (50, 71)),
    ({"stride_place": "1x1", "ceil_pool": False, "forms": ()}, (64, 33)),
]


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def image(height, width, count=2):
    return np.random.default_rng((height, width)).uniform(-1, 1, (count, height, width, 3)).astype(np.float32)


def trunk_shapes(blocks, widths):
    """Every key of torchvision's file but its classifier, written down from its source."""
    shapes, inputs = {}, widths[0]

    def conv_bn(conv, bn, *shape):
        shapes[f"{conv}.weight"] = shape
        shapes.update({f"{bn}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{bn}.num_batches_tracked"] = ()

    conv_bn("conv1", "bn1", widths[0], 3, 7, 7)
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            conv_bn(f"{at}.conv1", f"{at}.bn1", width, inputs, 1, 1)
            conv_bn(f"{at}.conv2", f"{at}.bn2", width, width, 3, 3)
            conv_bn(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                conv_bn(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, inputs, 1, 1)
            inputs = 4 * width
    return shapes


def deeplab_shapes(classes=5, blocks=TINY["blocks"], widths=TINY["widths"], heads=("layer6",), **_):
    shapes = trunk_shapes(blocks, widths)
    for head in heads:
        for branch in range(4):
            shapes[f"{head}.conv2d_list.{branch}.weight"] = (classes, 4 * widths[3 if head == "layer6" else 2], 3, 3)
            shapes[f"{head}.conv2d_list.{branch}.bias"] = (classes,)
    return shapes


def drawn(shapes):
    """Weights of published shapes in which no norm is trivial."""
    state = {}
    for seed, (key, shape) in enumerate(shapes.items()):
        noise = draw(*shape, seed=seed)
        if key.endswith("num_batches_tracked"):
            state[key] = np.asarray(7)
        elif key.endswith("running_var"):
            state[key] = np.exp(noise / 2)
        elif len(shape) == 4:
            state[key] = noise * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        elif key.endswith("weight"):
            state[key] = 1 + noise / 4
        else:
            state[key] = noise / 3
    state["conv1.weight"] = state["conv1.weight"] / 8
    return state


def read(params, links, state):
    """params with every weight that the links give in its place."""
    given = {}
    for link in links:
        given |= dict(zip(link.ours, link.read(tuple(state[key] for key in link.theirs)), strict=True))
    for name, leaf in named(params).items():
        assert given[name].shape == leaf.shape, name
    return jax.tree.unflatten(jax.tree.structure(params), [jnp.asarray(given[name]) for name in named(params)])


def write(params, links):
    """What the published file would hold."""
    ours, state = named(params), {}
    for link in links:
        state |= dict(zip(link.theirs, link.write(tuple(np.asarray(ours[name]) for name in link.ours)), strict=True))
    return state


def torch_deeplab(torch, state, x, *, blocks, rates=(6, 12, 18, 24), normalisation="imagenet", stride_place="3x3",
                  ceil_pool=False, align_corners=True, **_):  # fmt: skip
    """AdaptSegNet's network (its loop mended) on an NHWC image in [-1,1]; the stride's place as an option."""
    functions = torch.nn.functional

    def conv_bn(x, conv, bn, stride=1, padding=0, dilation=1):
        x = functions.conv2d(x, state[f"{conv}.weight"], None, stride, padding, dilation)
        statistics = (state[f"{bn}.running_mean"], state[f"{bn}.running_var"])
        return functions.batch_norm(x, *statistics, state[f"{bn}.weight"], state[f"{bn}.bias"], False, eps=1e-5)

    def bottleneck(x, at, stride, dilation):
        first, second = (stride, 1) if stride_place == "1x1" else (1, stride)
        h = torch.relu(conv_bn(x, f"{at}.conv1", f"{at}.bn1", first))
        h = torch.relu(conv_bn(h, f"{at}.conv2", f"{at}.bn2", second, dilation, dilation))
        h = conv_bn(h, f"{at}.conv3", f"{at}.bn3")
        skip = f"{at}.downsample.0.weight" in state
        return torch.relu(h + (conv_bn(x, f"{at}.downsample.0", f"{at}.downsample.1", stride) if skip else x))

    size, x = x.shape[1:3], (x.permute(0, 3, 1, 2) + 1) / 2
    if normalisation == "imagenet":
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (x - mean[:, None, None]) / deviation[:, None, None]
    else:
        x = 255 * x.flip(1) - torch.tensor([104.00698793, 116.66876762, 122.67891434])[:, None, None]
    x = torch.relu(conv_bn(x, "conv1", "bn1", 2, 3))
    x = functions.max_pool2d(x, 3, 2, 1, ceil_mode=ceil_pool)
    for stage, (stride, dilation) in enumerate([(1, 1), (2, 1), (1, 2), (1, 4)], 1):
        for block in range(blocks[stage - 1]):
            x = bottleneck(x, f"layer{stage}.{block}", stride if block == 0 else 1, dilation)
    deep, total = x, 0
    for branch, rate in enumerate(rates):
        names = (f"layer6.conv2d_list.{branch}.{name}" for name in ("weight", "bias"))
        total = total + functions.conv2d(deep, *(state[name] for name in names), 1, rate, rate)
    full = functions.interpolate(total, size=size, mode="bilinear", align_corners=align_corners)
    return [tensor.permute(0, 2, 3, 1) for tensor in (full, total, deep)]


def relative(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def tensors(torch, state):
    return {key: torch.from_numpy(np.array(value, copy=True)) for key, value in state.items()}


# parity


@pytest.mark.parametrize(("options", "size"), CASES)
def test_values_and_gradient_are_pytorchs(options, size):
    torch = pytest.importorskip("torch", reason="the oracle of published networks")
    torch.set_num_threads(1)
    options = TINY | options
    state = drawn(deeplab_shapes())
    apply, params = outline(DeepLabV2(**options, rng=None))
    params = read(params, deeplab.links(**options), state)
    x, weight = image(*size), draw(2, *size, 5)

    given = torch.from_numpy(x).requires_grad_(True)
    full, low, deep = torch_deeplab(torch, tensors(torch, state), given, **options)
    (full * torch.from_numpy(weight)).sum().backward()

    def loss(x):
        logits = apply(params, x)
        return jnp.sum(logits * weight), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(x)
    assert logits.dtype == jnp.float32
    assert relative(logits, full.detach().numpy()) <= 1e-4
    assert relative(gradient, given.grad.numpy()) <= 1e-3
    few = jax.jit(lambda x: (apply.of("logits")(params, x), apply.of("features")(params, x)))(x)
    assert relative(few[0], low.detach().numpy()) <= 1e-4
    assert relative(few[1], deep.detach().numpy().mean((1, 2))) <= 1e-4


def test_what_is_written_gives_pytorch_the_same():
    torch = pytest.importorskip("torch", reason="the oracle of published networks")
    torch.set_num_threads(1)
    options = TINY | CAFFE
    apply, params = functional(DeepLabV2(**options, rng=np.random.default_rng(0)))
    params = jax.tree.map(lambda leaf: leaf + 0.05 * draw(*leaf.shape), params)  # no bias is zero
    state = write(params, deeplab.links(**options))
    assert {key: value.shape for key, value in state.items()} == {
        key: shape for key, shape in deeplab_shapes().items() if not key.endswith("num_batches_tracked")
    }
    x = image(41, 58)
    theirs = torch_deeplab(torch, tensors(torch, state), torch.from_numpy(x), **options)[0]
    assert relative(jax.jit(apply)(params, x), theirs.numpy()) <= 1e-4


# forms


@pytest.fixture(scope="module")
def plain():
    """What the network gives with none of the forms: (loss, gradients)."""
    return value_and_gradients(forms=())


def value_and_gradients(size=(41, 59), **options):
    apply, params = functional(DeepLabV2(**TINY, ceil_pool=True, **options, rng=np.random.default_rng(3)))
    params = jax.tree.map(lambda leaf: leaf + 0.05 * draw(*leaf.shape), params)
    weight = draw(2, *size, 5)
    loss = jax.value_and_grad(lambda params, x: jnp.sum(jnp.sin(apply(params, x)) * weight), (0, 1))
    return jax.jit(loss)(params, image(*size))


@pytest.mark.parametrize(
    "options",
    [{"forms": (form,)} for form in FORMS] + [{"forms": FASTER, "remat": True}, {"forms": FORMS, "remat": True}],
)
def test_forms_and_rematerialisation_change_nothing(options, plain):
    value, gradients = value_and_gradients(**options)
    assert float(value) == pytest.approx(float(plain[0]), rel=1e-4)
    wanted = named(plain[1])
    for name, gradient in named(gradients).items():
        assert relative(gradient, wanted[name]) <= 1e-4, name


def test_bfloat16_is_close_and_its_logits_are_float32():
    logits = []
    for dtype in ("float32", "bfloat16"):
        apply, params = functional(DeepLabV2(**TINY, dtype=dtype, forms=FORMS, rng=np.random.default_rng(0)))
        logits.append(jax.jit(apply)(params, image(40, 56)))
        assert logits[-1].dtype == jnp.float32
    assert 1e-5 < relative(logits[1], logits[0]) < 0.05


@pytest.mark.parametrize("options", [{"normalisation": "fast"}, {"stride_place": "fast"}, {"forms": ("pool", "fast")}])
def test_options_have_names(options):
    with pytest.raises(ValueError, match="'fast' is none of"):
        DeepLabV2(classes=3, **options, rng=None)


def test_a_resnet_has_four_stages():
    with pytest.raises(ValueError, match="four stages"):
        DeepLabV2(classes=3, blocks=(1, 1, 1), rng=None)


def test_it_is_a_segmenter_by_name():
    assert SEGMENTERS["deeplab"] is DeepLabV2


# tables


def theirs(links):
    return {key for link in links for key in link.theirs}


def ignored(keys, patterns):
    return {key for key in keys if any(re.search(pattern, key) for pattern in patterns)}


@pytest.mark.parametrize("name", deeplab.PUBLISHED)
def test_the_table_of_deeplab_covers_both_sides(name):
    options = {"blocks": (3, 4, 23, 3), "widths": (64, 128, 256, 512)} | deeplab.PUBLISHED[name]
    links = deeplab.links(**options)
    check_table(links)
    assert {ours for link in links for ours in link.ours} == set(named(outline(DeepLabV2(**options, rng=None))[1]))
    keys = set(deeplab_shapes(**options, heads=("layer5", "layer6")))
    assert keys - theirs(links) == ignored(keys, deeplab.IGNORED) - theirs(links)
    assert theirs(links) <= keys


@pytest.mark.parametrize("name", resnet.PUBLISHED)
def test_the_table_of_resnet_covers_all_but_the_classifiers(name):
    options = {"widths": (64, 128, 256, 512)} | resnet.PUBLISHED[name]
    links = resnet.links(**options)
    check_table(links)
    ours = set(named(outline(DeepLabV2(classes=19, **options, rng=None))[1]))
    assert {name for link in links for name in link.ours} == ours - {name for name in ours if name.startswith("aspp.")}
    keys = set(trunk_shapes(**options)) | {"fc.weight", "fc.bias"}
    assert keys - theirs(links) == ignored(keys, resnet.IGNORED)
    assert resnet.options_of(trunk_shapes(**options) | {"fc.weight": (1000, 2048)}) == options
    assert name != "resnet101" or len(keys) == 626  # of torchvision's file


def test_the_published_number_of_parameters():
    """43.9M: PyTorch's own, of ResNet-101 and 19 classes. Here a BatchNorm is one bias: a number less a channel."""
    options = {"blocks": (3, 4, 23, 3), "widths": (64, 128, 256, 512), "classes": 19}
    shapes = deeplab_shapes(**options)
    published = sum(int(np.prod(shape)) for key, shape in shapes.items() if key.endswith((".weight", ".bias")))
    channels = sum(shape[0] for key, shape in shapes.items() if key.endswith("running_var"))
    apply, params = outline(DeepLabV2(**options, rng=None))
    ours = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert (published, channels, ours) == (43_901_068, 52_672, 43_848_396)
    assert ours == published - channels
    given = jax.ShapeDtypeStruct((1, 512, 1024, 3), jnp.float32)
    assert jax.eval_shape(apply, params, given).shape == (1, 512, 1024, 19)
    assert jax.eval_shape(apply.of("features"), params, given).shape == (1, 2048)


@pytest.mark.parametrize("prefix", ["", "module.", "Scale.", "module.Scale."])
@pytest.mark.parametrize("heads", [("layer6",), ("layer5", "layer6"), ("layer5",)])
def test_options_are_recognised_under_every_spelling(heads, prefix):
    shapes = deeplab_shapes(heads=heads)
    if heads == ("layer5",):  # the single-level network, whose classifier sits on the deepest map
        shapes |= {key.replace("layer6", "layer5"): shape for key, shape in deeplab_shapes().items() if "layer6" in key}
    spelt = {prefix + key: shape for key, shape in shapes.items()}
    assert deeplab.options_of(spelt) == TINY | {"rates": (6, 12, 18, 24)} | CAFFE
    assert theirs(deeplab.links(**TINY)) <= set(deeplab.standard(spelt))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"layer1.0.conv3.weight": None}, "layer1.0.conv3.weight"),  # basic blocks
        ({"layer1.0.conv2.weight": (4, 1, 3, 3)}, "layer1.0.conv2.weight"),  # ResNeXt
        ({"conv1.weight": None, "conv1.0.weight": (2, 3, 3, 3)}, "conv1.weight"),  # deep stem
        ({"layer3.1.conv1.weight": (9, 32, 1, 1)}, "layer3.1.conv1.weight"),
        ({"layer4.0.conv1.weight": None}, "layer4.0.conv1.weight"),
        ({"layer4.0.conv1.weight": (10,)}, "layer4.0.conv1.weight"),
        ({"layer6.conv2d_list.2.weight": None}, "layer6.conv2d_list.2.weight"),
        ({"layer6.conv2d_list.3.weight": (4, 40, 3, 3)}, "layer6.conv2d_list.3.weight"),
        ({"layer6.conv2d_list.0.weight": (5, 32, 3, 3)}, "layer6.conv2d_list.0.weight"),
    ],
)
def test_other_networks_are_refused_by_the_key_that_tells(change, key):
    shapes = deeplab_shapes() | change
    with pytest.raises(InputError, match=re.escape(f"{key} ")):
        deeplab.options_of({name: shape for name, shape in shapes.items() if shape is not None})
