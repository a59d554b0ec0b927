"""The table and the plot of benchmarks/few_steps.py, from rows made up here."""

import json

import pytest

from benchmarks import few_steps
from sgg_jax.records import write_json


def test_rows_of_seeds_become_a_line_each_and_a_plot(tmp_path, capsys):
    seconds = {"ddpm 250": (16.0, 15.0, 17.0), "ddpm 12": (0.5, 0.4, 0.6), "ddpm 5": (0.25, 0.2, 0.3)}
    mious = {"ddpm 250": (0.46, 0.48), "ddpm 12": (0.47, 0.49), "dpm 3": (0.4, 0.4)}
    for name, values in mious.items():
        for seed, miou in enumerate(values):
            row = {"setting": name, "seed": seed, "miou": miou, "agreement": miou / 2, "commit": "abc"}
            write_json(tmp_path / "rows" / f"{name}-{seed}.json", row)
    write_json(tmp_path / "seconds.json", {"seconds_per_image": seconds})
    few_steps.table(tmp_path, tmp_path / "few.json", tmp_path / "few.png")
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ") for line in lines] == [
        ["| ddpm 250 (paper)", "16.000", "1.0", "47.0 ± 1.4", "23.5 ± 0.7", "2 |"],
        ["| ddpm 12 (balanced)", "0.500", "32.0", "48.0 ± 1.4", "24.0 ± 0.7", "2 |"],
    ]  # dpm 3 was not timed, ddpm 5 not trained
    found = json.loads((tmp_path / "few.json").read_text())
    assert len(found["rows"]) == 6 and found["seconds_per_image"]["ddpm 12"] == pytest.approx(seconds["ddpm 12"])
    assert (tmp_path / "few.png").stat().st_size > 10_000
