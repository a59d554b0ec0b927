"""Published weights into directories of ours and back: what becomes of every tensor, what is refused, memory."""

import json
import re
import tracemalloc

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sgg_jax import network_stages
from sgg_jax.errors import InputError
from sgg_jax.models import DENOISERS, SEGMENTERS, build, named, outline
from sgg_jax.pretrained import read_story
from sgg_jax.published import adm, deeplab, mit, resnet
from sgg_jax.published.exporting import export_weights
from sgg_jax.published.importing import import_weights
from sgg_jax.published.kinds import NETWORKS, PUBLISHED, complete, open_published

ADM = dict(channels=32, widths=(32, 64), blocks=1, attention=(2,))
RESNET = dict(blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8))
DEEPLAB = dict(classes=5, rates=(6, 12, 18, 24), **RESNET, **deeplab._CAFFE)
MIT = dict(widths=(8, 8, 10, 8), depths=(1, 1, 1, 2), heads=(1, 2, 5, 8), reductions=(4, 2, 2, 1), mlp_ratios=(2,) * 4)
SEGFORMER = dict(**MIT, classes=5, channels=6, head="mlp")
KINDS = {  # network, its options, the table of the file, options that the file does not tell
    "adm": ("adm", ADM, adm.links(**ADM)),
    "resnet101": ("deeplab", dict(classes=19, **RESNET), resnet.links(**RESNET)),
    "mit": ("segformer", dict(**MIT, classes=19, channels=256), mit.encoder_links(**MIT, prefix="")),
    "segformer": ("segformer", SEGFORMER, mit.links(**SEGFORMER)),
    "deeplabv2": ("deeplab", DEEPLAB, deeplab.links(**DEEPLAB)),
}
EXTRA = {  # tensors that published files have besides
    "resnet101": {"fc.weight": np.zeros((10, 32), np.float32), "bn1.num_batches_tracked": np.zeros((), np.int64)},
    "mit": {"head.weight": np.zeros((10, 8), np.float32)},
    "deeplabv2": {"layer5.conv2d_list.0.weight": np.zeros((5, 4, 3, 3), np.float32)},
}


def drawn(kind, seed=0):
    """Our weights of a small network of that kind, and the tensors that its file has."""
    network, options, links = KINDS[kind]
    _, params = build({**DENOISERS, **SEGMENTERS}[network], seed, **options)
    rng = np.random.default_rng(seed)
    ours = {
        n: (np.asarray(v) + 0.1 * rng.standard_normal(v.shape)).astype(np.float32) for n, v in named(params).items()
    }
    theirs = {}
    for link in links:
        tensors = link.write(tuple(ours[name] for name in link.ours))
        theirs |= {name: np.ascontiguousarray(tensor) for name, tensor in zip(link.theirs, tensors, strict=True)}
    return ours, theirs


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_every_kind_becomes_its_network(kind, tmp_path):
    ours, theirs = drawn(kind)
    save_file({**theirs, **EXTRA.get(kind, {})}, tmp_path / "file.safetensors")
    report = import_weights(kind, tmp_path / "file.safetensors", tmp_path / "out")
    assert report["network"] == KINDS[kind][0]
    assert report["unused"] == sorted(EXTRA.get(kind, {}))
    heads = [name for name in ours if name.startswith(("head.", "aspp."))]
    assert report["missing"] == (sorted(heads) if kind in ("resnet101", "mit") else [])
    found = load_file(tmp_path / "out" / "weights.safetensors")
    assert found.keys() == ours.keys() - set(report["missing"])
    for name, values in found.items():
        np.testing.assert_allclose(values, ours[name], rtol=1e-5, atol=1e-6)
    story = read_story(tmp_path / "out" / "weights.safetensors")
    assert story["kind"] == kind and len(story["source"][0]["sha256"]) == 64
    told = json.loads((tmp_path / "out" / "import.json").read_text())
    assert sorted(name for names in told["mapped"] for name in names.split()) == sorted(found)
    for option, value in KINDS[kind][1].items():  # all but the head's are read off the file
        if option in report["options"]:
            assert tuple(np.ravel(report["options"][option])) == tuple(np.ravel(value)), option


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", ["missing", "extra", "shape"])
def test_what_does_not_fit_is_named(kind, harm, tmp_path):
    _, theirs = drawn(kind)
    name = sorted(theirs)[len(theirs) // 2]
    if harm == "missing":
        del theirs[name]
    elif harm == "extra":
        name = "somebody.elses.weight"
        theirs[name] = np.zeros(3, np.float32)
    else:
        theirs[name] = np.zeros((7, *theirs[name].shape), np.float32)
    save_file(theirs, tmp_path / "file.safetensors")
    with pytest.raises(InputError) as caught:
        import_weights(kind, tmp_path / "file.safetensors", tmp_path / "out")
    assert str(tmp_path / "file.safetensors") in str(caught.value) and len(str(caught.value).splitlines()) == 1
    told = re.findall(r"[\w.]+", str(caught.value).split("file.safetensors: ", 1)[1])
    layer = name.rpartition(".")[0]  # of a layer that is cut into, its first tensor in the way is named
    assert any(word.strip(".").startswith(layer) for word in told), str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_kind_is_refused(tmp_path):
    save_file(drawn("adm")[1], tmp_path / "file.safetensors")
    for kind in ("resnet101", "mit", "segformer", "deeplabv2"):
        with pytest.raises(InputError, match=r"file\.safetensors: "):
            import_weights(kind, tmp_path / "file.safetensors", tmp_path / "out")
    with pytest.raises(InputError, match="--kind is 'vgg'"):
        import_weights("vgg", tmp_path / "file.safetensors", tmp_path / "out")
    save_file(drawn("segformer")[1], tmp_path / "whole.safetensors")
    with pytest.raises(InputError, match="say --kind segformer"):
        import_weights("mit", tmp_path / "whole.safetensors", tmp_path / "out")


def test_a_preset_says_what_a_file_does_not(tmp_path):
    save_file(drawn("deeplabv2")[1], tmp_path / "file.safetensors")
    with open_published("deeplabv2", tmp_path / "file.safetensors", "adaptsegnet") as published:
        assert published.found.options["rates"] == (6, 12) and published.found.options["classes"] == 5
        assert "aspp.1.kernel" in dict(published.weights()) and "aspp.2.kernel" not in published.ours
        assert "layer6.conv2d_list.2.weight" in published.unused
        options, shapes = published.found.options, published.ours
        weights = dict(published.weights())
    path = export_weights("deeplab", options, (), shapes, weights.__getitem__, tmp_path / "exported")
    with open_published("deeplabv2", path) as published:  # a file of the two branches alone says it by itself
        assert published.found.options == options
        for name, values in published.weights():
            np.testing.assert_allclose(values, weights[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"--preset is 'mit-b0'.*choose one of resnet50, .*adaptsegnet"):
        import_weights("deeplabv2", tmp_path / "file.safetensors", tmp_path / "out", preset="mit-b0")


@pytest.mark.parametrize("kind", ["adm", "deeplabv2", "segformer"])
def test_back_come_the_published_names_and_the_same_network(kind, tmp_path):
    network, options, _ = KINDS[kind]
    ours, theirs = drawn(kind)
    names = tuple(f"class {number}" for number in range(options.get("classes", 0)))
    shapes = {name: values.shape for name, values in ours.items()}
    path = export_weights(network, options, names, shapes, ours.__getitem__, tmp_path / "exported")
    found = load_file(path)
    if kind == "segformer":  # Hugging Face's names: read by its directory
        with open_published("segformer", tmp_path / "exported") as published:
            assert published.found.names == names
            again = dict(published.weights())
    else:
        assert found.keys() == theirs.keys()
        import_weights(kind, path, tmp_path / "again")
        again = load_file(tmp_path / "again" / "weights.safetensors")
    assert again.keys() == ours.keys()
    for name, values in again.items():
        np.testing.assert_allclose(values, ours[name], rtol=1e-5, atol=1e-6)


def test_what_is_not_whole_or_nobodys_is_not_exported(tmp_path):
    ours, _ = drawn("deeplabv2")
    shapes = {name: values.shape for name, values in ours.items() if name != "stem.bias"}
    with pytest.raises(InputError, match=r"stem\.bias is not among the weights"):
        export_weights("deeplab", DEEPLAB, (), shapes, ours.__getitem__, tmp_path)
    with pytest.raises(InputError, match="'encoder_decoder' has no published form"):
        export_weights("encoder_decoder", {}, (), shapes, ours.__getitem__, tmp_path)


def test_a_large_file_streams(tmp_path):
    options = dict(channels=64, widths=(256, 256), blocks=2, attention=())
    shapes = adm.tensor_shapes(options)
    rng = np.random.default_rng(0)
    save_file({name: rng.random(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "file.safetensors")
    size, largest = (tmp_path / "file.safetensors").stat().st_size, max(4 * np.prod(s) for s in shapes.values())
    assert size > 40e6 > 5 * largest
    import_weights("adm", tmp_path / "file.safetensors", tmp_path / "warm")
    tracemalloc.start()
    import_weights("adm", tmp_path / "file.safetensors", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * largest + 5e6 < 0.2 * size


COUNTS = {  # millions of parameters, as published; BatchNorm folded where there was one
    "256x256_diffusion_uncond": 552.8,
    "deeplabv2_resnet101": 43.9 - 0.05,
    "segformer-b0": 3.7,
    "segformer-b5": 84.6,
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_configurations_have_the_published_sizes(name):
    network, options = PUBLISHED[name]
    params = outline(NETWORKS[network](**complete(network, options), rng=None))[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(COUNTS[name], abs=0.06)


def test_a_network_is_described(tmp_path, capsys):
    network_stages.main("describe", ["--network", "segformer-b0", "--size", "64,96"])
    told = capsys.readouterr().out
    assert "segformer-b0 (segformer): " in told and "3.7M" in told and "64x96" in told
    assert "encoder.stages.0.embed" in told and "kernel 7x7x3x32" in told
    save_file(drawn("adm")[1], tmp_path / "file.safetensors")
    arguments = ["--kind", "adm", "--file", str(tmp_path / "file.safetensors"), "--out", str(tmp_path / "adm")]
    assert network_stages.main("import_weights", arguments) == 0
    assert "to be trained: none" in capsys.readouterr().out
    network_stages.main("describe", ["--network", str(tmp_path / "adm"), "--size", "16,16"])
    assert "adm" in capsys.readouterr().out
    with pytest.raises(InputError, match="--size 15,16 does not suit the network"):
        network_stages.main("describe", ["--network", str(tmp_path / "adm"), "--size", "15,16"])


def test_flops_are_two_for_a_multiplication_and_an_addition():
    """DeepLabV2-ResNet-101 at 512x512, counted by hand."""
    network, options = PUBLISHED["deeplabv2_resnet101"]
    apply, params = outline(NETWORKS[network](**complete(network, options), rng=None))
    told = network_stages.described("r101", apply, params, (512, 512), denoiser=False)
    stem = 256**2 * 49 * 3 * 64
    first = 128**2 * (64 * 64 + 9 * 64 * 64 + 64 * 256 + 64 * 256) + 2 * 128**2 * (256 * 64 + 9 * 64 * 64 + 64 * 256)
    stages = [first]
    for inputs, width, count, side in ((256, 128, 4, 64), (512, 256, 23, 64), (1024, 512, 3, 64)):
        block = 9 * width * width + width * 4 * width
        stages.append(side**2 * (inputs * width + block + inputs * 4 * width))
        stages.append(side**2 * (count - 1) * (4 * width * width + block))
    classifier = 64**2 * 4 * 9 * 2048 * 19
    by_hand = 2 * (stem + sum(stages) + classifier) / 1e12
    tflop = float(told.split(" TFLOP")[0].split()[-1])
    assert tflop == pytest.approx(by_hand, rel=0.05)  # borders are a little less, relus and sums a little more
