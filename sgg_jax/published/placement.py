"""Where a tensor lies in a file, and whether it can lie there: what all formats come down to.

Functions here and in the readers of formats raise ValueError, a sentence without the file's name; `open_tensors` adds
it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

MOST = 2**63 - 1  # sizes are int64 in every format
MOST_AXES = 32  # of a numpy array, before numpy 2


@dataclass(frozen=True)
class Record:
    """Bytes of a file, and their CRC-32 where the file states one."""

    start: int
    length: int
    crc: int | None = None


@dataclass(frozen=True)
class Tensor:
    """A strided array inside a record; `offset` (from the record's start) and `strides` count values, not bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    record: Record
    swapped: bool = False  # the file's byte order is not this machine's

    @property
    def extent(self) -> int:
        """Values from the first to the last, both included and those that strides skip; 0 for an empty tensor."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


DTYPES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(np.bool_),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    **{f"float{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""What can be read, by torch's and numpy's name."""


def quoted(text: str) -> str:
    """A name out of a file, made fit for a sentence: control characters escaped, cut to 80 characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def sizes(value: object) -> tuple[int, ...] | None:
    """`value` as a shape or strides, None where it is none."""
    if not isinstance(value, tuple | list) or len(value) > MOST_AXES:
        return None
    return tuple(value) if all(type(size) is int and 0 <= size <= MOST for size in value) else None


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of an array without gaps, the last axis fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def check_placement(name: str, tensor: Tensor) -> None:
    """ValueError, naming the tensor, where it reaches out of its record or is larger than it."""
    values, held = math.prod(tensor.shape), tensor.record.length // tensor.dtype.itemsize
    if math.prod(max(size, 1) for size in tensor.shape) * tensor.dtype.itemsize > MOST:
        raise ValueError(f"the shape of {quoted(name)} is beyond any memory")
    if tensor.offset + tensor.extent > held:
        raise ValueError(f"{quoted(name)} needs {tensor.offset + tensor.extent} values where the file holds {held}")
    if values > held:  # strides of 0 would make a large array of a small file
        raise ValueError(f"{quoted(name)} spreads {held} values over {values}")
