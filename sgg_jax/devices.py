"""Devices: one 1-D mesh with the axis `data` over all of them, and a second axis where training splits its weights."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sgg_jax.errors import InputError


def data_mesh() -> Mesh:
    """All devices along the axis `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


SPLIT_FROM = 2**16
"""Numbers in an array from which on it is split over `weights`; smaller ones are copied."""


def split_mesh(mesh: Mesh, parts: int) -> Mesh:
    """The same devices with the axes `data` and `weights`, the second of that size; the mesh itself for 1."""
    if parts == 1:
        return mesh
    if parts < 1 or mesh.size % parts:
        raise InputError(
            f"training.weight_shards is {parts}: it must divide the {mesh.size} devices; set it to one of "
            f"{', '.join(str(n) for n in range(1, mesh.size + 1) if mesh.size % n == 0)}"
        )
    shape, types = (mesh.size // parts, parts), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, ("data", "weights"), axis_types=types, devices=list(mesh.devices.flat))


def weight_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """How an array of weights, moments or averages lies: its longest side that divides is split over `weights`."""
    parts = mesh.shape.get("weights", 1)
    sides = [side for side in range(len(shape)) if shape[side] % parts == 0]
    if parts == 1 or not sides or math.prod(shape) < SPLIT_FROM:
        return NamedSharding(mesh, P())
    longest = max(sides, key=lambda side: shape[side])
    return NamedSharding(mesh, P(*("weights" if side == longest else None for side in range(len(shape)))))


def spread(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a training state, each as `weight_sharding` says."""
    return jax.device_put(tree, jax.tree.map(lambda leaf: weight_sharding(leaf.shape, mesh), tree))


def keep_spread(tree: Any, mesh: Mesh) -> Any:
    """The same inside jit."""
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, weight_sharding(leaf.shape, mesh)), tree)


def check_batch(size: int, mesh: Mesh, field: str) -> None:
    """InputError unless `size` images divide over the mesh's devices; `field` is the setting to change."""
    if size < 1 or size % mesh.size:
        raise InputError(
            f"{field} is {size}: a batch must divide over the {mesh.size} devices; set it to a multiple of {mesh.size}"
        )


def shard(batch: Any, mesh: Mesh) -> Any:
    """Arrays [B,...] split over all axes."""
    return jax.device_put(batch, NamedSharding(mesh, P(mesh.axis_names)))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def shard_part(batch: Any, mesh: Mesh) -> Any:
    """Arrays split over all axes, of which this host has its part of the rows alone: [B / hosts,...] -> [B,...]."""
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(sharding, part), batch)
