"""What the C library does with freed memory, and how it is asked to keep it. Changes no result."""

import ctypes
import os
import platform
import sys

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST = 2**31 - 1
"""What mallopt takes at most: 2 GiB."""
HEAP = 2**26
"""Bytes of glibc's heaps of other threads than the first; what is larger is mapped anew whatever is said."""


def keep_memory() -> None:
    """Lets this process keep what its threads free for their next allocations, in blocks of up to 64 MiB.

    XLA allocates what a program needs at each call, in one block, in a thread of its own. Of such blocks glibc gives
    every page back to the kernel and takes new ones, each zeroed by a fault: a tenth of a training step
    (docs/performance.md). Nothing where the environment says itself how memory is to be handled (MALLOC_...,
    GLIBC_TUNABLES), or where the C library is another one.

    Threads keep their own arenas: in the first thread's, compilations leave thousands of holes, and looking through
    them, one thread at a time, takes a fifth of a forward pass.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    # an empty heap is given back unless this and the one before it are smaller than the padding
    for parameter, value in ((M_TOP_PAD, 2 * HEAP), (M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST)):
        library.mallopt(parameter, value)
