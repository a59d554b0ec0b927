"""Checkpoints of training: orbax, two items a step: `state`, to resume, and `weights`, to use the network."""

from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from sgg_jax.errors import InputError


class Checkpoints:
    """The newest `keep` checkpoints under `directory`. Use as a context manager; saves run in the background."""

    def __init__(self, directory: Path, keep: int = 2):
        self.directory = directory
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self.manager = ocp.CheckpointManager(directory.resolve(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.wait_until_finished()
        self.manager.close()

    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        step: int | None = self.manager.latest_step()
        return step

    def save(self, step: int, state: Any, weights: Any) -> None:
        """Copies both, since the next step of training takes the state's memory, and writes in the background."""
        state, weights = jax.tree.map(jnp.copy, (state, weights))
        save = ocp.args.StandardSave
        self.manager.save(step, args=ocp.args.Composite(state=save(state), weights=save(weights)))

    def restore(self, item: str, like: Any) -> Any:
        """Newest `item` with the structure, shapes and dtypes of `like`; InputError where they do not fit."""
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        try:
            restore = ocp.args.StandardRestore(abstract)
            restored = self.manager.restore(self.latest(), args=ocp.args.Composite(**{item: restore}))[item]
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"cannot read the {item} of step {self.latest()} in {self.directory}: {reason} "
                "(was it written with other network settings, or damaged? delete it, or use another --workdir)"
            ) from error
        for found, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True):
            if found.shape != wanted.shape:
                raise InputError(
                    f"{self.directory} holds an array {found.shape} where {wanted.shape} is needed: "
                    "it was written with other network settings; use another --workdir"
                )
        return restored


def load_weights(directory: Path, like: Any) -> Any:
    """Weights of the newest checkpoint in `directory`, shaped like `like`; InputError if there is none."""
    if not directory.is_dir():
        raise InputError(f"no checkpoint in {directory}: run the stage that trains it first")
    with Checkpoints(directory) as checkpoints:
        if checkpoints.latest() is None:
            raise InputError(f"no finished checkpoint in {directory}: run the stage that trains it first")
        return checkpoints.restore("weights", like)
