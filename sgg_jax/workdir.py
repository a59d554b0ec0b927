"""The run directory: which config and code it belongs to, which stages are finished, and what each of them said."""

import fcntl
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sgg_jax.errors import InputError
from sgg_jax.records import read_json, write_json


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"a.b.c": value}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat.update(flatten(value, path + ".") if isinstance(value, dict) else {path: value})
    return flat


def claim(workdir: Path, config: dict[str, Any], free: Collection[str] = ()) -> None:
    """Writes config.json into a new run directory; in an old one, InputError naming every field that differs, but for
    those that are `free` to ("a.b.c")."""
    path = workdir / "config.json"
    if not path.exists():
        try:
            write_json(path, config)
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror}): name another --workdir") from error
        return
    old, new = flatten(read_json(path, {"seed": int}, "restore it, or use a new --workdir")), flatten(config)
    changed = [
        f"{name}: {old.get(name, 'absent')} there, {new.get(name, 'absent')} now"
        for name in sorted((old.keys() | new.keys()).difference(free))
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise InputError(
            f"{workdir} was started with another config; use a new --workdir, or set back " + "; ".join(changed)
        )


@contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Holds the run directory for this process; InputError telling who holds it where another one does.

    The lock ends with its process, however that ends. A file system that knows no locks goes without.
    """
    path = workdir / "lock"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): name another --workdir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{workdir} is in use by {file.read().strip() or 'another run'}: wait for its end, or name another "
                "--workdir"
            ) from error
        except OSError:
            pass
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            file.flush()
        yield


RECORD = {"made": list, "seconds": int | float}
RECORDS = {"compare": {**RECORD, "rows": [list]}}
"""What records of stages hold at least, as records.fits has it."""


class Stages:
    """Finished stages, one JSON file each under `stages/`, holding the stage's results and the seconds it took.

    A stage whose file is damaged is not finished: what it made stays, so that little is left to do; stderr tells.
    """

    def __init__(self, workdir: Path):
        self.directory = workdir / "stages"
        self._damaged: set[str] = set()  # what was told

    def result(self, name: str) -> dict[str, Any] | None:
        """What a finished stage recorded; None if it is not finished."""
        path = self.directory / f"{name}.json"
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = read_json(path, RECORDS.get(name, RECORD), f"{name} counts as unfinished")
        except InputError as error:
            if name not in self._damaged:
                print(error, file=sys.stderr, flush=True)
            self._damaged.add(name)
            return None
        return found

    def finished(self) -> list[str]:
        """Names of the finished stages, sorted."""
        names = sorted(path.stem for path in self.directory.glob("*.json"))
        return [name for name in names if self.result(name) is not None]

    def finish(self, name: str, result: dict[str, Any], began: float) -> None:
        """Marks a stage that began at `time.monotonic()` value `began` as finished."""
        write_json(self.directory / f"{name}.json", {**result, "seconds": round(time.monotonic() - began, 1)})


@cache
def commit() -> str:
    """The commit of the code when first asked for, with "+" where files differ; "unknown" outside its git checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # installed into somebody's repository, it is not in it
        return git("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
