"""A list of work that hosts share through a directory that all of them see."""

import os
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

FIRST = 60.0
"""Seconds that a block may take before a host has finished one of its own to compare with."""
PATIENCE = 2.0
"""Times as long as its own blocks take that a host leaves one to another before it does it again."""
DONE = ".done"


class Leases:
    """Blocks of work, taken one by one until all are done.

    A block is taken by making its file, which only one host can; the i-th of n hosts begins with the i-th part of the
    list. Where none is free, those are done again that others have held for too long: a host that died, or a slow
    one, holds up the rest by two blocks. So a block must come out the same whoever does it, and twice must do no harm.
    Clocks of different hosts are not compared.
    """

    def __init__(self, directory: Path, blocks: Sequence[int], host: int = 0, hosts: int = 1, pause: float = 0.2):
        self.directory, self.pause = directory, pause
        directory.mkdir(parents=True, exist_ok=True)
        first = host * len(blocks) // hosts
        self._order = [*blocks[first:], *blocks[:first]]
        self._taken: deque[int | None] = deque()
        self._began: dict[int, float] = {}  # own blocks in hand: when they were taken
        self._seen: dict[int, float] = {}  # blocks of others: when they were first seen taken, or done again
        self._longest: float | None = None  # of the own blocks, seconds

    def __iter__(self) -> Iterator[int | None]:
        """Blocks to do, and None where there is nothing to do but to look again; each is followed by `finish`, soon or
        after some more were taken."""
        idle = False
        while True:
            block = self._next()
            if block is None and not self.open() - self._began.keys():
                return
            if block is None and idle:
                time.sleep(self.pause)
            idle = block is None
            self._taken.append(block)
            yield block

    def finish(self) -> None:
        """The results of the block that was taken first are where all hosts see them."""
        block = self._taken.popleft()
        if block is None:
            return
        (self.directory / f"{block}{DONE}").touch()
        took = time.monotonic() - self._began.pop(block)
        self._longest = max(took, self._longest or 0.0)

    def open(self) -> set[int]:
        """Blocks that are not done."""
        names = os.listdir(self.directory)
        return set(self._order) - {int(name.removesuffix(DONE)) for name in names if name.endswith(DONE)}

    def _next(self) -> int | None:
        names = set(os.listdir(self.directory))
        rest = [block for block in self._order if f"{block}{DONE}" not in names and block not in self._began]
        for block in rest:
            if str(block) not in names and self._take(block):
                return self._begin(block)
        now, term = time.monotonic(), FIRST if self._longest is None else PATIENCE * self._longest
        late = [block for block in rest if now - self._seen.setdefault(block, now) > term]
        return self._begin(random.choice(late)) if late else None

    def _take(self, block: int) -> bool:
        try:
            (self.directory / str(block)).open("x").close()
        except FileExistsError:
            return False
        return True

    def _begin(self, block: int) -> int:
        self._began[block] = self._seen[block] = time.monotonic()
        return block
