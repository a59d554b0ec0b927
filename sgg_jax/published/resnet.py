"""ResNet weights as torchvision publishes them: what a DeepLabV2 starts from. Its classifier they do not give."""

from collections.abc import Mapping
from typing import Any

from sgg_jax.errors import InputError
from sgg_jax.published.links import Link, folded

PUBLISHED: dict[str, dict[str, Any]] = {
    "resnet50": {"blocks": (3, 4, 6, 3)},  # torchvision, ImageNet-1k, V1 and V2 weights
    "resnet101": {"blocks": (3, 4, 23, 3)},
    "resnet152": {"blocks": (3, 8, 36, 3)},
}

IGNORED = (
    r"\.num_batches_tracked$",  # how long BatchNorm was trained; only its statistics matter
    r"^fc\.",  # the classifier of ImageNet's 1,000 classes
)


def links(*, blocks: tuple[int, ...] = (3, 4, 23, 3), **_: Any) -> list[Link]:
    """The stem and the four stages, BatchNorm folded. Other options of the network change no name."""
    found = folded("stem", "conv1", "bn1")
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            place = f"layer{stage}.{block}"
            for conv in (1, 2, 3):
                found += folded(f"{place}.conv{conv}", f"{place}.conv{conv}", f"{place}.bn{conv}")
        found += folded(f"layer{stage}.0.skip", f"layer{stage}.0.downsample.0", f"layer{stage}.0.downsample.1")
    return found


def kernel_shapes(blocks: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of the published kernels of a ResNet of bottlenecks, by key."""
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (widths[0], 3, 7, 7)}
    inputs = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        found[f"layer{stage}.0.downsample.0.weight"] = (4 * width, inputs, 1, 1)
        for block in range(count):
            place = f"layer{stage}.{block}"
            found[f"{place}.conv1.weight"] = (width, inputs, 1, 1)
            found[f"{place}.conv2.weight"] = (width, width, 3, 3)
            found[f"{place}.conv3.weight"] = (4 * width, width, 1, 1)
            inputs = 4 * width
    return found


def options_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """blocks and widths of the network whose tensors have these shapes; where a bottleneck strides, the images'
    normalisation and ceil_pool leave no trace. InputError where it is no plain ResNet of bottlenecks."""
    blocks, widths = [], []
    for stage in range(1, 5):
        first = f"layer{stage}.0.conv1.weight"
        if len(shapes.get(first, ())) != 4:
            raise InputError(f"these weights are no ResNet's: {first} is missing or no convolution")
        widths.append(shapes[first][0])
        numbers = {key.split(".")[1] for key in shapes if key.startswith(f"layer{stage}.")}
        blocks.append(len(numbers))
    for key, shape in kernel_shapes(tuple(blocks), tuple(widths)).items():
        if key not in shapes:
            raise InputError(f"these weights are no ResNet's of bottlenecks (50, 101 or 152 layers): {key} is missing")
        if tuple(shapes[key]) != shape:
            raise InputError(
                f"these weights are no plain ResNet's of bottlenecks: {key} has {list(shapes[key])} in the place of "
                f"{list(shape)}"
            )
    return {"blocks": tuple(blocks), "widths": tuple(widths)}
