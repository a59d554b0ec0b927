"""Between published tensors and ours: names, layouts, and frozen BatchNorm folded into its convolution.

A network's table is a list of links. Each reads a few published tensors, makes ours of them, and can go back, so one
table serves import and export. Names of ours are dotted paths into the params; published ones are PyTorch's keys.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Arrays = tuple[np.ndarray, ...]
Shapes = dict[str, tuple[int, ...]]
"""By a weight's dotted name, or by a tensor's published one."""


@dataclass(frozen=True)
class Link:
    """Published tensors `theirs` and the weights `ours` that are made of them; both functions keep that order."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[[Arrays], Arrays]  # theirs -> ours
    write: Callable[[Arrays], Arrays]  # ours -> theirs


def same(ours: str, theirs: str) -> Link:
    """A tensor that is kept as it is."""
    return Link((ours,), (theirs,), lambda given: given, lambda given: given)


def norm(ours: str, theirs: str) -> list[Link]:
    """Scale and bias of a GroupNorm or LayerNorm."""
    return [same(f"{ours}.scale", f"{theirs}.weight"), same(f"{ours}.bias", f"{theirs}.bias")]


def linear(ours: str, theirs: str, *, bias: bool = True) -> list[Link]:
    """A linear layer: [O,I] there, [I,O] here."""

    def transposed(given: Arrays) -> Arrays:
        return (given[0].T,)

    kernel = Link((f"{ours}.kernel",), (f"{theirs}.weight",), transposed, transposed)
    return [kernel, same(f"{ours}.bias", f"{theirs}.bias")] if bias else [kernel]


def conv(ours: str, theirs: str, *, axes: int = 2, bias: bool = True) -> list[Link]:
    """A convolution over `axes` axes: [O,I,h,w] there, [h,w,I,O] here; with one axis or none, [O,I,1] or [O,I] there
    and [1,1,I,O] here."""

    def read(given: Arrays) -> Arrays:
        kernel = given[0].reshape(*given[0].shape, *[1] * (2 - axes))
        return (kernel.transpose(2, 3, 1, 0),)

    def write(given: Arrays) -> Arrays:
        kernel = given[0].transpose(3, 2, 0, 1)
        return (kernel.reshape(kernel.shape[: 2 + axes]),)

    kernel = Link((f"{ours}.kernel",), (f"{theirs}.weight",), read, write)
    return [kernel, same(f"{ours}.bias", f"{theirs}.bias")] if bias else [kernel]


BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def folded(ours: str, theirs: str, batch_norm: str, *, eps: float = 1e-5, bias: bool = False) -> list[Link]:
    """A convolution and the frozen BatchNorm that follows it, as one convolution with bias.

    BN(conv(x)) = conv(x; kernel * gain) + (conv bias - mean) * gain + bias,  gain = weight / sqrt(var + eps)

    In float64. The way back gives the same function: a BatchNorm of gain one whose bias is ours.
    """
    own = (f"{theirs}.weight", f"{theirs}.bias")[: 1 + bias]

    def read(given: Arrays) -> Arrays:
        wide = [np.asarray(array, np.float64) for array in given]
        kernel, start = wide[0], wide[1] if bias else 0.0
        weight, shift, mean, variance = wide[len(own) :]
        gain = weight / np.sqrt(variance + eps)
        kernel = (kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0)
        return kernel.astype(np.float32), ((start - mean) * gain + shift).astype(np.float32)

    def write(given: Arrays) -> Arrays:
        kernel, shift = given
        one, zero = np.ones_like(shift), np.zeros_like(shift)
        weights = (kernel.transpose(3, 2, 0, 1), zero)[: len(own)]
        return (*weights, one, shift, zero, one - np.float32(eps))

    names = (*own, *(f"{batch_norm}.{name}" for name in BATCH_NORM))
    return [Link((f"{ours}.kernel", f"{ours}.bias"), names, read, write)]


def their_shapes(links: Sequence[Link], ours: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Shapes that published tensors must have, by name."""
    found: Shapes = {}
    for link in links:
        tensors = link.write(tuple(np.broadcast_to(np.float32(0), ours[name]) for name in link.ours))
        found.update((name, tuple(tensor.shape)) for name, tensor in zip(link.theirs, tensors, strict=True))
    return found
