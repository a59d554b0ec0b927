"""Small files of a run: JSON written whole or not at all, and JSON lines that survive a kill."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from sgg_jax.errors import InputError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that names no file, as that of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that comes to its name at the end, so that it is never half there. Folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")  # no other writer's
    try:
        with naming(path), beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the name to an empty file
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole, or not at all."""
    with whole(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def fits(value: Any, like: Any) -> bool:
    """Whether a value of JSON is of a form: a type, {field: form} for an object that has these fields at least, or
    [form] for a list of such items."""
    if isinstance(like, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], like[name]) for name in like)
    if isinstance(like, list):
        return isinstance(value, list) and all(fits(item, like[0]) for item in value)
    return isinstance(value, like)


def read_json(path: Path, like: Any = object, mend: str = "delete it and run again") -> Any:
    """What a JSON file holds; InputError, which ends in how to mend it, where it is not whole or not `like` that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): {mend}") from error
    if not fits(found, like):
        raise InputError(f"{path} is damaged (it does not hold what was written there): {mend}")
    return found


def _records(path: Path) -> list[Any]:
    """What each line of a file holds, None where that is no JSON. [] if there is no file."""
    found: list[Any] = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            found.append(None)
    return found


def read_lines(path: Path, like: Any = dict) -> list[dict[str, Any]]:
    """All records of a JSON-lines file; a last line cut short by a kill is left out. [] if there is no file.

    InputError where another line is not whole, or a record is not `like` that (see `fits`).
    """
    records = _records(path)
    if records and records[-1] is None:
        records.pop()
    for number, record in enumerate(records, 1):
        if not fits(record, like):
            raise InputError(f"line {number} of {path} is damaged: delete that line and run again")
    return records


class LineLog:
    """Appends one JSON object a line; use it as a context.

    Opened at `step`, it drops records of later steps, which a resumed run redoes, and lines that are no records.
    """

    def __init__(self, path: Path, step: int = 0):
        kept = [record for record in _records(path) if fits(record, {"step": int}) and record["step"] <= step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self.path = path
        self.file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):
            self.file.close()

    def append(self, record: dict[str, Any]) -> None:
        with naming(self.path):
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
