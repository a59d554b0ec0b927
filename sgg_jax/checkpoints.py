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
        handlers = {item: ocp.StandardCheckpointHandler() for item in ("state", "weights")}
        self.manager = ocp.CheckpointManager(directory.resolve(), options=options, item_handlers=handlers)

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
        # onto one device, whatever devices wrote it: the caller spreads it
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), like)
        where = f"the {item} in {self.directory / str(self.latest())}"
        try:
            # what orbax cannot fit it leaves half read, with noise later: so compare first
            self._compare(where, self.manager.item_metadata(self.latest())[item], abstract)
            restore = ocp.args.StandardRestore(abstract)
            return self.manager.restore(self.latest(), args=ocp.args.Composite(**{item: restore}))[item]
        except (ValueError, KeyError, TypeError, OSError) as error:
            if isinstance(error, InputError):
                raise
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"cannot read {where}: {reason}; delete that folder, or use another --workdir") from error

    @staticmethod
    def _compare(where: str, stored: Any, wanted: Any) -> None:
        """InputError naming the first array that one side lacks or that has another shape or dtype."""
        if stored is None:
            raise InputError(f"{where} is damaged: delete that folder, or use another --workdir")
        found = {leaf.name: f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(stored)}
        needed = {
            jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)
        }
        for name in sorted(found.keys() | needed.keys()):
            if found.get(name) != needed.get(name):
                raise InputError(
                    f"{where} has {found.get(name, 'nothing')} for {name}, but this network has "
                    f"{needed.get(name, 'no such weight')}: it was written with other settings; use another --workdir"
                )


def load_weights(directory: Path, like: Any) -> Any:
    """Weights of the newest checkpoint in `directory`, shaped like `like`; InputError if there is none."""
    if not directory.is_dir():
        raise InputError(f"no checkpoint in {directory}: run the stage that trains it first")
    with Checkpoints(directory) as checkpoints:
        if checkpoints.latest() is None:
            raise InputError(f"no finished checkpoint in {directory}: run the stage that trains it first")
        return checkpoints.restore("weights", like)
