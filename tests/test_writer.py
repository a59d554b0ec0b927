"""Writing: exact bytes back, nothing half-written under a final name, and a rerun that does only what is missing."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgg_jax.data import writer as module
from sgg_jax.data.dataset import VOID, ClassInfo, Example
from sgg_jax.data.exports import export, open_export
from sgg_jax.data.writer import CITYSCAPES, FOLDERS, TranslationWriter, WriteBehind
from sgg_jax.errors import InputError

CLASSES: tuple[ClassInfo, ...] = (ClassInfo("road", (7, 8), (128, 64, 128)), ClassInfo("car", (26,), (0, 0, 142)))


class Noise:
    """Example i is noise of its own; `reads` lists what was read."""

    classes = CLASSES
    size = (6, 10)
    labelled = True
    problems = ()

    def __init__(self, length: int = 4, seed: int = 0) -> None:
        self.length, self.seed = length, seed
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"{index:07d}"

    def image_id(self, index: int) -> int:
        return index

    def __getitem__(self, index: int) -> Example:
        self.reads.append(index)
        rng = np.random.default_rng((self.seed, index))
        labels = rng.choice(np.array([0, 1, VOID], np.uint8), self.size)
        return Example(rng.integers(0, 256, (*self.size, 3), np.uint8), labels)


def pair(index: int) -> tuple[np.ndarray, np.ndarray]:
    image, labels = Noise()[index]
    assert labels is not None
    return image, labels


def write(directory: Path, index: int = 0) -> None:
    image, labels = pair(index)
    TranslationWriter(str(directory), CLASSES).write(f"{index:07d}", image, labels, {"image_id": index})


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def whole(root: Path) -> dict[str, bytes]:
    """The files of an export that nothing disturbed."""
    export(Noise(), str(root / "undisturbed"))
    return files(root / "undisturbed")


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


# ---- interruption


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", range(1, 8))
def test_rerun_completes_whatever_step_was_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, after: bool
) -> None:
    replace = os.replace
    calls: list[str] = []

    def dying(source: str, target: str) -> None:
        calls.append(target)
        if after or len(calls) < call:
            replace(source, target)
        if len(calls) == call:
            raise Killed

    expected, directory, data = whole(tmp_path), tmp_path / "d", Noise()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        # a process that is killed tidies nothing up
        patch.setattr(os, "remove", lambda path: None)
        with pytest.raises(Killed):
            export(data, str(directory))
    left = files(directory)
    assert all(expected[name] == content for name, content in left.items() if name in expected and name[-1] == "g")
    done = {json.loads(line)["name"] for line in left.get("manifest.jsonl", b"").splitlines()}
    data.reads.clear()
    export(data, str(directory))
    assert files(directory) == expected
    assert set(data.reads) - {0} == {i for i in range(4) if data.name(i) not in done} - {0}


@pytest.mark.parametrize("keep", [1, 20, 34])
def test_half_a_manifest_line_is_dropped(tmp_path: Path, keep: int) -> None:
    expected, directory = whole(tmp_path), tmp_path / "d"
    export(Noise(2), str(directory))
    manifest = directory / "manifest.jsonl"
    first, second = manifest.read_bytes().splitlines(keepends=True)
    assert len(second) > keep
    manifest.write_bytes(first + second[:keep])
    writer = TranslationWriter(str(directory), CLASSES)
    assert writer.finished() == {"0000000"} and manifest.read_bytes() == first
    export(Noise(), str(directory))
    assert files(directory) == expected


def test_end_while_the_manifest_is_mended_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(Noise(2), str(tmp_path))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes() + b'{"na')
    before = files(tmp_path)

    def dying(source: str, target: str) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            TranslationWriter(str(tmp_path), CLASSES)
    assert files(tmp_path) == before
    assert TranslationWriter(str(tmp_path), CLASSES).finished() == {"0000000", "0000001"}


def test_missing_files_are_written_again(tmp_path: Path) -> None:
    expected, directory, data = whole(tmp_path), tmp_path / "d", Noise()
    export(data, str(directory))
    (directory / "leftImg8bit" / "train" / "all" / "0000001_leftImg8bit.png").unlink()
    (directory / "gtFine" / "train" / "all" / "0000002_gtFine_labelTrainIds.png").unlink()
    (directory / "gtFine" / "train" / "all" / ".0000009_gtFine_color.png.tmp").write_bytes(b"half")
    (directory / ".manifest.jsonl.tmp").write_bytes(b"half")
    assert TranslationWriter(str(directory), CLASSES).finished() == {"0000000", "0000003"}
    data.reads.clear()
    export(data, str(directory))
    assert data.reads == [0, 1, 2]  # 0 for the comparison
    got = files(directory)
    assert sorted(got.pop("manifest.jsonl").splitlines()) == sorted(expected.pop("manifest.jsonl").splitlines())
    assert got == expected


def test_finished_sees_what_was_just_written_and_what_has_gone(tmp_path: Path) -> None:
    writer = TranslationWriter(str(tmp_path), CLASSES)
    image, labels = pair(0)
    for _ in range(2):
        writer.write("a", image, labels, {})
    assert writer.finished() == {"a"}
    assert TranslationWriter(str(tmp_path), CLASSES).finished() == {"a"}
    assert (tmp_path / "manifest.jsonl").read_text() == '{"name": "a"}\n'
    (tmp_path / "gtFine" / "train" / "all" / "a_gtFine_labelTrainIds.png").unlink()
    assert writer.finished() == set()


def test_damage_in_the_middle_of_the_manifest_is_not_thrown_away(tmp_path: Path) -> None:
    write(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(b"my notes\n" + manifest.read_bytes())
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"line 1 of .*manifest\.jsonl"):
        TranslationWriter(str(tmp_path), CLASSES)
    assert files(tmp_path) == before


def test_kill_9_leaves_whole_files_and_a_rerun_completes(tmp_path: Path) -> None:
    script = """
        import itertools, sys
        import numpy as np
        from sgg_jax.data.dataset import ClassInfo
        from sgg_jax.data.writer import TranslationWriter
        writer = TranslationWriter(sys.argv[1], (ClassInfo("a", (0,), (1, 2, 3)),))
        image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
        for number in itertools.count():
            writer.write(str(number), image, np.zeros((200, 200), np.uint8), {})
            print(number, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(5)]
        process.send_signal(signal.SIGKILL)
    names = {path.name.split("_")[0] for path in tmp_path.rglob("*.png")}
    finished = TranslationWriter(str(tmp_path), (ClassInfo("a", (0,), (1, 2, 3)),)).finished()
    assert {str(number) for number in told} <= finished <= names
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    assert not list(tmp_path.rglob(".*.tmp"))


def test_ten_kills_at_random_times_end_in_the_files_of_a_run_left_alone(tmp_path: Path) -> None:
    script = """
        import sys
        import numpy as np
        from sgg_jax.data.dataset import ClassInfo
        from sgg_jax.data.writer import TranslationWriter, WriteBehind
        writer = TranslationWriter(sys.argv[1], (ClassInfo("a", (0,), (1, 2, 3)),))
        finished = writer.finished()
        print(len(finished), flush=True)
        with WriteBehind(writer) as behind:
            for number in range(120):
                if str(number) not in finished:
                    image = np.random.default_rng(number).integers(0, 256, (120, 160, 3), np.uint8)
                    behind.write(str(number), image, np.zeros((120, 160), np.uint8), {"image_id": number})
        writer.gather()
    """
    line = [sys.executable, "-c", textwrap.dedent(script)]
    place = Path(__file__).parents[1]
    subprocess.run([*line, str(tmp_path / "alone")], check=True, cwd=place, stdout=subprocess.DEVNULL)
    rng, before = np.random.default_rng(0), []
    for _ in range(10):
        with subprocess.Popen([*line, str(tmp_path / "d")], stdout=subprocess.PIPE, text=True, cwd=place) as process:
            assert process.stdout is not None
            before.append(int(process.stdout.readline()))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, 0.06))
            process.send_signal(signal.SIGKILL)
    assert before == sorted(before) and 0 < before[-1] < 120  # finished work is kept, and kills did interrupt
    subprocess.run([*line, str(tmp_path / "d")], check=True, cwd=place, stdout=subprocess.DEVNULL)
    assert files(tmp_path / "d") == files(tmp_path / "alone")


# ---- disks and directories


@pytest.mark.parametrize("kind", ["labelTrainIds", "color", "leftImg8bit"])
def test_full_disk_is_told_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    expected, directory, save = whole(tmp_path), tmp_path / "d", Image.Image.save
    write(directory)

    def filling(self: Image.Image, path: str, **options: Any) -> None:
        if f"{kind}.png" in path and ".0000001" in path:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", filling)
        with pytest.raises(InputError, match=f"{directory}.*No space left.*free some space"):
            export(Noise(), str(directory))
    assert not list(directory.rglob("*.tmp"))
    assert TranslationWriter(str(directory), CLASSES).finished() == {"0000000"}
    export(Noise(), str(directory))
    assert files(directory) == expected


def test_disk_that_fills_up_within_a_manifest_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    before = (tmp_path / "manifest.jsonl").read_bytes()
    writer = TranslationWriter(str(tmp_path), CLASSES)

    class Filling:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = open(*arguments, **options)  # noqa: SIM115
            self.seek, self.truncate = self.file.seek, self.file.truncate

        def __enter__(self) -> "Filling":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> int:
            if len(content) < 9:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.file.write(content[:9]))

    image, labels = pair(1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "open", Filling, raising=False)
        with pytest.raises(InputError, match="No space left"):
            writer.write("0000001", image, labels, {"image_id": 1})
    assert (tmp_path / "manifest.jsonl").read_bytes() == before
    assert writer.finished() == {"0000000"}
    writer.write("0000001", image, labels, {"image_id": 1})
    assert (tmp_path / "manifest.jsonl").read_bytes() == before + b'{"name": "0000001", "image_id": 1}\n'


def test_a_file_size_limit_of_the_system_is_told(tmp_path: Path) -> None:
    script = """
        import resource, sys
        import numpy as np
        from sgg_jax.data.dataset import ClassInfo
        from sgg_jax.data.writer import TranslationWriter
        from sgg_jax.errors import InputError
        writer = TranslationWriter(sys.argv[1], (ClassInfo("a", (0,), (1, 2, 3)),))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
        try:
            writer.write("b", image, np.zeros((200, 200), np.uint8), {})
        except InputError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True).stdout
    assert f"{tmp_path} cannot be written" in told
    assert sorted(files(tmp_path)) == [
        "classes.json",
        "gtFine/train/all/b_gtFine_color.png",
        "gtFine/train/all/b_gtFine_labelTrainIds.png",
    ]


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
