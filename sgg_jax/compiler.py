"""Compiler defaults that must be set before jax is first used, CPU flags and a cache of what was compiled; and options
of single programs."""

import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Versions of jaxlib that were seen to know the flag; an unknown flag would abort the process.
KNOWN = ((0, 10), (0, 13))
# XLA:CPU sends float32 convolutions through YNNPACK fusions whose weight gradients are 4-7 times slower (measured on
# jaxlib 0.10.2 and 0.12.0); the empty list switches those fusions off.
CPU_FLAGS = "--xla_cpu_experimental_ynn_fusion_type="

CACHE_LIMIT = 2 * 2**30
"""Bytes of compiled programs that may stay; those that were not used for longest go first."""


def set_cpu_flags() -> None:
    """Sets XLA_FLAGS where the user has not, and only for versions of jaxlib that know the flag."""
    if "XLA_FLAGS" not in os.environ and _known():
        os.environ["XLA_FLAGS"] = CPU_FLAGS


def _known() -> bool:
    try:
        release = tuple(int(part) for part in version("jaxlib").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return False
    return KNOWN[0] <= release < KNOWN[1]


def network_options(platform: str) -> dict[str, str]:
    """Options of `jax.jit` for programs of networks on "cpu", "gpu" or "tpu".

    XLA:CPU takes optimisation barriers out before it fuses; without that pass `operations.computed_once` holds. Nothing
    where the user's XLA_FLAGS say themselves which passes to leave out, and for versions of jaxlib that are not known.
    """
    if platform != "cpu" or not _known() or "xla_disable_hlo_passes" in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}


def keep_compiled() -> None:
    """Lets jax keep what takes a second or more to compile in the user's cache directory, for the next process.

    JAX_COMPILATION_CACHE_DIR names another directory; JAX_ENABLE_COMPILATION_CACHE=false switches it off. Does nothing
    where no directory can be made.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        directory = user_cache() / "compiled" / machine()
        directory.mkdir(parents=True, exist_ok=True)
        trim(directory, CACHE_LIMIT)
    except (OSError, RuntimeError):  # no home, or not ours to write to
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)


def user_cache() -> Path:
    """Where this user's programs keep what they can make again."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sgg_jax"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sgg_jax"


def machine() -> str:
    """A name for processors of one kind: homes are shared by unlike machines, and what is compiled for one may crash
    another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    return f"{platform.machine()}-{hashlib.sha256(''.join(told).encode()).hexdigest()[:12]}"


def trim(directory: Path, limit: int) -> None:
    """Removes the files that were used least recently until `limit` bytes are left."""
    files = []
    for entry in os.scandir(directory):
        if entry.is_file():
            status = entry.stat()
            files.append((max(status.st_atime, status.st_mtime), status.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        Path(path).unlink(missing_ok=True)  # another process may have done so
        total -= size
