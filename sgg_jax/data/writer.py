"""Translated sets on disk: pictures any viewer opens, exact labels, and a manifest from which a rerun goes on.

    leftImg8bit/train/all/NAME_leftImg8bit.png           RGB
    gtFine/train/all/NAME_gtFine_labelTrainIds.png       grey: train ids (VOID = 255)
    gtFine/train/all/NAME_gtFine_color.png               the same in class colours, to look at
    manifest.jsonl     one JSON object a line for each finished example, its first field "name"
    classes.json       the class table: name, id (train id), color

That is the layout of Cityscapes, which MMSegmentation and others read; FOLDERS is a plainer one. A file has its final
name only when it is whole, and a manifest line follows its files. So a process killed at any time leaves a directory
from which the next one goes on. (Against a power failure the directory is as safe as its file system.) One process at
a time may write to a directory, or the hosts of one job: each then has a part of the manifest, which `gather` unites.
"""

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sgg_jax.data.classes import palette
from sgg_jax.data.dataset import VOID, ClassInfo
from sgg_jax.errors import InputError

TEMPORARY = ".tmp"
MANIFEST = "manifest.jsonl"
PART = ".part"
SPLIT = "train"
DROPPED = "dropped"
"""Field of a manifest line whose example has no files; it says why."""


class Places(NamedTuple):
    """Files of an example below the directory, its name in place of {}."""

    image: str
    label: str
    color: str  # "" for none: labels then are a palette PNG in the class colours

    def of(self, name: str) -> list[str]:
        """The example's files."""
        return [place.format(name) for place in self if place]


CITYSCAPES = Places(
    f"leftImg8bit/{SPLIT}/all/{{}}_leftImg8bit.png",
    f"gtFine/{SPLIT}/all/{{}}_gtFine_labelTrainIds.png",
    f"gtFine/{SPLIT}/all/{{}}_gtFine_color.png",
)
FOLDERS = Places("images/{}.png", "labels/{}.png", "")


class TranslationWriter:
    """Writes examples into `directory`, which is made if need be; what an earlier writer finished there stays.

    Raises InputError if the directory cannot be written, is full, or holds results of another class table.

    job, host: where several hosts write at once, the name of their job, the same for all, and the number of this one;
        host 0 cleans up what earlier jobs left.
    """

    def __init__(
        self, directory: str, classes: tuple[ClassInfo, ...], places: Places = CITYSCAPES, job: str = "", host: int = 0
    ) -> None:
        self.directory = os.fspath(directory)
        self.classes = tuple(classes)
        self.places = places
        self._job, self._host = job, host
        self._manifest = os.path.join(self.directory, MANIFEST)
        self._log = self._part(job, host) if job else self._manifest  # where this writer's lines go
        self._colors = palette(self.classes)
        self._lock = threading.Lock()
        self._dropped: set[str] = set()
        with _writing(self.directory):
            for place in ("", *places.of("")):
                folder = os.path.join(self.directory, os.path.dirname(place))
                os.makedirs(folder, exist_ok=True)
                for file in os.listdir(folder) if host == 0 else ():
                    if file.startswith(".") and file.endswith(TEMPORARY) and not (job and f".{job}-" in file):
                        os.remove(os.path.join(folder, file))
            self._write_classes()
            self._names = self._mend_manifest()

    def finished(self) -> set[str]:
        """Names that are whole: in the manifest, with all files there or dropped."""
        with _writing(self.directory):
            return (self._names & self._on_disk()) | self._dropped

    def write(self, name: str, image: np.ndarray, labels: np.ndarray, record: dict[str, Any]) -> None:
        """Write one example, in place of an earlier one of that name. Threads may write at once.

        Args:
            name: file stem; no "/" in it, no "." before it.
            image: [H,W,3] uint8 RGB.
            labels: [H,W] uint8 train ids.
            record: what the manifest says of it; anything JSON or numpy, without "name".
        """
        if image.dtype != np.uint8 or labels.dtype != np.uint8 or image.shape != (*labels.shape, 3):
            raise ValueError(
                f"{name}: image {image.dtype} {image.shape} and labels {labels.dtype} {labels.shape} must be uint8 "
                "[H,W,3] and uint8 [H,W]"
            )
        if ((labels >= len(self.classes)) & (labels != VOID)).any():
            raise ValueError(f"{name}: labels up to {labels.max()} are no train ids of {len(self.classes)} classes")
        line = _line(name, record)
        label = Image.fromarray(labels)
        if not self.places.color:
            label.putpalette(self._colors.tobytes())
        with _writing(self.directory):
            self._save(self.places.label, name, label)
            if self.places.color:
                self._save(self.places.color, name, Image.fromarray(self._colors[labels]))
            self._save(self.places.image, name, Image.fromarray(image))
            self._append(line)
        self._names.add(name)

    def drop(self, name: str, record: dict[str, Any], reason: str) -> None:
        """Finish an example without files: its manifest line says why."""
        with _writing(self.directory):
            self._append(_line(name, {DROPPED: reason, **record}))
        self._dropped.add(name)

    def gather(self) -> None:
        """Unite the parts of the manifest, and bring its lines, which stand as examples were finished, into the order
        of their names."""
        with _writing(self.directory), self._lock:
            parts = self.parts()
            lines = [line for path in (self._manifest, *parts) for line in _lines(path)]
            named = {str(_name_in(line)): line for line in lines if _name_in(line) is not None}
            ordered = [named[name] for name in sorted(named)]
            if ordered != lines or parts:
                self._replace(MANIFEST, lambda path: _save(path, b"".join(ordered)))
            for path in parts:
                os.remove(path)

    def parts(self, others: bool = False) -> list[str]:
        """Files with parts of the manifest that are not united yet: of this job, or of other ones."""
        own = f"manifest.{self._job}-"
        names = [name for name in sorted(os.listdir(self.directory)) if name.endswith(PART)]
        return [os.path.join(self.directory, name) for name in names if name.startswith(own) != others]

    def _part(self, job: str, host: int) -> str:
        return os.path.join(self.directory, f"manifest.{job}-{host}{PART}")

    def _save(self, place: str, name: str, picture: Image.Image) -> None:
        self._replace(place.format(name), lambda path: picture.save(path, format="PNG"))

    def _replace(self, relative: str, save: Callable[[str], object]) -> None:
        """Have `save` write a temporary file, then give it its final name at once."""
        final = os.path.join(self.directory, relative)
        writer = f".{self._job}-{self._host}" if self._job else ""
        temporary = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}{writer}{TEMPORARY}")
        try:
            save(temporary)
            os.replace(temporary, final)
        except BaseException:
            with suppress(OSError):
                os.remove(temporary)
            raise

    def _append(self, line: bytes) -> None:
        with self._lock, open(self._log, "ab", buffering=0) as file:
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
        on_disk = self._on_disk()
        old = self.parts(others=True)  # of jobs that were killed; read before the manifest, into which host 0 puts them
        more = [line for path in old for line in _lines(path) if _name_in(line) is not None]
        lines = _lines(self._manifest)
        kept: dict[str, bytes] = {}
        for number, line in enumerate([*lines, *more], 1):
            name = _name_in(line)
            if name is None and number < len(lines):
                raise InputError(
                    f"line {number} of {self._manifest} is not a JSON object with a name; mend the file, or delete it "
                    "to have everything written anew"
                )
            if name is not None and DROPPED in json.loads(line):
                self._dropped.add(name)
            if name is not None and (name in on_disk or name in self._dropped):
                kept[name] = line
        if self._host == 0:
            if list(kept.values()) != lines:
                self._replace(MANIFEST, lambda path: _save(path, b"".join(kept.values())))
            for path in old:
                os.remove(path)
        return set(kept)

    def _on_disk(self) -> set[str]:
        """Names that have all files."""
        present = []
        for place in filter(None, self.places):
            folder, (before, after) = os.path.dirname(place), os.path.basename(place).split("{}")
            with os.scandir(os.path.join(self.directory, folder)) as entries:
                files = [e.name for e in entries if e.name.startswith(before) and e.name.endswith(after)]
            present.append({file.removeprefix(before).removesuffix(after) for file in files})
        return set.intersection(*present)

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
        content = class_json(self.classes).encode()
        self._replace("classes.json", lambda path: _save(path, content))


class WriteBehind:
    """Writes by threads while the caller goes on; leaving its `with` block waits for the last.

    At most `ahead` examples wait to be written, so that memory stays bounded. The first error of a thread is raised by
    the next call, or at the end of the block.
    """

    def __init__(self, writer: TranslationWriter, threads: int = 2, ahead: int = 16):
        self._writer, self._ahead = writer, ahead
        self._pool = ThreadPoolExecutor(threads, "write")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "WriteBehind":
        return self

    def write(self, name: str, image: np.ndarray, labels: np.ndarray, record: dict[str, Any]) -> None:
        """TranslationWriter.write, soon."""
        while len(self._waiting) >= self._ahead or (self._waiting and self._waiting[0].done()):
            self._finish_one()
        self._waiting.append(self._pool.submit(self._writer.write, name, image, labels, record))

    def wait(self) -> None:
        """Until all that was handed over is whole."""
        while self._waiting:
            self._finish_one()

    def _finish_one(self) -> None:
        self._waiting.popleft().result()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True)  # what was begun becomes whole, whatever else went wrong


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


def _lines(path: str) -> list[bytes]:
    """Lines of a file, each with its end; none of one that is not there."""
    try:
        with open(path, "rb") as file:
            return file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _save(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _line(name: str, record: dict[str, Any]) -> bytes:
    """A manifest line; ValueError where the name cannot be that of a file."""
    if not name or "/" in name or os.sep in name or name.startswith(".") or "name" in record:
        raise ValueError(f"{name!r} cannot be the name of a file, or its record has a field 'name' of its own")
    return (json.dumps({"name": name, **record}, default=_plain) + "\n").encode()


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


def class_json(classes: tuple[ClassInfo, ...]) -> str:
    """Content of classes.json."""
    rows = [{"name": info.name, "id": i, "color": info.color} for i, info in enumerate(classes)]
    return json.dumps(rows, indent=1, default=_plain)


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
