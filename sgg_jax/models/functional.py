"""The seam between flax and everything else: a module becomes a pure function and a nested dict of weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


@dataclass(frozen=True)
class Apply:
    """`apply(params, *inputs)`: the module's call as a pure function.

    Two modules of the same structure give equal functions, so jit compiles once for both, whatever their weights.
    """

    graph: nnx.GraphDef[Any]
    method: str = "__call__"

    def __call__(self, params: Any, *inputs: jax.Array) -> jax.Array:
        found: jax.Array = getattr(nnx.merge(self.graph, nnx.State(params)), self.method)(*inputs)
        return found

    def of(self, method: str) -> "Apply":
        """Another method of the same module, with the same weights."""
        return replace(self, method=method)


def named(params: Any) -> dict[str, Any]:
    """Leaves by dotted name, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def functional(module: nnx.Module) -> tuple[Apply, dict[str, Any]]:
    """module -> (apply, params): apply(params, *inputs) is pure; params is a nested dict of arrays."""
    graph, state = nnx.split(module)
    return Apply(graph), jax.tree.map(jnp.asarray, nnx.to_pure_dict(state))


def outline(module: nnx.Module) -> tuple[Apply, dict[str, Any]]:
    """As `functional`, with shapes (jax.ShapeDtypeStruct) in the place of weights: for a network whose weights are to
    come from a file, or are only to be counted."""
    graph, state = nnx.split(module)
    return Apply(graph), jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(state)
    )


def flops(function: Callable[..., Any], *inputs: Any) -> float:
    """FLOPs of a function of arrays (or their shapes), as XLA counts them before it optimises; 2 for a multiplication
    and an addition. Counted for the CPU, since plug-ins for accelerators do not count; 0 where there is no CPU, or one
    that does not know an operation (cuDNN's attention)."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), inputs)
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            lowered = jax.jit(function).lower(*shapes)
    except RuntimeError:
        lowered = jax.jit(function).lower(*shapes)
    return float((lowered.cost_analysis() or {}).get("flops", 0.0))
