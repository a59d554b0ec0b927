"""Checkpoints of training: orbax, two items a step: `state`, to resume, and `weights`, to use the network.

A seal, written last, holds the digest of every file of a checkpoint. What a seal does not fit is not read.
"""

import hashlib
import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from sgg_jax import hosts
from sgg_jax.errors import InputError
from sgg_jax.records import read_json, write_json

SEAL = "seal.json"
"""In a checkpoint's directory: {"files": {name: SHA-256}, what `Checkpoints` was given as `about`, and "seal": the
SHA-256 of all that}."""
ITEMS = ("state", "weights")
SLOW = 10.0
"""Seconds of waiting for the save before, from which on stderr tells that the directory is slow."""
RUN_FIRST = "run the stage that trains it first (one that says it finished already: delete its file in stages/ and run)"
SET_ASIDE = ".damaged"
"""Ending of the name that a damaged checkpoint is given, so that its step can be written again."""


class Checkpoints:
    """The newest `keep` checkpoints under `directory`, to resume from and to add to. Use as a context manager.

    Saves run in the background. The newest whole checkpoint counts; newer ones are set aside, and stderr says why.
    Of several hosts all use it alike, host 0 writes, and the others take the step that it takes.
    about: what each seal tells of the run: its config, code and data.
    """

    def __init__(self, directory: Path, keep: int = 2, about: dict[str, Any] | None = None):
        self.directory, self.about = directory, about or {}
        _mute()
        self._pool = ThreadPoolExecutor(1, "seal")
        self._sealing: Future[None] | None = None
        self.manager: ocp.CheckpointManager | None = None
        self._opened: int | None = None
        found = None
        if hosts.leads():
            found = newest(directory)
            for step in _steps(directory):
                if found is None or step > found:
                    _set_aside(directory / str(step))
            if found is not None:
                _tell_of_other_images(directory / str(found), self.about)
            self.manager = _manager(directory, keep)
            self._opened = os.open(directory, os.O_RDONLY)  # while it is open, no other directory can look like it
        agreed = hosts.agreed(-1 if found is None else found)
        self._latest = None if agreed < 0 else agreed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _writing(self.directory):
            try:
                self._sealed()
            finally:
                self._pool.shutdown()
                if self._opened is not None:
                    os.close(self._opened)
                if self.manager is not None:
                    self.manager.close()

    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._latest

    def save(self, step: int, state: Any, weights: Any) -> None:
        """Writes both in the background: nothing else may take their memory.

        InputError where this save, or the one before it, cannot be written.
        """
        began = time.monotonic()
        self._sealed()
        waited = time.monotonic() - began
        if waited > SLOW:
            print(
                f"training waited {waited:.0f} s for the checkpoint before this one to be written: raise save_every, "
                f"or take a faster directory than {self.directory}",
                file=sys.stderr,
                flush=True,
            )
        self._latest = step
        if self.manager is None:
            return
        with _writing(self.directory):
            _begin(self.manager, step, state, weights)
        self._sealing = self._pool.submit(self._seal, self.manager, step)

    def _seal(self, manager: ocp.CheckpointManager, step: int) -> None:
        manager.wait_until_finished()
        self._in_its_place(step)
        _seal(manager, self.directory / str(step), self.about)
        self._in_its_place(step)

    def _in_its_place(self, step: int) -> None:
        """OSError, and no checkpoint of that step, where the directory is not the one that was opened: one that
        vanished is made anew, and what was not written yet, or the seal, would stand in it as if it were all."""
        assert self._opened is not None
        try:
            same = os.path.samestat(os.fstat(self._opened), os.stat(self.directory))
        except FileNotFoundError:
            same = False
        if not same:
            shutil.rmtree(self.directory / str(step), ignore_errors=True)
            raise OSError("the directory was moved or deleted meanwhile")

    def _sealed(self) -> None:
        """Waits for the last save."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            with _writing(self.directory):
                sealing.result()

    def restore(self, item: str, like: Any) -> Any:
        """Newest `item` with the structure, shapes and dtypes of `like`; InputError where they do not fit."""
        self._sealed()
        assert self._latest is not None
        return _restore(self.directory, self._latest, item, like)


@cache
def _mute() -> None:
    """Quiet what orbax logs besides raising it, and what threads and tasks of a save that failed complain of later."""
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    others = sys.unraisablehook
    sys.unraisablehook = lambda found: None if str(found.exc_value) == "Event loop is closed" else others(found)


def _manager(directory: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, create=False, multiprocessing_options=_by_itself()
    )
    directory.mkdir(parents=True, exist_ok=True)
    handlers = {item: ocp.StandardCheckpointHandler(multiprocessing_options=_by_itself()) for item in ITEMS}
    return ocp.CheckpointManager(directory.resolve(), options=options, item_handlers=handlers)


def _begin(manager: ocp.CheckpointManager, step: int, state: Any, weights: Any) -> None:
    save = ocp.args.StandardSave
    manager.save(step, args=ocp.args.Composite(state=save(state), weights=save(weights)))


def _seal(manager: ocp.CheckpointManager, place: Path, about: dict[str, Any]) -> None:
    manager.wait_until_finished()
    content = {"files": _digests(place), **about}
    write_json(place / SEAL, {**content, "seal": _digest_of(content)})


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Whatever orbax makes of a full disk or a directory that vanished leaves the block as an InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"a checkpoint in {directory} cannot be written ({reason}): free some space or mend the directory "
            "and run again, to go on from the one before it"
        ) from error


def write_one(directory: Path, state: Any, weights: Any) -> None:
    """A checkpoint of step 0, by this host alone, and waits until it is sealed: to see how long that takes."""
    _mute()
    with _writing(directory), _manager(directory, 1) as manager:
        _begin(manager, 0, state, weights)
        _seal(manager, directory / "0", {})


def _by_itself() -> ocp.options.MultiprocessingOptions:
    """This host reads or writes without the others."""
    own = hosts.number()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"host{own}"
    )


def load_weights(directory: Path, like: Any) -> Any:
    """Weights of the newest whole checkpoint in `directory`, shaped like `like`; InputError if there is none."""
    if not directory.is_dir():
        raise InputError(f"no checkpoint in {directory}: {RUN_FIRST}")
    step = newest(directory)
    if step is None:
        raise InputError(f"no whole checkpoint in {directory}: {RUN_FIRST}")
    return _restore(directory, step, "weights", like)


def newest(directory: Path) -> int | None:
    """Step of the newest whole checkpoint; stderr says what is passed over, and why.

    Where no checkpoint has a seal, the newest counts as it is: it was written before there were seals.
    """
    steps = _steps(directory)
    for step in steps:
        damage = _damage(directory / str(step))
        if damage is None:
            return step
        print(f"passing over the checkpoint {directory / str(step)}: {damage}", file=sys.stderr, flush=True)
    if steps and not any((directory / str(step) / SEAL).exists() for step in steps):
        print(f"no checkpoint in {directory} is sealed: taking {steps[0]} unverified", file=sys.stderr, flush=True)
        return steps[0]
    return None


def _steps(directory: Path) -> list[int]:
    """Steps of the checkpoints that orbax has finished, newest first."""
    names = [path.name for path in directory.glob("[0-9]*") if path.is_dir() and path.name.isdecimal()]
    return sorted(map(int, names), reverse=True)


def _damage(place: Path) -> str | None:
    """What is wrong with a checkpoint, compared with its seal; None if nothing is."""
    try:
        seal = read_json(place / SEAL, {"seal": str, "files": dict}, "nothing tells whether it is whole")
        own, wanted = seal.pop("seal"), seal["files"]
        if own != _digest_of(seal):
            return f"{SEAL} was changed after it was written"
        found = _digests(place)
    except FileNotFoundError:
        return "it was not sealed: its run was killed before"
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error})"
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if found[name] != wanted.get(name):
            return f"{name} was changed after it was written"
    return None


def _digests(place: Path) -> dict[str, str]:
    """SHA-256 of every file but the seal, by its path in the checkpoint."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and path != place / SEAL and not path.name.endswith(".tmp"):
            with path.open("rb") as file:
                found[str(path.relative_to(place))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _tell_of_other_images(place: Path, about: dict[str, Any]) -> None:
    """On stderr, where training goes on from a checkpoint with other images than it was saved with."""
    seal = read_json(place / SEAL) if (place / SEAL).exists() else {}
    before, now = seal.get("data"), about.get("data")
    if before and now and before != now:
        print(
            f"{place} was trained on other images ({before['images']} then, {now['images']} now): training goes on "
            "with those of now; start a new --workdir for a run that can be repeated",
            file=sys.stderr,
            flush=True,
        )


def _set_aside(place: Path) -> None:
    number = 0
    while (aside := place.with_name(f"{place.name}{SET_ASIDE}{number or ''}")).exists():
        number += 1
    place.rename(aside)


def _restore(directory: Path, step: int, item: str, like: Any) -> Any:
    """`item` of a step with the structure, shapes and dtypes of `like`; InputError where they do not fit."""
    # onto one device, whatever devices wrote it: the caller spreads it
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), like)
    where, path = f"the {item} in {directory / str(step)}", (directory / str(step) / item).resolve()
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_by_itself()) as reader:
            # what orbax cannot fit it leaves half read, with noise later: so compare first
            _compare(where, reader.metadata(path).item_metadata, abstract)
            return reader.restore(path, abstract)
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"cannot read {where}: {reason}; delete that folder, or use another --workdir") from error


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
