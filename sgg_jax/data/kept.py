"""Examples that stay in memory for all data sets and stages of a process."""

import threading
from collections.abc import Callable, Hashable

from sgg_jax.data.dataset import Example

KEPT = 2**28
"""Bytes of pixels."""


class Kept:
    """Labelled examples by what they are a function of, up to `room` bytes; what is in stays in. For examples that are
    drawn: that takes as long as a small network learns from one, and a run asks for the same ones stage by stage."""

    def __init__(self, room: int = KEPT) -> None:
        self._room = room
        self._examples: dict[Hashable, Example] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, draw: Callable[[], Example]) -> Example:
        """The example of that key, drawn if it is not here; its arrays are read-only, since others have them, too."""
        found = self._examples.get(key)
        if found is None:
            found = draw()
            arrays = found.image, found.known_labels()
            for array in arrays:
                array.setflags(write=False)
            size = sum(array.nbytes for array in arrays)
            with self._lock:
                if key not in self._examples and size <= self._room:
                    self._room -= size
                    self._examples[key] = found
        return found
