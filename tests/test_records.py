"""Files of a run survive a failure in the middle of a write."""

import json
import os

import pytest

from sgg_jax.records import LineLog, read_json, read_lines, write_json, write_text


def test_json_round_trip_makes_its_directory(tmp_path):
    path = tmp_path / "deep" / "er" / "x.json"
    value = {"a": [1, 2.5, None, True], "ü": {"b": "text"}}
    write_json(path, value)
    assert read_json(path) == value
    assert os.listdir(path.parent) == ["x.json"]


@pytest.mark.parametrize("failure", ["encode", "rename"])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch, failure):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def refuse(*_):
        raise OSError("disk full")

    if failure == "rename":
        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_text(path, "new" if failure == "rename" else "new \ud800")  # a lone surrogate is no UTF-8
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_the_new_text_is_whole_before_the_name_is_taken(tmp_path, monkeypatch):
    path, replace, seen = tmp_path / "x.txt", os.replace, []
    write_text(path, "old")

    def watch(source, target):
        seen.append((open_text(source), open_text(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write_text(path, "new" * 10_000)
    assert seen == [("new" * 10_000, "old")] and path.read_text() == "new" * 10_000


def open_text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def steps(path):
    return [record["step"] for record in read_lines(path)]


def logged(path, start, *numbers):
    with LineLog(path, start) as log:
        for number in numbers:
            log.append({"step": number, "loss": number / 2})


def test_lines_come_back_in_order(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_lines(path) == []
    logged(path, 0, 1, 2, 3)
    assert read_lines(path) == [{"step": n, "loss": n / 2} for n in (1, 2, 3)]


def test_a_line_can_be_read_before_the_log_is_closed(tmp_path):
    with LineLog(tmp_path / "log.jsonl") as log:
        log.append({"step": 1})
        assert steps(tmp_path / "log.jsonl") == [1]
    assert log.file.closed


@pytest.mark.parametrize("start", [0, 2, 4, 9])
def test_reopening_drops_later_steps(tmp_path, start):
    path = tmp_path / "log.jsonl"
    logged(path, 0, 1, 2, 3, 4)
    logged(path, start, 7, 8)
    assert steps(path) == [n for n in (1, 2, 3, 4) if n <= start] + [7, 8]


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    """Cut at every byte of the last line: it counts only where nothing but its line end is missing."""
    path, lines = tmp_path / "log.jsonl", [json.dumps({"step": n, "loss": -1.5e-3}) + "\n" for n in (1, 2, 3)]
    for missing in range(1, len(lines[2]) + 1):
        path.write_text("".join(lines)[:-missing])
        whole = [1, 2, 3] if missing == 1 else [1, 2]
        assert steps(path) == whole
        logged(path, 3, 4)  # and nothing is appended to half a line
        assert steps(path) == [*whole, 4]
        assert path.read_text().count("\n") == len(whole) + 1
