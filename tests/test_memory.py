"""Freed memory that is kept, in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from sgg_jax import memory

THREAD = """
import ctypes, resource, threading
import sgg_jax

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
"""
FAULTS = (
    THREAD
    + """
size = ctypes.c_size_t(60 * 2**20)  # 15,360 pages

def work(times):
    for _ in range(times):
        block = ctypes.c_void_p(library.malloc(size))
        library.memset(block, 1, size)
        library.free(block)

def faults():  # of one thread, which is not the first, as XLA's; another one might have another arena
    work(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work(20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=faults)
thread.start()
thread.join()
"""
)
ARENA = (
    THREAD
    + """
def work():
    chunk = library.malloc(ctypes.c_size_t(2**20))
    print(bool(ctypes.c_size_t.from_address(chunk - ctypes.sizeof(ctypes.c_size_t)).value & 4))  # NON_MAIN_ARENA

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
)


def run(code: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUN", "XLA"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is asked")
def test_freed_memory_is_kept_unless_the_environment_speaks_of_it():
    assert int(run(FAULTS)[0]) < 2_000  # small things; not the pages of the arrays, which are those of the first
    for name, value in (("MALLOC_TOP_PAD_", "0"), ("GLIBC_TUNABLES", "glibc.malloc.check=0")):
        assert int(run(FAULTS, **{name: value})[0]) > 100_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is asked")
def test_threads_do_not_share_the_arena_that_compilations_leave_full_of_holes():
    assert run(ARENA) == ["True"]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    memory.keep_memory()
