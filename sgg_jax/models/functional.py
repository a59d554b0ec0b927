"""The seam between flax and everything else: a module becomes a pure function and a nested dict of weights."""

from collections.abc import Callable
from dataclasses import dataclass
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

    def __call__(self, params: Any, *inputs: jax.Array) -> jax.Array:
        state = nnx.State(params)
        return nnx.merge(self.graph, state)(*inputs)


def functional(module: nnx.Module) -> tuple[Callable[..., jax.Array], dict[str, Any]]:
    """module -> (apply, params): apply(params, *inputs) is pure; params is a nested dict of arrays."""
    graph, state = nnx.split(module)
    return Apply(graph), jax.tree.map(jnp.asarray, nnx.to_pure_dict(state))
