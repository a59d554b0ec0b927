"""The run directory: one process at a time, and who it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import quick
from sgg_jax import data_stages
from sgg_jax.errors import InputError
from sgg_jax.workdir import alone

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from pathlib import Path
from sgg_jax.workdir import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(workdir: Path) -> subprocess.Popen:
    """Another process that holds the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(workdir)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_in_a_directory_is_told_who_holds_it(tmp_path):
    process = holder(tmp_path / "run")
    try:
        with pytest.raises(InputError, match=rf"run is in use by process {process.pid} on .*, since 20.*--workdir"):
            alone(tmp_path / "run").__enter__()
        for stage in data_stages.DATA_STAGES:
            with pytest.raises(InputError, match="run is in use by process"):
                data_stages.main(stage, quick.get_config(), tmp_path / "run")
    finally:
        process.kill()
        process.communicate()
    with alone(tmp_path / "run"):  # kill -9 leaves no lock behind
        assert f"process {os.getpid()} on" in (tmp_path / "run" / "lock").read_text()


def test_a_directory_is_free_again_after_its_run(tmp_path):
    for _ in range(2):
        with alone(tmp_path):
            pass


def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"cannot write .*lock \(.*\): name another --workdir"),
        alone(tmp_path / "file"),
    ):
        pass
