"""What all benchmarks share: calls timed in turns, what a record says of its origin, JSON and Markdown.

Imports neither jax nor torch by itself, so that a process that measures the one need not load the other.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("jax", "jaxlib", "torch", "numpy")
REST = 0.1  # seconds between two kinds: threads that wait for work spin for some milliseconds after a call
FILL = 0.3  # seconds of a turn: a short call is repeated, so that waking up is a small part of it

Call = Callable[[], Any]
"""Runs to its end: a call of jax blocks until its result is there."""


class Spread(NamedTuple):
    """Of the same measurement, repeated."""

    median: float
    least: float
    most: float

    def text(self, form: str = "{:.2f}", scale: float = 1.0) -> str:
        """median (least to most), each times `scale`."""
        return "{} ({} to {})".format(*(form.format(scale * value) for value in self))


def spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.median(values)), float(min(values)), float(max(values)))


def in_turns(
    calls: Mapping[str, Call], repeats: int, *, rest: float = REST, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of a call by kind: as many calls of each kind in turn as fill FILL seconds, their mean.

    Whatever slows the machine down for a while slows all kinds alike. Each turn begins with another kind. Two calls of
    each are not counted: the first compiles, the second tells how many are a turn.
    """
    kinds = list(calls)
    for kind in kinds:
        calls[kind]()
    many = {}
    for kind in kinds:
        began = clock()
        calls[kind]()
        many[kind] = max(1, round(FILL / max(clock() - began, 1e-6)))
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(repeats):
        first = turn % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            time.sleep(rest)
            began = clock()
            for _ in range(many[kind]):
                calls[kind]()
            seconds[kind].append((clock() - began) / many[kind])
    return seconds


def first_and_later(call: Call, repeats: int) -> tuple[float, Spread]:
    """Seconds of the first call, which compiles, and of those that follow."""
    began = time.perf_counter()
    call()
    first, seconds = time.perf_counter() - began, []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return first, spread(seconds)


def difference(found: Any, wanted: Any) -> float:
    """Largest absolute difference by largest absolute value."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_resident() -> float:
    """Bytes: the most that this process ever had in memory."""
    try:
        return _status("VmHWM")
    except (OSError, StopIteration):  # not Linux, where getrusage would count what the parent had, too
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def resident() -> float:
    """Bytes that this process has in memory now; elsewhere than on Linux, the most that it ever had."""
    try:
        return _status("VmRSS")
    except (OSError, StopIteration):
        return peak_resident()


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def provenance() -> dict[str, Any]:
    """What a record says of its origin: commit, versions, device, threads and XLA's flags."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    flags = os.environ.get("XLA_FLAGS", "")
    origin = {"commit": described.stdout.strip(), "versions": versions, "xla_flags": flags}
    return {**origin, "device": device(), "threads": threads()}


def device() -> str:
    """What this process computes on, in words."""
    import jax

    if jax.default_backend() != "cpu":
        return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{cores()} CPU core(s), {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def threads() -> dict[str, int]:
    """Threads of each side that compute; jax takes as many as it has cores."""
    found = {"jax": cores()}
    if "torch" in sys.modules:
        found["torch"] = sys.modules["torch"].get_num_threads()
    return found


def write(path: Path, record: Mapping[str, Any]) -> None:
    """JSON of a record, with its origin."""
    path.write_text(json.dumps({**record, **provenance()}, indent=1) + "\n")


def head(*columns: str) -> str:
    """The first two lines of a Markdown table."""
    return f"{line(*columns)}\n|{'---|' * len(columns)}"


def line(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def arguments(doc: str | None, out: str, repeats: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark is told: --out and --repeats."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(out), help="the JSON file that is written")
    parser.add_argument("--repeats", type=int, default=repeats, help="turns")
    return parser
