"""Devices: one 1-D mesh with the axis `data` over all of them."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sgg_jax.errors import InputError


def data_mesh() -> Mesh:
    """All devices along the axis `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def check_batch(size: int, mesh: Mesh, field: str) -> None:
    """InputError unless `size` images divide over the mesh's devices; `field` is the setting to change."""
    if size < 1 or size % mesh.size:
        raise InputError(
            f"{field} is {size}: a batch must divide over the {mesh.size} devices; set it to a multiple of {mesh.size}"
        )


def shard(batch: Any, mesh: Mesh) -> Any:
    """Arrays [B,...] split over `data`."""
    return jax.device_put(batch, NamedSharding(mesh, P("data")))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def shard_part(batch: Any, mesh: Mesh) -> Any:
    """Arrays split over `data`, of which this host has its part of the rows alone: [B / hosts,...] -> [B,...]."""
    sharding = NamedSharding(mesh, P("data"))
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(sharding, part), batch)
