"""Means over a batch in groups of images, added in one order however many devices share them.

XLA rounds a program of its own way for every size of its arrays, and where operations are fused. So what must be the
same on any number of devices is a program of its own here, over one group on each device, and sums are programs of
their own, too.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sgg_jax.compiler import network_options
from sgg_jax.devices import platform
from sgg_jax.losses import mean
from sgg_jax.optimization import Recipe
from sgg_jax.types import Array


def groups_of(recipe: Recipe, mesh: Mesh) -> int:
    """Groups that a batch of the recipe is cut into on these devices.

    recipe.groups, or as many as there are devices where these are more, but no more than divide the batch; 1 where
    recipe.groups is, and where the devices are not 2^n or split the weights between them.
    """
    if recipe.groups == 1 or mesh.size.bit_count() > 1 or "weights" in mesh.axis_names:
        return 1
    return math.gcd(max(recipe.groups, mesh.size), recipe.batch_size)


def mean_of_groups(function: Callable[..., Any], groups: int, mesh: Mesh) -> Callable[..., Any]:
    """(params, constants, batch, keys) -> what function(params, constants, part of batch, its keys) -> (sums, weight)
    gives for all groups: sums added, by weights added.

    groups: 2^n, a multiple of the mesh's 2^m devices. Arrays of the batch and keys are [B,...], split over all axes of
    the mesh. Groups are added as a binary tree, halves to halves: first those of a device, then between devices, each
    with the one whose number differs in one bit.
    """
    own, everywhere, split = groups // mesh.size, P(), P(mesh.axis_names)

    def on_devices(
        body: Callable[..., Any], *specs: P, out: P, donate: tuple[int, ...] = (), options: dict[str, str] | None = None
    ) -> Callable[..., Any]:
        mapped = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
        return jax.jit(mapped, donate_argnums=donate, compiler_options=options)

    def cut(rows: Any, turn: Array) -> Any:
        """The group that each device takes in that turn."""
        return jax.tree.map(lambda array: array.reshape(own, -1, *array.shape[1:])[turn], rows)

    def evaluated(params: Any, constants: Any, rows: Any) -> Any:
        """Of each device one row, [1,...]."""
        return jax.tree.map(lambda leaf: leaf[None], function(params, constants, *rows))

    def added(one: Any, other: Any) -> Any:
        return jax.tree.map(lax.add, one, other)

    def finished(found: Any) -> Any:
        for bit in range(mesh.size.bit_length() - 1):
            pairs = [(device, device ^ 2**bit) for device in range(mesh.size)]
            found = added(found, jax.tree.map(partial(lax.ppermute, axis_name=mesh.axis_names, perm=pairs), found))
        sums, weight = jax.tree.map(lambda leaf: leaf[0], found)
        return jax.tree.map(lambda sum: mean(sum, weight), sums)

    take = on_devices(cut, split, everywhere, out=split)
    options = network_options(platform(mesh))
    evaluate = on_devices(evaluated, everywhere, everywhere, split, out=split, options=options)
    add = on_devices(added, split, split, out=split, donate=(0,))
    finish = on_devices(finished, split, out=everywhere)

    def total(params: Any, constants: Any, rows: Any, first: int, count: int) -> Any:
        """Of `count` groups of each device."""
        if count == 1:
            return evaluate(params, constants, take(rows, first))
        halves = (total(params, constants, rows, start, count // 2) for start in (first, first + count // 2))
        return add(*halves)

    return lambda params, constants, batch, keys: finish(total(params, constants, (batch, keys), 0, own))
