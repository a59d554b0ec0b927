"""check_data: what it says, what it writes, its exit codes, and that it looks again only where files changed."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from lookalikes import cityscapes, gta5

from main import load_config
from sgg_jax.data import checking
from sgg_jax.data.checking import check, stamps
from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.dataset import ClassInfo
from sgg_jax.data.examining import examine
from sgg_jax.data.folder import open_folders
from sgg_jax.data.streets import Streets
from sgg_jax.data_stages import check_data
from sgg_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SIZE = (16, 32)
NONE = ["--config.data.judge.name=none", "--config.data.val.name=none", "--config.data.test.name=none"]
FEW_STREETS = ["--config.data.source.streets.count=2", "--config.data.target.streets.count=2"]


def gta_flags(root, *more):
    return ["--config.data.source.name=gta5", f"--config.data.source.root={root}", *FEW_STREETS, *NONE, *more]


def checked(workdir, *flags):
    """Exit code of the stage and its report."""
    code = check_data(load_config(str(ROOT / "configs" / "default.py"), list(flags)), workdir)
    return code, json.loads((workdir / "check" / "report.json").read_text())


def command(workdir, *flags):
    return [
        sys.executable,
        "main.py",
        "check_data",
        "--config",
        "configs/default.py",
        "--workdir",
        str(workdir),
        *flags,
    ]


def run(workdir, *flags, **environment):
    return subprocess.run(
        command(workdir, *flags), cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_the_command_says_what_is_right_and_what_is_wrong(tmp_path):
    root = gta5(tmp_path / "gta", 3, SIZE)
    good = run(tmp_path / "run", *gta_flags(root))
    assert good.returncode == 0, good.stderr
    assert "3 of the 24966 that the original set has" in good.stdout and "no errors" in good.stdout
    strange = os.fsdecode(b"caf\xe9")
    root = root.rename(tmp_path / strange)
    (root / "images" / "00002.png").write_bytes(b"<html>")
    bad = run(tmp_path / "run", *gta_flags(root), PYTHONIOENCODING="ascii")
    assert bad.returncode == 1, bad.stderr
    assert "1 x not an image" in bad.stdout and "00002.png is an HTML or XML page" in bad.stdout
    wrong = run(tmp_path / "run", *gta_flags(root, "--config.data.target.name=gta6"))
    assert wrong.returncode == 2 and "config.data.target.name is 'gta6': choose one of" in wrong.stderr
    for found in (good, bad, wrong):
        assert "Traceback" not in found.stderr + found.stdout


def test_a_killed_check_goes_on_and_says_the_same(tmp_path):
    root = gta5(tmp_path / "gta", 1, (128, 256))
    number = 300  # also enough for processes where there are cores
    for kind in ("images", "labels"):
        for i in range(2, number + 1):
            os.link(root / kind / "00001.png", root / kind / f"{i:05d}.png")
    for i in (7, 250):
        (root / "images" / f"{i:05d}.png").unlink()
        (root / "images" / f"{i:05d}.png").write_bytes(b"")
    log = tmp_path / "run" / "check" / "source.jsonl"
    process = subprocess.Popen(command(tmp_path / "run", *gta_flags(root)), cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_bytes().count(b"\n") < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # its workers end, too: they hold the pipes
    done = log.read_bytes().count(b"\n")
    assert 5 <= done <= number
    log.write_bytes(log.read_bytes() + b'{"step": 299, "stamp": "to')  # and a torn line
    again = run(tmp_path / "run", *gta_flags(root))
    whole = run(tmp_path / "whole", *gta_flags(root))
    assert again.returncode == whole.returncode == 1
    assert again.stdout.replace(f"{tmp_path}/run", f"{tmp_path}/whole") == whole.stdout
    reports = [(tmp_path / name / "check" / "report.json").read_bytes() for name in ("run", "whole")]
    assert reports[0] == reports[1] and json.loads(reports[0])["source"]["counts"] == {"empty": 2}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(line["step"] for line in lines) == list(range(number))  # nothing was looked at twice
    for name in ("source", "target"):
        pictures = [(tmp_path / run / "check" / f"{name}.png").read_bytes() for run in ("run", "whole")]
        assert pictures[0] == pictures[1]


@pytest.fixture
def looks(monkeypatch):
    """Names of the examples that were looked at."""
    names = []

    def counted(dataset, index):
        names.append(dataset.name(index))
        return examine(dataset, index)

    monkeypatch.setattr(checking, "examine", counted)
    return names


def test_files_are_looked_at_again_when_they_change(tmp_path, looks):
    root = gta5(tmp_path / "gta", 3, SIZE)
    flags = gta_flags(root)
    good = (root / "images" / "00002.png").read_bytes()
    (root / "images" / "00002.png").write_bytes(good[:200])
    code, report = checked(tmp_path / "run", *flags)
    assert code == 1 and report["source"]["counts"] == {"damaged": 1}
    assert Counter(looks) >= Counter(["00001", "00002", "00003"])
    looks.clear()
    assert checked(tmp_path / "run", *flags) == (code, report) and not looks
    (root / "images" / "00002.png").write_bytes(good)
    code, report = checked(tmp_path / "run", *flags)
    assert code == 0 and not report["source"]["errors"] and looks == ["00002"]
    looks.clear()
    (root / "labels" / "00003.png").rename(tmp_path / "kept")
    (root / "labels" / "00003.png").symlink_to("/no/such/file")
    for _ in range(2):  # what cannot be read now may be readable later, without a change of the file
        code, report = checked(tmp_path / "run", *flags)
        assert code == 1 and report["source"]["counts"] == {"unreadable": 1}
    assert looks == ["00003", "00003"]


def test_a_log_that_is_none_is_begun_anew(tmp_path, looks):
    flags = gta_flags(gta5(tmp_path / "gta", 2, SIZE))
    for content in (b"\xff\xfe", b'{"step": 1}\n', b"17\n"):
        (tmp_path / "run" / "check").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "check" / "source.jsonl").write_bytes(content)
        assert checked(tmp_path / "run", *flags)[0] == 0


def test_two_roles_of_the_same_files_are_looked_at_once(tmp_path, looks):
    root = cityscapes(tmp_path / "cs", {"train": 2, "val": 2}, SIZE)
    flags = [f"--config.data.{role}.{field}" for role in ("source", "target", "val", "test")
             for field in ("name=cityscapes", f"root={root}")]  # fmt: skip
    splits = [f"--config.data.{role}.public.split=val" for role in ("val", "test")]
    code, report = checked(tmp_path / "run", *flags, *splits, NONE[0])
    assert code == 0 and len(looks) == 6  # the target's without labels, as a run reads them
    assert {role: entry["found"] for role, entry in report.items()} == dict.fromkeys(report, 2) and len(report) == 4
    log = (tmp_path / "run" / "check" / "test.jsonl").read_text()
    assert len(log.splitlines()) == 2


def test_a_role_that_cannot_be_opened_does_not_hide_the_others(tmp_path, capsys):
    root = gta5(tmp_path / "gta", 1, SIZE)
    code, report = checked(
        tmp_path / "run", *gta_flags(root, "--config.data.target.name=acdc", "--config.data.target.root=/no/where")
    )
    assert code == 1 and report["target"]["counts"] == {"not opened": 1} and report["source"]["usable"] == 1
    assert "'/no/where' does not exist" in capsys.readouterr().out


def test_wrong_configs_are_refused(tmp_path):
    for flag, words in (("data.size=(3,)", "data.size"), ("data.classes=((1,),)", "data.classes")):
        with pytest.raises(InputError, match=words):
            checked(tmp_path / "run", f"--config.{flag}")
    assert not (tmp_path / "run").exists()


def test_a_check_does_not_import_jax():
    code = "import sys, sgg_jax.data_stages; print('jax' in sys.modules, 'flax' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False False\n"
    )


IDENTITY = tuple(ClassInfo(c.name, c.ids, c.color) for c in CITYSCAPES)


def folders(root):
    void = tuple(range(7))
    return functools.partial(open_folders, f"{root}/images", f"{root}/labels", IDENTITY, SIZE, void_ids=void)


def test_processes_find_what_threads_find(tmp_path, monkeypatch):
    reopen = folders(gta5(tmp_path, 4, SIZE))
    dataset = reopen()
    (tmp_path / "labels" / "00003.png").write_bytes(b"")
    (tmp_path / "images" / "00001.png").unlink()  # the processes list one less, and in other places
    threads = dict(check(dataset, range(4), reopen))
    monkeypatch.setattr(checking, "FEW", 1)
    monkeypatch.setattr(checking, "cores", lambda: 2)
    processes = dict(check(dataset, range(4), reopen))
    assert [processes[i].category for i in range(4)] == ["unreadable", "", "empty", ""]
    assert "00001" in processes[0].text
    assert [processes[i] for i in (1, 2, 3)] == [threads[i] for i in (1, 2, 3)]
    with pytest.raises(InputError, match="was killed"):
        list(check(dataset, range(4), functools.partial(os._exit, 3)))


def test_stamps_tell_files_and_expectations_apart(tmp_path):
    root = gta5(tmp_path, 2, SIZE)
    dataset = folders(root)()
    first = stamps(dataset, range(2))
    assert first == stamps(folders(root)(), range(2)) and len(set(first)) == 2
    os.utime(root / "labels" / "00002.png", ns=(1, 1))
    changed = stamps(dataset, range(2))
    assert changed[0] == first[0] and changed[1] != first[1]
    other = open_folders(f"{root}/images", f"{root}/labels", IDENTITY, SIZE, void_ids=(0,))
    assert not set(stamps(other, range(2))) & set(changed)
    streets = Streets("source", "train", 2, (16, 32))
    assert stamps(streets, range(2), "a") != stamps(streets, range(2), "b")


def test_pictures_of_sets_that_have_become_bad_are_removed(tmp_path):
    root = gta5(tmp_path / "gta", 1, SIZE)
    checked(tmp_path / "run", *gta_flags(root))
    assert (tmp_path / "run" / "check" / "source.png").exists()
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    code, report = checked(tmp_path / "run", *gta_flags(root))
    assert code == 1 and not (tmp_path / "run" / "check" / "source.png").exists()
    assert Counter(p["category"] for p in report["source"]["errors"]) == {"empty": 1}
    shutil.rmtree(root)
    assert checked(tmp_path / "run", *gta_flags(root))[0] == 1
