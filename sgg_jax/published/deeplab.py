"""DeepLabV2 weights in the names of AdaptSegNet (Tsai et al. 2018) and of the many that build on its code.

Counting: the "43.9M" of a ResNet-101 with 19 classes are PyTorch's parameters, 43,901,068. Folding makes one bias of
each BatchNorm's weight and bias, 52,672 of both, which leaves 43,848,396 here; running statistics count in neither.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from sgg_jax.errors import InputError
from sgg_jax.published import resnet
from sgg_jax.published.links import Link, conv

Kept = TypeVar("Kept")

RATES = (6, 12, 18, 24)

_CAFFE: dict[str, Any] = {"normalisation": "caffe", "stride_place": "1x1", "ceil_pool": True, "align_corners": True}
PUBLISHED: dict[str, dict[str, Any]] = {
    "deeplabv2_resnet101": {"classes": 19, "rates": RATES, **_CAFFE},
    # AdaptSegNet's classifier returns from inside its loop: its networks, and those of projects that copied the file,
    # were trained with the first two convolutions alone; the file has all four, two of them as they were drawn.
    "adaptsegnet": {"classes": 19, "rates": RATES[:2], **_CAFFE},
}

IGNORED = (
    r"\.num_batches_tracked$",  # how long BatchNorm was trained; only its statistics matter
    r"^layer5\.",  # auxiliary classifier of the third stage, for training alone
    r"^layer6\.conv2d_list\.[23]\.",  # where rates are AdaptSegNet's two
)


def standard(tensors: Mapping[str, Kept]) -> dict[str, Kept]:
    """The same under the keys that the links read: without "module." and "Scale." in front, and the classifier as
    layer6 also where, with no auxiliary one, it was called layer5."""
    found = {key.removeprefix("module.").removeprefix("Scale."): value for key, value in tensors.items()}
    if any(key.startswith("layer6.") for key in found):
        return found
    return {key.replace("layer5.", "layer6.", 1) if key.startswith("layer5.") else key: found[key] for key in found}


def links(*, blocks: tuple[int, ...] = (3, 4, 23, 3), rates: tuple[int, ...] = RATES, **_: Any) -> list[Link]:
    """The ResNet and the classifier's convolutions. Other options of the network change no name."""
    found = resnet.links(blocks=blocks)
    for branch in range(len(rates)):
        found += conv(f"aspp.{branch}", f"layer6.conv2d_list.{branch}")
    return found


def options_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Constructor options of the network whose tensors have these shapes, by any of the keys that `standard` knows.

    What leaves no trace in shapes is as in AdaptSegNet, but for `rates`: as many as there are branches, of which
    AdaptSegNet's files have four and its network two (see PUBLISHED). InputError where it is no DeepLabV2.
    """
    shapes = standard(shapes)
    options = resnet.options_of(shapes)
    expected = (4 * options["widths"][3], 3, 3)
    branches = 4 if {"layer6.conv2d_list.2.weight", "layer6.conv2d_list.3.weight"} & shapes.keys() else 2
    for branch in range(branches):
        key = f"layer6.conv2d_list.{branch}.weight"
        if key not in shapes:
            raise InputError(f"these weights are no DeepLabV2's: {key} is missing")
        if tuple(shapes[key][1:]) != expected or shapes[key][0] != shapes["layer6.conv2d_list.0.weight"][0]:
            raise InputError(f"these weights are no DeepLabV2's: {key} has {list(shapes[key])}, a shape of another")
    return {"classes": shapes["layer6.conv2d_list.0.weight"][0], **options, "rates": RATES[:branches], **_CAFFE}
