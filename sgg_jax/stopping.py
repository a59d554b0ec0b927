"""Stops asked for by SIGTERM or SIGINT: a loop ends its step, what it made is saved, and the process exits with 75.

Loops look after every step. Where none does so for long, say in a compilation, the process
leaves by itself: files come to their names whole, so the same command goes on from what there is.
"""

import os
import signal
import sys
import threading
import time

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: try again later."""
PATIENCE = 8.0
"""Seconds that a loop has to end its step, so that it is saved within ten; or one and a half times as long as its last
step took, if that is more."""


class Stopped(KeyboardInterrupt):
    """The user or the scheduler wants the process to end; what was done is saved."""


class Signals:
    """What was asked for, and how long steps take."""

    def __init__(self) -> None:
        self.asked, self.noticed, self.asking = threading.Event(), threading.Event(), threading.Lock()
        self.looked: float | None = None  # when a loop last looked whether a stop was asked for
        self.step = 0.0  # seconds between its last two looks

    def look(self) -> bool:
        now = time.monotonic()
        self.step = now - (now if self.looked is None else self.looked)
        self.looked = now
        if self.asked.is_set():
            self.noticed.set()
        return self.noticed.is_set()

    @property
    def patience(self) -> float:
        """Seconds that the step in hand may still take."""
        return max(PATIENCE, 1.5 * self.step)

    def watch(self, wakeups: int) -> None:
        """Reads signals from a file descriptor for ever: the first asks, the second exits."""
        os.read(wakeups, 1)
        self.ask()
        os.read(wakeups, 1)
        os._exit(EXIT_CODE)

    def ask(self) -> None:
        with self.asking:
            if self.asked.is_set():
                return
            self.asked.set()
        patience = self.patience
        print(
            f"stopping when this step is done, in {patience:.0f} s at the latest; a second signal stops at once",
            file=sys.stderr,
            flush=True,
        )
        threading.Thread(target=self._give_up, args=(patience,), daemon=True).start()

    def _give_up(self, patience: float) -> None:
        if not self.noticed.wait(patience):
            os._exit(EXIT_CODE)


_process = Signals()


def asked() -> bool:
    """Whether a stop was asked for. The loop that is told so saves what it has, however long that takes, and raises
    Stopped."""
    return _process.look()


def check() -> None:
    """Raises Stopped if a stop was asked for: for loops that have nothing to save."""
    if asked():
        raise Stopped


def ask() -> None:
    """Asks for a stop, as a first signal does."""
    _process.ask()


def is_asked() -> bool:
    """Whether a stop was asked for; to be told so obliges to nothing."""
    return _process.asked.is_set()


def listen() -> None:
    """From now on SIGTERM and SIGINT ask for a stop. Called by the main thread of the program, once.

    A handler in Python would wait for the C++ code of a compilation or of a step to return; what C writes to a
    pipe as the signal comes, a thread reads at once.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_process.watch, args=(reading,), name="signals", daemon=True).start()
