"""A small data set of noise, its files and its export, for the tests of writing."""

from pathlib import Path

import numpy as np

from sgg_jax.data.dataset import VOID, ClassInfo, Example
from sgg_jax.data.exports import export
from sgg_jax.data.writer import TranslationWriter

CLASSES: tuple[ClassInfo, ...] = (ClassInfo("road", (7, 8), (128, 64, 128)), ClassInfo("car", (26,), (0, 0, 142)))


class Noise:
    """Example i is noise of its own; `reads` lists what was read."""

    classes = CLASSES
    size = (6, 10)
    labelled = True
    problems = ()

    def __init__(self, length: int = 4, seed: int = 0) -> None:
        self.length, self.seed = length, seed
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"{index:07d}"

    def image_id(self, index: int) -> int:
        return index

    def __getitem__(self, index: int) -> Example:
        self.reads.append(index)
        rng = np.random.default_rng((self.seed, index))
        labels = rng.choice(np.array([0, 1, VOID], np.uint8), self.size)
        return Example(rng.integers(0, 256, (*self.size, 3), np.uint8), labels)


def pair(index: int) -> tuple[np.ndarray, np.ndarray]:
    image, labels = Noise()[index]
    assert labels is not None
    return image, labels


def write(directory: Path, index: int = 0) -> None:
    image, labels = pair(index)
    TranslationWriter(str(directory), CLASSES).write(f"{index:07d}", image, labels, {"image_id": index})


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def whole(root: Path) -> dict[str, bytes]:
    """The files of an export that nothing disturbed."""
    export(Noise(), str(root / "undisturbed"))
    return files(root / "undisturbed")
