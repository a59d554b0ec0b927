"""What Linux does to a computation on CPUs by default, and how it is asked to do less of it.

Neither changes a result; docs/performance.md has what both give.
"""

import ctypes
import os
import platform
import sys
from pathlib import Path

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST = 2**31 - 1
"""What mallopt takes at most: 2 GiB."""
POOL = "tf_XLAEigen"
"""Name of the threads in which XLA computes on CPUs."""


def keep_memory() -> None:
    """Lets this process keep up to 2 GiB that it has freed, for its next allocations.

    XLA allocates what a program needs at each call, in one block. Of such blocks glibc gives every page back to the
    kernel and takes new ones, each zeroed by a fault. Nothing where the environment says itself how memory is to be
    handled (MALLOC_..., GLIBC_TUNABLES), or where the C library is another one.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    # one arena: those of other threads than the first hold 64 MiB, what is larger is mapped anew whatever is said
    for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST)):
        library.mallopt(parameter, value)


def pin_threads() -> None:
    """Gives each thread of XLA's pool a core of its own, once jax has made its CPU devices.

    Between short operations the threads sleep, and Linux wakes them where it likes: both on one core while the other
    one is idle, or on a core whose cache has none of their data. Nothing where there are not as many threads as this
    process has cores, or where SGG_JAX_PIN_THREADS is "false": so that several runs can share the cores.
    """
    if sys.platform != "linux" or os.environ.get("SGG_JAX_PIN_THREADS", "").lower() == "false":
        return
    try:
        pool, cores = pool_threads(), sorted(os.sched_getaffinity(0))
        if len(pool) == len(cores):
            for thread, core in zip(pool, cores, strict=True):
                os.sched_setaffinity(thread, {core})
    except OSError:  # a sandbox that does not tell, or does not let
        return


def pool_threads() -> list[int]:
    """Numbers of this process's threads in which XLA computes."""
    tasks = Path("/proc/self/task").iterdir()
    return sorted(int(task.name) for task in tasks if (task / "comm").read_text().strip() == POOL)
