"""Long: the translate stage through the real command line, killed ten times, ends in the files of a run left alone.

    python -m pytest tests/soak -s

Not among the tests of `make test`; the log of one run is docs/logs/kills.log.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("--config", "configs/quick.py", "--config.data.size=(16,32)", "--config.data.source.streets.count=80"),
    *(
        "--config.translate.batch_size=4",
        "--config.translate.steps=16",
        "--config.translate.unguided=16",
        "--config.translate.guide=source",
    ),
    *(f"--config.{section}.training.steps=4" for section in ("denoiser", "segmenter")),
]
KILLS = 10


def start(stage: str, workdir: Path) -> subprocess.Popen:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    line = [sys.executable, "main.py", stage, *TINY, "--workdir", str(workdir)]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files(workdir: Path) -> dict[str, bytes]:
    found = sorted([*(workdir / "translated").rglob("*"), *(workdir / "unguided").rglob("*")])
    return {str(path.relative_to(workdir)): path.read_bytes() for path in found if path.is_file()}


def images(workdir: Path) -> int:
    return len(list(workdir.rglob("*_leftImg8bit.png")))


def test_ten_kills_of_translate_end_in_the_files_of_a_run_left_alone(tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for stage in ("train_denoiser", "train_segmenter"):
        assert start(stage, alone).wait() == 0
    shutil.copytree(alone, killed)
    assert start("translate", alone).wait() == 0
    wanted = files(alone)
    chance = random.Random(0)
    for number in range(KILLS):
        process, before = start("translate", killed), images(killed)
        if number % 2:  # at any time, the start included
            time.sleep(chance.uniform(0, 10))
        else:  # while images are written
            while images(killed) == before and process.poll() is None:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        print(f"kill {number + 1}: {before} -> {images(killed)} images", flush=True)
    assert images(killed) < images(alone)  # kills did interrupt
    assert start("translate", killed).wait() == 0
    assert files(killed) == wanted
    print(f"{len(wanted)} files, all equal to those of a run left alone")
