"""How fast data sets are read, and how long training waits for them.

    python benchmarks/reading.py --out reading.json

Writes pairs of GTA5's size and encoding to a temporary directory, packs them, and reads both: examples a second of CPU
time of one thread. Then a few training steps on random crops of them: the share of the time that was spent waiting
for data, by the number of decoding threads; and the share that an accelerator would wait, which takes so many crops a
second and leaves the cores free meanwhile: a sleep stands for it. Prints Markdown and writes JSON with commit, versions
and device.
"""

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from sgg_jax.compiler import set_cpu_flags  # noqa: E402

set_cpu_flags()  # before jax is imported

import numpy as np  # noqa: E402
from lookalikes import gta5  # noqa: E402

from benchmarks import harness  # noqa: E402
from configs import default  # noqa: E402
from sgg_jax.data.crops import Crop  # noqa: E402
from sgg_jax.data.dataset import Dataset  # noqa: E402
from sgg_jax.data.loader import Batches, Waiting, prefetch  # noqa: E402
from sgg_jax.data.prepared import Prepared  # noqa: E402
from sgg_jax.data.preparing import Preparation  # noqa: E402
from sgg_jax.data.public import LAYOUTS, open_public  # noqa: E402
from sgg_jax.devices import data_mesh  # noqa: E402
from sgg_jax.models import SEGMENTERS, build  # noqa: E402
from sgg_jax.optimization import Recipe  # noqa: E402
from sgg_jax.training import fit, segmenter_objective  # noqa: E402

ORIGINAL, SIZE, CROP = (1056, 1920), (720, 1280), (256, 256)
NETWORK = dict(widths=(32, 64, 96), blocks=2, patch=2)
STEPS, BATCH = 12, 4
RATES = (25, 50, 100)  # crops a second; 52 is what one H200 takes of ADM-256 (docs/performance.md)
SECONDS = 6  # that an accelerator is played


def reading_rate(dataset: Dataset, repeats: int) -> list[float]:
    """Examples a second of this process's CPU time, once per repeat."""
    rates = []
    for _ in range(repeats):
        began = time.process_time()
        for index in range(len(dataset)):
            _ = dataset[index]
        rates.append(len(dataset) / (time.process_time() - began))
    return rates


def data_wait(dataset: Dataset, workers: int, directory: Path) -> dict[str, float]:
    """Share of the time of a few training steps that was spent waiting for data, and steps a second."""
    apply, params = build(SEGMENTERS["encoder_decoder"], 0, classes=19, **NETWORK)
    recipe = Recipe(**{**default.training(STEPS, BATCH, 1e-3).to_dict(), "save_every": STEPS})
    batches = Batches(dataset, BATCH, 0, cache_bytes=0, crop=Crop(CROP), workers=workers)
    place = directory / f"workers{workers}"
    fit(place, segmenter_objective(apply, None), params, np.ones(19, np.float32), batches, recipe,
        seed=0, mesh=data_mesh(), label=f"{workers} workers")  # fmt: skip
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[1], lines[-1]  # the first step compiles
    seconds = max(last["seconds"] - first["seconds"], 1e-3)  # they are told in milliseconds
    waited = last["data_wait"] * last["seconds"] - first["data_wait"] * first["seconds"]
    return {"data_wait": max(waited, 0.0) / seconds, "steps_per_second": (last["step"] - first["step"]) / seconds}


def accelerator_wait(dataset: Dataset, workers: int, rate: int) -> float:
    """Share of the time that something waits for data which takes `rate` crops a second, and the CPU nothing."""
    batches = Batches(dataset, BATCH, 0, cache_bytes=0, crop=Crop(CROP), workers=workers)
    feed = Waiting(prefetch(batches, itertools.count()))
    next(feed)  # the first batch is waited for once a run
    began, before = time.perf_counter(), feed.seconds
    while time.perf_counter() - began < SECONDS:
        next(feed)
        time.sleep(BATCH / rate)
    return (feed.seconds - before) / (time.perf_counter() - began)


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments(__doc__, "reading.json", 3)
    parser.add_argument("--pairs", type=int, default=16)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        root = gta5(Path(scratch) / "gta5", arguments.pairs, ORIGINAL)
        originals = open_public(LAYOUTS["gta5"], str(root), "train", SIZE, "stretch")
        native = open_public(LAYOUTS["gta5"], str(root), "train", SIZE, "native")
        preparation = Preparation(originals, Path(scratch), "packed", {})
        for work in (preparation.verify, preparation.write):
            for _ in work():
                pass
        prepared = Prepared(str(preparation.folder), "train", "image", "label", (), SIZE, "stretch")
        sets = {"originals": native, "originals, resized": originals, "prepared": prepared}
        rates = {title: reading_rate(dataset, arguments.repeats) for title, dataset in sets.items()}
        waits = {
            f"{title}, {workers} threads": data_wait(dataset, workers, Path(scratch) / title)
            for title, dataset in list(sets.items())[1:]
            for workers in (0, 1, 2)
        }
        beside = {
            f"{title}, {workers} threads": [accelerator_wait(dataset, workers, rate) for rate in RATES]
            for title, dataset in list(sets.items())[1:]
            for workers in (1, 2, 4)
        }
    record: dict[str, Any] = {
        "examples_per_cpu_second": rates,
        "training": waits,
        "crops_per_second": RATES,
        "accelerator_waits": beside,
        "pairs": arguments.pairs,
        "original": ORIGINAL,
        "size": SIZE,
        "crop": CROP,
    }
    harness.write(arguments.out, record)
    print(harness.head("read", "examples a second and core (median, range)"))
    for title, found in rates.items():
        print(harness.line(title, harness.spread(found).text("{:.1f}")))
    print("\n" + harness.head("training reads", "waits for data", "steps a second"))
    for title, wait in waits.items():
        print(harness.line(title, f"{wait['data_wait']:.0%}", f"{wait['steps_per_second']:.2f}"))
    print("\n" + harness.head("an accelerator waits that takes, crops a second", *RATES))
    for title, shares in beside.items():
        print(harness.line(title, *(f"{share:.0%}" for share in shares)))


if __name__ == "__main__":
    main()
