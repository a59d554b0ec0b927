"""The run directory: which config it belongs to, which stages are finished, and what each of them said."""

import time
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


def claim(workdir: Path, config: dict[str, Any]) -> None:
    """Writes config.json into a new run directory; in an old one, InputError naming every field that differs."""
    path = workdir / "config.json"
    if not path.exists():
        try:
            write_json(path, config)
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror}): name another --workdir") from error
        return
    try:
        old = flatten(read_json(path))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): restore it, or use a new --workdir") from error
    new = flatten(config)
    changed = [
        f"{name}: {old.get(name, 'absent')} there, {new.get(name, 'absent')} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise InputError(
            f"{workdir} was started with another config; use a new --workdir, or set back " + "; ".join(changed)
        )


class Stages:
    """Finished stages, one JSON file each under `stages/`, holding the stage's results and the seconds it took."""

    def __init__(self, workdir: Path):
        self.directory = workdir / "stages"

    def result(self, name: str) -> dict[str, Any] | None:
        """What a finished stage recorded; None if it is not finished."""
        path = self.directory / f"{name}.json"
        return read_json(path) if path.exists() else None

    def finished(self) -> list[str]:
        """Names of the finished stages, sorted."""
        return sorted(path.stem for path in self.directory.glob("*.json"))

    def finish(self, name: str, result: dict[str, Any], began: float) -> None:
        """Marks a stage that began at `time.monotonic()` value `began` as finished."""
        write_json(self.directory / f"{name}.json", {**result, "seconds": round(time.monotonic() - began, 1)})
