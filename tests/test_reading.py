"""The benchmark of reading runs, small."""

import json

from benchmarks import reading


def test_all_its_tables_are_made(tmp_path, capsys, monkeypatch):
    sizes = dict(ORIGINAL=(48, 96), SIZE=(24, 48), CROP=(16, 32), STEPS=3, RATES=(40,), SECONDS=0.2)
    for name, value in dict(**sizes, NETWORK=dict(widths=(8,), blocks=1, patch=2)).items():
        monkeypatch.setattr(reading, name, value)
    reading.main(["--pairs", "3", "--repeats", "2", "--out", str(tmp_path / "reading.json")])
    found = json.loads((tmp_path / "reading.json").read_text())
    assert found["commit"] and all(len(rates) == 2 for rates in found["examples_per_cpu_second"].values())
    assert set(found["training"]) == {
        f"{t}, {n} threads" for t in ("originals, resized", "prepared") for n in (0, 1, 2)
    }
    assert all(0 <= share <= 1 for shares in found["accelerator_waits"].values() for share in shares)
    assert capsys.readouterr().out.count("\n|---|") == 3
