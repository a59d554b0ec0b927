"""Four virtual CPU devices for every test, so that parallel code runs parallel; set before jax makes its backend.

Most of the tests' time is compiling. So nothing is optimised, a jaxlib that still has its old, faster emitters of
fusions takes them, and what one test compiled serves all others, also those of other workers, and the commands that
they start. The newest jax has the new emitters alone, and the quick run of .ci/run takes all defaults. By the old ones
one device and several differ in the last bit: tests of that start processes with DEFAULT_EMITTERS.

PyTorch computes in one thread a process: two wait for each other at every small operation, and where other tests keep
the cores busy that wait is ten times the work.
"""

import atexit
import gc
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax
import pytest
from jax.sharding import AxisType, Mesh

import sgg_jax  # noqa: F401  (compiler defaults)

OLD_EMITTERS = " --xla_cpu_use_fusion_emitters=false"
if "PYTEST_XDIST_WORKER" in os.environ:  # its environment is that of the process that started it
    compiled = os.environ["JAX_COMPILATION_CACHE_DIR"]
else:
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    if version("jaxlib").startswith(("0.10.", "0.11.")):  # others end where they do not know a flag
        os.environ["XLA_FLAGS"] += OLD_EMITTERS
    os.environ["OMP_NUM_THREADS"] = "1"
    compiled = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
DEFAULT_EMITTERS = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace(OLD_EMITTERS, "")}
"""The environment of a process whose code is emitted as users' is."""
for name, value in (
    ("jax_compilation_cache_dir", compiled),
    ("jax_persistent_cache_min_compile_time_secs", 0),
    ("jax_persistent_cache_min_entry_size_bytes", -1),
):
    os.environ[name.upper()] = str(value)
    jax.config.update(name, value)
gc.set_threshold(50_000, 20, 100)  # tracing makes many objects and few cycles: a fifth of the tests' time
jax.config.update("jax_platforms", "cpu")  # also where a GPU is
jax.config.update("jax_num_cpu_devices", 4)


def refused(self: socket.socket, address: object) -> None:
    """In place of connecting: tests reach nobody. (Two processes of test_hosts.py meet in jax's own code.)"""
    raise RuntimeError(f"a test tried to reach {address}")


socket.socket.connect = socket.socket.connect_ex = refused  # type: ignore[method-assign, assignment]


@pytest.fixture(scope="session")
def one_device() -> Mesh:
    return jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def four_devices() -> Mesh:
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """Compiled programs of other modules, once they are many: Linux gives a process 65,530 mappings of memory, each
    program takes some, and where there are no more jax ends the process."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_text().count("\n") > 20_000:
        jax.clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("whole") is None)
