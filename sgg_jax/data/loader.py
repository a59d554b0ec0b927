"""Batches for training: a pure function of (seed, step), read ahead in a thread."""

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from sgg_jax.data.dataset import Dataset, Example
from sgg_jax.errors import InputError

Batch = dict[str, np.ndarray]
"""image [B,H,W,3] uint8, image_id [B] int32 and, of a labelled set, labels [B,H,W] uint8."""


class Batches:
    """`batches(step)` is the batch of that step: every epoch is one shuffled pass, and a batch may span two.

    It depends on (seed, step) alone, so a resumed run needs the step and nothing else. Decoded examples are kept in
    memory up to `cache_bytes`. Threads may call it at once.

    Raises InputError if the data set is empty, the batch size is below 1 or the seed is negative; a call passes on the
    InputError of a file that cannot be read.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, cache_bytes: int = 2**30) -> None:
        if len(dataset) == 0:
            raise InputError("the data set is empty; training needs at least one example")
        if batch_size < 1:
            raise InputError(f"the batch size is {batch_size}, but it must be at least 1")
        if seed < 0:
            raise InputError(f"the seed is {seed}, but it must not be negative")
        self._dataset = dataset
        self._batch_size = batch_size
        self._cache: dict[int, Example] = {}
        self._free_bytes = cache_bytes
        self._lock = threading.Lock()

        @functools.lru_cache(maxsize=4)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng((seed, epoch)).permutation(len(dataset))

        self._order = order

    def __call__(self, step: int) -> Batch:
        """The batch of `step` >= 0."""
        indices = self.indices(step)
        examples = [self._example(index) for index in indices]
        batch = {
            "image": np.stack([example.image for example in examples]),
            "image_id": np.array([self._dataset.image_id(index) for index in indices], np.int32),
        }
        if self._dataset.labelled:
            batch["labels"] = np.stack([example.labels for example in examples if example.labels is not None])
        return batch

    def indices(self, step: int) -> list[int]:
        """Indices into the data set of the batch of `step`."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        places = range(step * self._batch_size, (step + 1) * self._batch_size)
        length = len(self._dataset)
        return [int(self._order(place // length)[place % length]) for place in places]

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


def prefetch(batches: Callable[[int], Batch], steps: Iterable[int], depth: int = 2) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batches(step)) in the order of `steps`, prepared up to `depth` >= 1 batches ahead in one thread.

    An exception of `batches` or `steps` is raised here at the place of its batch. The thread ends with the generator.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}, but it must be at least 1")
    results: queue.SimpleQueue[tuple[int, Batch] | BaseException | None] = queue.SimpleQueue()
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


def label_histogram(dataset: Dataset, limit: int = 200) -> np.ndarray:
    """int64 [C]: pixels of each train id, VOID left out, in at most `limit` examples spread evenly over the set.

    Raises InputError if the set is empty or has no labels.
    """
    if len(dataset) == 0 or not dataset.labelled:
        raise InputError("pixels of each class cannot be counted: the data set is empty or has no labels")
    number = min(limit, len(dataset))
    counts = np.zeros(256, np.int64)
    for index in (place * len(dataset) // number for place in range(number)):
        labels = dataset[index].labels
        assert labels is not None
        counts += np.bincount(labels.ravel(), minlength=256)
    return counts[: len(dataset.classes)]
