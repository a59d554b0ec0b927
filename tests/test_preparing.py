"""prepare_data: the same examples, bit for bit, in the format of TFDS, whatever happens on the way."""

import errno
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from lookalikes import cityscapes, gta5, save, synthia

from sgg_jax.data import shards
from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.dataset import Dataset
from sgg_jax.data.folder import open_folders
from sgg_jax.data.manifest import read_lines
from sgg_jax.data.prepared import Prepared
from sgg_jax.data.preparing import Preparation
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.data.streets import Streets
from sgg_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SIZE = (24, 48)


def opened(name: str, root: Path, split: str = "train", **options) -> Dataset:
    return open_public(LAYOUTS[name], str(root), split, **{"size": SIZE, "fit": "stretch"} | options)


def prepare(dataset: Dataset, directory: Path, name: str = "source", settings=None, **options) -> Preparation:
    preparation = Preparation(dataset, directory, name, settings or {}, **{"per_shard": 2} | options)
    deque(preparation.verify(), maxlen=0)
    deque(preparation.write(), maxlen=0)
    return preparation


def read_back(folder: Path, **options) -> Prepared:
    """As a config that gives nothing but the directory reads it."""
    defaults = dict(split="train", image="image", label="label", classes=(), size=SIZE)
    return Prepared(str(folder), **defaults | options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(prepared: Dataset, original: Dataset) -> None:
    assert len(prepared) == len(original) and prepared.labelled == original.labelled
    assert [(c.name, c.color) for c in prepared.classes] == [(c.name, c.color) for c in original.classes]
    for index in range(len(original)):
        assert prepared.name(index) == original.name(index)
        assert prepared.image_id(index) == original.image_id(index)
        assert prepared.origin(index)[1] == original.origin(index)[1]
        for ours, theirs in zip(prepared[index], original[index], strict=True):
            np.testing.assert_array_equal(ours, theirs)


MAKERS = {
    "gta5": lambda root: opened("gta5", gta5(root, 5)),  # palette PNG
    "synthia": lambda root: opened("synthia", synthia(root, 5)),  # 16 bits
    "cityscapes": lambda root: opened("cityscapes", cityscapes(root, {"train": 5}), fit="crop"),
    "unlabelled": lambda root: opened("cityscapes", cityscapes(root, {"test": 5}), "test"),
    "streets": lambda root: Streets("target", "val", 5, SIZE),
}


@pytest.mark.parametrize("name", MAKERS)
def test_prepared_examples_are_those_of_the_originals(name, tmp_path):
    import tensorflow_datasets as tfds

    data = MAKERS[name](tmp_path / "files")
    folder = prepare(data, tmp_path / "prepared").folder
    assert_same(read_back(folder), data)
    assert not (folder / "parts").exists() and len(list(folder.glob("*.array_record-0000?-of-00003"))) == 3
    plain = tfds.builder_from_directory(str(folder)).as_data_source("train")
    by_name = tfds.data_source("source", split="train", data_dir=str(tmp_path / "prepared"))
    for source in (plain, by_name):
        assert len(source) == 5
        for index, record in enumerate(source):
            np.testing.assert_array_equal(record["image"], data[index].image)
            assert record["name"].decode() == data.name(index) and record["image_id"] == data.image_id(index)
            if data.labelled:
                np.testing.assert_array_equal(record["label"][..., 0], data[index].labels)
                assert plain.dataset_info.features["label"].names == [info.name for info in data.classes]
            else:
                assert "label" not in record
    assert "tensorflow" not in sys.modules


def test_native_sizes_and_slices(tmp_path):
    root = gta5(tmp_path / "files", 3)
    gta5(root, 2, size=(56, 96), first=4)
    data = opened("gta5", root, fit="native")
    folder = prepare(data, tmp_path / "prepared").folder
    assert_same(read_back(folder, fit="native"), data)
    part = read_back(folder, split="train[1:4]", fit="native")
    assert [part.name(index) for index in range(3)] == ["00002", "00003", "00004"]
    assert part[2].image.shape == (56, 96, 3) and part.image_id(-1) == 4
    assert len(read_back(folder, count=2)) == 2


def test_names_that_are_no_utf8(tmp_path):
    path = save(tmp_path / "images" / "a.png", np.zeros((24, 48, 3), np.uint8))
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/\xff.png"))
    data = open_folders(str(tmp_path / "images"), "", (), SIZE)
    assert_same(read_back(prepare(data, tmp_path / "prepared").folder), data)


def test_the_manifest_names_files_and_their_hashes(tmp_path):
    data = opened("gta5", gta5(tmp_path / "files", 3))
    lines = read_lines(prepare(data, tmp_path / "prepared").folder / "manifest.jsonl")
    assert [(line["shard"], line["position"]) for line in lines] == [(0, 0), (0, 1), (1, 0)]
    for line in lines:
        for kind in ("image", "label"):
            content = (tmp_path / "files" / line[kind]).read_bytes()
            assert line[f"{kind}_sha256"] == hashlib.sha256(content).hexdigest()
    streets = prepare(Streets("source", "train", 1, SIZE), tmp_path / "streets").folder / "manifest.jsonl"
    pixels = Streets("source", "train", 1, SIZE)[0].image.tobytes()
    assert read_lines(streets)[0]["image_sha256"] == hashlib.sha256(pixels).hexdigest()


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    data = opened("gta5", gta5(tmp_path / "files", 7))
    (tmp_path / "files" / "images" / "00004.png").write_bytes(b"")
    written = [
        files_of(prepare(data, tmp_path / str(workers), workers=workers, max_bad=1).folder) for workers in (1, 2, 4)
    ]
    assert written[0] == written[1] == written[2]


def test_bad_examples_are_left_out_named_and_listed(tmp_path, capsys):
    root = gta5(tmp_path / "files", 5)
    (root / "labels" / "00005.png").unlink()
    for number in (1, 2):  # a whole shard
        (root / "images" / f"{number:05d}.png").write_bytes(b"<html>")
    data = opened("gta5", root)
    with pytest.raises(InputError, match="max_bad is 2"):
        prepare(data, tmp_path / "prepared", max_bad=2)
    capsys.readouterr()
    done = prepare(data, tmp_path / "prepared", max_bad=3)
    assert (done.examples, done.left_out) == (2, 3)
    assert capsys.readouterr().err.count("left out: ") == 3
    lines = read_lines(done.folder / "manifest.jsonl")
    left = [(line["name"], line["left_out"]) for line in lines if "left_out" in line]
    assert left == [("00001", "not an image"), ("00002", "not an image"), ("images/00005.png", "missing label")]
    assert "00001.png" in lines[0]["text"]
    back = read_back(done.folder)
    assert [back.name(index) for index in range(len(back))] == ["00003", "00004"]
    np.testing.assert_array_equal(back[1].image, data[3].image)
    assert [(p.category, p.name) for p in back.problems] == [("known bad", name) for name, _ in left]
    with pytest.raises(InputError, match="max_bad is 1"):  # nor may a rerun be more lenient than it says
        prepare(data, tmp_path / "prepared", max_bad=1)


def test_nothing_usable_is_refused(tmp_path):
    root = gta5(tmp_path / "files", 2)
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no example could be used"):
        prepare(opened("gta5", root), tmp_path / "prepared", max_bad=2)
    with pytest.raises(InputError, match="is unfinished: run prepare_data"):
        read_back(tmp_path / "prepared" / "source" / "1.0.0")


def test_a_rerun_verifies_refuses_or_mends(tmp_path):
    root = gta5(tmp_path / "files", 5)
    data = opened("gta5", root)
    folder = prepare(data, tmp_path / "prepared").folder
    clean = files_of(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    prepare(data, tmp_path / "prepared")
    assert times == {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    with pytest.raises(InputError, match=r"other settings \(size: \[24, 48\] there, \[12, 24\] now\)"):
        prepare(opened("gta5", root, size=(12, 24)), tmp_path / "prepared")
    with pytest.raises(InputError, match="seed: absent there, 1 now"):
        prepare(data, tmp_path / "prepared", settings={"seed": 1})

    first, second = sorted(folder.glob("*.array_record*"))[:2]
    first.unlink()
    damaged = bytearray(second.read_bytes())
    damaged[damaged.index(b"PNG") + 60] ^= 1
    second.write_bytes(bytes(damaged))
    prepare(data, tmp_path / "prepared")
    assert files_of(folder) == clean

    image = root / "images" / "00003.png"
    image.write_bytes((root / "images" / "00001.png").read_bytes())
    with pytest.raises(InputError, match="00003 has changed since it was prepared"):
        prepare(data, tmp_path / "prepared")
    assert files_of(folder) == clean
    image.unlink()
    with pytest.raises(InputError, match="00003 has changed since it was prepared"):
        prepare(data, tmp_path / "prepared")


def test_an_unfinished_set_takes_in_what_was_mended(tmp_path):
    root = gta5(tmp_path / "files", 6)
    data = opened("gta5", root)
    good = {name: (root / "images" / name).read_bytes() for name in ("00002.png", "00003.png", "00005.png")}
    for name in good:
        (root / "images" / name).write_bytes(b"")
    with pytest.raises(InputError, match="max_bad is 2"):
        prepare(data, tmp_path / "prepared", max_bad=2, workers=1)
    assert (tmp_path / "prepared" / "source" / "1.0.0" / "parts" / "00000.jsonl").exists()
    for name, content in good.items():
        (root / "images" / name).write_bytes(content)
    folder = prepare(data, tmp_path / "prepared", max_bad=2).folder
    assert files_of(folder) == files_of(prepare(data, tmp_path / "clean").folder)


def test_other_folders_are_not_touched(tmp_path):
    folder = tmp_path / "source" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match="holds files that prepare_data did not write"):
        prepare(Streets("source", "train", 2, SIZE), tmp_path)
    assert files_of(folder) == {"dataset_info.json": b"{}"}


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


def test_classes_of_the_config_must_have_the_names_of_the_set(tmp_path):
    folder = prepare(opened("gta5", gta5(tmp_path / "files", 2)), tmp_path / "prepared").folder
    assert_same(read_back(folder, classes=CITYSCAPES), read_back(folder))  # label ids of GTA5, train ids in the set
    with pytest.raises(InputError, match="prepared with the classes road, .*config.data.classes has road, sidewalk;"):
        read_back(folder, classes=CITYSCAPES[:2])


COMMAND = """
import sys
from sgg_jax.data import preparing
import main
preparing.PER_SHARD = 3
sys.argv = ["main.py", *sys.argv[1:]]
sys.exit(main.main())
"""


def command(workdir: Path, *settings: str) -> list[str]:
    """The command line of prepare_data, with small shards."""
    none = [f"--config.data.{role}.name=none" for role in ("judge", "val", "test")]
    arguments = ["prepare_data", "--config", "configs/default.py", "--workdir", str(workdir), *none, *settings]
    return [sys.executable, "-c", COMMAND, *arguments]


def run(workdir: Path, *settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(workdir, *settings), cwd=ROOT, capture_output=True, text=True)


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


def test_the_command_tells_in_a_sentence_what_is_wrong(tmp_path):
    gta5(tmp_path / "gta5", 3)
    (tmp_path / "gta5" / "images" / "00002.png").write_bytes(b"")
    settings = ["--config.data.source.name=gta5", f"--config.data.source.root={tmp_path / 'gta5'}"]
    settings += ["--config.data.target.streets.count=3"]
    found = run(tmp_path / "run", *settings)
    assert found.returncode == 2 and "00002.png is empty" in found.stderr and "Traceback" not in found.stderr
    found = run(tmp_path / "run", *settings, "--config.data.max_bad=1", "--config.data.target.name=tfds")
    assert found.returncode == 0 and "target: is prepared already" in found.stdout
    assert "source: 2 examples (1 left out, listed in manifest.jsonl) are prepared" in found.stdout


def test_a_role_reads_prepared_data_by_its_directory_alone(tmp_path):
    from main import load_config
    from sgg_jax.roles import open_role, open_roles

    folder = prepare(opened("gta5", gta5(tmp_path / "files", 2)), tmp_path).folder
    target = prepare(opened("cityscapes", cityscapes(tmp_path / "city", {"test": 2}), "test"), tmp_path, "target")
    overrides = [
        "--config.data.size=(24, 48)",
        *(f"--config.data.{role}.name=none" for role in ("judge", "val", "test")),
    ]
    for role, place in (("source", folder), ("target", target.folder)):
        overrides += [f"--config.data.{role}.name=tfds", f"--config.data.{role}.tfds.directory={place}"]
    roles = open_roles(load_config("configs/default.py", overrides).data)
    assert roles["source"].labelled and not roles["target"].labelled
    assert_same(roles["source"], opened("gta5", tmp_path / "files"))
    config = load_config("configs/default.py", [*overrides, f"--config.data.source.tfds.directory={target.folder}"])
    with pytest.raises(InputError, match="config.data.source .tfds. needs labels"):
        open_role(config.data, "source")
