"""The kinds of published weights: which network each is, and by which table its tensors become that network's.

All is told by names and shapes alone, and checked before a value is read.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sgg_jax.errors import InputError
from sgg_jax.models import DENOISERS, SEGMENTERS
from sgg_jax.models.functional import named, outline
from sgg_jax.published import adm, deeplab, mit, resnet, segformer
from sgg_jax.published.links import Link, Shapes, their_shapes
from sgg_jax.published.tensors import TensorFile, open_tensors

NETWORKS = {**DENOISERS, **SEGMENTERS}
HEAD = {"classes": 19, "channels": 256}
"""Stands in for what a file without a segmentation head does not tell, where shapes of the rest are worked out."""


@dataclass(frozen=True)
class Found:
    """What published weights say of themselves."""

    network: str  # a name of NETWORKS
    options: dict[str, Any]  # its constructor's; without `classes` and `channels` where there is no head
    links: Sequence[Link]
    ignored: Sequence[str]  # regular expressions of whole names that the table leaves out
    names: tuple[str, ...] = ()  # of the classes by train id, where they are told


def _adm(shapes: Shapes) -> Found:
    options = adm.options_of(shapes)
    return Found("adm", options, adm.links(**options), adm.IGNORED)


def _resnet(shapes: Shapes) -> Found:
    options = resnet.options_of(shapes)
    return Found("deeplab", options, resnet.links(**options), resnet.IGNORED)


def _deeplab(shapes: Shapes) -> Found:
    options = deeplab.options_of(shapes)
    return Found("deeplab", options, deeplab.links(**options), deeplab.IGNORED)


def _segformer(shapes: Shapes) -> Found:
    if any(name.startswith(segformer.PREFIX) for name in shapes):
        options = segformer.options_of(shapes)
        links = segformer.links(**options) if "classes" in options else segformer.encoder_links(**options)
        return Found("segformer", options, links, segformer.IGNORED)
    options, prefix = mit.options_of(shapes), mit.prefix_of(shapes)
    links = (mit.links if "classes" in options else mit.encoder_links)(prefix=prefix, **options)
    return Found("segformer", options, links, mit.IGNORED)


def _encoder(shapes: Shapes) -> Found:
    found = _segformer(shapes)
    if "classes" in found.options:
        raise InputError("these are the weights of a whole segmenter, not of an encoder alone: say --kind segformer")
    return found


KINDS: dict[str, Callable[[Shapes], Found]] = {
    "adm": _adm,
    "resnet101": _resnet,
    "mit": _encoder,
    "segformer": _segformer,
    "deeplabv2": _deeplab,
}


PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    name: (network, options)
    for network, table in (
        ("adm", adm.PUBLISHED),
        ("deeplab", resnet.PUBLISHED),
        ("deeplab", deeplab.PUBLISHED),
        ("segformer", mit.PUBLISHED),
    )
    for name, options in table.items()
}
"""Published configurations by name: the network and its options, as in Found."""


def complete(network: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with which a network can be made: of one published without a head, with a usual one."""
    if network not in SEGMENTERS:
        return dict(options)
    return {**(HEAD if network == "segformer" else {"classes": HEAD["classes"]}), **options}


def our_shapes(found: Found) -> Shapes:
    """Shapes of the network's weights by dotted name, but for those of a head that the weights are without."""
    network, options = NETWORKS[found.network], complete(found.network, found.options)
    try:
        params = outline(network(**options, rng=None))[1]
    except (TypeError, ValueError) as error:
        raise InputError(f"these weights do not make a network: {error}") from error
    shapes = {name: tuple(leaf.shape) for name, leaf in named(params).items()}
    known = {name for link in found.links for name in link.ours}
    if missing := known - shapes.keys():
        raise InputError(f"these weights are of another network: {min(missing)} is not in {found.network}")
    return shapes


@dataclass(frozen=True)
class Published:
    """Open weights: what they are, and the network's weights made of them, one after the other."""

    path: Path
    found: Found
    ours: Shapes  # of all of the network's weights, by dotted name
    tensors: Mapping[str, tuple[TensorFile, str]]  # by the table's name: the file, and the name there

    @property
    def unused(self) -> list[str]:
        """Names of tensors that the network has no use for."""
        return sorted(self.tensors.keys() - {name for link in self.found.links for name in link.theirs})

    @property
    def missing(self) -> list[str]:
        """Names of the network's weights that these do not give: a head's, which has to be trained."""
        return sorted(self.ours.keys() - {name for link in self.found.links for name in link.ours})

    def weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, values) of every weight that they give, float32. One tensor or a few are in memory at a time."""
        for link in self.found.links:
            given = []
            for name in link.theirs:
                file, there = self.tensors[name]
                given.append(file.read(there))
            for name, values in zip(link.ours, link.read(tuple(given)), strict=True):
                yield name, np.ascontiguousarray(values, np.float32)


@contextmanager
def open_published(kind: str, path: Path, preset: str = "") -> Iterator[Published]:
    """Weights of a kind, in a file, or for "segformer" also in a directory as Hugging Face publishes it.

    preset: a name of PUBLISHED, for options that leave no trace in a file.

    InputError, in one sentence that names the tensor, where a file is not sound, or where a tensor is missing, has
    another shape, or is none of the network's.
    """
    if kind not in KINDS:
        raise InputError(f"--kind is {kind!r}: choose one of {', '.join(KINDS)}")
    directory = segformer.read_directory(path) if kind == "segformer" and path.is_dir() else None
    with ExitStack() as opened:
        files = [opened.enter_context(open_tensors(file)) for file in (directory.files if directory else (path,))]
        tensors = {name: (file, name) for file in files for name in file.tensors}
        if kind == "deeplabv2":
            tensors = deeplab.standard(tensors)
        shapes = {name: file.shapes[there] for name, (file, there) in tensors.items()}
        try:
            if directory is None:
                found = KINDS[kind](shapes)
            else:
                found = Found("segformer", directory.options, directory.links, segformer.IGNORED, directory.names)
            if preset:
                found = as_published(found, preset)
            ours = our_shapes(found)
            check_shapes(shapes, their_shapes(found.links, ours), found.ignored)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        yield Published(path, found, ours, tensors)


UNTOLD = (
    *("rates", "normalisation", "stride_place", "ceil_pool", "align_corners"),
    *("heads", "new_attention_order", "dilations", "epsilon"),
)
"""Options that leave no trace in names and shapes."""


def as_published(found: Found, preset: str) -> Found:
    """The same with UNTOLD options of a published configuration; InputError where that is of another network."""
    network, options = PUBLISHED.get(preset, ("", {}))
    if network != found.network:
        fitting = ", ".join(name for name, (of, _) in PUBLISHED.items() if of == found.network)
        raise InputError(f"--preset is {preset!r}, and these are weights of {found.network}: choose one of {fitting}")
    links = [link for link in found.links if not _beyond(link, options)]
    untold = {name: value for name, value in options.items() if name in UNTOLD}
    return replace(found, options={**found.options, **untold}, links=links)


def _beyond(link: Link, options: Mapping[str, Any]) -> bool:
    """Whether a link is of a branch of the classifier that a DeepLabV2 of these options is without."""
    branches = [int(name.split(".")[1]) for name in link.ours if name.startswith("aspp.")]
    return "rates" in options and any(branch >= len(options["rates"]) for branch in branches)


def check_shapes(shapes: Shapes, needed: Shapes, ignored: Sequence[str]) -> None:
    """InputError naming the first tensor that is missing, of another shape, or not of the network."""
    for name in sorted(needed):
        if name not in shapes:
            raise InputError(f"{name} is missing, and the network needs it: the file does not hold all of its weights")
        if shapes[name] != needed[name]:
            raise InputError(f"{name} has the shape {list(shapes[name])}, and the network needs {list(needed[name])}")
    for name in sorted(shapes.keys() - needed.keys()):
        if not any(re.search(pattern, name) for pattern in ignored):
            raise InputError(f"{name} is none of this network's weights: say another --kind, or remove it")
