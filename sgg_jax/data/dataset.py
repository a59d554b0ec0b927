"""What every data set of the project is: a sequence of examples with stable names and integer ids."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sgg_jax.errors import InputError

VOID = 255
"""Train id of pixels that belong to no class; they never count, neither in a loss nor in a score."""


class ClassInfo(NamedTuple):
    """One row of a class table; its position in the table is the train id."""

    name: str
    ids: tuple[int, ...]  # values in the label files that mean this class
    color: tuple[int, int, int]  # RGB, 0..255, for pictures


class Example(NamedTuple):
    image: np.ndarray  # [H,W,3] uint8 RGB
    labels: np.ndarray | None  # [H,W] uint8 train ids, VOID where there is none; None in an unlabelled set

    def known_labels(self) -> np.ndarray:
        """The labels of an example that must have some; InputError otherwise."""
        if self.labels is None:
            raise InputError("this data set has no labels: name its label files in the config")
        return self.labels


class Dataset(Protocol):
    """A random-access data set. Reading the same index twice gives the same bytes.

    `[index]` raises InputError, naming the file, if an example cannot be read.
    """

    classes: tuple[ClassInfo, ...]
    size: tuple[int, int]  # (H, W) of every example
    labelled: bool

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """File stem under which results of this example are written; unique in the set."""
        ...

    def image_id(self, index: int) -> int:
        """Integer in [0, 2**31) that seeds all randomness of this example (see types.py)."""
        ...

    def __getitem__(self, index: int) -> Example: ...


class Subset:
    """The examples of a data set at `indices`, in that order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.classes, self.size, self.labelled = dataset.classes, dataset.size, dataset.labelled
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        return self._dataset.name(self._indices[index])

    def image_id(self, index: int) -> int:
        return self._dataset.image_id(self._indices[index])

    def __getitem__(self, index: int) -> Example:
        return self._dataset[self._indices[index]]


class Painted:
    """A data set whose images are painted over, paint(example, image id); all else stays."""

    def __init__(self, dataset: Dataset, paint: Callable[[Example, int], np.ndarray]) -> None:
        self.classes, self.size, self.labelled = dataset.classes, dataset.size, dataset.labelled
        self.name, self.image_id = dataset.name, dataset.image_id
        self._dataset, self._paint = dataset, paint

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example:
        example = self._dataset[index]
        return Example(self._paint(example, self.image_id(index)), example.labels)
