"""Long: a run that is stopped wherever it can be ends as one that is left alone.

    python -m pytest tests/soak/test_every_step.py -s

Not among the tests of `make test`; the log of one run is docs/logs/every_step.log.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from tiny_run import tiny

from sgg_jax import stopping
from sgg_jax.checkpoints import newest
from sgg_jax.pipeline import main

STEPS = 12
PLACES = ("denoiser", "source", "judge", "adapt/round1", "adapt/round2", "student")


def config():
    found = tiny()
    for section in (found.denoiser, found.segmenter, found.adapt, found.student):
        section.training.steps, section.training.save_every = STEPS, 5
    found.compare.methods, found.compare.seeds = ("color", "sgg_ptl"), (0,)
    return found


class StopAt(stopping.Signals):
    """A stop is asked for before a loop looks for the n-th time."""

    def __init__(self, looks: int):
        super().__init__()
        self.left = looks

    def look(self) -> bool:
        self.left -= 1
        if self.left == 0:
            self.asked.set()
        return super().look()


def written(workdir: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in workdir.rglob("*") if path.is_file()}


def finished(workdir: Path) -> list[str]:
    return sorted(path.stem for path in (workdir / "stages").glob("*.json"))


def digests(workdir: Path) -> dict[str, str]:
    """Of every array of every network (parameters, optimizer, EMA), every image and every score."""
    found = {name: path.read_bytes() for path in workdir.rglob("*.png") if (name := str(path.relative_to(workdir)))}
    for place in PLACES:
        directory = workdir / place / "checkpoints"
        with ocp.StandardCheckpointer() as reader:
            arrays = reader.restore((directory / str(newest(directory)) / "state").resolve())
        for name, leaf in ocp.tree.to_flat_dict(arrays).items():
            found[f"{place}: {name}"] = np.asarray(leaf).tobytes()
    for name in ("scores.json", "translated/manifest.jsonl"):
        found[name] = (workdir / name).read_bytes()
    for row in json.loads((workdir / "compare.json").read_text())["rows"]:
        timeless = {name: value for name, value in row.items() if name != "seconds_per_image"}
        found[f"row {row['method']}"] = json.dumps(timeless).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def test_a_run_that_is_stopped_wherever_it_looks_ends_as_one_left_alone(tmp_path, monkeypatch):
    """Every training is stopped after each of its 12 steps, every translation after each block; what begins anew, as
    scoring does, is stopped at its first look, then at its second, and so on."""
    main("run", config(), tmp_path / "alone")
    workdir, stops, looks = tmp_path / "stopped", 0, 1
    while True:
        before = written(workdir)
        monkeypatch.setattr(stopping, "_process", StopAt(looks))
        try:
            main("run", config(), workdir)
            break
        except stopping.Stopped:
            stops += 1
            print(f"stop {stops}, at look {looks}: {', '.join(finished(workdir))}", flush=True)
        looks = 1 if written(workdir) != before else looks + 1
    assert stops > len(PLACES) * STEPS
    assert digests(workdir) == (wanted := digests(tmp_path / "alone"))
    print(f"{len(wanted)} digests, all equal to those of a run left alone")
