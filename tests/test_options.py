"""Options of networks, in a config and in the header of a file of weights: what is none is a sentence that names it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_run import tiny

from sgg_jax import network_stages
from sgg_jax.errors import InputError
from sgg_jax.given import open_given
from sgg_jax.models import build, check_options
from sgg_jax.networks import make_network, outline_network
from sgg_jax.published.kinds import NETWORKS, PUBLISHED, complete

WRONG = [
    ("dtype", "float99", "dtype is 'float99': give float32, bfloat16"),
    ("dtype", "int32", "dtype is 'int32'"),
    ("dtype", 32, "dtype is 32: give a name"),
    ("patch", 0, "patch is 0: give a whole number of at least 1"),
    ("patch", 1.5, "patch is 1.5: give a whole number"),
    ("widths", (), r"widths is \(\): give a list, each of it a whole number of at least 1"),
    ("widths", (0,), r"widths is \(0,\)"),
    ("widths", ("a",), r"widths is \('a',\)"),
    ("widths", 8, "widths is 8"),
    ("blocks", True, "blocks is True"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), WRONG)
def test_a_config_that_describes_no_network_is_told_by_the_option(name, value, sentence):
    for section, network in (("denoiser", "unet"), ("segmenter", "encoder_decoder")):
        config = tiny()
        options = config[section][network].to_dict() | {name: value}
        config[section] = {**config[section].to_dict(), network: options}
        wanted = rf"config\.{section}\.{network} does not describe a network: {sentence}"
        with pytest.raises(InputError, match=wanted):
            make_network(config, section, network, "x", 0, ("a", "b"))
        with pytest.raises(InputError, match=wanted):
            outline_network(config, section, network, "x", 2 if section == "segmenter" else 0)


def test_options_that_networks_take():
    for network, options in PUBLISHED.values():
        check_options(NETWORKS[network], complete(network, options))
    config = tiny()
    for section, networks in (
        ("denoiser", ("unet", "adm")),
        ("segmenter", ("encoder_decoder", "deeplab", "segformer")),
    ):
        for name in networks:
            more = {"classes": 19} if section == "segmenter" else {}
            check_options(NETWORKS[name], {**config[section][name].to_dict(), **more, "dtype": "bfloat16"})
    with pytest.raises(ValueError, match="nonsense is none of its options: they are widths, blocks"):
        check_options(NETWORKS["unet"], {"nonsense": 1})
    with pytest.raises(ValueError, match="widths is missing"):
        build(NETWORKS["unet"], 0, blocks=1, patch=1, attention=())
    with pytest.raises(ValueError, match="label is -2: give a whole number of at least -1"):
        check_options(NETWORKS["adm"], {**PUBLISHED["ffhq_10m"][1], "label": -2})


SMALL = {"classes": 3, "widths": [8], "blocks": 1, "patch": 1, "dtype": "float32"}


def weights(path, **header):
    path.mkdir(exist_ok=True)
    story = {"network": "encoder_decoder", "options": SMALL, "names": ["a", "b", "c"], **header}
    told = {name: json.dumps(value) for name, value in story.items() if value is not ...}
    save_file({"stem.bias": np.zeros(8, np.float32)}, path / "weights.safetensors", told)
    return str(path)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"options": []}, "does not say what network it is of"),
        ({"options": ...}, "does not say what network it is of"),
        ({"network": ...}, "does not say what network it is of"),
        ({"network": "x"}, "does not say what network it is of"),
        ({"network": ["unet"]}, "does not say what network it is of"),
        ({"names": 3}, "does not say what network it is of"),
        ({"names": [1, 2, 3]}, "does not say what network it is of"),
        ({"options": {"nonsense": 1}}, r"make no network \(nonsense is none of its options"),
        ({"options": {**SMALL, "widths": "a"}}, r"make no network \(widths is 'a'"),
        ({"options": {**SMALL, "classes": "a"}}, r"make no network \(classes is 'a'"),
        ({"options": {"classes": 3, "widths": [8], "blocks": 1}}, r"make no network \(patch is missing\)"),
    ],
)
def test_a_header_that_says_something_else_is_a_sentence(header, sentence, tmp_path):
    directory = weights(tmp_path / "given", **header)
    wanted = rf"given/weights\.safetensors.* {sentence}.*: import it again"
    if "make" in sentence:
        wanted = rf"the options that .*given/weights\.safetensors has {sentence}.*: import it again"
    with pytest.raises(InputError, match=wanted):
        open_given(directory, "segmenter.network")
    with pytest.raises(InputError, match=wanted):
        network_stages.main("describe", ["--network", directory])
    with pytest.raises(InputError, match=wanted):
        network_stages.main("export_weights", ["--network", directory, "--out", str(tmp_path / "out")])


def test_a_sound_header_and_one_without_names(tmp_path):
    assert open_given(weights(tmp_path / "given"), "x").names == ("a", "b", "c")
    assert open_given(weights(tmp_path / "given", names=...), "x").options["widths"] == (8,)


def test_describe_names_its_flag_and_not_a_field(tmp_path):
    odd = weights(tmp_path / "odd", options={**SMALL, "widths": [9]})
    with pytest.raises(InputError, match="--network .*odd does not describe a network: 9 channels do not divide"):
        network_stages.main("describe", ["--network", odd])
    for arguments in (["describe"], ["export_weights", "--out", str(tmp_path / "out")]):
        with pytest.raises(InputError, match="^--network is 'no'"):
            network_stages.main(arguments[0], ["--network", "no", *arguments[1:]])


@pytest.mark.parametrize("size", ["-64,64", "64,0", "64"])
def test_a_size_that_is_none(size, capsys):
    with pytest.raises(SystemExit):
        network_stages.main("describe", ["--network", "segformer-b0", f"--size={size}"])
    assert f"'{size}' is no size: give H,W in pixels" in capsys.readouterr().err
