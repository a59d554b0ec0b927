"""Stops by signals: a loop ends its step, a main thread that hangs is left, a second signal does not wait."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sgg_jax import progress, stopping
from sgg_jax.progress import track
from sgg_jax.stopping import EXIT_CODE, Signals, Stopped

ROOT = Path(__file__).resolve().parents[1]
LOOP = """
        for step in range(10_000):
            print(step, flush=True)
            time.sleep(0.05)
            stopping.check()
"""
SAVING = """
        while not stopping.asked():
            time.sleep(0.05)
            print("step", flush=True)
        time.sleep(1.5)
        print("saved", flush=True)
        raise stopping.Stopped
"""
HANGING = """
        print("begun", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes inside C, as a compilation is
"""


@pytest.fixture
def asked(monkeypatch):
    """A process that was asked to stop."""
    signals = Signals()
    signals.asked.set()
    monkeypatch.setattr(stopping, "_process", signals)
    return signals


def started(body: str, patience: float = 1.0) -> subprocess.Popen:
    """A program that listens, with that many seconds' patience, and has begun its body."""
    code = f"""
import hashlib, sys, time
from sgg_jax import stopping
stopping.PATIENCE = {patience}
stopping.listen()
def main():
    try:
{body}
    except stopping.Stopped:
        print("stopped", flush=True)
        return stopping.EXIT_CODE
sys.exit(main())
"""
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None and program.stdout.readline()
    return program


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_loop_after_its_step(number):
    program = started(LOOP)
    program.send_signal(number)
    output = program.communicate(timeout=20)[0].splitlines()
    assert program.returncode == EXIT_CODE == 75
    assert output[-1] == "stopped" and len(output) < 30


def test_saving_may_take_longer_than_the_patience():
    program = started(SAVING)
    program.terminate()
    output = program.communicate(timeout=20)[0].splitlines()
    assert program.returncode == EXIT_CODE and output[-2:] == ["saved", "stopped"]


@pytest.mark.parametrize("body", [SAVING, HANGING], ids=["saving", "hanging"])
def test_a_second_signal_stops_at_once(body):
    program = started(body, patience=600)
    program.terminate()
    time.sleep(0.3)
    program.terminate()
    output = program.communicate(timeout=60)[0]
    assert program.returncode == EXIT_CODE and "saved" not in output and "stopped" not in output


def test_a_main_thread_that_looks_nowhere_is_left_when_patience_ends():
    program = started(HANGING)
    program.terminate()
    program.communicate(timeout=20)
    assert program.returncode == EXIT_CODE


def test_patience_grows_with_the_last_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    signals = Signals()
    found = []
    for seconds in (5.0, 60.0, 20.0, 0.0):
        signals.look()
        found.append(signals.patience)
        now[0] += seconds
    assert found == [8.0, 8.0, 90.0, 30.0]


def test_nothing_stops_unasked():
    stopping.check()
    assert not stopping.asked()


def test_a_loop_with_progress_stops_between_two_items(asked, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    done = []
    with pytest.raises(Stopped):
        for item in track(range(5), 5, "items"):
            done += [item]
    assert done == [0] and asked.noticed.is_set()
