"""Directories of checkpoints that are full, slow, moved or deleted while they are written into."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import orbax.checkpoint as ocp
import pytest
from test_checkpoints import tree

from sgg_jax import checkpoints
from sgg_jax.checkpoints import Checkpoints, newest
from sgg_jax.errors import InputError

FILLING = """
import resource, sys
import numpy as np
from pathlib import Path
from sgg_jax.checkpoints import Checkpoints, load_weights, newest
from sgg_jax.errors import InputError
directory, refused = Path(sys.argv[1]), []
tree = lambda step: {"x": np.random.default_rng(step).standard_normal(50_000).astype(np.float32)}
with Checkpoints(directory) as checkpoints:
    checkpoints.save(1, tree(1), tree(1))
for step, limit in enumerate(np.linspace(0, 220_000, 20).astype(int), 2):
    try:
        with Checkpoints(directory) as checkpoints:
            before = checkpoints.latest()
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
            checkpoints.save(step, tree(step), tree(step))
    except InputError as error:
        refused.append(str(error))
    else:
        before = step
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert newest(directory) == before, (step, limit)
    np.testing.assert_array_equal(load_weights(directory, tree(0))["x"], tree(before)["x"])
assert 5 < len(refused) < 20, refused
assert all(f"a checkpoint in {directory} cannot be written (" in text for text in refused), refused
"""


def test_a_disk_that_is_full_at_any_byte_leaves_the_checkpoint_before(tmp_path):
    """Files that may not grow beyond 0 to 220,000 bytes stand for the disk; the arrays have 200,000."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-c", FILLING, str(tmp_path / "checkpoints")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_directory_that_is_slow_is_told(tmp_path, capsys, monkeypatch):
    seal = Checkpoints._seal
    monkeypatch.setattr(Checkpoints, "_seal", lambda *given: (time.sleep(0.5), seal(*given)))
    for slow, told in ((60.0, 0), (0.2, 1)):
        monkeypatch.setattr("sgg_jax.checkpoints.SLOW", slow)
        with Checkpoints(tmp_path / str(slow)) as written:
            for step in (1, 2):
                written.save(step, tree(step), tree(step))
        assert (
            capsys.readouterr().err.count("for the checkpoint before this one to be written: raise save_every") == told
        )
        assert newest(tmp_path / str(slow)) == 2


VANISHING = """
import os, sys, time
from pathlib import Path
import jax.numpy as jnp
from sgg_jax.checkpoints import Checkpoints, newest
from sgg_jax.errors import InputError
def entries(place):
    return sum(len(names) + len(files) for _, names, files in os.walk(place))
state, weights = ({str(i): jnp.ones((100, 500)) for i in range(60)} for _ in range(2))
for number in range(0, 48, 3):
    place = Path(sys.argv[1]) / str(number)
    away = place.with_name(f"{number} is away")
    try:
        with Checkpoints(place / "checkpoints") as checkpoints:
            checkpoints.save(1, state, weights)
            late = time.monotonic() + 1
            while entries(place) < number and time.monotonic() < late:
                time.sleep(0.0005)
            place.rename(away)
        assert newest(away / "checkpoints") == 1, number
    except InputError as error:
        print(error)
    assert not any(place.rglob("seal.json")), number
"""


def test_a_directory_that_vanishes_is_a_sentence(tmp_path):
    """While a checkpoint is written into it: no checkpoint of pieces is left, and orbax' threads say nothing beside."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-c", VANISHING, str(tmp_path)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("mend the directory and run again") == len(done.stdout.splitlines()) >= 3


@pytest.mark.parametrize("gone", [Path.rename, lambda place, _: shutil.rmtree(place)])
def test_a_directory_made_anew_while_a_checkpoint_is_written_is_not_sealed(tmp_path, monkeypatch, gone):
    """As orbax makes it where it vanishes at a bad moment; what is missing in it would have been sealed as whole."""
    wait = ocp.CheckpointManager.wait_until_finished

    def made_anew(manager):
        wait(manager)
        monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", wait)
        gone(tmp_path / "checkpoints", tmp_path / "away")
        (tmp_path / "checkpoints" / "1").mkdir(parents=True)

    with (
        pytest.raises(InputError, match="moved or deleted meanwhile.*run again"),
        Checkpoints(tmp_path / "checkpoints") as written,
    ):
        monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", made_anew)
        written.save(1, tree(1), tree(1))
        written._sealed()
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("gone", [Path.rename, lambda place, _: shutil.rmtree(place)])
def test_a_directory_that_vanishes_before_the_seal_is_written_gets_none(tmp_path, monkeypatch, gone):
    """Writing the seal makes the directories above it: of nothing, it would have called nothing whole."""
    digests = checkpoints._digests

    def vanished(place):
        gone(tmp_path / "checkpoints", tmp_path / "away")
        return digests(place)

    with (
        pytest.raises(InputError, match="moved or deleted meanwhile.*run again"),
        Checkpoints(tmp_path / "checkpoints") as written,
    ):
        monkeypatch.setattr(checkpoints, "_digests", vanished)
        written.save(1, tree(1), tree(1))
        written._sealed()
    assert list((tmp_path / "checkpoints").iterdir()) == []
