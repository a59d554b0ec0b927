"""Weights of OpenAI's guided-diffusion, as it publishes them: https://github.com/openai/guided-diffusion."""

import re
from collections.abc import Mapping
from typing import Any

from sgg_jax.errors import InputError
from sgg_jax.models.adm import ADM, Layer, layout
from sgg_jax.models.functional import named, outline
from sgg_jax.published.links import Link, Shapes, conv, linear, norm, same, their_shapes

_256: dict[str, Any] = {"channels": 256, "widths": (256, 256, 512, 512, 1024, 1024), "blocks": 2}
_512: dict[str, Any] = {"channels": 256, "widths": (128, 256, 256, 512, 512, 1024, 1024), "blocks": 2}
PUBLISHED: dict[str, dict[str, Any]] = {
    "256x256_diffusion_uncond": {**_256, "attention": (8, 16, 32)},  # those of LSUN too
    "256x256_diffusion": {**_256, "attention": (8, 16, 32), "classes": 1000},
    "512x512_diffusion": {**_512, "attention": (16, 32, 64), "classes": 1000},
    "512x512_diffusion_uncond_finetune": {**_512, "attention": (16, 32, 64)},  # Katherine Crowson's
    "128x128_diffusion": {
        "channels": 256,
        "widths": (256, 256, 512, 768, 1024),
        "blocks": 2,
        "attention": (4, 8, 16),
        "heads": 4,
        "classes": 1000,
    },
    "64x64_diffusion": {  # the one with a cosine schedule
        "channels": 192,
        "widths": (192, 384, 576, 768),
        "blocks": 3,
        "attention": (2, 4, 8),
        "new_attention_order": True,
        "classes": 1000,
    },
    "ffhq_10m": {  # and afhq_dog_4m: 256x256 networks of ILVR (Choi et al. 2021)
        "channels": 128,
        "widths": (128, 128, 256, 256, 512, 512),
        "blocks": 1,
        "attention": (16,),
    },
}

IGNORED: tuple[str, ...] = ()  # every published tensor is a weight of the network


def _layer_links(layer: Layer, ours: str, theirs: str) -> list[Link]:
    if layer.kind == "plain":
        return []
    if layer.kind == "conv":
        return conv(f"{ours}.conv", f"{theirs}.{'op' if layer.direction == 'down' else 'conv'}")
    if layer.kind == "attention":
        return [
            *norm(f"{ours}.norm", f"{theirs}.norm"),
            *conv(f"{ours}.qkv", f"{theirs}.qkv", axes=1),
            *conv(f"{ours}.out", f"{theirs}.proj_out", axes=1),
        ]
    return [
        *norm(f"{ours}.norm1", f"{theirs}.in_layers.0"),
        *conv(f"{ours}.conv1", f"{theirs}.in_layers.2"),
        *linear(f"{ours}.modulation", f"{theirs}.emb_layers.1"),
        *norm(f"{ours}.norm2", f"{theirs}.out_layers.0"),
        *conv(f"{ours}.conv2", f"{theirs}.out_layers.3"),
        *(conv(f"{ours}.skip", f"{theirs}.skip_connection") if layer.inputs != layer.outputs else []),
    ]


def links(
    *,
    widths: tuple[int, ...],
    blocks: int,
    attention: tuple[int, ...],
    resample: str = "block",
    classes: int = 0,
    **_: Any,
) -> list[Link]:
    """The whole network. Other options of it change no name."""
    found = [
        *linear("embed1", "time_embed.0"),
        *linear("embed2", "time_embed.2"),
        *([same("labels", "label_emb.weight")] if classes else []),
        *conv("stem", "input_blocks.0.0"),
        *norm("norm", "out.0"),
        *conv("out", "out.2"),
    ]
    down, middle, up = layout(widths, blocks, attention, resample)
    rows = [(f"down.{n}", f"input_blocks.{n + 1}", row) for n, row in enumerate(down)]
    rows += [("middle", "middle_block", middle[0])]
    rows += [(f"up.{n}", f"output_blocks.{n}", row) for n, row in enumerate(up)]
    for ours, theirs, row in rows:
        for place, layer in enumerate(row):
            found += _layer_links(layer, f"{ours}.{place}", f"{theirs}.{place}")
    return found


def tensor_shapes(options: dict[str, Any]) -> Shapes:
    """Shapes of the published tensors of ADM(**options), by key."""
    weights = named(outline(ADM(**options, rng=None))[1])
    return their_shapes(links(**options), {name: leaf.shape for name, leaf in weights.items()})


def _size(shapes: Mapping[str, tuple[int, ...]], key: str, axis: int) -> int:
    if len(shapes.get(key, ())) <= axis:
        raise InputError(f"these weights are no ADM's: {key} is missing or has too few axes")
    return shapes[key][axis]


def _told(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The options that shapes tell, if they are an ADM's."""
    rows = max(1, len({key.split(".")[1] for key in shapes if key.startswith("output_blocks.")}))
    grown = re.compile(r"output_blocks\.(\d{1,3})\.[12]\.(in_layers\.2|conv)\.weight")
    growing = {int(found[1]): found[2] for key in shapes if (found := grown.fullmatch(key))}
    # A level ends with the first row up that resizes; where that takes no weights, with a row down that has none.
    empty = (n for n in range(1, rows) if f"input_blocks.{n}.0.in_layers.2.weight" not in shapes)
    blocks = min(growing) if growing else next(empty, rows) - 1
    first = [f"output_blocks.{n}" for n in range(rows - blocks - 1, -1, -blocks - 1)]  # of each level, finest first
    widths = tuple(_size(shapes, f"{row}.0.out_layers.0.weight", 0) for row in first or ["output_blocks.0"])
    return {
        "channels": _size(shapes, "time_embed.0.weight", 1),
        "widths": widths,
        "blocks": blocks,
        "attention": tuple(2**level for level, row in enumerate(first) if f"{row}.1.qkv.weight" in shapes),
        "resample": {"in_layers.2": "block", "conv": "conv"}[growing[blocks]] if growing else "plain",
        "scale_shift_norm": _size(shapes, "middle_block.0.emb_layers.1.weight", 0) == 2 * widths[-1],
        "learn_sigma": _size(shapes, "out.2.weight", 0) == 6,
        "classes": _size(shapes, "label_emb.weight", 0) if "label_emb.weight" in shapes else 0,
    }


def options_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Constructor options of the network whose tensors have these shapes; InputError where it is no ADM.

    Shapes tell neither the number of attention heads nor their order: a published layout has its own, any other the
    constructor's. Of a class-conditional network `label` is left to choose.
    """
    options = _told(shapes)
    try:
        expected = tensor_shapes({**options, "heads": 1})  # which divides all widths, and changes no shape
    except ValueError as error:
        raise InputError(f"these weights are no ADM's: {error}") from error
    for key in sorted(expected.keys() | shapes.keys()):
        if key not in shapes or key not in expected:
            raise InputError(f"these weights are no ADM's: {key} is {'missing' if key in expected else 'none of its'}")
        if expected[key] != tuple(shapes[key]):
            raise InputError(
                f"these weights are no ADM's: {key} has {list(shapes[key])} in the place of {list(expected[key])}"
            )
    for published in PUBLISHED.values():
        if all(options[name] == published[name] for name in ("channels", "widths", "blocks", "attention")):
            return options | {name: published[name] for name in ("heads", "new_attention_order") if name in published}
    return options
