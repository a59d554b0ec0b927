"""What the C library does with freed memory, and how it is asked to keep it. Changes no result."""

import ctypes
import os
import platform
import sys

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST = 2**31 - 1
"""What mallopt takes at most: 2 GiB."""


def keep_memory() -> None:
    """Lets this process keep up to 2 GiB that it has freed, for its next allocations.

    XLA allocates what a program needs at each call, in one block. Of such blocks glibc gives every page back to the
    kernel and takes new ones, each zeroed by a fault: a tenth of a training step (docs/performance.md). Nothing where
    the environment says itself how memory is to be handled (MALLOC_..., GLIBC_TUNABLES), or where the C library is
    another one.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    # one arena: those of other threads than the first hold 64 MiB, what is larger is mapped anew whatever is said
    for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST)):
        library.mallopt(parameter, value)
