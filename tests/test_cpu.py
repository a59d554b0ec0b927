"""Memory that is kept and threads that stay on their cores, each in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from sgg_jax import cpu

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone is asked")
FAULTS = """
import ctypes, resource, threading
import sgg_jax

library, size = ctypes.CDLL(None), ctypes.c_size_t(100 * 2**20)  # 25,600 pages
library.malloc.restype = ctypes.c_void_p

def work(times):
    for _ in range(times):
        block = ctypes.c_void_p(library.malloc(size))
        library.memset(block, 1, size)
        library.free(block)

def faults(times):  # in another thread than the first, as XLA's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=work, args=(times,))
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(1)
print(faults(20))
"""
AFFINITY = """
import os
from sgg_jax.cpu import pool_threads
from sgg_jax.devices import data_mesh
print(pool_threads())
data_mesh()
print([sorted(os.sched_getaffinity(thread)) for thread in pool_threads()], sorted(os.sched_getaffinity(0)))
"""


def run(code: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUN", "XLA"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@linux
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is asked")
def test_freed_memory_is_kept_unless_the_environment_speaks_of_it():
    assert int(run(FAULTS)[0]) < 2_000  # small things; not the pages of the arrays, which are those of the first
    for name, value in (("MALLOC_TOP_PAD_", "0"), ("GLIBC_TUNABLES", "glibc.malloc.check=0")):
        assert int(run(FAULTS, **{name: value})[0]) > 100_000


@linux
def test_each_thread_of_the_pool_has_its_core():
    none, pinned = run(AFFINITY)
    assert none == "[]"  # before jax has devices
    cores = sorted(os.sched_getaffinity(0))
    assert pinned == f"{[[core] for core in cores]} {cores}"  # the other threads go anywhere
    for environment in ({"SGG_JAX_PIN_THREADS": "false"}, {"JAX_NUM_CPU_DEVICES": str(len(cores) + 1)}):
        free = run(AFFINITY, **environment)[1]
        assert free.startswith(f"[{cores}, ") or free == f"[{cores}] {cores}"


@linux
def test_a_sandbox_that_forbids_it_is_left_alone(monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cpu, "pool_threads", lambda: sorted(os.sched_getaffinity(0)))
    monkeypatch.setattr(cpu.os, "sched_setaffinity", refused)
    cpu.pin_threads()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu.sys, "platform", "darwin")
    monkeypatch.setattr(cpu.ctypes, "CDLL", None)
    cpu.keep_memory()
    monkeypatch.setattr(cpu, "pool_threads", None)
    cpu.pin_threads()
