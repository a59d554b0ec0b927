"""Progress in a log file (plain lines) and on a terminal (a bar)."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from sgg_jax import progress
from sgg_jax.progress import Progress, track


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def run(clock, capsys, steps, seconds, **options):
    """Lines written while `steps` items take `seconds` each."""
    with Progress(label="train", unit="step", **options) as counter:
        for index in range(steps):
            clock.now += seconds
            counter.advance(note=f"loss {index}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.isascii()
    return captured.err.splitlines()


def test_first_item_then_every_ten_seconds_then_the_end(clock, capsys):
    lines = run(clock, capsys, steps=25, seconds=1.0, total=25)
    assert [re.search(r"(\d+)/25", line)[1] for line in lines] == ["1", "11", "21", "25"]
    assert lines[1] == "train:  44% 11/25 [00:11<00:14,  1.00step/s, loss 10]"


def test_the_end_is_written_once(clock, capsys):
    assert len(run(clock, capsys, steps=2, seconds=20.0, total=2)) == 2
    assert len(run(clock, capsys, steps=1, seconds=1.0, total=1)) == 1


def test_items_done_before_a_resume_count_but_not_towards_the_rate(clock, capsys):
    lines = run(clock, capsys, steps=21, seconds=1.0, total=1000, start=900)
    assert "901/1000 [00:01<01:39,  1.00step/s" in lines[0]
    assert "921/1000 [00:21<01:19,  1.00step/s" in lines[-1]


def test_compilation_in_the_first_item_does_not_spoil_the_forecast(clock, capsys):
    for index in track(range(11), total=111, label="train"):
        clock.now += 600.0 if index == 0 else 1.0
    last = capsys.readouterr().err.splitlines()[-1]
    assert "11/111 [10:10<01:40,  1.00it/s]" in last


def test_track_passes_items_on_and_reports_where_an_error_struck(clock, capsys):

    def broken():
        yield from "abc"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        list(track(broken(), total=4, label="images"))
    assert "3/4" in capsys.readouterr().err
    assert list(track("abc", total=3, label="images")) == ["a", "b", "c"]
    assert list(track([], total=0, label="nothing")) == []


def test_the_last_note_stays(clock, capsys):
    with Progress(2, "train") as counter:
        counter.advance(note="loss 0.5")
        counter.advance()
    assert "2/2" in (last := capsys.readouterr().err.splitlines()[-1])
    assert "loss 0.5" in last


SCRIPT = """
import threading
from sgg_jax.progress import Progress
with Progress(5, "train", "step", start=2) as counter:
    for _ in range(3):
        counter.advance(note="loss 0.25")
assert threading.active_count() == 1, threading.enumerate()
"""


def test_a_terminal_gets_a_bar_without_threads_or_warnings():
    """On a pseudo-terminal of 80 columns, warnings being errors; without a width it falls back to lines."""
    bar = terminal_output(columns=80)
    assert "\r" in bar
    assert "5/5" in bar
    assert "loss 0.25" in bar
    plain = terminal_output(columns=0)
    assert "3/5" in plain
    assert "|" not in plain


def terminal_output(columns):
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as reader:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], stderr=theirs, check=True, timeout=60)
        os.close(theirs)
        parts = []
        try:
            while part := reader.read(4096):
                parts.append(part)
        except OSError:  # Linux's way to say that the other end is closed
            pass
    return b"".join(parts).decode().replace("\r\n", "\n")
