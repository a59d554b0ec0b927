"""Whole data sets written in the layouts of writer.py, and what was written as a data set again."""

import os
from collections.abc import Callable

import numpy as np

from sgg_jax.data.dataset import VOID, Dataset
from sgg_jax.data.decode import read_image, read_label_ids
from sgg_jax.data.folder import open_folders
from sgg_jax.data.pairs import Pairs
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.data.tree import read_file
from sgg_jax.data.writer import CITYSCAPES, SPLIT, Places, TranslationWriter, read_classes
from sgg_jax.errors import InputError


def export(
    dataset: Dataset, directory: str, progress: Callable[[], None] | None = None, places: Places = CITYSCAPES
) -> None:
    """Write a labelled data set in the layout of TranslationWriter, going on where an earlier export stopped.

    `progress()` is called after each example. Raises InputError if the set has no labels, an example cannot
    be read, the directory cannot be written, or the directory holds another data set.
    """
    if not dataset.labelled:
        raise InputError(f"the data set has no labels, so it cannot be exported to {directory}")
    writer = TranslationWriter(directory, dataset.classes, places)
    finished = writer.finished()
    names = [dataset.name(index) for index in range(len(dataset))]
    old = next((index for index, name in enumerate(names) if name in finished), None)
    # the first is compared in full: names alone do not tell a set made with another seed or size
    if finished - set(names) or (old is not None and not _same(dataset, old, writer)):
        raise InputError(f"{directory} holds another data set already; delete it or name another directory")
    for index, name in enumerate(names):
        if name not in finished:
            example = dataset[index]
            writer.write(name, example.image, example.known_labels(), {"image_id": dataset.image_id(index)})
        if progress is not None:
            progress()


def _same(dataset: Dataset, index: int, writer: TranslationWriter) -> bool:
    """Whether the written example has the bytes of the data set's."""
    example = dataset[index]
    image, labels = (os.path.join(writer.directory, file) for file in writer.places.of(dataset.name(index))[:2])
    same = np.array_equal(example.image, read_image(read_file(image), image))
    return same and np.array_equal(example.known_labels(), read_label_ids(read_file(labels), labels))


def open_export(
    directory: str,
    size: tuple[int, int] | None = None,
    split: str = SPLIT,
    fit: str = "crop",
    count: int = 0,
    labels: bool = True,
) -> Pairs:
    """A written set as a data set; InputError if the directory does not hold one.

    size: (H, W) to which examples are brought; None leaves every one its own.
    labels: whether label files are looked at.
    """
    shape, fit = (size, fit) if size else ((1, 1), "native")
    if os.path.isdir(os.path.join(directory, "images")):
        images, beside = (os.path.join(directory, kind) for kind in ("images", "labels"))
        label_files = beside if labels else ""
        return open_folders(images, label_files, read_classes(directory), shape, fit, count, void_ids=(VOID,))
    table = os.path.join(directory, "classes.json")
    foreign = os.path.isdir(os.path.join(directory, "leftImg8bit")) and not os.path.exists(table)
    classes = () if foreign else read_classes(directory)  # a set that others wrote has the 19 classes of Cityscapes
    return open_public(LAYOUTS["exported"], directory, split, shape, fit, count, classes, labels)
