"""Small files of a run directory that a power cut or an editor left empty, cut short, or with something else in them:
a sentence that names the file and tells how to mend it, or what they were for is done again; never a traceback."""

import errno
import json
import os
from pathlib import Path

import pytest
from tiny_run import tiny

from sgg_jax import pipeline, summary_page
from sgg_jax.checkpoints import SEAL, newest
from sgg_jax.comparison import Comparison
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.records import LineLog, fits, read_json, read_lines, write_json, write_text
from sgg_jax.workdir import Stages, claim

DAMAGED = {
    "empty": b"", "cut": b'{"seconds": 3.5, "ma', "nothing in it": b"{}", "null": b"null", "a list": b"[1]",
    "a number": b"3", "zeros": bytes(40), "no UTF-8": b'{"a": "\xff\xfe"}', "deep": b"[" * 100_000,
}  # fmt: skip
damaged = pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def run(workdir: Path) -> Experiment:
    config = tiny()
    config.compare.methods = ("none", "color")
    return Experiment(config, workdir)


ROW = {"method": "color", "seed": 0, "miou": 0.5, "per_class": {}, "translations": None, "commit": "abc"}
STAGE = {"made": [], "seconds": 3.5}


def test_a_form_of_json():
    form = {"rows": [{"seed": int, "miou": float | None}], "more": object}
    assert fits({"rows": [{"seed": 3, "miou": None, "x": 1}, {"seed": 4, "miou": 0.5}], "more": None}, form)
    assert fits({"rows": [], "more": 3}, form)
    for value in ({"rows": []}, {"rows": {}, "more": 3}, {"rows": [{"seed": "3", "miou": None}], "more": 3}, [], None):
        assert not fits(value, form)


@damaged
def test_a_damaged_file_is_a_sentence(damage, tmp_path):
    path = put(tmp_path / "x.json", damage)
    with pytest.raises(InputError, match=r"x\.json is damaged \(.*\): delete it and run again$"):
        read_json(path, {"seconds": float})


@damaged
def test_a_stage_whose_record_is_damaged_is_not_finished(damage, tmp_path, capsys):
    stages = Stages(tmp_path)
    stages.finish("adapt", {"made": []}, 0.0)
    put(tmp_path / "stages" / "compare.json", damage)
    for _ in range(2):
        assert stages.finished() == ["adapt"] and stages.result("compare") is None
    told = capsys.readouterr().err
    assert told.count("compare.json is damaged") == told.count("\n") == 1 and "counts as unfinished" in told


@damaged
def test_looking_stages_and_the_comparison_are_unfinished_where_their_record_is_damaged(damage, tmp_path):
    found = run(tmp_path)
    for name, left in pipeline.LEFT.items():
        put(tmp_path / left, b"{}")
        put(tmp_path / "stages" / f"{name}.json", damage)
        assert not pipeline.is_finished(found, name)
    assert pipeline.made(found) == []


@pytest.mark.parametrize("name", pipeline.LEFT)
def test_a_stage_whose_file_was_deleted_makes_it_again(name, tmp_path):
    found = run(tmp_path)
    rows = [["none", 0], ["color", 0]]
    write_json(tmp_path / "stages" / "compare.json", {**STAGE, "rows": rows})
    write_json(tmp_path / "stages" / f"{name}.json", {**STAGE, "rows": rows, "made": pipeline.made(found)})
    assert not pipeline.is_finished(found, name)
    put(tmp_path / pipeline.LEFT[name], b"{}")
    assert pipeline.is_finished(found, name)


@damaged
def test_damaged_scores_are_a_sentence(damage, tmp_path):
    put(tmp_path / "scores.json", damage)
    for read in (summary_page.read_scores, summary_page.write_report):
        with pytest.raises(InputError, match=r"scores\.json is damaged .*: delete it and run evaluate again"):
            read(run(tmp_path))


@damaged
def test_damaged_files_of_the_comparison_are_a_sentence(damage, tmp_path):
    found = run(tmp_path)
    write_json(tmp_path / "compare" / "none-0.json", {**ROW, "method": "none"})
    write_json(tmp_path / "compare" / "color-0.json", ROW)
    assert [row["method"] for row in Comparison(found).rows()] == ["none", "color"]
    write_json(tmp_path / "scores.json", {"networks": {}, "agreement": {}})
    write_json(tmp_path / "stages" / "compare.json", {**STAGE, "rows": []})
    put(tmp_path / "compare.json", damage)
    with pytest.raises(InputError, match=r"compare\.json is damaged .*: delete it and run compare again"):
        summary_page.write_report(found)
    put(tmp_path / "compare" / "color-0.json", damage)
    with pytest.raises(InputError, match=r"color-0\.json is damaged .*: delete it and run again"):
        Comparison(found)  # at once, not after the hours that the next row takes


@damaged
def test_damaged_candidates_are_a_sentence(damage, tmp_path):
    found = run(tmp_path)
    found.config.compare.sdedit_depths = (300, 400)
    put(tmp_path / "compare" / "sdedit.json", damage)
    with pytest.raises(InputError, match=r"sdedit\.json is damaged"):
        Comparison(found)._setting("sdedit")


@damaged
def test_a_damaged_held_out_error_is_a_sentence(damage, tmp_path):
    put(tmp_path / "denoiser" / "heldout.json", damage)
    with pytest.raises(InputError, match=r"heldout\.json is damaged .*: delete it and stages/train_denoiser\.json"):
        summary_page._training_section(run(tmp_path))


def test_a_log_without_a_whole_line_gives_no_curve(tmp_path):
    for content in (b"", b'{"step": 1, "lo'):
        put(tmp_path / "source" / "metrics.jsonl", content)
        assert summary_page._training_section(run(tmp_path)).blocks == []


@pytest.mark.parametrize("line", [b"{}", b"3", b"null", b'{"step": 1, "lo', b"\xff\xfe", b'{"step": "1", "loss": 1.0}'])
def test_a_damaged_line_of_a_log_is_a_sentence(line, tmp_path):
    put(tmp_path / "source" / "metrics.jsonl", b'{"step": 1, "loss": 1.0}\n' + line + b'\n{"step": 3, "loss": 0.5}\n')
    with pytest.raises(InputError, match=r"line 2 of .*metrics\.jsonl is damaged: delete that line and run again"):
        summary_page._training_section(run(tmp_path))


@pytest.mark.parametrize("line", [b"{}", b"3", b"[]", b"\xff\xfe", bytes(9), b'{"step": null}'])
def test_training_goes_on_where_its_log_is_damaged(line, tmp_path):
    path = put(tmp_path / "metrics.jsonl", b'{"step": 1}\n' + line + b'\n{"step": 2}\n{"step": 3}\n' + line)
    with LineLog(path, 2) as log:
        log.append({"step": 3})
    assert read_lines(path) == [{"step": 1}, {"step": 2}, {"step": 3}]


@damaged
def test_a_damaged_config_is_a_sentence(damage, tmp_path):
    put(tmp_path / "config.json", damage)
    with pytest.raises(InputError, match=r"config\.json is damaged \(.*\): restore it, or use a new --workdir$"):
        claim(tmp_path, {"seed": 0})


@damaged
def test_a_checkpoint_with_a_damaged_seal_is_passed_over(damage, tmp_path, capsys):
    put(tmp_path / "2" / SEAL, damage)
    put(tmp_path / "1" / "weights", b"")
    newest(tmp_path)
    assert (
        f"passing over the checkpoint {tmp_path / '2'}: {tmp_path / '2' / SEAL} is damaged" in capsys.readouterr().err
    )


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with LineLog(tmp_path / "log.jsonl") as log:
        log.append({"step": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_text(tmp_path / "x.txt", "new")
    assert raised.value.filename == str(tmp_path / "x.txt") and os.listdir(tmp_path) == ["log.jsonl"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_a_log_on_a_full_disk_is_named(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, LineLog(tmp_path / "log.jsonl") as log:
        log.file.close()
        log.file = open("/dev/full", "a")  # noqa: SIM115
        log.append({"step": 1})
    assert raised.value.filename == str(tmp_path / "log.jsonl")


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    write_json(tmp_path / "x.json", {"a": 1})
    assert order == ["fsync", "replace"] and json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
