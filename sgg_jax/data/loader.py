"""Batches for training: a pure function of (seed, step), read ahead in a thread."""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sgg_jax.data.crops import Crop, RareClasses, random_crop
from sgg_jax.data.dataset import Dataset, Example, LeftOutError, readable
from sgg_jax.errors import InputError

Batch = dict[str, np.ndarray]
"""image [B,H,W,3] uint8, image_id [B] int32 and, of a labelled set, labels [B,H,W] uint8."""


class Batches:
    """`batches(step)` is the batch of that step: every epoch is one shuffled pass, and a batch may span two.

    It depends on (seed, step) alone: not on restarts, threads or hosts. Decoded examples are kept in memory up to
    `cache_bytes`. Threads may call it at once. In place of an example that the run goes on without comes the next one.

    crop: cuts random crops out of the examples; None takes them as they are, all of one size.
    rare: draws images by their rare classes instead of in shuffled passes; None for passes.
    workers: threads that decode; 0 decodes in the calling one.
    part: (i, n): of the rows of each batch only the i-th of n equal parts, as the i-th of n hosts needs them.

    Raises InputError if the data set is empty, the batch size is below 1 or does not divide over the hosts, or the seed
    is negative; a call passes on the InputError of a file that cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        cache_bytes: int = 2**30,
        *,
        crop: Crop | None = None,
        rare: RareClasses | None = None,
        workers: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if len(dataset) == 0:
            raise InputError("the data set is empty; training needs at least one example")
        if batch_size < 1:
            raise InputError(f"the batch size is {batch_size}, but it must be at least 1")
        if batch_size % part[1]:
            raise InputError(f"a batch of {batch_size} does not divide over {part[1]} hosts; choose a multiple")
        if seed < 0:
            raise InputError(f"the seed is {seed}, but it must not be negative")
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed, self._crop, self._rare = seed, crop, rare
        self._part = part
        self._pool = ThreadPoolExecutor(workers, "decode") if workers else None
        self._cache: dict[int, Example] = {}
        self._free_bytes = cache_bytes
        self._lock = threading.Lock()

        @functools.lru_cache(maxsize=4)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng((seed, epoch)).permutation(len(dataset))

        self._order = order

    def __call__(self, step: int) -> Batch:
        """The batch of `step` >= 0."""
        rows = list((self._pool.map if self._pool else map)(self._row, self._places(step)))
        batch = {
            "image": np.stack([example.image for _, example in rows]),
            "image_id": np.array([self._dataset.image_id(index) for index, _ in rows], np.int32),
        }
        if self._dataset.labelled:
            batch["labels"] = np.stack([example.known_labels() for _, example in rows])
        return batch

    def indices(self, step: int) -> list[int]:
        """Indices into the data set of the batch of `step`."""
        return [self._drawn(place)[0] for place in self._places(step)]

    def _places(self, step: int) -> range:
        """Numbers of the batch's rows, counted from the first row of step 0."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        rows = self._batch_size // self._part[1]
        first = step * self._batch_size + self._part[0] * rows
        return range(first, first + rows)

    def _drawn(self, place: int) -> tuple[int, int | None]:
        """The index of a row, and the class that it was drawn for."""
        if self._rare is not None:
            return self._rare.draw(np.random.default_rng((self._seed, 1, place)))
        length = len(self._dataset)
        return int(self._order(place // length)[place % length]), None

    def _row(self, place: int) -> tuple[int, Example]:
        first, wanted = self._drawn(place)
        length = len(self._dataset)
        for index in (*range(first, length), *range(first)):
            try:
                example = self._example(index)
            except LeftOutError:
                continue
            # making a random generator takes longer than all else here
            if self._crop is not None and not self._crop.keeps(example):
                example = random_crop(example, self._crop, np.random.default_rng((self._seed, 2, place)), wanted)
            return index, example
        raise InputError("no example of the data set can be used")

    def _example(self, index: int) -> Example:
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        example = self._dataset[index]
        size = example.image.nbytes + (0 if example.labels is None else example.labels.nbytes)
        with self._lock:
            # what is in stays in: shuffled passes over a set too large for the cache would evict all before its use
            if index not in self._cache and size <= self._free_bytes:
                self._free_bytes -= size
                self._cache[index] = example
        return example


def prefetch(batches: Callable[[int], Any], steps: Iterable[int], depth: int = 2) -> Iterator[tuple[int, Any]]:
    """Yield (step, batches(step)) in the order of `steps`, prepared up to `depth` >= 1 batches ahead in one thread.

    An exception of `batches` or `steps` is raised here at the place of its batch. The thread ends with the generator.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}, but it must be at least 1")
    results: queue.SimpleQueue[tuple[int, Any] | BaseException | None] = queue.SimpleQueue()
    slots = threading.Semaphore(depth)
    stopped = threading.Event()

    def work() -> None:
        try:
            for step in steps:
                slots.acquire()
                if stopped.is_set():
                    return
                results.put((step, batches(step)))
            results.put(None)
        except BaseException as error:  # whatever it is, the consumer waits for something
            results.put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            slots.release()
            yield result
    finally:
        stopped.set()
        slots.release()
        thread.join()


class Waiting:
    """An iterator that adds up the `seconds` its consumer has waited for items."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self.seconds = iter(items), 0.0

    def __iter__(self) -> "Waiting":
        return self

    def __next__(self) -> Any:
        began = time.monotonic()
        try:
            return next(self._items)
        finally:
            self.seconds += time.monotonic() - began


def label_histogram(dataset: Dataset, limit: int = 200) -> np.ndarray:
    """int64 [C]: pixels of each train id, VOID left out, in at most `limit` examples spread evenly over the set.

    Raises InputError if the set is empty or has no labels.
    """
    if len(dataset) == 0 or not dataset.labelled:
        raise InputError("pixels of each class cannot be counted: the data set is empty or has no labels")
    number = min(limit, len(dataset))
    counts = np.zeros(256, np.int64)
    for _, example in readable(dataset, (place * len(dataset) // number for place in range(number))):
        counts += np.bincount(example.known_labels().ravel(), minlength=256)
    return counts[: len(dataset.classes)]


def class_pixels(dataset: Dataset, workers: int = 0, progress: Callable[[], None] | None = None) -> np.ndarray:
    """[n,C] int64: pixels of each class in each example; zeros for those that the run goes on without."""

    def count(index: int) -> np.ndarray:
        try:
            labels = dataset[index].known_labels()
        except LeftOutError:
            return np.zeros(len(dataset.classes), np.int64)
        return np.bincount(labels.ravel(), minlength=256)[: len(dataset.classes)]

    found = np.zeros((len(dataset), len(dataset.classes)), np.int64)
    with ThreadPoolExecutor(max(workers, 1), "count") as pool:
        for index, row in enumerate(pool.map(count, range(len(dataset)))):
            found[index] = row
            if progress is not None:
                progress()
    return found
