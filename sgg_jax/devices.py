"""Devices: one 1-D mesh with the axis `data` over all of them, or over this host's, and a second axis where training
splits its weights."""

import math
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sgg_jax.errors import InputError
from sgg_jax.types import Array


def check_there() -> None:
    """InputError where jax has no device of the kind that it is told to use."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError, ValueError) as error:
        told = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(
            f"jax finds no device to compute on{f', and JAX_PLATFORMS is {told!r}' if told else ''} "
            f"({' '.join(str(error).split()) or 'no such platform'}): name one that is there, such as cpu, or install "
            "jax for it"
        ) from error


def data_mesh() -> Mesh:
    """All devices of all hosts along the axis `data`, host by host, as hosts have their parts of a batch (shard_part).

    jax.make_mesh would put a TPU's in the order of its wires, where hosts take turns.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def local_mesh() -> Mesh:
    """This host's devices along the axis `data`."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def translation_mesh() -> Mesh:
    """This host's devices along the axis `data`; of pretended devices of a CPU the first alone.

    Where two guided translations run at once in one process on a CPU, LCG's gradient of the first microbatch is wrong
    from the second guided step on, and so is the first image of each (jaxlib 0.10.2; docs/performance.md).
    """
    mesh = local_mesh()
    if platform(mesh) != "cpu":
        return mesh
    return jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:1])


SPLIT_FROM = 2**16
"""Numbers in an array from which on it is split over `weights`; smaller ones are copied."""


def platform(mesh: Mesh) -> str:
    """Of its devices: "cpu", "gpu" or "tpu"."""
    found: str = mesh.devices.flat[0].platform
    return found


def split_mesh(mesh: Mesh, parts: int) -> Mesh:
    """The same devices with the axes `data` and `weights`, the second of that size; the mesh itself for 1."""
    if parts == 1:
        return mesh
    if parts < 1 or mesh.size % parts:
        raise InputError(
            f"training.weight_shards is {parts}: it must divide the {mesh.size} devices; set it to one of "
            f"{', '.join(str(n) for n in range(1, mesh.size + 1) if mesh.size % n == 0)}"
        )
    devices = mesh.devices.reshape(mesh.size // parts, parts)
    return Mesh(devices, ("data", "weights"), axis_types=(AxisType.Auto, AxisType.Auto))


def weight_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """How an array of weights, moments or averages lies: its longest side that divides is split over `weights`."""
    parts = mesh.shape.get("weights", 1)
    sides = [side for side in range(len(shape)) if shape[side] % parts == 0]
    if parts == 1 or not sides or math.prod(shape) < SPLIT_FROM:
        return NamedSharding(mesh, P())
    longest = max(sides, key=lambda side: shape[side])
    return NamedSharding(mesh, P(*("weights" if side == longest else None for side in range(len(shape)))))


def spread(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a training state, which every host has whole, each as `weight_sharding` says."""
    return _put(tree, jax.tree.map(lambda leaf: weight_sharding(leaf.shape, mesh), tree))


def _put(tree: Any, shardings: Any) -> Any:
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)

    def put(leaf: Any, sharding: NamedSharding) -> Any:  # device_put would compare every array over all hosts first
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)

    return jax.tree.map(put, tree, shardings)


def copies(tree: Any, mesh: Mesh) -> Any:
    """Copies of arrays that lie as `weight_sharding` says; of other hosts' parts, too: then whole, in numpy.

    Of what every device has there is one copy: orbax would cut it into as many slices as there are devices.
    """
    if not mesh.is_multi_process:
        own = jax.tree.map(lambda leaf: leaf.addressable_data(0) if leaf.is_fully_replicated else leaf, tree)
        return jax.device_put(own, jax.tree.map(lambda leaf: leaf.sharding, own), may_alias=False)
    gather = jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(mesh, P()))

    def whole(leaf: Array) -> np.ndarray:
        return np.array((leaf if leaf.is_fully_replicated else gather(leaf)).addressable_data(0))

    return jax.tree.map(whole, tree)


def keep_spread(tree: Any, mesh: Mesh) -> Any:
    """The same inside jit."""
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, weight_sharding(leaf.shape, mesh)), tree)


def device_memory(mesh: Mesh) -> float:
    """Bytes that each of this host's devices of the mesh may hold; on a CPU its part of the machine's memory."""
    devices = mesh.local_devices
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    if hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE") / len(devices)
    return math.inf


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
    return _put(tree, jax.tree.map(lambda _: NamedSharding(mesh, P()), tree))


def shard_part(batch: Any, mesh: Mesh) -> Any:
    """Arrays split over all axes, of which this host has its part of the rows alone: [B / hosts,...] -> [B,...]."""
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(sharding, part), batch)
