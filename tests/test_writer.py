"""Writing: exact bytes back, by one host or several, and no directory of other results is touched."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_set import CLASSES, Noise, files, pair, whole, write
from PIL import Image

from sgg_jax.data.exports import export, open_export
from sgg_jax.data.writer import CITYSCAPES, FOLDERS, TranslationWriter, WriteBehind
from sgg_jax.errors import InputError

# ---- round trip


def test_export_and_back_gives_the_same_bytes(tmp_path: Path) -> None:
    data = Noise()
    calls: list[int] = []
    export(data, str(tmp_path), progress=lambda: calls.append(len(calls)))
    assert calls == [0, 1, 2, 3]
    back = open_export(str(tmp_path), data.size)
    assert len(back) == 4 and len(open_export(str(tmp_path), data.size, count=2)) == 2
    for index in range(4):
        assert (back.name(index), back.image_id(index)) == (data.name(index), data.image_id(index))
        assert np.array_equal(back[index].image, data[index].image)
        assert np.array_equal(np.asarray(back[index].labels), pair(index)[1])
    assert back.classes == (CLASSES[0]._replace(ids=(0,)), CLASSES[1]._replace(ids=(1,)))


def test_files_are_what_viewers_and_tools_expect(tmp_path: Path) -> None:
    write(tmp_path, 3)
    image, labels = pair(3)
    colors = np.array([CLASSES[0].color, CLASSES[1].color, *[(0, 0, 0)] * 254])
    ground = tmp_path / "gtFine" / "train" / "all"
    with Image.open(ground / "0000003_gtFine_labelTrainIds.png") as picture:
        assert picture.mode == "L" and np.array_equal(np.array(picture), labels)
    with Image.open(ground / "0000003_gtFine_color.png") as picture:
        assert picture.mode == "RGB" and np.array_equal(np.array(picture), colors[labels])
    with Image.open(tmp_path / "leftImg8bit" / "train" / "all" / "0000003_leftImg8bit.png") as picture:
        assert picture.mode == "RGB" and np.array_equal(np.array(picture), image)
    assert (tmp_path / "manifest.jsonl").read_text() == '{"name": "0000003", "image_id": 3}\n'
    assert json.loads((tmp_path / "classes.json").read_text())[1] == {"name": "car", "id": 1, "color": [0, 0, 142]}


def test_records_may_hold_numpy_values(tmp_path: Path) -> None:
    image, labels = pair(0)
    record = {"loss": np.float32(0.5), "ids": np.arange(2), "city": "Zürich"}
    TranslationWriter(str(tmp_path), CLASSES).write("a", image, labels, record)
    told = json.loads((tmp_path / "manifest.jsonl").read_bytes())
    assert told == {"name": "a", "loss": 0.5, "ids": [0, 1], "city": "Zürich"}


def test_examples_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    image, labels = pair(0)
    writer = TranslationWriter(str(tmp_path), CLASSES)
    before = files(tmp_path)
    for name, a, b, record in (
        ("a/b", image, labels, {}),
        (".a", image, labels, {}),
        ("a", image, labels, {"name": "b"}),
        ("a", image[:3], labels, {}),
        ("a", image.astype(np.float32), labels, {}),
        ("a", image, np.full_like(labels, 2), {}),
    ):
        with pytest.raises(ValueError, match=name):
            writer.write(name, a, b, record)
    with pytest.raises(TypeError):
        writer.write("a", image, labels, {"x": object()})
    assert files(tmp_path) == before and not writer.finished()


@pytest.mark.parametrize("places", [CITYSCAPES, FOLDERS])
def test_both_layouts_read_back_the_same(tmp_path: Path, places: Any) -> None:
    data = Noise()
    export(data, str(tmp_path), places=places)
    for back in (open_export(str(tmp_path), data.size), open_export(str(tmp_path))):
        assert [back.name(i) for i in range(4)] == [data.name(i) for i in range(4)]
        for index in range(4):
            assert back.image_id(index) == data.image_id(index)
            assert np.array_equal(back[index].image, data[index].image)
            assert np.array_equal(np.asarray(back[index].labels), pair(index)[1])


def test_folders_have_labels_in_colours(tmp_path: Path) -> None:
    image, labels = pair(3)
    TranslationWriter(str(tmp_path), CLASSES, FOLDERS).write("3", image, labels, {})
    with Image.open(tmp_path / "labels" / "3.png") as picture:
        assert picture.mode == "P" and np.array_equal(np.array(picture), labels)
        colors = np.array([CLASSES[0].color, CLASSES[1].color, *[(0, 0, 0)] * 254])
        assert np.array_equal(np.array(picture.convert("RGB")), colors[labels])


def test_dropped_examples_are_finished_have_no_files_and_say_why(tmp_path: Path) -> None:
    writer = TranslationWriter(str(tmp_path), CLASSES)
    writer.write("b", *pair(0), {"agreement": 0.9})
    writer.drop("a", {"agreement": 0.2}, "agreement 0.2 is below 0.5")
    assert writer.finished() == TranslationWriter(str(tmp_path), CLASSES).finished() == {"a", "b"}
    writer.gather()
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert lines == [
        {"name": "a", "dropped": "agreement 0.2 is below 0.5", "agreement": 0.2},
        {"name": "b", "agreement": 0.9},
    ]
    assert len(open_export(str(tmp_path))) == 1


def test_writing_behind_gives_the_same_files_as_writing(tmp_path: Path) -> None:
    writer = TranslationWriter(str(tmp_path / "d"), CLASSES)
    with WriteBehind(writer, threads=4, ahead=2) as behind:
        for index in reversed(range(4)):
            behind.write(f"{index:07d}", *pair(index), {"image_id": index})
        behind.wait()
        assert len(writer.finished()) == 4
    writer.gather()
    assert files(tmp_path / "d") == whole(tmp_path)


def test_what_goes_wrong_behind_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: str, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with (
        pytest.raises(InputError, match="No space left"),
        WriteBehind(TranslationWriter(str(tmp_path), CLASSES)) as behind,
    ):
        for index in range(40):
            behind.write(str(index), *pair(0), {})
    assert index < 39


# ---- several hosts


def host(directory: Path, number: int, job: str = "7") -> TranslationWriter:
    return TranslationWriter(str(directory), CLASSES, job=job, host=number)


def test_hosts_write_together_what_one_writes(tmp_path: Path) -> None:
    writers = [host(tmp_path / "d", number) for number in (0, 1)]
    for index in (3, 1, 0, 2, 1):  # one of them twice
        writers[index % 2].write(f"{index:07d}", *pair(index), {"image_id": index})
    writers[0].write("0000001", *pair(1), {"image_id": 1})  # and by another host
    assert not (tmp_path / "d" / "manifest.jsonl").exists() and len(writers[0].parts()) == 2
    writers[0].gather()
    assert writers[0].parts() == [] and files(tmp_path / "d") == whole(tmp_path)


@pytest.mark.parametrize("first", [0, 1])
def test_what_a_killed_job_left_is_finished_for_all_hosts_of_the_next(tmp_path: Path, first: int) -> None:
    for number in (0, 1):
        host(tmp_path, number).write(f"{number:07d}", *pair(number), {"image_id": number})
    part = tmp_path / "manifest.7-1.part"
    part.write_bytes(part.read_bytes() + b'{"name": "00000')  # cut short
    for number in (first, 1 - first):
        assert host(tmp_path, number, "8").finished() == {"0000000", "0000001"}
    assert not list(tmp_path.glob("*.part"))
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 2


def test_host_0_removes_half_files_of_other_jobs_only(tmp_path: Path) -> None:
    host(tmp_path, 1)
    folder = tmp_path / "leftImg8bit" / "train" / "all"
    own, old = folder / ".a.png.8-1.tmp", folder / ".a.png.7-1.tmp"
    for path in (own, old):
        path.write_bytes(b"half")
    host(tmp_path, 1, "8")
    assert own.exists() and old.exists()
    host(tmp_path, 0, "8")
    assert own.exists() and not old.exists()


# ---- directories


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(InputError, match="file.* cannot be written: .*another directory"):
            TranslationWriter(str(tmp_path / place), CLASSES)


def test_directories_of_other_results_are_refused(tmp_path: Path) -> None:
    export(Noise(), str(tmp_path))
    before = files(tmp_path)
    with pytest.raises(InputError, match="classes"):
        TranslationWriter(str(tmp_path), CLASSES[:1])
    for other in (Noise(seed=1), Noise(2)):
        with pytest.raises(InputError, match="holds another data set"):
            export(other, str(tmp_path))
    assert files(tmp_path) == before


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="classes.json"):
        open_export(str(tmp_path), (6, 10))
    row = '[{"name": "a", "id": %s, "color": %s}]'
    for content in ("{", "[1]", row % (3, [0, 0, 0]), row % (0, [0])):
        (tmp_path / "classes.json").write_text(content)
        with pytest.raises(InputError, match="classes.json"):
            open_export(str(tmp_path), (6, 10))
    unlabelled = Noise()
    unlabelled.labelled = False
    with pytest.raises(InputError, match="no labels"):
        export(unlabelled, str(tmp_path / "d"))
