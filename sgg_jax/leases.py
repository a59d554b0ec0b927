"""A list of work that hosts share through a directory that all of them see."""

import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

FIRST = 60.0
"""Seconds that a block may take before a host has finished one of its own to compare with."""
PATIENCE = 2.0
"""Times as long as its own blocks take that a host leaves one to another before it does it again."""
LOOK = 10.0
"""Seconds after which a host that works looks what the others have done."""
DONE = ".done"


class Leases:
    """Blocks of work, taken one by one until all are done.

    A block is taken by making its file, which only one host can; the i-th of n hosts begins with the i-th part of the
    list. Where none is free, those are done again that others have held for too long: a host that died, or a slow
    one, holds up the rest by two blocks. So a block must come out the same whoever does it, and twice must do no harm.
    Clocks of different hosts are not compared.

    pause: seconds between two looks of a host that has nothing to do; clock: seconds, of this host.
    """

    def __init__(
        self,
        directory: Path,
        blocks: Sequence[int],
        host: int = 0,
        hosts: int = 1,
        pause: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.directory, self.pause, self.clock = directory, pause, clock
        directory.mkdir(parents=True, exist_ok=True)
        first = host * len(blocks) // hosts
        self._free = deque([*blocks[first:], *blocks[:first]])  # as far as this host knows
        self._open = set(blocks)  # not done, as far as it knows
        self._given: deque[int | None] = deque()  # given out and not finished
        self._began: dict[int, float] = {}  # own blocks in hand: when they were taken
        self._seen: dict[int, float] = {}  # blocks of others: when they were first seen taken, or done again
        self._longest: float | None = None  # of the own blocks, seconds
        self._looked = -LOOK

    def __iter__(self) -> Iterator[int | None]:
        """Blocks to do, and None where there is nothing to do but to look again; each is followed by `finish`, soon or
        after some more were taken."""
        idle = False
        while True:
            block = self._next()
            if block is None and not self._open - self._began.keys():
                return
            if block is None and idle and not self._began:
                time.sleep(self.pause)
            idle = block is None
            self._given.append(block)
            yield block

    def finish(self) -> None:
        """The results of the block that was given out first are where all hosts see them."""
        block = self._given.popleft()
        if block is None:
            return
        (self.directory / f"{block}{DONE}").touch()
        self._open.discard(block)
        took = self.clock() - self._began.pop(block)
        self._longest = max(took, self._longest or 0.0)

    def open(self) -> set[int]:
        """Blocks that are not done; what others did counts some seconds later."""
        if self.clock() - self._looked > LOOK:
            self._look()
        return self._open

    def _look(self) -> None:
        """Learns what is taken and what is done."""
        names = set(os.listdir(self.directory))
        self._open -= {int(name.removesuffix(DONE)) for name in names if name.endswith(DONE)}
        self._free = deque(block for block in self._free if str(block) not in names)
        self._looked = self.clock()

    def _next(self) -> int | None:
        while self._free:
            block = self._free.popleft()
            if self._take(block):
                return self._begin(block)
            self._look()  # somebody works here: whose next blocks are gone, too
        self._look()
        now, term = self.clock(), FIRST if self._longest is None else PATIENCE * self._longest
        others = self._open - self._began.keys()
        late = [block for block in others if now - self._seen.setdefault(block, now) > term]
        return self._begin(random.choice(late)) if late else None

    def _take(self, block: int) -> bool:
        try:
            (self.directory / str(block)).open("x").close()
        except FileExistsError:
            return False
        return True

    def _begin(self, block: int) -> int:
        self._began[block] = self._seen[block] = self.clock()
        return block
