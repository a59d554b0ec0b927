"""Weights as one safetensors file, with the story of their training in its header.

A file holds the weights (float16, to be small) under dotted names and, as strings, what they are: the settings of the
network, the seed, the steps, the data and the command that made them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sgg_jax.errors import InputError
from sgg_jax.models import named
from sgg_jax.records import write_bytes
from sgg_jax.types import Params

SHIPPED = {"streets": Path(__file__).parent / "shipped" / "streets_denoiser.safetensors"}
"""Denoisers that come with the package, by name."""


def locate(name: str, field: str = "weights") -> Path:
    """The file of a shipped denoiser, or the path that `name` is, a directory of weights.safetensors included;
    InputError, naming the field of config.denoiser, where there is no such file."""
    path = SHIPPED.get(name, Path(name))
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise InputError(
            f"config.denoiser.{field} is {name!r}, and there is no such file: give a .safetensors file, one of "
            f"{', '.join(SHIPPED)}, or '' to train from scratch"
        )
    return path


def save_weights(path: Path, params: Params, story: dict[str, Any]) -> None:
    """Writes float16 weights and `story`, a JSON value by name, whole or not at all."""
    arrays = {name: np.asarray(leaf, np.float16) for name, leaf in named(params).items()}
    write_bytes(path, save(arrays, metadata={name: json.dumps(value) for name, value in story.items()}))


def read_story(path: Path) -> dict[str, Any]:
    """What `save_weights` was told of the weights."""
    try:
        with safe_open(path, "numpy") as file:
            return {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is no safetensors file that this program wrote: {error}") from error


def trained_steps(story: dict[str, Any]) -> int:
    """Training steps in all, those of the weights it started from included."""
    start = story.get("start")
    return int(story.get("steps", 0)) + (trained_steps(start) if start else 0)


def load_pretrained(path: Path, like: Params) -> Params:
    """Weights with the names and shapes of `like`, as float32; InputError naming the first that does not fit."""
    try:
        with safe_open(path, "numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is no whole safetensors file: {error}") from error
    needed = named(like)
    for name in sorted(found.keys() | needed.keys()):
        shapes = [list(side[name].shape) if name in side else "no such weight" for side in (found, needed)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{path} does not fit config.denoiser: for {name} the file has {shapes[0]}, the network {shapes[1]}; "
                "its settings stand in the file's header"
            )
    treedef = jax.tree.structure(like)
    return jax.tree.unflatten(treedef, [jnp.asarray(found[name], jnp.float32) for name in needed])


def digest(params: Params) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all weights: tells one training's result from another's."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:16]
