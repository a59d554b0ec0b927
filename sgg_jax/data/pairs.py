"""Image and label files as a data set: what folders, public data sets and our own exports have in common."""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sgg_jax.data.dataset import ClassInfo, Example
from sgg_jax.data.decode import DecodeIds, read_image, read_label_ids, train_ids
from sgg_jax.data.fit import check_fit, fitted, reshaped, uncut
from sgg_jax.data.problems import BadFileError, Problem
from sgg_jax.errors import InputError


class Frame(NamedTuple):
    """One example's files, as `Files.read` takes them."""

    name: str  # unique in the set; results are written under it
    image: str
    label: str  # "" in a set without labels


class Files(NamedTuple):
    """Where files come from."""

    read: Callable[[str], bytes]
    where: Callable[[str], str]  # a file's name for messages


def stem_id(stem: str) -> int:
    """The number that the stem is if it is nothing else and below 2**31, otherwise a checksum of it."""
    if stem.isascii() and stem.isdigit() and int(stem) < 2**31:
        return int(stem)
    return zlib.crc32(stem.encode("utf-8", "surrogateescape")) & 0x7FFFFFFF


def check_sizes(image: tuple[int, ...], labels: tuple[int, ...], file: str, label_file: str) -> None:
    """BadFileError unless an image and its labels have one size (height, width)."""
    if labels != image:
        raise BadFileError(
            "size mismatch",
            f"{file} is {image[1]} x {image[0]} pixels (after its EXIF orientation), but its label file {label_file} "
            f"is {labels[1]} x {labels[0]}; the two must have the same size",
        )


class Pairs:
    """Frames read from their files and brought to one size; see Dataset. Threads may read at once.

    frames: in the order of the set; all with labels or all without.
    table: label value -> train id (decode.label_table); decode: how a label file is read.
    size, fit: (H, W) of every example, and how it is brought there: "crop" scales the image to cover `size` and cuts
        the middle out, "stretch" scales each axis, "native" leaves every example its own size (`size` is then None).
    count: the first so many frames; 0 for all.
    problems: what was found when the files were listed.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        files: Files,
        classes: tuple[ClassInfo, ...],
        table: np.ndarray,
        size: tuple[int, int],
        fit: str = "crop",
        count: int = 0,
        problems: Sequence[Problem] = (),
        decode: DecodeIds = read_label_ids,
        ids: Callable[[Frame], int] = lambda frame: stem_id(frame.name),
    ) -> None:
        check_fit(fit, size)
        if not 0 <= count <= len(frames):
            raise InputError(f"count is {count}, but there are {len(frames)} images; 0 takes them all")
        self.classes = tuple(classes)
        self.size = None if fit == "native" else (int(size[0]), int(size[1]))
        self.frames = tuple(frames[: count or len(frames)])
        self.labelled = bool(self.frames) and self.frames[0].label != ""
        self.problems = tuple(problems)
        self.files = files
        self.table, self.decode = table, decode
        self._size, self._fit, self._id = (int(size[0]), int(size[1])), fit, ids

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.frames)

    def name(self, index: int) -> str:
        """The frame's name."""
        return self.frames[index].name

    def image_id(self, index: int) -> int:
        """A number that the frame's name gives, the same wherever the frame lies; see stem_id."""
        return self._id(self.frames[index])

    def __getitem__(self, index: int) -> Example:
        """Example with image [H,W,3] and labels [H,W]; BadFileError names a file that cannot be used."""
        return reshaped(self._read(index), fitted, self._size, self._fit)

    def full(self, index: int) -> Example:
        """The same part of the same example in the file's own resolution."""
        return reshaped(self._read(index), uncut, self._size, self._fit)

    def origin(self, index: int) -> tuple[str, str]:
        """The image's file and its SHA-256; BadFileError if it cannot be read."""
        file = self.frames[index].image
        return self.files.where(file), hashlib.sha256(self.files.read(file)).hexdigest()

    def _read(self, index: int) -> Example:
        """The example as it lies in its files."""
        frame = self.frames[index]
        image = read_image(self.files.read(frame.image), self.files.where(frame.image))
        if not self.labelled:
            return Example(image, None)
        where = self.files.where(frame.label)
        ids = self.decode(self.files.read(frame.label), where)
        check_sizes(image.shape[:2], ids.shape, self.files.where(frame.image), where)
        return Example(image, train_ids(ids, self.table, where))
