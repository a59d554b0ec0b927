"""SegFormer as Hugging Face publishes it: a directory of config.json, preprocessor_config.json and weights, read and
written back. The names are those of the files, which all versions of transformers read and write."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgg_jax.errors import InputError
from sgg_jax.models.mit import EMBEDDINGS, VARIANTS
from sgg_jax.models.segformer import IMAGENET_MEAN, IMAGENET_STD
from sgg_jax.published import mit
from sgg_jax.published.links import Arrays, Link, conv, folded

NAMES = {
    "embed": "patch_embeddings.{stage}.proj",
    "embed_norm": "patch_embeddings.{stage}.layer_norm",
    "norm": "layer_norm.{stage}",
    "norm1": "block.{stage}.{block}.layer_norm_1",
    "q": "block.{stage}.{block}.attention.self.query",
    "k": "block.{stage}.{block}.attention.self.key",
    "v": "block.{stage}.{block}.attention.self.value",
    "out": "block.{stage}.{block}.attention.output.dense",
    "reduce": "block.{stage}.{block}.attention.self.sr",
    "reduce_norm": "block.{stage}.{block}.attention.self.layer_norm",
    "norm2": "block.{stage}.{block}.layer_norm_2",
    "widen": "block.{stage}.{block}.mlp.dense1",
    "mix": "block.{stage}.{block}.mlp.dwconv.dwconv",
    "narrow": "block.{stage}.{block}.mlp.dense2",
}
"""The encoder's layers, as in `mit.AUTHORS`."""
PREFIX = "segformer.encoder."

EPSILON = 1e-5  # transformers computes every LayerNorm with it, whatever layer_norm_eps says; the authors' have 1e-6

PUBLISHED: dict[str, dict[str, Any]] = {
    f"segformer-{name}": {**mit.PUBLISHED[f"segformer-{name}"], "epsilon": EPSILON} for name in VARIANTS
}
"""Options by name, for the 19 classes of Cityscapes."""

IGNORED = (
    r"decode_head\.batch_norm\.num_batches_tracked",  # a counter of training steps
    r"classifier\.(weight|bias)",  # ImageNet's classes
)
"""Regular expressions for whole names that a file may hold besides the table's."""

STRUCTURE = {  # config.json, ours: four numbers each
    "hidden_sizes": "widths",
    "depths": "depths",
    "num_attention_heads": "heads",
    "sr_ratios": "reductions",
    "mlp_ratios": "mlp_ratios",
}
FIXED = {
    "num_channels": 3,
    "num_encoder_blocks": len(EMBEDDINGS),
    "patch_sizes": [size for size, _ in EMBEDDINGS],
    "strides": [stride for _, stride in EMBEDDINGS],
    "hidden_act": "gelu",
}
"""Fields of config.json that a network here has no choice of."""

MOST = 10_000  # of a number in a configuration: a table for more would only fill the memory


def _joined(ours: str, theirs: Sequence[str]) -> Link:
    """Tensors there, which are one along the last axis here; kernels [O,I] there, [1,1,I,O] here."""

    def read(given: Arrays) -> Arrays:
        whole = np.concatenate(given).T
        return (whole.reshape(1, 1, *whole.shape) if whole.ndim == 2 else whole,)

    def write(given: Arrays) -> Arrays:
        return tuple(np.split(given[0].reshape(given[0].shape[-2:]).T, len(theirs)))

    return Link((ours,), tuple(theirs), read, write)


def _attention(ours: str, name: Mapping[str, str]) -> list[Link]:
    pair = (name["k"], name["v"])
    joined = [
        _joined(f"{ours}.kv.kernel", [f"{layer}.weight" for layer in pair]),
        _joined(f"{ours}.kv.bias", [f"{layer}.bias" for layer in pair]),
    ]
    return conv(f"{ours}.q", name["q"], axes=0) + joined


def encoder_links(**options: Any) -> list[Link]:
    """The encoder's table; it takes all options of the network."""
    return mit.encoder_links(**{**options, "prefix": PREFIX, "names": NAMES, "attention": _attention})


def links(**options: Any) -> list[Link]:
    """The table of a whole network with the head "mlp"; options as SegFormer's."""
    links = encoder_links(**options)
    for level in range(len(options["depths"])):
        links += conv(f"head.embed.{level}", f"decode_head.linear_c.{level}.proj", axes=0)
    links += folded("head.fuse", "decode_head.linear_fuse", "decode_head.batch_norm")
    return links + conv("head.classify", "decode_head.classifier")


def options_of(shapes: mit.Shapes) -> dict[str, Any]:
    """SegFormer's options by a file's names and shapes, without `classes` and `channels` where it holds an encoder
    alone; InputError naming the tensor that does not fit."""
    options = {**mit.encoder_options(shapes, PREFIX, NAMES), "epsilon": EPSILON}
    if not any(name.startswith("decode_head.") for name in shapes):
        return options
    channels = mit.shape_of(shapes, "decode_head.linear_fuse.weight", 4)[0]
    return {**options, "channels": channels, "classes": mit.shape_of(shapes, "decode_head.classifier.weight", 4)[0]}


class Directory(NamedTuple):
    """What a published directory holds, its tensors unread."""

    options: dict[str, Any]  # SegFormer's; without `classes` and `channels` for an encoder alone
    names: tuple[str, ...]  # of the classes, by train id; none for an encoder alone
    files: tuple[Path, ...]  # of weights
    links: list[Link]


def read_directory(path: Path) -> Directory:
    """A directory as `save_pretrained` of transformers leaves it; InputError saying what does not fit.

    Images are taken at the size they come in: the size of preprocessor_config.json is that of its demonstration.
    """
    config = _read_json(path / "config.json")
    for field, wanted in {"model_type": "segformer", **FIXED}.items():
        if _field(config, field, path) != wanted:
            raise InputError(f"{path / 'config.json'}: {field} is {config[field]!r}, and only {wanted!r} is read")
    structure = {ours: _numbers(config, field, path) for field, ours in STRUCTURE.items()}
    options: dict[str, Any] = {**structure, "epsilon": EPSILON, **_normalization(path)}
    for width, heads in zip(options["widths"], options["heads"], strict=True):
        if width % heads:
            raise InputError(f"{path / 'config.json'}: hidden_sizes {width} does not divide into {heads} heads")
    if config.get("architectures") == ["SegformerForImageClassification"]:
        return Directory(options, (), _files(path), encoder_links(**options))
    if _field(config, "reshape_last_stage", path) is not True:
        raise InputError(f"{path / 'config.json'}: reshape_last_stage is not true, as it is for a segmenter")
    names = _names(config, path)
    channels = _whole(_field(config, "decoder_hidden_size", path), "decoder_hidden_size", path)
    options |= {"channels": channels, "classes": len(names)}
    return Directory(options, names, _files(path), links(**options))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: give a directory as Hugging Face publishes SegFormer") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON file: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object but a {type(found).__name__}")
    return found


def _field(config: dict[str, Any], field: str, path: Path) -> Any:
    if field not in config:
        raise InputError(f"{path / 'config.json'} has no field {field}")
    return config[field]


def _whole(value: Any, field: str, path: Path) -> int:
    if type(value) is not int or not 1 <= value <= MOST:
        raise InputError(f"{path / 'config.json'}: {field} has {value!r} for a whole number from 1 to {MOST}")
    return value


def _numbers(config: dict[str, Any], field: str, path: Path) -> tuple[int, ...]:
    found = _field(config, field, path)
    if not isinstance(found, list) or len(found) != len(EMBEDDINGS):
        raise InputError(f"{path / 'config.json'}: {field} is {found!r} and no list of {len(EMBEDDINGS)} numbers")
    return tuple(_whole(value, field, path) for value in found)


def _names(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    found = _field(config, "id2label", path)
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f"{path / 'config.json'}: id2label is no object of class names by id")
    if set(found) != {str(number) for number in range(len(found))}:
        raise InputError(f"{path / 'config.json'}: the ids of id2label are not 0 to {len(found) - 1}")
    return tuple(found[str(number)] for number in range(len(found)))


def _normalization(path: Path) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` for RGB in [0,1]; ImageNet's where the directory has no preprocessor_config.json."""
    file = path / "preprocessor_config.json"
    if not file.exists():
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    found = _read_json(file)
    if found.get("do_rescale", True) is not True or found.get("rescale_factor", 1 / 255) != 1 / 255:
        raise InputError(f"{file}: only images divided by 255 are read (do_rescale, rescale_factor)")
    if found.get("do_normalize", True) is not True:
        return {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    rows = {}
    for ours, field, default in (("mean", "image_mean", IMAGENET_MEAN), ("std", "image_std", IMAGENET_STD)):
        row = found.get(field, default)
        plain = isinstance(row, list | tuple) and len(row) == 3 and all(type(value) in (int, float) for value in row)
        if not plain or not np.isfinite(row).all() or (ours == "std" and min(row) <= 0):
            raise InputError(f"{file}: {field} is {row!r} and not three numbers for R, G, B")
        rows[ours] = tuple(float(value) for value in row)
    return rows


def _files(path: Path) -> tuple[Path, ...]:
    """The directory's files of weights: safetensors where it has them, else PyTorch's; InputError where one misses."""
    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = path / f"{whole}.index.json"
        if (path / whole).is_file():
            return (path / whole,)
        if index.is_file():
            shards = _read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
                raise InputError(f"{index} has no weight_map from tensors to files")
            files = sorted(set(shards.values()))
            for name in files:
                if Path(name).name != name or not (path / name).is_file():
                    raise InputError(f"{index} names the file {name!r}, which is not in its directory")
            return tuple(path / name for name in files)
    raise InputError(f"{path} has no weights: neither model.safetensors nor pytorch_model.bin, whole or in parts")


def config_json(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """config.json for a network with the head "mlp", whose classes have these names by train id.

    transformers computes with `EPSILON`; it gives a network with another slightly other logits.
    """
    if options.get("head", "mlp") != "mlp":
        raise InputError(f"Hugging Face has no SegFormer with the head {options['head']!r}, only 'mlp'")
    if len(names) != options["classes"]:
        raise InputError(f"the network has {options['classes']} classes, and {len(names)} names are given")
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        **FIXED,
        **{field: list(options[ours]) for field, ours in STRUCTURE.items()},
        "decoder_hidden_size": options["channels"],
        "reshape_last_stage": True,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def preprocessor_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json: the network's normalisation, of images of any size."""
    return {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(options.get("mean", IMAGENET_MEAN)),
        "image_std": list(options.get("std", IMAGENET_STD)),
    }
