"""Batches are a pure function of (seed, step); prefetch gives the same, in order, and ends its thread."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from sgg_jax.data.crops import Crop, RareClasses
from sgg_jax.data.dataset import VOID, ClassInfo, Example, LeftOutError
from sgg_jax.data.loader import Batch, Batches, Waiting, class_pixels, label_histogram, prefetch
from sgg_jax.errors import InputError


class Numbers:
    """Example i is filled with i; its id is 1000 + i. Counts its reads."""

    classes: tuple[ClassInfo, ...] = (ClassInfo("even", (0,), (0, 0, 0)), ClassInfo("odd", (1,), (9, 9, 9)))
    size = (2, 3)

    def __init__(self, length: int, labelled: bool = True) -> None:
        self.length, self.labelled = length, labelled
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return str(index)

    def image_id(self, index: int) -> int:
        return 1000 + index

    def __getitem__(self, index: int) -> Example:
        self.reads.append(index)
        labels = np.full(self.size, index % 2, np.uint8)
        labels[0, 0] = VOID
        return Example(np.full((*self.size, 3), index, np.uint8), labels if self.labelled else None)


def indices(batch: Batch) -> list[int]:
    return [int(value) for value in batch["image"][:, 0, 0, 0]]


def same(one: Batch, two: Batch) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


def test_batch_fields_belong_together() -> None:
    batch = Batches(Numbers(10), 4, seed=0)(3)
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        "image": (np.uint8, (4, 2, 3, 3)),
        "labels": (np.uint8, (4, 2, 3)),
        "image_id": (np.int32, (4,)),
    }
    assert batch["image_id"].tolist() == [1000 + index for index in indices(batch)]
    assert batch["labels"][:, 1, 1].tolist() == [index % 2 for index in indices(batch)]
    assert "labels" not in Batches(Numbers(10, labelled=False), 4, seed=0)(3)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, two = Batches(Numbers(11), 4, seed=5), Batches(Numbers(11), 4, seed=5, cache_bytes=0)
    forward = [one(step) for step in range(30)]
    for step in np.random.default_rng(0).permutation(30):
        assert same(two(int(step)), forward[step])
    assert [indices(Batches(Numbers(11), 4, seed=6)(step)) for step in range(30)] != [indices(b) for b in forward]


@pytest.mark.parametrize(("length", "size"), [(12, 4), (11, 4), (3, 8), (1, 5)])
def test_every_epoch_has_every_example_once(length: int, size: int) -> None:
    batches = Batches(Numbers(length), size, seed=1)
    seen = [index for step in range(length * 6) for index in indices(batches(step))]
    epochs = [seen[start : start + length] for start in range(0, len(seen), length)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert length < 3 or len({tuple(epoch) for epoch in epochs}) > 3


def test_order_is_the_documented_one() -> None:
    batches = Batches(Numbers(5), 3, seed=7)
    for step in (0, 1, 2, 40):
        places = [divmod(place, 5) for place in range(step * 3, step * 3 + 3)]
        expected = [np.random.default_rng((7, epoch)).permutation(5)[place] for epoch, place in places]
        assert batches.indices(step) == indices(batches(step)) == expected


def test_cache_holds_what_it_may_and_gives_the_same() -> None:
    data = Numbers(8)
    one = 2 * 3 * 4  # bytes of an example
    batches, bare = Batches(data, 8, seed=0, cache_bytes=3 * one + one - 1), Batches(Numbers(8), 8, 0, cache_bytes=0)
    batch = batches(0)
    batch["image"][:] = 0  # a consumer may write into its batch
    data.reads.clear()
    assert same(batches(1), bare(1))
    assert len(data.reads) == 8 - 3


def test_impossible_settings_are_refused() -> None:
    for length, size, seed, word in ((0, 1, 0, "empty"), (3, 0, 0, "batch size"), (3, 1, -1, "seed")):
        with pytest.raises(InputError, match=word):
            Batches(Numbers(length), size, seed)
    with pytest.raises(ValueError, match="step -1"):
        Batches(Numbers(3), 1, 0)(-1)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_equals_direct_calls() -> None:
    batches, steps = Batches(Numbers(7), 3, seed=2), [4, 0, 9, 9, 1]
    got = list(prefetch(batches, steps))
    assert [step for step, _ in got] == steps
    assert all(same(batch, batches(step)) for step, batch in got)
    assert not threads()


def test_prefetch_reads_ahead_so_far_and_ends_when_left() -> None:
    started: list[int] = []
    reached = threading.Semaphore(0)

    def batches(step: int) -> Batch:
        started.append(step)
        reached.release()
        return {}

    def forever() -> Iterator[int]:
        step = 0
        while True:
            yield step
            step += 1

    stream = prefetch(batches, forever(), depth=3)
    assert next(stream)[0] == 0
    for _ in range(4):  # the one in use and three ahead of it
        assert reached.acquire(timeout=10)
    assert not reached.acquire(timeout=0.05)
    assert threads()
    stream.close()  # type: ignore[attr-defined]
    assert not threads() and started == [0, 1, 2, 3]


def test_prefetch_raises_at_the_place_of_the_batch() -> None:
    def batches(step: int) -> Batch:
        if step == 2:
            raise InputError("picture.png is empty")
        return {}

    got = []
    with pytest.raises(InputError, match="picture.png"):
        for step, _ in prefetch(batches, range(5)):
            got.append(step)
    assert got == [0, 1] and not threads()

    def steps() -> Iterator[int]:
        yield 7
        raise KeyError("steps")

    with pytest.raises(KeyError, match="steps"):
        list(prefetch(lambda step: {}, steps()))


def test_histogram_counts_an_even_part_without_void() -> None:
    data = Numbers(5)
    assert label_histogram(data).tolist() == [3 * 5, 2 * 5] and data.reads == list(range(5))
    data = Numbers(90)
    counts = label_histogram(data, limit=9)
    assert data.reads == list(range(0, 90, 10)) and counts.tolist() == [9 * 5, 0] and counts.dtype == np.int64
    for unusable in (Numbers(0), Numbers(3, labelled=False)):
        with pytest.raises(InputError):
            label_histogram(unusable)


class Wide:
    """Images of many sizes, all larger than a crop; example 3 cannot be used."""

    classes = Numbers.classes
    size, labelled, problems = None, True, ()

    def __len__(self) -> int:
        return 9

    def image_id(self, index: int) -> int:
        return index

    def __getitem__(self, index: int) -> Example:
        if index == 3:
            raise LeftOutError("3 is damaged")
        rng = np.random.default_rng(index)
        height, width = 8 + index, 20 - index
        return Example(
            rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 2, (height, width), np.uint8)
        )


def crops(**options: object) -> Batches:
    return Batches(Wide(), 4, seed=2, crop=Crop((6, 8), (0.8, 1.5)), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rare", [None, RareClasses(np.eye(9, 2, dtype=int), 0.1)])
def test_batches_do_not_depend_on_threads_or_hosts(rare: RareClasses | None) -> None:
    wanted = [crops(rare=rare)(step) for step in range(12)]
    assert wanted[0]["image"].shape == (4, 6, 8, 3)
    for workers in (1, 4):
        found = crops(rare=rare, workers=workers)
        assert all(same(found(step), wanted[step]) for step in (7, 0, 11, 3))
    for hosts in (2, 4):
        parts = [crops(rare=rare, part=(i, hosts), workers=2) for i in range(hosts)]
        for step in (0, 5):
            rows = [part(step) for part in parts]
            joined = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
            assert same(joined, wanted[step])


def test_the_next_example_comes_for_one_that_is_left_out() -> None:
    drawn = Batches(Wide(), 9, seed=0, crop=Crop((6, 8)))
    ids = drawn(0)["image_id"].tolist()
    assert sorted(ids) == [0, 1, 2, 4, 4, 5, 6, 7, 8]
    assert ids[drawn.indices(0).index(3)] == 4
    np.testing.assert_array_equal(class_pixels(Wide(), workers=3).sum(1)[[2, 3, 4]], [10 * 18, 0, 12 * 16])


def test_rare_classes_are_seen_more_often() -> None:
    pixels = np.zeros((9, 2), int)
    pixels[:, 0], pixels[8, 1] = 1000, 1
    often = np.concatenate([crops(rare=RareClasses(pixels, 0.01))(step)["image_id"] for step in range(20)])
    assert (often == 8).mean() > 0.8


def test_a_batch_that_does_not_divide_over_hosts_is_refused() -> None:
    with pytest.raises(InputError, match="batch of 4 does not divide over 3 hosts"):
        crops(part=(0, 3))


def test_waiting_adds_up_what_the_consumer_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("sgg_jax.data.loader.time.monotonic", lambda: clock[0])

    def slow() -> Iterator[int]:
        for number in range(3):
            clock[0] += 2.0
            yield number

    waiting = Waiting(slow())
    for _ in waiting:
        clock[0] += 100.0  # the consumer's own work does not count
    assert waiting.seconds == 6.0
