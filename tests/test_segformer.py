"""Published SegFormer and DAFormer: names, options, directories; equal outputs and gradients in torch."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from toys import check_table

from sgg_jax.errors import InputError
from sgg_jax.models.functional import named, outline
from sgg_jax.models.mit import MixTransformer
from sgg_jax.models.segformer import IMAGENET_MEAN, IMAGENET_STD, SegFormer
from sgg_jax.published import mit, segformer
from sgg_jax.published.links import their_shapes

ENCODER = dict(
    widths=(8, 12, 20, 32), depths=(1, 1, 2, 1), heads=(1, 2, 5, 8), reductions=(8, 4, 2, 1), mlp_ratios=(2, 3, 2, 2)
)
TINY = dict(**ENCODER, classes=4, channels=12)


@pytest.fixture(scope="module")
def oracle():
    """tests/torch_segformer.py, on one thread."""
    torch = pytest.importorskip("torch", reason="torch is the oracle; its CPU build is for Python 3.11")
    import torch_segformer

    torch.set_num_threads(1)
    return torch_segformer


@pytest.fixture(scope="module")
def hugging_face(oracle):
    return pytest.importorskip("transformers", reason="transformers is the oracle; it needs torch")


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).uniform(-1, 1, shape).astype(np.float32)


def imported(links, tensors, params, ignored):
    """Weights of an outline, read from tensors; the table covers both sides."""
    check_table(links)
    read = {}
    for link in links:
        arrays = link.read(tuple(tensors[name] for name in link.theirs))
        read |= dict(zip(link.ours, arrays, strict=True))
    wanted = named(params)
    assert {name: array.shape for name, array in read.items()} == {name: leaf.shape for name, leaf in wanted.items()}
    rest = set(tensors) - {name for link in links for name in link.theirs}
    assert [name for name in rest if not any(re.fullmatch(pattern, name) for pattern in ignored)] == []
    return jax.tree.unflatten(jax.tree.structure(params), [jnp.asarray(read[name]) for name in wanted])


def exported(links, params):
    """The published tensors of weights."""
    ours, tensors = {name: np.asarray(leaf) for name, leaf in named(params).items()}, {}
    for link in links:
        tensors |= dict(zip(link.theirs, link.write(tuple(ours[name] for name in link.ours)), strict=True))
    return {name: np.array(array, order="C") for name, array in tensors.items()}


def close(found, wanted, tolerance):
    assert np.abs(np.asarray(found) - wanted).max() <= tolerance * np.abs(wanted).max()


def run_ours(apply, params, image, weight):
    """(logits at the image's size, gradient of their weighted sum with respect to the image)."""

    def weighted(image):
        logits = apply(params, image)
        return jnp.sum(logits * weight), logits

    gradient, logits = jax.jit(jax.grad(weighted, has_aux=True))(image)
    return logits, gradient


def run_theirs(module, image, weight, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """The same of a torch module that gives logits at a quarter."""
    import torch

    given = torch.tensor(image, requires_grad=True)
    pixels = ((given + 1) / 2 - torch.tensor(mean)) / torch.tensor(std)
    found = module(pixels.movedim(-1, 1))
    logits = torch.nn.functional.interpolate(
        getattr(found, "logits", found), image.shape[1:3], mode="bilinear", align_corners=False
    ).movedim(1, -1)
    (logits * torch.tensor(weight)).sum().backward()
    return logits.detach().numpy(), given.grad.numpy()


def compare(module, apply, params, size, **normalization):
    image = draw(2, *size, 3)
    weight = draw(2, *size, 4, seed=1)
    for found, wanted, tolerance in zip(
        run_ours(apply, params, image, weight),
        run_theirs(module, image, weight, **normalization),
        (1e-4, 1e-3),
        strict=True,
    ):
        assert np.abs(wanted).max() > 0
        close(found, wanted, tolerance)


def arrays_of(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def shapes_of(tensors):
    return {name: array.shape for name, array in tensors.items()}


# Hugging Face

DIRECTORIES = {  # options, image size
    "tiny": (dict(), (45, 71)),
    "other reductions": (dict(reductions=(4, 2, 1, 1), mlp_ratios=(1, 2, 4, 1), channels=8), (32, 64)),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_hugging_face_directory_gives_its_outputs_and_back(name, hugging_face, oracle, tmp_path):
    options, size = {**TINY, **DIRECTORIES[name][0]}, DIRECTORIES[name][1]
    names = ("road", "sidewalk", "car", "sky")
    normalization = dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    config = hugging_face.SegformerConfig(**segformer.config_json(options, names))
    theirs = oracle.randomised(hugging_face.SegformerForSemanticSegmentation(config))
    theirs.save_pretrained(tmp_path)
    processor = segformer.preprocessor_json({**options, **normalization})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))

    found = segformer.read_directory(tmp_path)
    assert found.options == {**options, **normalization, "epsilon": 1e-5}
    assert (found.names, found.files) == (names, (tmp_path / "model.safetensors",))
    tensors = load_file(found.files[0])
    assert segformer.options_of(shapes_of(tensors)) == {**options, "epsilon": 1e-5}
    apply, params = outline(SegFormer(**found.options, rng=None))
    params = imported(found.links, tensors, params, segformer.IGNORED)
    compare(theirs, apply, params, size, **normalization)

    back = tmp_path / "back"
    back.mkdir()
    (back / "config.json").write_text(json.dumps(segformer.config_json(found.options, names)))
    save_file(exported(found.links, params), back / "model.safetensors", {"format": "pt"})
    again = hugging_face.SegformerForSemanticSegmentation.from_pretrained(back, local_files_only=True).eval()
    assert again.config.id2label == dict(enumerate(names))
    weight = draw(2, *size, 4, seed=1)
    close(run_theirs(again, draw(2, *size, 3), weight)[0], run_theirs(theirs, draw(2, *size, 3), weight)[0], 1e-5)


def test_published_b0_gives_the_outputs_of_transformers(hugging_face, oracle, tmp_path):
    options = segformer.PUBLISHED["segformer-b0"]
    config = hugging_face.SegformerConfig(**segformer.config_json(options, [f"class {i}" for i in range(19)]))
    theirs = oracle.randomised(hugging_face.SegformerForSemanticSegmentation(config))
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    apply, params = outline(SegFormer(**options, rng=None))
    params = imported(segformer.links(**options), tensors, params, segformer.IGNORED)
    image = draw(1, 64, 96, 3)
    close(jax.jit(apply)(params, image), run_theirs(theirs, image, np.float32(1))[0], 1e-4)
    counted = sum(array.size for name, array in tensors.items() if "running" not in name and "batches" not in name)
    assert counted == 3_719_027


def test_an_encoder_of_imagenet_is_read_without_a_head(hugging_face, oracle, tmp_path):
    fields = {field: list(ENCODER[ours]) for field, ours in segformer.STRUCTURE.items()}
    config = hugging_face.SegformerConfig(**fields, reshape_last_stage=False)
    oracle.randomised(hugging_face.SegformerForImageClassification(config)).save_pretrained(tmp_path)
    found = segformer.read_directory(tmp_path)
    assert found.options == {**ENCODER, "epsilon": 1e-5, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    assert found.names == ()
    tensors = load_file(tmp_path / "model.safetensors")
    assert segformer.options_of(shapes_of(tensors)) == {**ENCODER, "epsilon": 1e-5}
    params = {"encoder": outline(MixTransformer(**ENCODER, rng=None))[1]}
    imported(found.links, tensors, params, segformer.IGNORED)


def test_a_network_with_the_authors_epsilon_is_nearly_the_same_in_transformers(hugging_face, oracle):
    """They differ by 1e-6 and 1e-5 below a variance, in most norms."""
    module = oracle.randomised(oracle.EncoderDecoder(**TINY))
    other = oracle.EncoderDecoder(**TINY, epsilon=segformer.EPSILON)
    other.load_state_dict(module.state_dict())
    image, weight = draw(2, 45, 71, 3), draw(2, 45, 71, 4)
    one, two = (run_theirs(network, image, weight)[0] for network in (module, other.eval()))
    assert 0 < np.abs(one - two).max() / np.abs(one).max() < 1e-3


# the authors' names

FILES = {  # options, image size, prefix
    "segformer": (dict(head="mlp"), (45, 71), "backbone."),
    "daformer": (dict(head="daformer"), (33, 64), "backbone."),
    "daformer after self-training": (dict(head="daformer", dilations=(1, 2, 4)), (40, 40), "model.backbone."),
}


@pytest.mark.parametrize("name", FILES)
def test_the_authors_networks_give_their_outputs_and_back(name, oracle):
    change, size, prefix = FILES[name]
    options = {**TINY, **change}
    theirs = oracle.randomised(oracle.EncoderDecoder(**options))
    before = prefix.removesuffix("backbone.")
    tensors = {before + key: array for key, array in arrays_of(theirs).items()}
    if before:
        tensors |= {f"ema_{key}": np.zeros_like(array) for key, array in tensors.items()}
    recognised = mit.options_of(shapes_of(tensors))
    assert recognised == {**TINY, "head": change["head"], "epsilon": 1e-6}
    links = mit.links(**options, prefix=mit.prefix_of(shapes_of(tensors)))
    apply, params = outline(SegFormer(**{**recognised, **change}, rng=None))
    params = imported(links, tensors, params, mit.IGNORED)
    compare(theirs, apply, params, size)

    again = oracle.EncoderDecoder(**options).eval()
    written = {key.removeprefix(before): array for key, array in exported(links, params).items()}
    state = {key: oracle.torch.from_numpy(array) for key, array in written.items()}
    missing, unexpected = again.load_state_dict(state, strict=False)
    assert [key for key in missing if not any(re.fullmatch(pattern, key) for pattern in mit.IGNORED)] == []
    assert unexpected == []
    image, weight = draw(2, *size, 3), draw(2, *size, 4, seed=1)
    close(run_theirs(again, image, weight)[0], run_theirs(theirs, image, weight)[0], 1e-5)


def test_the_authors_imagenet_encoder_is_read_without_a_head(oracle):
    tensors = arrays_of(oracle.randomised(oracle.MiT(**ENCODER)))
    tensors |= {"head.weight": np.zeros((1000, 32)), "head.bias": np.zeros(1000)}
    assert mit.options_of(shapes_of(tensors)) == {**ENCODER, "epsilon": 1e-6}
    params = {"encoder": outline(MixTransformer(**ENCODER, rng=None))[1]}
    imported(mit.encoder_links(**ENCODER, prefix=mit.prefix_of(tensors)), tensors, params, mit.IGNORED)


# names and options, without torch


def theirs_of(links):
    return {name for link in links for name in link.theirs}


def written_shapes(links, options):
    """Shapes of a published file, as the table writes them."""
    weights = named(outline(SegFormer(**options, rng=None))[1])
    return their_shapes(links, {name: leaf.shape for name, leaf in weights.items()})


def test_names_are_those_of_the_published_files():
    """Some of nvidia/segformer-b5-finetuned-cityscapes-1024-1024, of segformer.b5.1024x1024.city.160k.pth and of
    DAFormer's checkpoint, with each spelling that occurs."""
    assert theirs_of(segformer.links(**segformer.PUBLISHED["segformer-b5"])) >= {
        "segformer.encoder.patch_embeddings.3.proj.weight",
        "segformer.encoder.patch_embeddings.0.layer_norm.bias",
        "segformer.encoder.block.2.39.layer_norm_1.weight",
        "segformer.encoder.block.0.0.attention.self.query.weight",
        "segformer.encoder.block.0.0.attention.self.key.bias",
        "segformer.encoder.block.0.0.attention.self.value.weight",
        "segformer.encoder.block.0.0.attention.self.sr.weight",
        "segformer.encoder.block.0.0.attention.self.layer_norm.weight",
        "segformer.encoder.block.3.2.attention.output.dense.bias",
        "segformer.encoder.block.3.2.mlp.dense1.weight",
        "segformer.encoder.block.3.2.mlp.dwconv.dwconv.weight",
        "segformer.encoder.block.3.2.mlp.dense2.weight",
        "segformer.encoder.layer_norm.3.weight",
        "decode_head.linear_c.3.proj.weight",
        "decode_head.linear_fuse.weight",
        "decode_head.batch_norm.running_var",
        "decode_head.classifier.bias",
    }
    assert theirs_of(mit.links(**mit.PUBLISHED["segformer-b5"])) >= {
        "backbone.patch_embed1.proj.weight",
        "backbone.patch_embed4.norm.bias",
        "backbone.block3.39.norm2.weight",
        "backbone.block1.0.attn.q.weight",
        "backbone.block1.0.attn.kv.bias",
        "backbone.block1.0.attn.proj.weight",
        "backbone.block1.0.attn.sr.weight",
        "backbone.block1.0.attn.norm.weight",
        "backbone.block1.0.mlp.fc1.weight",
        "backbone.block1.0.mlp.dwconv.dwconv.bias",
        "backbone.norm4.weight",
        "decode_head.linear_c4.proj.weight",
        "decode_head.linear_fuse.conv.weight",
        "decode_head.linear_fuse.bn.running_mean",
        "decode_head.linear_pred.weight",
    }
    assert theirs_of(mit.links(**mit.PUBLISHED["daformer-b5"], prefix="model.backbone.")) >= {
        "model.backbone.block4.2.mlp.fc2.weight",
        "model.decode_head.embed_layers.3.proj.weight",
        "model.decode_head.fuse_layer.aspp_modules.0.conv.weight",
        "model.decode_head.fuse_layer.aspp_modules.3.depthwise_conv.conv.weight",
        "model.decode_head.fuse_layer.aspp_modules.3.depthwise_conv.bn.weight",
        "model.decode_head.fuse_layer.aspp_modules.1.pointwise_conv.bn.running_var",
        "model.decode_head.fuse_layer.bottleneck.bn.bias",
        "model.decode_head.conv_seg.weight",
    }


@pytest.mark.parametrize("name", ["segformer-b0", "segformer-b4", "daformer-b5"])
def test_published_options_are_recognised_by_shapes(name):
    options = mit.PUBLISHED[name]
    found = mit.options_of(written_shapes(mit.links(**options), options))
    assert found == {key: value for key, value in options.items() if key != "dilations"} | {"epsilon": 1e-6}


BROKEN = {  # a tensor's new shape, or None for a tensor that is gone; the message
    "backbone.patch_embed2.proj.weight": [
        (None, "no backbone.patch_embed2.proj.weight"),
        ((12, 8, 5, 5), "patch_embed2.proj.weight is a 5x5 convolution, and a published MiT has 3x3"),
        ((13, 8, 3, 3), "13 channels, which do not divide into 2 attention heads"),
        ((12, 8), r"has shape \[12, 8\], and 4 axes were expected"),
        ((0, 8, 3, 3), "none of them empty"),
    ],
    "backbone.patch_embed1.proj.weight": [(None, "no MiT as its authors name them")],
    "backbone.block3.0.norm1.weight": [(None, None)],  # no block at all is no shorter network
    "backbone.block4.0.mlp.fc1.weight": [((65, 32), "fc1.weight has 65 rows, which is no multiple of 32 channels")],
    "decode_head.linear_pred.weight": [(None, "no decode_head.linear_pred.weight")],
    "decode_head.linear_fuse.conv.weight": [((12,), r"has shape \[12\]")],
}


@pytest.mark.parametrize(
    ("tensor", "shape", "message"), [(name, *case) for name, cases in BROKEN.items() for case in cases if case[1]]
)
def test_shapes_that_are_no_published_network_are_refused(tensor, shape, message):
    options = {**TINY, "head": "mlp"}
    shapes = written_shapes(mit.links(**options), options)
    assert mit.options_of(shapes) == {**options, "epsilon": 1e-6}
    changed = {**shapes, tensor: shape} if shape else {name: s for name, s in shapes.items() if name != tensor}
    with pytest.raises(InputError, match=message):
        mit.options_of(changed)
