"""How fast sgg_jax is against the same networks, weights, maths and steps in PyTorch (benchmarks/peers/).

    python benchmarks/speed.py rows --out benchmarks/speed_rows.json         # every part, all kinds in turns
    python benchmarks/speed.py scaling --out benchmarks/speed_scaling.json   # cost against batch, size, classes, ...
    python benchmarks/speed.py compile --out benchmarks/speed_compile.json   # first calls and memory, from cold

Kinds: ours; (a) eager with LCG's loop over classes at batch 1, as public code does it; (b) eager, batched over present
classes, channels_last; (c) torch.compile of (b). All are checked equal to rounding before they are timed (but for
`compile`, whose processes have one side each), and called in turns on one machine. Networks and images are those of
streets, the denoiser's weights the shipped ones. Segmenters train on bare images here: augmentation is left out on both
sides. Training steps of (a) are of the whole batch, all else of (a) is of one image; the table is per image.
Prints Markdown and writes JSON with commit, versions and device.
--tiny shows that it runs.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.ours import TINY, Ours  # noqa: E402, I001 - sets flags before jax is imported
from benchmarks import harness  # noqa: E402
from benchmarks.equality import answers, check  # noqa: E402
from benchmarks.peers.calls import Peer  # noqa: E402
from benchmarks.work import CALLS, KINDS, TRAINING, Work  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402

Values = list[tuple[Any, dict[str, Any]]]  # what is shown, and the fields of the config that it changes, or "classes"


def over(field: str, *values: Any, **fixed: Any) -> Values:
    return [(value, {field: value, **fixed}) for value in values]


TRAINED = {"translate.batch_size": 16}  # images of a training step here
AXES: dict[str, tuple[str, Values]] = {
    "images at once": ("whole translation", over("translate.batch_size", 1, 2, 4, 8, 16)),
    "height, width": ("whole translation", over("data.size", (24, 48), (48, 96), (96, 192))),
    "classes present": ("LCG step (with its denoiser pass)", over("classes", 1, 2, 4, 8)),
    "depth, at 12 steps": ("whole translation", over("translate.depth", 25, 100, 400)),
    "steps": ("whole translation", over("translate.steps", 3, 6, 12, 25)),
    "groups of 16 images (ours)": ("denoiser training step", over("denoiser.training.groups", 1, 2, 4, 8, **TRAINED)),
    "groups of 16 images (ours), segmenter": (
        "segmenter training step",
        over("segmenter.training.groups", 1, 2, 4, 8, **TRAINED),
    ),
}
TINY_AXES: dict[str, tuple[str, Values]] = {
    "images at once": ("whole translation", over("translate.batch_size", 4, 8)),
    "classes present": ("LCG step (with its denoiser pass)", over("classes", 1, 3)),
    "groups of images (ours)": ("segmenter training step", over("segmenter.training.groups", 1, 2)),
}
COLD = ("whole translation", "denoiser training step", "segmenter training step")
TINY_COLD = ("segmenter forward",)
MATRIX, TINY_MATRIX = 3072, 256  # side of the product that tells the machine's peak


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments(__doc__, "speed.json", 5)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--tiny", action="store_true", help="very small networks and images")
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    given = parser.parse_args(argv)
    if jax.default_backend() != "cpu":
        parser.error("PyTorch's side computes on the CPU here: set JAX_PLATFORMS=cpu (for a GPU see paper_scale.py)")
    kinds = [kind for kind in KINDS if not (kind == "c" and given.without_compile)]
    record = TABLES[given.table](kinds, given.tiny, given.repeats, given.only)
    about = {"kinds": {kind: KINDS[kind] for kind in kinds}, "tiny": given.tiny, "repeats": given.repeats}
    harness.write(given.out, {"table": given.table, **record, **about})


def rows(kinds: list[str], tiny: bool, repeats: int, only: str) -> dict[str, Any]:
    """Every part, by every kind in turns."""
    ours = Ours(TINY if tiny else {})
    work, wanted = ours.work(), answers(ours)
    peers = {kind: Peer(work, kind) for kind in kinds if kind != "ours"}
    checked = {kind: check(wanted, peer) for kind, peer in peers.items()}
    flops, peak = ours.flops(), matmul_peak(TINY_MATRIX if tiny else MATRIX, repeats)
    others = list(peers)
    gains = [f"({kind}) / ours" for kind in others]
    named = [f"({kind})" for kind in others]
    print(harness.head("milliseconds an image", "ours", *named, *gains, "images/s", "GFLOP/s, of peak"))
    found = []
    for name in CALLS:
        if only not in name:
            continue
        calls = {"ours": ours.call(name), **{kind: peer.call(name) for kind, peer in peers.items()}}
        images = {"ours": len(work.image), **{kind: peer.seen(name) for kind, peer in peers.items()}}
        row = {"name": name, "kinds": timed(calls, images, repeats)}
        row["gain"] = {kind: row["kinds"][kind]["median"] / row["kinds"]["ours"]["median"] for kind in others}
        if name in flops:
            row["flops"] = flops[name] / len(work.image)
            row["flops_per_second"] = row["flops"] / row["kinds"]["ours"]["median"]
        found.append(row)
        print(_row_line(row, others, peak["jax"]), flush=True)
    return {"rows": found, "difference": checked, "matmul_flops_per_second": peak, **_about(work)}


def timed(calls: dict[str, harness.Call], images: dict[str, int], repeats: int) -> dict[str, dict[str, float]]:
    """By kind: seconds an image (median, least, most), and images a call."""
    seconds = harness.in_turns(calls, repeats)
    return {
        kind: {**harness.spread([s / images[kind] for s in seconds[kind]])._asdict(), "images": images[kind]}
        for kind in calls
    }


def _text(found: dict[str, float]) -> str:
    return harness.Spread(found["median"], found["least"], found["most"]).text("{:.2f}", 1e3)


def _row_line(row: dict[str, Any], others: list[str], peak: float) -> str:
    times = [_text(row["kinds"][kind]) for kind in ("ours", *others)]
    gains = [f"{row['gain'][kind]:.2f}" for kind in others]
    reached = row.get("flops_per_second")
    limit = f"{reached / 1e9:.0f}, {reached / peak:.0%}" if reached else ""
    return harness.line(row["name"], *times, *gains, f"{1 / row['kinds']['ours']['median']:.1f}", limit)


def matmul_peak(side: int, repeats: int) -> dict[str, float]:
    """FLOP a second of a float32 product of two square matrices on either side, the best of some."""
    left, right = jnp.ones((side, side)), torch.ones((side, side))
    product = jax.jit(jnp.matmul)
    calls = {"jax": lambda: product(left, left).block_until_ready(), "torch": lambda: right @ right}
    return {kind: 2 * side**3 / min(found) for kind, found in harness.in_turns(calls, repeats).items()}


def _about(work: Work) -> dict[str, Any]:
    return {
        "batch": len(work.image),
        "size": list(work.image.shape[1:3]),
        "classes_present": work.present,
        "steps": len(work.chain["step"]),
    }


def scaling(kinds: list[str], tiny: bool, repeats: int, only: str) -> dict[str, Any]:
    """Cost against one thing at a time: ours and (b)."""
    print(harness.head("milliseconds an image", "", "ours", "(b)", "(b) / ours"))
    found = []
    for title, (name, values) in (TINY_AXES if tiny else AXES).items():
        for value, changes in values if only in title else ():
            fields = {**(TINY if tiny else {}), **changes}
            classes = fields.pop("classes", 0)
            ours = Ours(fields, classes)
            peer = Peer(ours.work(), "b")
            trained = {name.split()[0]} if name in TRAINING else set()
            parts = set() if trained else {"whole translation" if "whole" in name else "LCG gradient"}
            difference = check(answers(ours, parts, trained), peer)
            sides, images = {"ours": ours.call(name), "b": peer.call(name)}, len(ours.image)
            row = {
                "axis": title,
                "value": value,
                "name": name,
                "kinds": timed(sides, dict.fromkeys(sides, images), repeats),
                "difference": difference,
            }
            found.append(row)
            times = [row["kinds"][kind] for kind in ("ours", "b")]
            gain = f"{times[1]['median'] / times[0]['median']:.2f}"
            print(harness.line(f"{name}: {title}", value, *map(_text, times), gain), flush=True)
    return {"rows": found}


def cold(kinds: list[str], tiny: bool, repeats: int, only: str) -> dict[str, Any]:
    """First calls and memory of each kind, each in a process of its own and with no cache of compiled code."""
    work, found = Ours(TINY if tiny else {}).work(), []
    print(harness.head("call", "", "compile, s", "later, s", "images a call", "peak, MiB", "of it over weights, MiB"))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "work"
        path.write_bytes(pickle.dumps(work))
        for name in TINY_COLD if tiny else COLD:
            for kind in kinds if only in name else ():
                row = {"name": name, "kind": kind, **alone(path, kind, name, Path(scratch) / f"cache{len(found)}")}
                found.append(row)
                sizes = [f"{size / 2**20:.0f}" for size in (row["peak"], row["peak"] - row["resident"])]
                seconds = [f"{row[what]:.2f}" for what in ("compile", "later")]
                print(harness.line(name, kind, *seconds, row["images"], *sizes), flush=True)
    return {"rows": found, **_about(work)}


def alone(work: Path, kind: str, name: str, cache: Path) -> dict[str, Any]:
    """What benchmarks/cold.py finds."""
    settings = {"JAX_ENABLE_COMPILATION_CACHE": "false", "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    command = [sys.executable, str(ROOT / "benchmarks" / "cold.py"), str(work), kind, name]
    time.sleep(harness.REST)
    done = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


TABLES = {"rows": rows, "scaling": scaling, "compile": cold}


if __name__ == "__main__":
    main()
