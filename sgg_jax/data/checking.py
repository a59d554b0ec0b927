"""All examples of a data set, looked at on all cores; and marks of their files, so that none is looked at twice.

check calls examine(dataset, index) -> Finding (examining.py) for each; summary.py puts the findings together.
"""

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from sgg_jax.data.dataset import Dataset
from sgg_jax.data.examining import Finding, examine
from sgg_jax.data.pairs import Pairs
from sgg_jax.errors import InputError

VERSION = 1
"""Raise it when files must be looked at again that an earlier version found to be right, or wrong."""
FEW = 256
"""Examples that are fewer than these are not worth the start of processes."""
PASSING = ("unreadable", "too large")
"""Errors that may go without a change of the file: a permission is given, memory is free again."""


def check(
    dataset: Dataset, indices: Sequence[int], reopen: Callable[[], Dataset | None] | None = None
) -> Iterator[tuple[int, Finding]]:
    """(index, what examine finds) for the indices, as they are finished, on all cores that this process may use.

    reopen: gives the data set again, in another process. Without it, or for few examples, threads do the work: a pair
    of PNG files of 1920x1056 takes 40 ms of one core, for a quarter of which the interpreter's lock is held (measured
    by how long another thread waits for it), so that threads keep about four cores busy. On two cores, beside another
    load, both did 13 to 14 pairs/s. Processes have no such limit, but take a second to start.

    Raises InputError if a process is killed.
    """
    pool: Executor
    if many := reopen is not None and len(indices) >= FEW and cores() > 1:
        # spawned, not forked: whoever calls may have threads
        pool = ProcessPoolExecutor(cores(), get_context("spawn"), initializer=_begin, initargs=(reopen,))
    else:
        pool = ThreadPoolExecutor(cores())
    try:
        waiting = {
            pool.submit(_examine_there, index, dataset.name(index))
            if many
            else pool.submit(examine, dataset, index): index
            for index in indices
        }
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool as error:
        text = "a process that checked files was killed, perhaps for lack of memory; the same command goes on"
        raise InputError(text) from error
    finally:  # an interrupt waits for the files at hand and no more
        pool.shutdown(cancel_futures=True)


_there: Dataset | None = None
"""The data set of a process that check started."""


def _begin(reopen: Callable[[], Dataset | None]) -> None:
    global _there
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it, too, and says what there is to say
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _there = reopen()
    except InputError:  # the set has gone since the parent opened it
        _there = None


def _end_with_parent() -> None:
    """A parent that is killed cannot end its processes."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _examine_there(index: int, name: str) -> Finding:
    dataset = _there
    if dataset is not None and not (index < len(dataset) and dataset.name(index) == name):
        # files came or went since the parent listed them
        index = next((i for i in range(len(dataset)) if dataset.name(i) == name), -1)
    if dataset is None or index < 0:
        return Finding(name, "unreadable", f"{name} has gone since the check began; put it back and run again")
    return examine(dataset, index)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stamps(dataset: Dataset, indices: Iterable[int], source: str = "") -> list[str]:
    """For each index a checksum that changes when the example's files may have, or what is expected of them.

    source: what the checksums of a set without files of its own depend on besides.
    """
    shared: list[object] = [VERSION, source, dataset.labelled]
    if isinstance(dataset, Pairs):
        shared += [dataset.decode.__name__, hashlib.sha1(dataset.table.tobytes()).hexdigest()]
    found = []
    for index in indices:
        files: list[object] = [dataset.name(index)]
        if isinstance(dataset, Pairs):
            frame = dataset.frames[index]
            files += [_file_stamp(dataset.files.where(name), name) for name in (frame.image, frame.label) if name]
        found.append(hashlib.sha1(repr(shared + files).encode()).hexdigest()[:20])
    return found


def _file_stamp(where: str, name: str) -> tuple[str, int, int]:
    """A file's place, size and time of change, or those of the zip file that it is in (see Tree.where)."""
    for path in (where, where.removeprefix(f"{name} in ")):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        return where, status.st_size, status.st_mtime_ns
    return where, -1, -1
