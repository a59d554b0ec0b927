"""Directories as Hugging Face publishes SegFormer: what does not fit is refused in a sentence, files are found."""

import json
from pathlib import Path

import pytest
from test_segformer import TINY

from sgg_jax.errors import InputError
from sgg_jax.models.segformer import IMAGENET_MEAN, IMAGENET_STD
from sgg_jax.published import segformer


def directory(path: Path, change=None, files=("model.safetensors",)):
    """A directory whose weights are never opened; `change` of config.json, None for a field that is gone."""
    config = segformer.config_json(TINY, ("a", "b", "c", "d")) | (change or {})
    path.joinpath("config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    for name in files:
        path.joinpath(name).touch()
    return path


def test_a_directory_without_preprocessor_takes_imagenets_normalisation(tmp_path):
    found = segformer.read_directory(directory(tmp_path))
    assert found.options == {**TINY, "epsilon": 1e-5, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    assert found.names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model_type="dpt"), "model_type is 'dpt', and only 'segformer' is read"),
        (dict(model_type=None), "has no field model_type"),
        (dict(hidden_act="relu"), "hidden_act is 'relu', and only 'gelu' is read"),
        (dict(num_channels=4), "num_channels is 4, and only 3"),
        (dict(num_encoder_blocks=3), "num_encoder_blocks is 3, and only 4"),
        (dict(patch_sizes=[7, 3, 3]), r"patch_sizes is \[7, 3, 3\]"),
        (dict(strides=[4, 2, 2, 1]), r"strides is \[4, 2, 2, 1\]"),
        (dict(depths=None), "has no field depths"),
        (dict(depths=[1, 1, 1]), "depths is .* and no list of 4 numbers"),
        (dict(depths="1111"), "depths is '1111' and no list of 4 numbers"),
        (dict(depths=[1, 1, 1, 10**9]), "depths has 1000000000 for a whole number from 1 to 10000"),
        (dict(sr_ratios=[8, 4, 2, 0]), "sr_ratios has 0 for a whole number"),
        (dict(mlp_ratios=[4, 4, 4.5, 4]), "mlp_ratios has 4.5 for a whole number"),
        (dict(hidden_sizes=[8, 12, True, 32]), "hidden_sizes has True for a whole number"),
        (dict(num_attention_heads=[3, 2, 5, 8]), "hidden_sizes 8 does not divide into 3 heads"),
        (dict(decoder_hidden_size=None), "has no field decoder_hidden_size"),
        (dict(decoder_hidden_size="256"), "decoder_hidden_size has '256' for a whole number"),
        (dict(reshape_last_stage=False), "reshape_last_stage is not true"),
        (dict(id2label=None), "has no field id2label"),
        (dict(id2label=[]), "id2label is no object of class names"),
        (dict(id2label={"0": 1}), "id2label is no object of class names"),
        (dict(id2label={"0": "a", "2": "b"}), "the ids of id2label are not 0 to 1"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        segformer.read_directory(directory(tmp_path, change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.json is missing"),
        (b"", "config.json is no JSON file"),
        (b"<html>", "config.json is no JSON file"),
        (b"\xff\xfe", "config.json is no JSON file"),
        (b"[1]", "config.json holds no JSON object but a list"),
        (b"[" * 100_000, "config.json is no JSON file"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(text, message, tmp_path):
    directory(tmp_path)
    (tmp_path / "config.json").unlink()
    if text is not None:
        (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(InputError, match=message):
        segformer.read_directory(tmp_path)


def test_a_file_for_a_directory_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        segformer.read_directory(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("processor", "found"),
    [
        (dict(image_mean=[0, 0.5, 1], image_std=[1, 2, 0.5]), ((0.0, 0.5, 1.0), (1.0, 2.0, 0.5))),
        (dict(do_normalize=False), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        (dict(), (IMAGENET_MEAN, IMAGENET_STD)),
        (dict(do_rescale=False), "only images divided by 255"),
        (dict(rescale_factor=1), "only images divided by 255"),
        (dict(image_std=[0, 1, 1]), "image_std is .* and not three numbers"),
        (dict(image_mean=[0.5]), "image_mean is .* and not three numbers"),
        (dict(image_mean=[0.5, 0.5, float("nan")]), "image_mean is .* and not three numbers"),
        (dict(image_mean="0.5"), "image_mean is '0.5' and not three numbers"),
    ],
)
def test_normalisation_is_read_or_refused(processor, found, tmp_path):
    directory(tmp_path).joinpath("preprocessor_config.json").write_text(json.dumps(processor))
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            segformer.read_directory(tmp_path)
    else:
        options = segformer.read_directory(tmp_path).options
        assert (options["mean"], options["std"]) == found


PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
WHOLE_MAP = dict(weight_map={"a": PARTS[0], "b": PARTS[1], "c": PARTS[0]})


@pytest.mark.parametrize(
    ("files", "index", "found"),
    [
        (("model.safetensors", "pytorch_model.bin"), None, ("model.safetensors",)),
        (("pytorch_model.bin",), None, ("pytorch_model.bin",)),
        (PARTS, WHOLE_MAP, PARTS),
        ((), None, "has no weights: neither model.safetensors nor pytorch_model.bin"),
        (PARTS[:1], WHOLE_MAP, f"names the file '{PARTS[1]}', which is not in its directory"),
        ((), dict(weight_map={"a": "../secret"}), "names the file '../secret', which is not in its directory"),
        ((), dict(weight_map={}), "has no weight_map"),
        ((), dict(weight_map={"a": 1}), "has no weight_map"),
        ((), dict(), "has no weight_map"),
    ],
)
def test_files_of_weights_are_listed_or_refused(files, index, found, tmp_path):
    directory(tmp_path, files=files)
    if index is not None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            segformer.read_directory(tmp_path)
    else:
        assert segformer.read_directory(tmp_path).files == tuple(tmp_path / name for name in found)


def test_what_hugging_face_has_no_word_for_is_not_written():
    with pytest.raises(InputError, match="no SegFormer with the head 'daformer'"):
        segformer.config_json({**TINY, "head": "daformer"}, ("a", "b", "c", "d"))
    with pytest.raises(InputError, match="the network has 4 classes, and 1 names are given"):
        segformer.config_json(TINY, ("a",))
