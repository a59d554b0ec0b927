"""Translated sets on disk: pictures any viewer opens, exact labels, and a manifest from which a rerun goes on.

    images/NAME.png    RGB
    labels/NAME.png    palette PNG: the indices are train ids (VOID = 255), the palette has the class colours
    manifest.jsonl     one JSON object a line for each finished example, its first field "name"
    classes.json       the class table: name, id (train id), color

A file has its final name only when it is whole, and a manifest line follows its two files. So a process killed at any
time leaves a directory from which the next one goes on. (Against a power failure the directory is as safe as its file
system.) One process at a time may write to a directory.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from PIL import Image

from sgg_jax.data.dataset import VOID, ClassInfo, Dataset
from sgg_jax.data.decode import read_image, read_label_ids
from sgg_jax.data.folder import open_folders
from sgg_jax.data.pairs import Pairs
from sgg_jax.data.tree import read_file
from sgg_jax.errors import InputError

TEMPORARY = ".tmp"
KINDS = ("images", "labels")


class TranslationWriter:
    """Writes examples into `directory`, which is made if need be; what an earlier writer finished there stays.

    Raises InputError if the directory cannot be written, is full, or holds results of another class table.
    """

    def __init__(self, directory: str, classes: tuple[ClassInfo, ...]) -> None:
        self.directory = os.fspath(directory)
        self.classes = tuple(classes)
        self._manifest = os.path.join(self.directory, "manifest.jsonl")
        self._palette = np.zeros((256, 3), np.uint8)
        self._palette[: len(self.classes)] = [info.color for info in self.classes]
        with _writing(self.directory):
            for folder in (self.directory, *(os.path.join(self.directory, kind) for kind in KINDS)):
                os.makedirs(folder, exist_ok=True)
                for file in os.listdir(folder):
                    if file.startswith(".") and file.endswith(TEMPORARY):
                        os.remove(os.path.join(folder, file))
            self._write_classes()
            self._names = self._mend_manifest()

    def finished(self) -> set[str]:
        """Names that are whole: in the manifest, with both files there."""
        with _writing(self.directory):
            return self._names & self._on_disk()

    def write(self, name: str, image: np.ndarray, labels: np.ndarray, record: dict[str, Any]) -> None:
        """Write one example, in place of an earlier one of that name.

        Args:
            name: file stem; no "/" in it, no "." before it.
            image: [H,W,3] uint8 RGB.
            labels: [H,W] uint8 train ids.
            record: what the manifest says of it; anything JSON or numpy, without "name".
        """
        if not name or "/" in name or os.sep in name or name.startswith(".") or "name" in record:
            raise ValueError(f"{name!r} cannot be the name of a file, or its record has a field 'name' of its own")
        if image.dtype != np.uint8 or labels.dtype != np.uint8 or image.shape != (*labels.shape, 3):
            raise ValueError(
                f"{name}: image {image.dtype} {image.shape} and labels {labels.dtype} {labels.shape} must be uint8 "
                "[H,W,3] and uint8 [H,W]"
            )
        if ((labels >= len(self.classes)) & (labels != VOID)).any():
            raise ValueError(f"{name}: labels up to {labels.max()} are no train ids of {len(self.classes)} classes")
        line = json.dumps({"name": name, **record}, default=_plain) + "\n"
        picture = Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
        picture.putpalette(self._palette.tobytes())
        with _writing(self.directory):
            self._replace(os.path.join("labels", f"{name}.png"), lambda path: picture.save(path, format="PNG"))
            self._replace(
                os.path.join("images", f"{name}.png"), lambda path: Image.fromarray(image).save(path, format="PNG")
            )
            self._append(line.encode())
        self._names.add(name)

    def _replace(self, relative: str, save: Callable[[str], object]) -> None:
        """Have `save` write a temporary file, then give it its final name at once."""
        final = os.path.join(self.directory, relative)
        temporary = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}{TEMPORARY}")
        try:
            save(temporary)
            os.replace(temporary, final)
        except BaseException:
            with suppress(OSError):
                os.remove(temporary)
            raise

    def _append(self, line: bytes) -> None:
        with open(self._manifest, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                rest = line
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                # a disk that fills up within the line must not leave a half to which the next line is glued
                file.truncate(before)
                raise

    def _mend_manifest(self) -> set[str]:
        """Names in the manifest, after rewriting it with one line for each whole example if it has anything else."""
        if not os.path.exists(self._manifest):
            return set()
        with open(self._manifest, "rb") as file:
            lines = file.read().splitlines(keepends=True)
        on_disk = self._on_disk()
        kept: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            name = _name_in(line)
            if name is None and number < len(lines):
                raise InputError(
                    f"line {number} of {self._manifest} is not a JSON object with a name; mend the file, or delete it "
                    "to have everything written anew"
                )
            if name is not None and name in on_disk:
                kept[name] = line
        if list(kept.values()) != lines:
            self._replace("manifest.jsonl", lambda path: _save(path, b"".join(kept.values())))
        return set(kept)

    def _on_disk(self) -> set[str]:
        """Names that have both files."""
        present = []
        for kind in KINDS:
            with os.scandir(os.path.join(self.directory, kind)) as entries:
                present.append({e.name.removesuffix(".png") for e in entries if e.name.endswith(".png")})
        return present[0] & present[1]

    def _write_classes(self) -> None:
        path = os.path.join(self.directory, "classes.json")
        if os.path.exists(path):
            if [(info.name, info.color) for info in read_classes(self.directory)] != [
                (info.name, tuple(info.color)) for info in self.classes
            ]:
                raise InputError(
                    f"{path} lists other classes than this run has; write to another directory or delete this one"
                )
            return
        rows = [{"name": info.name, "id": i, "color": info.color} for i, info in enumerate(self.classes)]
        self._replace("classes.json", lambda path: _save(path, json.dumps(rows, indent=1, default=_plain).encode()))


@contextmanager
def _writing(directory: str) -> Iterator[None]:
    """Any OSError of the block leaves it as an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{directory} cannot be written: {error.strerror or error}; free some space, mend its permissions or name "
            "another directory, and run again to go on from here"
        ) from error


def _save(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays as what JSON knows."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a manifest record cannot hold {type(value).__name__}")


def _name_in(line: bytes) -> str | None:
    """The name in a manifest line; None if the line is not whole."""
    try:
        name = json.loads(line)["name"]
    except (ValueError, LookupError, TypeError):
        return None
    return name if isinstance(name, str) and line.endswith(b"\n") else None


def read_classes(directory: str) -> tuple[ClassInfo, ...]:
    """Class table of a written set, its ids being train ids; InputError if there is none."""
    path = os.path.join(directory, "classes.json")
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
        if [row["id"] for row in rows] != list(range(len(rows))):
            raise ValueError("the ids are not 0, 1, 2, ...")
        colors = [[int(value) for value in row["color"]] for row in rows]
        return tuple(ClassInfo(rows[i]["name"], (i,), (r, g, b)) for i, (r, g, b) in enumerate(colors))
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} is not the class table of a written set ({reason}); export the set again") from error


def export(dataset: Dataset, directory: str, progress: Callable[[], None] | None = None) -> None:
    """Write a labelled data set in the layout of TranslationWriter, going on where an earlier export stopped.

    `progress()` is called after each example. Raises InputError if the set has no labels, an example cannot
    be read, the directory cannot be written, or the directory holds another data set.
    """
    if not dataset.labelled:
        raise InputError(f"the data set has no labels, so it cannot be exported to {directory}")
    writer = TranslationWriter(directory, dataset.classes)
    finished = writer.finished()
    names = [dataset.name(index) for index in range(len(dataset))]
    old = next((index for index, name in enumerate(names) if name in finished), None)
    # the first is compared in full: names alone do not tell a set made with another seed or size
    if finished - set(names) or (old is not None and not _same(dataset, old, directory)):
        raise InputError(f"{directory} holds another data set already; delete it or name another directory")
    for index, name in enumerate(names):
        if name not in finished:
            image, labels = dataset[index][:2]
            assert labels is not None
            writer.write(name, image, labels, {"image_id": dataset.image_id(index)})
        if progress is not None:
            progress()


def _same(dataset: Dataset, index: int, directory: str) -> bool:
    """Whether the written example has the bytes of the data set's."""
    example, file = dataset[index], f"{dataset.name(index)}.png"
    image, labels = (os.path.join(directory, kind, file) for kind in KINDS)
    same = np.array_equal(example.image, read_image(read_file(image), image))
    return same and np.array_equal(example.known_labels(), read_label_ids(read_file(labels), labels))


def open_export(directory: str, size: tuple[int, int] | None, count: int = 0) -> Pairs:
    """The written set as a data set; InputError if the directory does not hold one or its files do not pair.

    size: (H, W) to which examples are brought; None leaves every one its own.
    """
    images, labels = (os.path.join(directory, kind) for kind in KINDS)
    fit = "native" if size is None else "crop"
    return open_folders(images, labels, read_classes(directory), size or (1, 1), fit, count, void_ids=(VOID,))
