"""Means over a batch in groups of images, added in one order however many devices share them.

XLA rounds a program of its own way for every size of its arrays, and where operations are fused. So what must be the
same on any number of devices is a program of its own here, over one group on each device, and sums are programs of
their own, too.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sgg_jax.optimization import Recipe
from sgg_jax.types import Array


def groups_of(recipe: Recipe, mesh: Mesh) -> int:
    """Groups that a batch of the recipe is cut into on these devices.

    recipe.groups, or as many as there are devices where these are more, but no more than divide the batch; 1 where the
    devices are not 2^n or split the weights between them.
    """
    if recipe.groups == 1 or mesh.size.bit_count() > 1 or "weights" in mesh.axis_names:
        return 1
    return math.gcd(max(recipe.groups, mesh.size), recipe.batch_size)


def mean_of_groups(function: Callable[..., Any], groups: int, mesh: Mesh) -> Callable[..., Any]:
    """(params, constants, batch, key) -> the mean over all groups of function(params, constants, group, its key).

    groups: 2^n, a multiple of the mesh's 2^m devices. Arrays of the batch [B,...] are split over all axes of the mesh,
    the key of group g is fold_in(key, g). Groups are added as a binary tree, halves to halves: first those of a device,
    then between devices, each with the one whose number differs in one bit.
    """
    axes, own = mesh.axis_names, groups // mesh.size
    everywhere, split = P(), P(axes)

    def on_devices(body: Callable[..., Any], *specs: P, out: P, donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        mapped = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
        return jax.jit(mapped, donate_argnums=donate)

    def cut(batch: Any, key: Array, turn: Array) -> Any:
        """The group that each device takes in that turn, and its key."""
        part = jax.tree.map(lambda rows: rows.reshape(own, -1, *rows.shape[1:])[turn], batch)
        return part, jax.random.fold_in(key, lax.axis_index(axes) * own + turn)[None]

    def found(params: Any, constants: Any, part: Any, key: Array) -> Any:
        """Of each device one row, [1,...]."""
        return jax.tree.map(lambda leaf: leaf[None], function(params, constants, part, key[0]))

    def mean(total: Any) -> Any:
        for bit in range(mesh.size.bit_length() - 1):
            pairs = [(device, device ^ 2**bit) for device in range(mesh.size)]
            total = jax.tree.map(lambda sum, pairs=pairs: sum + lax.ppermute(sum, axes, pairs), total)
        return jax.tree.map(lambda sum: sum[0] / groups, total)

    take = on_devices(cut, split, everywhere, everywhere, out=split)
    evaluate = on_devices(found, everywhere, everywhere, split, split, out=split)
    add = on_devices(lambda sum, other: jax.tree.map(lax.add, sum, other), split, split, out=split, donate=(0,))
    finish = on_devices(mean, split, out=everywhere)

    def total(params: Any, constants: Any, batch: Any, key: Array, first: int, count: int) -> Any:
        """Sum of `count` groups of each device."""
        if count == 1:
            return evaluate(params, constants, *take(batch, key, first))
        halves = (total(params, constants, batch, key, start, count // 2) for start in (first, first + count // 2))
        return add(*halves)

    return lambda params, constants, batch, key: finish(total(params, constants, batch, key, 0, own))
