"""benchmarks/planned.py on made-up records of a run."""

import json

import pytest

from benchmarks import planned
from sgg_jax.records import write_json


def test_planned_and_real_seconds_stand_side_by_side(tmp_path, capsys):
    rows = [
        ("train_denoiser", 40.0),
        ("train_denoiser: a look", 8.0),
        ("adapt: translate", 10.0),
        ("adapt: starts", 2.0),
    ]
    plan = {"rows": [{"stage": stage, "seconds": seconds} for stage, seconds in rows], "preparation": 70.4}
    write_json(tmp_path / "plan.json", plan)
    write_json(tmp_path / "stages" / "train_denoiser.json", {"made": [], "seconds": 60.0})
    with pytest.raises(SystemExit, match="adapt is to be run"):
        planned.main(["--workdir", str(tmp_path)])
    write_json(tmp_path / "stages" / "adapt.json", {"made": [], "seconds": 9.0})
    planned.main(["--workdir", str(tmp_path), "--out", str(tmp_path / "planned.json")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[2:5] == [
        "| train_denoiser | 48 | 60 | 1.25 |",
        "| adapt | 12 | 9 | 0.75 |",
        "| all | 60 | 69 | 1.15 |",
    ]
    found = json.loads((tmp_path / "planned.json").read_text())
    assert found["all"] == {"planned": 60.0, "real": 69.0} and found["commit"]
