"""prepare_data: the same examples, bit for bit, in the format of TFDS; what it leaves out, refuses and mends."""

import hashlib
import os
import sys

import numpy as np
import pytest
from lookalikes import cityscapes, gta5, save, synthia
from prepared_sets import SIZE, assert_same, files_of, opened, prepare, read_back, run

from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.folder import open_folders
from sgg_jax.data.manifest import read_lines
from sgg_jax.data.streets import Streets
from sgg_jax.errors import InputError

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


def test_classes_of_the_config_must_have_the_names_of_the_set(tmp_path):
    folder = prepare(opened("gta5", gta5(tmp_path / "files", 2)), tmp_path / "prepared").folder
    assert_same(read_back(folder, classes=CITYSCAPES), read_back(folder))  # label ids of GTA5, train ids in the set
    with pytest.raises(InputError, match="prepared with the classes road, .*config.data.classes has road, sidewalk;"):
        read_back(folder, classes=CITYSCAPES[:2])


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
