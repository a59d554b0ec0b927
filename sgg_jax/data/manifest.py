"""The manifest of a prepared set: what each example was made from, and where it lies (preparing.py)."""

import copy
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from sgg_jax.data.dataset import Dataset, Example, pixels_digest
from sgg_jax.data.pairs import Files, Pairs
from sgg_jax.errors import InputError

Line = dict[str, Any]
"""One line. Examples have name, image_id, image and label (their files, if they have any), image_sha256, label_sha256,
shard, and either position (in the shard), or left_out (a category of problems.py) and text (the reason). What was left
out when the set was opened has name, left_out and text alone."""


class Sources:
    """Notes the files that examples are read from and the SHA-256 of their bytes; of sets without files, the pixels'.

    dataset: reads as the given one does, and is listened to. Each thread hears itself alone.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._heard = threading.local()
        self._pairs: Pairs | None = None
        if isinstance(dataset, Pairs):
            self._pairs = copy.copy(dataset)
            self._pairs.files = Files(self._listen, dataset.files.where)
            self._files, self.dataset = dataset.files, self._pairs

    def _listen(self, name: str) -> bytes:
        data = self._files.read(name)
        self._heard.hashes[name] = hashlib.sha256(data).hexdigest()
        return data

    def forget(self) -> None:
        """An example is about to be read."""
        self._heard.hashes = {}

    def read_from(self, index: int, example: Example | None = None) -> Line:
        """What the example was read from in this thread since forget()."""
        if self._pairs is None:
            arrays = {"image": example.image, "label": example.labels} if example else {}
            return {f"{kind}_sha256": pixels_digest(array) for kind, array in arrays.items() if array is not None}
        frame, found = self._pairs.frames[index], {}
        for kind, name in (("image", frame.image), ("label", frame.label)):
            if name:
                found[kind] = name
            if name in self._heard.hashes:
                found[f"{kind}_sha256"] = self._heard.hashes[name]
        return found

    def read(self, index: int) -> Line:
        """What the example is read from now, without decoding its files; BadFileError if one cannot be read."""
        if self._pairs is None:
            return self.read_from(index, self.dataset[index])
        self.forget()
        frame = self._pairs.frames[index]
        for name in (frame.image, frame.label):
            if name:
                self._listen(name)
        return self.read_from(index)


def essence(line: Line) -> Line:
    """What must be the same for a prepared example to be kept: all but its place, and words."""
    return {key: value for key, value in line.items() if key not in ("shard", "position", "text")}


def number_in(lines: list[Line]) -> int:
    """Examples among them that were not left out."""
    return sum("left_out" not in line for line in lines)


def json_lines(lines: list[Line]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def read_lines(path: Path) -> list[Line]:
    """The lines of a manifest or a part of it; InputError where it is not one."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(line, dict) and "name" in line for line in lines):
            raise ValueError("a line has no name")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): delete {path.parent} and prepare the set again") from error
    return lines
