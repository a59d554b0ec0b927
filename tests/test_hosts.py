"""Two processes with one run directory, connected over the loopback: real jax.distributed, real commands."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import DEFAULT_EMITTERS
from PIL import Image

from sgg_jax import hosts
from sgg_jax.checkpoints import newest
from sgg_jax.errors import InputError
from sgg_jax.stopping import EXIT_CODE

ROOT = Path(__file__).resolve().parents[1]
STEPS = 6
TINY = [
    *("--config", "configs/quick.py", "--config.data.size=(16,32)"),
    *(f"--config.data.{role}.streets.count={n}" for role, n in dict(source=12, target=12, judge=12, val=4).items()),
    "--config.data.test.streets.count=8",
    *("--config.denoiser.unet.widths=(32,)", "--config.denoiser.unet.blocks=1"),
    "--config.segmenter.encoder_decoder.blocks=1",
    *("--config.segmenter.encoder_decoder.widths=(8,16)", "--config.adapt.depths=(100,)"),
    *("--config.translate.batch_size=2", "--config.translate.steps=4", "--config.translate.unguided=2"),
    *(
        f"--config.{section}.training.{name}={value}"
        for section in ("denoiser", "segmenter", "adapt", "student")
        for name, value in dict(steps=STEPS, batch_size=4, save_every=3).items()
    ),
    "--config.compare.methods=('color','sgg_ptl')",
]
PATIENCE = 60.0
"""Seconds within which a process must end after another one was lost, or a stop was asked for."""


def command(workdir, *flags):
    environment = {**os.environ, **DEFAULT_EMITTERS, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "main.py", "compare", *TINY, "--workdir", str(workdir), *flags]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def both(workdir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [command(workdir, "--coordinator", address, "--hosts", "2", "--host", str(i)) for i in (0, 1)]


def ended(processes, seconds):
    """Their exit codes; what still runs then is killed, and fails the test."""
    until, codes, said = time.monotonic() + seconds, [], []
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            said.append(process.communicate(timeout=max(until - time.monotonic(), 0.1))[1].decode(errors="replace"))
        codes.append(process.poll())
    for process in processes:
        process.kill()
    assert None not in codes, f"still running after {seconds} s: {codes}\n{said}"
    return codes, said


def wait_until(there, processes):
    until = time.monotonic() + 300
    while not there():
        assert time.monotonic() < until and all(process.poll() is None for process in processes), [
            process.communicate(timeout=10)[1] for process in processes if process.poll() is not None
        ]
        time.sleep(0.05)


def arrays(workdir, place):
    """Parameters, optimizer and EMA of the newest checkpoint, by name."""
    directory = workdir / place / "checkpoints"
    with ocp.StandardCheckpointer() as reader:
        path = (directory / str(newest(directory)) / "state").resolve()
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one),
            reader.metadata(path).item_metadata.tree,
        )
        state = reader.restore(path, like)
    return {str(name): np.asarray(leaf) for name, leaf in ocp.tree.to_flat_dict(state).items()}


def pixels(workdir, place):
    paths = sorted((workdir / place).rglob("*_leftImg8bit.png"))
    return {str(path.relative_to(workdir)): np.asarray(Image.open(path)).astype(int) for path in paths}


NETWORKS = ("denoiser", "source", "judge", "adapt/round1", "student", "methods/color/student")
SETS = ("adapt/round1/translated", "translated", "unguided", "methods/color/translated")


def assert_same_bytes(run, other):
    """Of every network, its optimizer and average, and of every translation."""
    for kind, places in ((arrays, NETWORKS), (pixels, SETS)):
        for place in places:
            mine, theirs = kind(run, place), kind(other, place)
            assert mine and mine.keys() == theirs.keys()
            for name, values in mine.items():
                np.testing.assert_array_equal(values, theirs[name], err_msg=f"{place}: {name}")


BLOWS = [  # what is there when a host is struck, which, and by what
    ("denoiser/metrics.jsonl", 1, signal.SIGTERM),
    ("adapt/round1/translated/leftImg8bit/train/all/*.png", 0, signal.SIGKILL),
]


def strike(workdir, blows):
    """A run of two hosts that goes on after every blow; the host that was not struck ends soon, too."""
    for sign, struck, blow in blows:
        processes = both(workdir)
        wait_until(lambda sign=sign: any(path.stat().st_size for path in workdir.glob(sign)), processes)
        processes[struck].send_signal(blow)
        codes, said = ended(processes, PATIENCE)
        if blow == signal.SIGTERM:
            assert codes == [EXIT_CODE, EXIT_CODE], said
        else:
            assert codes[struck] == -signal.SIGKILL and codes[1 - struck] != 0, said
    codes, said = ended(both(workdir), 600)
    assert codes == [0, 0], said


def assert_same_run(workdir, other):
    assert_same_bytes(workdir, other)
    for place in SETS:
        assert (workdir / place / "manifest.jsonl").read_text() == (other / place / "manifest.jsonl").read_text()
    rows = [json.loads((place / "compare" / "sgg_ptl-0.json").read_text()) for place in (workdir, other)]
    assert rows[0]["miou"] == rows[1]["miou"] and rows[0]["distance"] == rows[1]["distance"]


@pytest.fixture(scope="module")
def struck(tmp_path_factory):
    """A run of two hosts, one signalled while they train, the other killed while they translate."""
    workdir = tmp_path_factory.mktemp("hosts") / "struck"
    strike(workdir, BLOWS)
    return workdir


@pytest.mark.whole
def test_two_hosts_that_are_killed_and_stopped_match_one_device_alone(struck, tmp_path):
    """More blows: soak/test_hosts_soak.py."""
    codes, said = ended([command(tmp_path)], 600)
    assert codes == [0], said
    assert_same_run(struck, tmp_path)


@pytest.mark.whole
def test_what_is_wrong_on_one_host_ends_both(struck, tmp_path):
    """A damaged file is told by the host that reads it, and nobody waits for ever."""
    workdir = tmp_path / "run"
    shutil.copytree(struck, workdir)
    (workdir / "stages" / "compare.json").unlink()
    (workdir / "compare" / "sgg_ptl-0.json").unlink()
    (workdir / "translated" / "classes.json").write_text("{}")
    codes, said = ended(both(workdir), 2 * PATIENCE)
    assert codes == [2, 2] and "classes.json" in said[0], said


def test_all_three_flags_are_needed():
    with pytest.raises(InputError, match="give all three"):
        hosts.connect("127.0.0.1:1", 2)
    with pytest.raises(InputError, match="--hosts 2 --host 2"):
        hosts.connect("127.0.0.1:1", 2, 2)


@pytest.mark.parametrize("environment", [{}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}])
def test_where_no_cluster_is_nothing_is_connected(environment, monkeypatch):
    def asked(**_):
        raise ValueError("coordinator_address should be defined.")  # what jax says then

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", asked)
    hosts.connect()
    assert hosts.count() == 1


def test_a_cluster_that_cannot_be_reached_is_told_with_a_way_out(monkeypatch):
    def asked(**_):
        raise RuntimeError("Kubernetes API Error: 403\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", asked)
    with pytest.raises(
        InputError, match=r"\(Kubernetes API Error: 403\): mend that, or run on it alone with --hosts 1"
    ):
        hosts.connect()
    hosts.connect(hosts=1)


def test_hosts_that_have_other_images_are_told(monkeypatch):
    told = {"data": {"images": 3, "names_sha256": "a"}}
    hosts.check_alike("images", told)  # alone
    said = []
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "agreed", lambda value: said.append(value) or said[0])
    hosts.check_alike("images", told)
    with pytest.raises(InputError, match="host 0 has other images than host 0: where files are new"):
        hosts.check_alike("images", {"data": {"images": 2, "names_sha256": "a"}})


def test_alone_there_is_nobody_to_wait_for(tmp_path):
    with hosts.joined(tmp_path):
        assert (hosts.count(), hosts.number(), hosts.leads(), hosts.token()) == (1, 0, True, "")
        assert hosts.agreed(7) == 7
        hosts.together()
        with pytest.raises(InputError, match="in use by process"), hosts.joined(tmp_path):
            pass
