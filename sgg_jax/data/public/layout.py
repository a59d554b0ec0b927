"""How a public data set lies on disk, and opening one where it lies."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.dataset import VOID, ClassInfo
from sgg_jax.data.decode import UNKNOWN, DecodeIds, label_table, read_label_ids
from sgg_jax.data.pairs import Files, Frame, Pairs, stem_id
from sgg_jax.data.problems import Problem
from sgg_jax.data.tree import Tree
from sgg_jax.errors import InputError


@dataclass(frozen=True)
class Layout:
    """What a data set's own file tells of it.

    image, label: regular expressions of the files below the set's folder. `key` names an example and is unique in a
        split; groups of the same name have the same value in both files of an example.
    table: label value -> train id, VOID or UNKNOWN. Or a function of a file reader that makes it from the set's files.
    """

    title: str
    image: str
    label: str
    table: np.ndarray | Callable[[Callable[[str], bytes]], np.ndarray]
    licence: str
    counts: Mapping[str, int]  # split -> images
    subset: str  # of evaluation: a key of classes.SUBSETS
    decode: DecodeIds = read_label_ids
    split: str = "train"  # what sets without a group of that name are
    unlabelled: tuple[str, ...] = ()  # splits whose label files are missing or mean nothing
    bad: Mapping[str, str] = field(default_factory=dict)  # key -> why the example is always left out
    loose: int = 0  # images without labels, and labels without images, that the original set has
    consecutive: bool = False  # keys are numbers without holes
    name: Callable[[Mapping[str, str]], str] = lambda groups: groups["key"]  # unique in the set


def table_of(ids: Mapping[int, tuple[int, ...]], void: tuple[int, ...]) -> np.ndarray:
    """{train id: label values} and the values without a class -> lookup table (decode.label_table)."""
    classes = tuple(ClassInfo(c.name, tuple(ids.get(i, ())), c.color) for i, c in enumerate(CITYSCAPES))
    return label_table(classes, tuple(sorted({*void, VOID})))


def open_public(
    layout: Layout,
    root: str,
    split: str,
    size: tuple[int, int],
    fit: str = "crop",
    count: int = 0,
    classes: tuple[ClassInfo, ...] = (),
    labels: bool = True,
) -> Pairs:
    """The split of the set that lies in `root`, in folders or in its zip files.

    split: such as "train"; further words narrow it down to folders of that name ("train/fog", "train/aachen").
    classes: other classes than Cityscapes' 19: their ids are values of the set's label files, all others are void.
    size, fit, count: as Pairs has them.
    labels: whether label files are looked at. The set has labels where its split has some that mean something.

    Raises InputError if nothing of the layout is found.
    """
    if not root:
        raise InputError(f"the folder of {layout.title} is not given: set root to it")
    tree = Tree(root)
    prefix, images = _matching(tree, layout.image, layout.title)
    words = split.split("/")
    chosen = {key: found for key, found in images.items() if _is_in(words, found, layout)}
    if not chosen:
        splits = ", ".join(sorted({found[1].get("split", layout.split) for found in images.values()}))
        raise InputError(f"{root} has no images of the split {split!r} of {layout.title}: it has {splits}")
    label_files = {}
    if labels and not set(words) & set(layout.unlabelled):
        found = _files(tree, layout.label, prefix)
        label_files = {key: found for key, found in found.items() if _is_in(words, found, layout)}
    frames, problems = _pair(tree, layout, chosen, label_files)
    table = layout.table
    if callable(table):
        table = table(lambda name: tree.read(prefix + name))
    if classes:
        own = label_table(classes, ())
        table = np.where((own == UNKNOWN) & (table != UNKNOWN), VOID, own).astype(np.uint8)
    files = Files(tree.read, tree.where)
    numbers = {layout.name(groups): stem_id(groups["key"]) for _, groups in chosen.values()}
    return Pairs(
        frames, files, classes or CITYSCAPES, table, size, fit, count, problems, layout.decode,
        ids=lambda frame: numbers[frame.name],
    )  # fmt: skip


Found = tuple[str, dict[str, str]]
"""A file and the groups of its name."""


def _matching(tree: Tree, pattern: str, title: str) -> tuple[str, dict[tuple[str, ...], Found]]:
    """The folder of the tree, nearest to its root, that has files of the pattern, and these files."""
    searched = re.compile(rf"(?P<prefix>(?:.*?/)??){pattern}")
    prefixes = {match["prefix"] for name in tree.names if (match := searched.fullmatch(name))}
    if not prefixes:
        problem = f"; {tree.problems[0].text}" if tree.problems else ""
        raise InputError(
            f"{tree.root} holds no images of {title}: they lie there as {_example(pattern)}, or in zip files "
            f"that unpack to that{problem}"
        )
    prefix = min(prefixes, key=lambda one: (one.count("/"), one))
    return prefix, _files(tree, pattern, prefix)


def _files(tree: Tree, pattern: str, prefix: str) -> dict[tuple[str, ...], Found]:
    """Files of the pattern below the prefix by the values of their groups."""
    compiled = re.compile(pattern)
    found = {}
    for name in tree.names:
        match = compiled.fullmatch(name[len(prefix) :]) if name.startswith(prefix) else None
        if match:
            found[tuple(match.groupdict().values())] = (name, match.groupdict())
    return found


def _example(pattern: str) -> str:
    """A pattern as people write it: images/<key>.png."""
    return re.sub(r"\(\?P<(\w+)>(?:[^()]|\([^()]*\))*\)", r"<\1>", pattern).replace("\\", "").replace("(?:", "(")


def _is_in(words: list[str], found: Found, layout: Layout) -> bool:
    groups = {"split": layout.split, **found[1]}
    return all(word in groups.values() for word in words)


def _pair(
    tree: Tree, layout: Layout, images: dict[tuple[str, ...], Found], labels: dict[tuple[str, ...], Found]
) -> tuple[list[Frame], list[Problem]]:
    """The frames that can be used, in the order of their names, and what is wrong with the others."""
    frames, problems = [], list(tree.problems)
    missing = sorted(images.keys() - labels.keys()) if labels else []
    orphans = sorted(labels.keys() - images.keys())
    for category, keys, found in (("missing label", missing, images), ("orphan label", orphans, labels)):
        without = "label file" if category == "missing label" else "image"
        # a set that is known to have so many of them is not wrong, but they are left out all the same
        told = "known bad" if len(keys) <= layout.loose else category
        problems += [Problem(told, found[key][0], f"{tree.where(found[key][0])} has no {without}") for key in keys]
    seen: dict[str, str] = {}
    for key in sorted(images.keys() - set(missing)):
        image, groups = images[key]
        name = layout.name(groups)
        if groups["key"] in layout.bad:
            text = f"{tree.where(image)} is left out: {layout.bad[groups['key']]}"
            problems.append(Problem("known bad", name, text))
        elif name in seen:
            text = f"{tree.where(image)} has the name of {tree.where(seen[name])}; the latter is read"
            problems.append(Problem("duplicate", image, text))
        else:
            seen[name] = image
            frames.append(Frame(name, image, labels[key][0] if labels else ""))
    if layout.consecutive:
        problems += _holes(sorted(int(groups["key"]) for _, groups in images.values()), layout.title, tree.root)
    return sorted(frames), problems


def _holes(numbers: list[int], title: str, root: str) -> list[Problem]:
    """Runs of numbers that are missing between others, as an interrupted download or unpacking leaves them."""
    holes = []
    for before, after in zip(numbers, numbers[1:], strict=False):
        if after > before + 1:
            few = f"number {before + 1}" if after == before + 2 else f"numbers {before + 1} to {after - 1}"
            text = f"{os.path.normpath(root)} lacks {few} of {title}; download or unpack the part that has them again"
            holes.append(Problem("hole", f"{before + 1}..{after - 1}", text))
    return holes
