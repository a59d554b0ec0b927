"""Published weights into a directory of ours, and back.

A directory of a network holds `weights.safetensors`: its weights, float32, under dotted names, and in the header what
they are (`network`, `options` of its constructor, `names` of its classes) and where they are from. Written weight by
weight, so that memory never holds a large network.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sgg_jax.errors import InputError
from sgg_jax.published.kinds import Published, open_published
from sgg_jax.records import whole, write_json

WEIGHTS = "weights.safetensors"


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], values: Iterator[tuple[str, np.ndarray]], story: dict[str, str]
) -> None:
    """Writes float32 arrays as they come, in any order, into a file that is there when all are."""
    header: dict[str, Any] = {"__metadata__": story}
    end = 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    left = set(shapes)
    with whole(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, array in values:
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(np.ascontiguousarray(array, "<f4").data)
            left.remove(name)
        if left:
            raise ValueError(f"{min(left)} was not written")


def sha256(path: Path) -> str:
    """Of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def import_weights(
    kind: str, path: Path, out: Path, advance: Callable[[], None] = lambda: None, preset: str = ""
) -> dict[str, Any]:
    """Reads published weights and writes out/weights.safetensors; returns, and writes into out/import.json, what they
    are and which of their tensors became which weights, were not used, or are missing.

    advance is called for every weight; preset: see open_published. InputError where the weights do not fit
    (open_published), or nothing can be written there.
    """
    with open_published(kind, path, preset) as published:
        report = described(kind, published)
        kept = {name: shape for name, shape in published.ours.items() if name not in set(published.missing)}

        def values() -> Iterator[tuple[str, np.ndarray]]:
            for pair in published.weights():
                yield pair
                advance()

        story = {name: json.dumps(value) for name, value in report.items() if name not in ("mapped", "unused")}
        try:
            write_safetensors(out / WEIGHTS, kept, values(), story)
            write_json(out / "import.json", report)
        except OSError as error:
            raise InputError(f"cannot write into {out}: {error.strerror}") from error
    return report


def described(kind: str, published: Published) -> dict[str, Any]:
    """What the weights are, and which tensor is which."""
    files = sorted({file.path for file, _ in published.tensors.values()})
    found: dict[str, Any] = {
        "kind": kind,
        "network": published.found.network,
        "options": published.found.options,
        "names": published.found.names,
        "source": [{"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)} for file in files],
        "mapped": {" ".join(link.ours): list(link.theirs) for link in published.found.links},
        "unused": published.unused,
        "missing": published.missing,
    }
    if published.found.network == "adm":  # what guided-diffusion trained all of them to predict
        found["denoiser"] = {"prediction": "eps", "total": 1000}
    return found
