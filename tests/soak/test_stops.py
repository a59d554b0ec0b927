"""Long: runs of all stages through the real command line, killed 25 times or asked to stop 12 times, end as if left
alone; and every stage by itself is asked to stop as it begins, and while it runs.

`compare` runs every stage that it needs, without the calibration that `run` begins with; `evaluate` scores the rest.

    python -m pytest tests/soak/test_stops.py -s

Not among the tests of `make test`; the log of one run is docs/logs/stops.log.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from sgg_jax.checkpoints import newest
from sgg_jax.stopping import EXIT_CODE

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("--config", "configs/quick.py", "--config.data.size=(16,32)"),
    *(f"--config.data.{role}.streets.count={n}" for role, n in dict(source=24, target=32, judge=24, val=8).items()),
    "--config.data.test.streets.count=16",
    *("--config.denoiser.unet.widths=(32,32)", "--config.segmenter.encoder_decoder.widths=(8,16)"),
    *("--config.translate.batch_size=4", "--config.translate.steps=4", "--config.translate.unguided=8"),
    *(
        f"--config.{section}.training.{name}={value}"
        for section in ("denoiser", "segmenter", "adapt", "student")
        for name, value in dict(steps=12, batch_size=4, save_every=4).items()
    ),
    *("--config.compare.methods=('none','sgg_ptl')", "--config.report.examples=2"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stops")


def start(workdir: Path, stage: str = "compare", log: Path | None = None) -> subprocess.Popen:
    """log: a file for all that it says."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    line = [sys.executable, "main.py", stage, *TINY, "--workdir", str(workdir)]
    if log is not None:
        with log.open("w") as file:
            return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    streams = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(line, cwd=ROOT, env=environment, **streams)


def finish(workdir: Path) -> None:
    for stage in ("compare", "evaluate"):
        process = start(workdir, stage)
        complaints = process.communicate()[1]
        assert process.returncode == 0, complaints


def digests(workdir: Path) -> dict[str, str]:
    """Of every pixel, every score and every array of every network: parameters, optimizer and EMA."""
    found = {}
    for path in sorted(workdir.rglob("*.png")):
        found[str(path.relative_to(workdir))] = hashlib.sha256(path.read_bytes()).hexdigest()
    found["scores.json"] = (workdir / "scores.json").read_text()
    for row in json.loads((workdir / "compare.json").read_text())["rows"]:
        found[f"{row['method']}'s row"] = json.dumps([row["miou"], row["per_class"], row["agreement"], row["distance"]])
    for directory in sorted(workdir.rglob("checkpoints")):
        with ocp.StandardCheckpointer() as reader:
            arrays = reader.restore((directory / str(newest(directory)) / "state").resolve())
        flat = sorted((str(key), np.asarray(leaf)) for key, leaf in ocp.tree.to_flat_dict(arrays).items())
        content = hashlib.sha256(b"".join(name.encode() + leaf.tobytes() for name, leaf in flat))
        found[str(directory.relative_to(workdir))] = content.hexdigest()
    return found


@pytest.fixture(scope="module")
def alone(place) -> dict[str, str]:
    """What a run that is left alone ends with."""
    finish(place / "alone")
    return digests(place / "alone")


def finished(workdir: Path) -> list[str]:
    return sorted(path.stem for path in (workdir / "stages").glob("*.json"))


def written(workdir: Path) -> int:
    """Bytes of logs, images and results: they grow with every step."""
    total = 0
    for path in workdir.rglob("*"):
        if path.suffix in (".jsonl", ".png", ".json"):
            with suppress(FileNotFoundError):  # it has just come to another name
                total += path.stat().st_size
    return total


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 25), (signal.SIGTERM, 12)], ids=["kills", "stops"])
def test_runs_that_are_interrupted_end_as_one_left_alone(place, alone, number, times):
    """As many runs, one after the other, as so many interruptions take."""
    chance, done, run = random.Random(int(number)), 0, 0
    while done < times:
        run += 1
        workdir = place / f"{number.name} {run}"
        while done < times and interrupted(workdir, number, chance, whenever=done % 3 == 0):
            done += 1
            print(f"{number.name} {done}, run {run}, finished: {', '.join(finished(workdir))}", flush=True)
        finish(workdir)
        assert digests(workdir) == alone
        print(f"{number.name}, run {run}: {len(alone)} digests, all equal to those of a run left alone", flush=True)


def interrupted(workdir: Path, number: signal.Signals, chance: random.Random, whenever: bool) -> bool:
    """Starts the run and interrupts it at any time, or when it has gone on; False if it had ended before."""
    before, process = written(workdir) if workdir.exists() else 0, start(workdir)
    time.sleep(chance.uniform(4, 8))
    if not whenever:
        while process.poll() is None and written(workdir) <= before + 100:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 5))
    asked = time.monotonic()
    process.send_signal(number)
    complaints = process.communicate(timeout=60)[1]
    if process.returncode == 0:
        return False
    assert process.returncode == (EXIT_CODE if number == signal.SIGTERM else -number), complaints
    assert "Traceback" not in complaints
    assert time.monotonic() - asked < 15
    return True


STAGES = (
    *("check_data", "prepare_data", "export_streets", "train_denoiser", "train_segmenter", "adapt", "translate"),
    *("train_student", "compare", "evaluate", "report"),
)


def test_every_stage_stops_when_it_is_asked_to(place):
    """By either signal; the same command then ends it."""
    workdir, chance = place / "stage by stage", random.Random(1)
    for stage in STAGES:
        for number, seconds in ((signal.SIGTERM, 0.0), (signal.SIGINT, chance.uniform(0, 5))):
            process = start(workdir, stage, log := place / "log")
            while process.poll() is None and log.stat().st_size == 0:
                time.sleep(0.02)
            time.sleep(seconds)
            asked = time.monotonic()
            process.send_signal(number)
            code = process.wait(timeout=60)
            said, took = log.read_text(), time.monotonic() - asked
            assert code in (EXIT_CODE, 0) and "Traceback" not in said, said
            assert took < 15  # ten, and the end of a Python that shares its cores
            print(f"{stage}: {number.name} after {seconds:.1f} s, ended {took:.1f} s later with {code}", flush=True)
        process = start(workdir, stage, log)
        assert process.wait() == 0, log.read_text()
