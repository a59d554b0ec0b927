"""What every data set of the project is: a sequence of examples with stable names and integer ids."""

import hashlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sgg_jax.data.problems import ERRORS, BadFileError, Problem
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

    `[index]` raises BadFileError, naming the file, if an example cannot be used, or LeftOutError if the run goes on
    without it.
    """

    classes: tuple[ClassInfo, ...]
    size: tuple[int, int] | None  # (H, W) of every example; None where each has its own
    labelled: bool
    problems: tuple[Problem, ...]  # what was wrong with the files when the set was opened

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """File stem under which results of this example are written; unique in the set."""
        ...

    def image_id(self, index: int) -> int:
        """Integer in [0, 2**31) that seeds all randomness of this example (see types.py)."""
        ...

    def __getitem__(self, index: int) -> Example: ...

    def full(self, index: int) -> Example:
        """The same example in the resolution of its files, where scores are counted."""
        ...

    def origin(self, index: int) -> tuple[str, str]:
        """Where the image comes from, in words, and the SHA-256 of its file, or of its pixels where it has none."""
        ...


def pixels_digest(image: np.ndarray) -> str:
    """SHA-256 of the bytes of an image."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


class LeftOutError(InputError):
    """An example that cannot be used and that the run goes on without, as config.data.max_bad allows."""


def readable(dataset: Dataset, indices: Iterable[int]) -> Iterator[tuple[int, Example]]:
    """(index, dataset[index]) for the indices in order, but for examples that the run goes on without."""
    for index in indices:
        try:
            example = dataset[index]
        except LeftOutError:
            continue
        yield index, example


class Tolerant:
    """A data set of which up to `max_bad` examples may be unusable: each is named on stderr once, then left out.

    Problems that were found when the set was opened count among them. Raises InputError if those are more already.
    """

    def __init__(self, dataset: Dataset, max_bad: int) -> None:
        self.classes, self.size, self.labelled = dataset.classes, dataset.size, dataset.labelled
        self.name, self.image_id, self.origin = dataset.name, dataset.image_id, dataset.origin
        self.problems = dataset.problems
        self._dataset, self._max_bad = dataset, max_bad
        self._lock = threading.Lock()
        found = [problem for problem in dataset.problems if problem.category in ERRORS]
        self._bad = {problem.name for problem in found}
        if len(self._bad) > max_bad:
            counts = Counter(problem.category for problem in found)
            counted = ", ".join(f"{number} x {category}" for category, number in sorted(counts.items()))
            raise InputError(f"{counted}; the first: {found[0].text}{self._advice()}")
        for problem in found:
            self._tell(problem.text)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example:
        return self._kept(self._dataset.__getitem__, index)

    def full(self, index: int) -> Example:
        return self._kept(self._dataset.full, index)

    def _kept(self, read: Callable[[int], Example], index: int) -> Example:
        try:
            return read(index)
        except BadFileError as error:
            name = self.name(index)
            with self._lock:
                new = name not in self._bad
                self._bad.add(name)
            if len(self._bad) > self._max_bad:
                raise InputError(f"{error}{self._advice()}") from error
            if new:
                self._tell(str(error))
            raise LeftOutError(str(error)) from error

    def _tell(self, text: str) -> None:
        print(f"left out: {text}", file=sys.stderr, flush=True)

    def _advice(self) -> str:
        return f" (config.data.max_bad is {self._max_bad}: a run goes on without so many; check_data lists all)"


class Subset:
    """The examples of a data set at `indices`, in that order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.classes, self.size, self.labelled = dataset.classes, dataset.size, dataset.labelled
        self.problems = dataset.problems
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        return self._dataset.name(self._indices[index])

    def image_id(self, index: int) -> int:
        return self._dataset.image_id(self._indices[index])

    def __getitem__(self, index: int) -> Example:
        return self._dataset[self._indices[index]]

    def full(self, index: int) -> Example:
        return self._dataset.full(self._indices[index])

    def origin(self, index: int) -> tuple[str, str]:
        return self._dataset.origin(self._indices[index])


class Painted:
    """A data set whose images are painted over, paint(example, image id); all else stays."""

    def __init__(self, dataset: Dataset, paint: Callable[[Example, int], np.ndarray]) -> None:
        self.classes, self.size, self.labelled = dataset.classes, dataset.size, dataset.labelled
        self.name, self.image_id, self.origin = dataset.name, dataset.image_id, dataset.origin
        self.problems = dataset.problems
        self._dataset, self._paint = dataset, paint

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example:
        example = self._dataset[index]
        return Example(self._paint(example, self.image_id(index)), example.labels)

    def full(self, index: int) -> Example:
        example = self._dataset.full(index)
        return Example(self._paint(example, self.image_id(index)), example.labels)
