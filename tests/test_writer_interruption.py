"""Writing that is killed or meets a full disk: no half files, and a rerun does only what is missing."""

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
from noise_set import CLASSES, Noise, files, pair, whole, write
from PIL import Image

from sgg_jax.data import writer as module
from sgg_jax.data.dataset import ClassInfo
from sgg_jax.data.exports import export
from sgg_jax.data.writer import TranslationWriter
from sgg_jax.errors import InputError

# ---- killed


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


# ---- full disks


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
