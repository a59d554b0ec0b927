"""How far a loop is and when it ends: a bar on a terminal, a plain line now and then in a log file."""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

from sgg_jax import stopping

SECONDS = 10.0  # between two lines in a log

T = TypeVar("T")

_silent = False


def silence() -> None:
    """Loops of this process report nothing from now on: others do so for it."""
    global _silent
    _silent = True


tqdm.monitor_interval = 0  # no thread that outlives the loop
tqdm.set_lock(threading.RLock())  # the default lock also makes a semaphore shared between processes


class Progress:
    """Counts finished items out of `total` on stderr; use it as a context.

    `start` of the items were done before this run, say before a resume: they count, but not towards the rate.
    """

    def __init__(self, total: int, label: str, unit: str = "it", start: int = 0) -> None:
        self.total, self.label, self.unit, self.start = total, label, unit, start
        self.done = start
        self._note = ""
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._first: tuple[int, float] | None = None  # items and time at the first advance
        self._written: tuple[int, float] | None = None  # the same at the last line
        if _on_terminal() and not _silent:
            counts = {"total": self.total, "initial": self.start, "unit": self.unit}
            self._bar = tqdm(desc=self.label, file=sys.stderr, dynamic_ncols=True, **counts)
        return self

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more items are done. `note`, say "loss 0.31", stands at the end of the line till the next one."""
        self.done += n
        self._note = note or self._note
        if _silent:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(n)
            return
        now = time.monotonic()
        self._first = self._first or (self.done, now)
        if self._written is None or now - self._written[1] >= SECONDS:
            self._write(now)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not _silent and (self._written is None or self._written[0] != self.done):
            self._write(time.monotonic())

    def _write(self, now: float) -> None:
        rate = None  # items per second since the start
        if self._first and self.done > self._first[0] and now > self._first[1]:
            # The first item often pays for a compilation; without it the forecast is right sooner.
            rate = (self.done - self._first[0]) / (now - self._first[1])
        line = tqdm.format_meter(
            self.done, self.total, now - self._began, ncols=0, prefix=self.label, ascii=True, unit=self.unit,
            rate=rate, initial=self.start, postfix=self._note,
        )  # fmt: skip
        print(line, file=sys.stderr, flush=True)
        self._written = (self.done, now)


def _on_terminal() -> bool:
    """A terminal of width 0, such as some containers have, would show an empty bar: it counts as a file."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


def track(items: Iterable[T], total: int, label: str, unit: str = "it", start: int = 0) -> Iterator[T]:
    """The items still to do, reported as they are finished; `total` counts the `start` items done earlier, too.

    A stop that was asked for ends the loop between two items.
    """
    with Progress(total, label, unit, start) as progress:
        for item in items:
            yield item
            progress.advance()
            stopping.check()
