"""Four virtual CPU devices for every test, so that parallel code runs parallel; set before jax makes its backend."""

import jax
import pytest
from jax.sharding import AxisType, Mesh

import sgg_jax  # noqa: F401  (compiler defaults)

jax.config.update("jax_platforms", "cpu")  # also where a GPU is
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(scope="session")
def one_device() -> Mesh:
    return jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def four_devices() -> Mesh:
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
