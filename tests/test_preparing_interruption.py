"""prepare_data on a full disk, killed at any time, its files damaged: a sentence, and a rerun mends it."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from lookalikes import cityscapes, gta5
from prepared_sets import ROOT, SIZE, assert_same, command, files_of, prepare, read_back, run

from sgg_jax.data import shards
from sgg_jax.data.streets import Streets
from sgg_jax.errors import InputError


@pytest.mark.parametrize("call", range(1, 13))
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(call, tmp_path, monkeypatch):
    data, calls = Streets("source", "train", 5, SIZE), iter(range(1, 100))
    replace = os.replace

    def full(*paths):
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*paths)

    monkeypatch.setattr(shards.os, "replace", full)
    with pytest.raises(InputError, match=r"1\.0\.0 cannot be written \(No space left on device\): free some space"):
        prepare(data, tmp_path / "prepared")
    monkeypatch.undo()
    clean, folder = files_of(prepare(data, tmp_path / "clean").folder), tmp_path / "prepared" / "source" / "1.0.0"
    assert all(clean.get(name, content) == content for name, content in files_of(folder).items())
    assert files_of(prepare(data, tmp_path / "prepared").folder) == clean


def test_a_file_that_may_not_grow_is_one_sentence(tmp_path):
    """What ArrayRecord makes of a disk that fills up within a shard."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written .*File too large"):
            prepare(Streets("source", "train", 5, (192, 384)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in (tmp_path / "source" / "1.0.0").iterdir()) == ["parts", "settings.json"]


def test_damage_is_one_sentence_for_readers(tmp_path):
    data = Streets("source", "train", 5, SIZE)
    folder = prepare(data, tmp_path).folder
    shard = sorted(folder.glob("*.array_record*"))[1]
    whole = shard.read_bytes()
    damaged = bytearray(whole)
    damaged[damaged.index(b"PNG") + 60] ^= 1
    for content in (whole[:1000], whole[:-1000], b"", bytes(damaged), None):
        shard.unlink() if content is None else shard.write_bytes(content)
        with pytest.raises(InputError, match="cannot read .*prepare the data set again") as caught:
            _ = [read_back(folder)[index] for index in range(5)]
        assert "\n" not in str(caught.value)
    prepare(data, tmp_path)
    assert_same(read_back(folder), data)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="manifest.jsonl does not fit the shards beside it"):
        read_back(folder)
    manifest.unlink()
    with pytest.raises(InputError, match="manifest.jsonl cannot be read"):
        read_back(folder)


def test_killed_at_ten_random_times_the_files_are_those_of_a_clean_run(tmp_path):
    gta5(tmp_path / "gta5", 24)
    cityscapes(tmp_path / "cityscapes", {"test": 10})
    settings = ["--config.data.size=(192, 384)"]
    for role, name, split in (("source", "gta5", "train"), ("target", "cityscapes", "test")):
        settings += [
            f"--config.data.{role}.name={name}", f"--config.data.{role}.root={tmp_path / name}",
            f"--config.data.{role}.public.split={split}",
        ]  # fmt: skip
    clean = run(tmp_path / "clean", *settings)
    assert clean.returncode == 0, clean.stderr
    folder = tmp_path / "clean" / "prepared" / "source" / "1.0.0"
    assert f"source: 24 examples are prepared; read them with --config.data.source.name=tfds " \
        f"--config.data.source.tfds.directory={folder}" in clean.stdout  # fmt: skip
    wanted = files_of(tmp_path / "clean" / "prepared")
    began, ended = (folder / "settings.json").stat().st_mtime, (folder / "dataset_info.json").stat().st_mtime
    draw = random.Random(0)
    killed = tmp_path / "killed" / "prepared"
    unfinished = 0
    for _ in range(10):
        process = subprocess.Popen(
            command(tmp_path / "killed", *settings), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        process.stderr.readline()  # it has started to work
        time.sleep(draw.uniform(0, (ended - began) / 3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        unfinished += files_of(killed) != wanted
    assert unfinished > 0  # most of them, on any machine
    assert run(tmp_path / "killed", *settings).returncode == 0
    assert files_of(killed) == wanted


EVERY_RENAME = """
import os, sys
from collections import deque
from pathlib import Path
from sgg_jax.data.preparing import Preparation
from sgg_jax.data.streets import Streets
import tensorflow_datasets as tfds
tfds.features.Text, tfds.core.SplitInfo, tfds.data_source

def prepare(place):
    preparation = Preparation(Streets("source", "train", 5, (24, 48)), Path(place), "source", {}, per_shard=2)
    deque(preparation.verify(), maxlen=0)
    deque(preparation.write(), maxlen=0)

def killed(place, number, before):
    replace, calls = os.replace, iter(range(1, 100))
    def replacing(*paths):
        now = next(calls)
        if before and now == number: os._exit(9)
        replace(*paths)
        if now == number: os._exit(9)
    os.replace = replacing
    prepare(place)
    os._exit(0)

def contents(place):
    return {str(path.relative_to(place)): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}

kills = 0
for number in range(1, 100):
    statuses = []
    for before in (True, False):
        place = f"{sys.argv[1]}/{number}{before}"
        child = os.fork()
        if not child: killed(place, number, before)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        child = os.fork()
        if not child: prepare(place); os._exit(0)
        os.waitpid(child, 0)
        if statuses[-1] == 0: wanted = contents(place)
    if statuses == [0, 0]: break
    kills += 2
found = [contents(f"{sys.argv[1]}/{number}{before}") for number in range(1, kills // 2 + 1) for before in (True, False)]
print(kills, all(one == wanted for one in found), len(wanted))
"""


def test_killed_before_and_after_every_rename(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", EVERY_RENAME, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    # settings, 3 shards and their parts, classes, manifest, features, label names, dataset_info: 12, twice
    assert done.stdout.split() == ["24", "True", "9"], done.stdout + done.stderr
