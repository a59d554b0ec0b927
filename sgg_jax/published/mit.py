"""MiT encoders, SegFormer and DAFormer as their authors name them (NVlabs/SegFormer and lhoyer/DAFormer, both on
mmsegmentation), and what their files say of the network.

Three kinds of files: ImageNet's encoders (mit_b5.pth, no prefix), trained segmenters (prefix "backbone.") and
DAFormer's self-training checkpoints, whose student stands under "model.". The encoders of mmsegmentation itself have
other names and are not read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sgg_jax.errors import InputError
from sgg_jax.models.mit import EMBEDDINGS, VARIANTS
from sgg_jax.published.links import Link, conv, folded, norm

Shapes = Mapping[str, tuple[int, ...]]

AUTHORS = {
    "embed": "patch_embed{number}.proj",
    "embed_norm": "patch_embed{number}.norm",
    "norm": "norm{number}",
    "norm1": "block{number}.{block}.norm1",
    "q": "block{number}.{block}.attn.q",
    "kv": "block{number}.{block}.attn.kv",
    "out": "block{number}.{block}.attn.proj",
    "reduce": "block{number}.{block}.attn.sr",
    "reduce_norm": "block{number}.{block}.attn.norm",
    "norm2": "block{number}.{block}.norm2",
    "widen": "block{number}.{block}.mlp.fc1",
    "mix": "block{number}.{block}.mlp.dwconv.dwconv",
    "narrow": "block{number}.{block}.mlp.fc2",
}
"""The encoder's layers; `number` counts stages from 1, `block` from 0."""

PUBLISHED: dict[str, dict[str, Any]] = {
    **{f"mit-{name}": dict(options) for name, options in VARIANTS.items()},
    **{
        f"segformer-{name}": {**options, "classes": 19, "channels": 256 if name in ("b0", "b1") else 768, "head": "mlp"}
        for name, options in VARIANTS.items()
    },
    "daformer-b5": {**VARIANTS["b5"], "classes": 19, "channels": 256, "head": "daformer", "dilations": (1, 6, 12, 18)},
}
"""Options by name: encoders alone, and networks for the 19 classes of Cityscapes."""

IGNORED = (
    r"(.*\.)?num_batches_tracked",  # a counter of training steps
    r"head\.(weight|bias)",  # ImageNet's classes
    r"(.*\.)?decode_head\.conv_seg\.(weight|bias)",  # mmsegmentation makes it for every head; SegFormer's has its own
    r"(ema_model|imnet_model)\..*",  # DAFormer's teacher and its ImageNet reference, beside the student
)
"""Regular expressions for whole names that a file may hold besides the table's."""


def _attention(ours: str, name: Mapping[str, str]) -> list[Link]:
    return conv(f"{ours}.q", name["q"], axes=0) + conv(f"{ours}.kv", name["kv"], axes=0)


def _name(names: Mapping[str, str], prefix: str, stage: int, block: int = 0) -> dict[str, str]:
    """Published names of the layers of one stage and block."""
    return {layer: prefix + name.format(stage=stage, number=stage + 1, block=block) for layer, name in names.items()}


def encoder_links(
    *,
    depths: Sequence[int],
    reductions: Sequence[int],
    prefix: str = "backbone.",
    names: Mapping[str, str] = AUTHORS,
    attention: Any = _attention,
    **_: Any,
) -> list[Link]:
    """The encoder's table; it takes all options of the network. prefix: what stands before the encoder's names."""
    links = []
    for stage, (depth, reduction) in enumerate(zip(depths, reductions, strict=True)):
        ours, name = f"encoder.stages.{stage}", _name(names, prefix, stage)
        links += conv(f"{ours}.embed", name["embed"]) + norm(f"{ours}.embed_norm", name["embed_norm"])
        links += norm(f"{ours}.norm", name["norm"])
        for block in range(depth):
            ours, name = f"encoder.stages.{stage}.blocks.{block}", _name(names, prefix, stage, block)
            links += norm(f"{ours}.norm1", name["norm1"]) + norm(f"{ours}.norm2", name["norm2"])
            links += attention(f"{ours}.attention", name) + conv(f"{ours}.attention.out", name["out"], axes=0)
            if reduction > 1:
                links += conv(f"{ours}.attention.reduce.conv", name["reduce"])
                links += norm(f"{ours}.attention.reduce.norm", name["reduce_norm"])
            links += conv(f"{ours}.ffn.widen", name["widen"], axes=0) + conv(f"{ours}.ffn.mix", name["mix"])
            links += conv(f"{ours}.ffn.narrow", name["narrow"], axes=0)
    return links


def _daformer_links(decoder: str, levels: int, dilations: Sequence[int]) -> list[Link]:
    def module(ours: str, theirs: str) -> list[Link]:
        return folded(ours, f"{theirs}.conv", f"{theirs}.bn")

    links = []
    for level in range(levels):
        links += conv(f"head.embed.{level}", f"{decoder}embed_layers.{level}.proj", axes=0)
    for branch, dilation in enumerate(dilations):
        ours, theirs = f"head.aspp.{branch}", f"{decoder}fuse_layer.aspp_modules.{branch}"
        if dilation == 1:
            links += module(ours, theirs)
        else:
            links += module(f"{ours}.depthwise", f"{theirs}.depthwise_conv")
            links += module(f"{ours}.pointwise", f"{theirs}.pointwise_conv")
    links += module("head.fuse", f"{decoder}fuse_layer.bottleneck")
    return links + conv("head.classify", f"{decoder}conv_seg")


def links(
    *, head: str = "mlp", dilations: Sequence[int] = (1, 6, 12, 18), prefix: str = "backbone.", **options: Any
) -> list[Link]:
    """The table of a whole network; options as SegFormer's, prefix as `prefix_of` finds it."""
    decoder, levels = prefix.removesuffix("backbone.") + "decode_head.", len(options["depths"])
    links = encoder_links(prefix=prefix, **options)
    if head == "daformer":
        return links + _daformer_links(decoder, levels, dilations)
    for level in range(levels):
        links += conv(f"head.embed.{level}", f"{decoder}linear_c{level + 1}.proj", axes=0)
    links += folded("head.fuse", f"{decoder}linear_fuse.conv", f"{decoder}linear_fuse.bn")
    return links + conv("head.classify", f"{decoder}linear_pred")


def prefix_of(shapes: Shapes) -> str:
    """What stands before the encoder's names in a file: "", "backbone." or "model.backbone."."""
    for prefix in ("backbone.", "model.backbone.", ""):
        if f"{prefix}patch_embed1.proj.weight" in shapes:
            return prefix
    raise InputError("the file has no patch_embed1.proj.weight, so it is no MiT as its authors name them")


def shape_of(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with `axes` axes of one place or more; InputError naming it."""
    if name not in shapes:
        raise InputError(f"the file has no {name}, so it does not hold the whole network")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise InputError(f"{name} has shape {list(shapes[name])}, and {axes} axes were expected, none of them empty")
    return shapes[name]


def encoder_options(
    shapes: Shapes, prefix: str, names: Mapping[str, str] = AUTHORS, heads: tuple[int, ...] = (1, 2, 5, 8)
) -> dict[str, Any]:
    """Widths, depths, reductions and ratios, as the shapes say, with the heads of all publications, which they do not
    say; InputError naming the tensor that does not fit."""
    rows = []
    for stage, (size, _) in enumerate(EMBEDDINGS):
        name = _name(names, prefix, stage)
        embed, reduce = f"{name['embed']}.weight", f"{name['reduce']}.weight"
        width, *_rest, side = shape_of(shapes, embed, 4)
        if side != size:
            raise InputError(f"{embed} is a {side}x{side} convolution, and a published MiT has {size}x{size} there")
        if width % heads[stage]:
            raise InputError(f"{embed} has {width} channels, which do not divide into {heads[stage]} attention heads")
        depth = 0
        while f"{_name(names, prefix, stage, depth)['norm1']}.weight" in shapes:
            depth += 1
        hidden = shape_of(shapes, f"{name['widen']}.weight", 2)[0]
        if hidden % width:
            raise InputError(f"{name['widen']}.weight has {hidden} rows, which is no multiple of {width} channels")
        rows.append((width, depth, shape_of(shapes, reduce, 4)[3] if reduce in shapes else 1, hidden // width))
    widths, depths, reductions, ratios = zip(*rows, strict=True)
    return {"widths": widths, "depths": depths, "heads": heads, "reductions": reductions, "mlp_ratios": ratios}


def options_of(shapes: Shapes) -> dict[str, Any]:
    """SegFormer's options by a file's names and shapes, without `classes`, `channels` and `head` where it holds an
    encoder alone. The dilations of DAFormer's head are not written in a file; they are taken as published."""
    prefix = prefix_of(shapes)
    decoder = prefix.removesuffix("backbone.") + "decode_head."
    options = {**encoder_options(shapes, prefix), "epsilon": 1e-6}
    if not any(name.startswith(decoder) for name in shapes):
        return options
    daformer = f"{decoder}fuse_layer.bottleneck.conv.weight" in shapes
    fuse = f"{decoder}fuse_layer.bottleneck.conv.weight" if daformer else f"{decoder}linear_fuse.conv.weight"
    classify = f"{decoder}conv_seg.weight" if daformer else f"{decoder}linear_pred.weight"
    options |= {"channels": shape_of(shapes, fuse, 4)[0], "classes": shape_of(shapes, classify, 4)[0]}
    return {**options, "head": "daformer" if daformer else "mlp"}
