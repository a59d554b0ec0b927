"""Preparing a data set: every example read once, brought to size and packed in the format of TensorFlow Datasets.

    NAME/1.0.0/NAME-train.array_record-00000-of-00042 ...     the examples, see shards.py
    NAME/1.0.0/features.json, label.labels.txt, dataset_info.json    as tfds wants them, the last one last of all
    NAME/1.0.0/manifest.jsonl    a line for each example, in order, and for what was left out (manifest.py)
    NAME/1.0.0/classes.json      the class table, as translated sets have it (writer.py)
    NAME/1.0.0/settings.json     what the set was prepared with
    NAME/1.0.0/parts/            the lines of finished shards while the work goes on

A shard takes its name when it is whole, and its part of the manifest follows it. So a process killed at any time leaves
a directory from which the next one goes on to the same bytes, whatever the number of threads. One process at a time may
prepare into a directory.
"""

import itertools
import json
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sgg_jax.data.checking import cores
from sgg_jax.data.dataset import Dataset, LeftOutError, Tolerant
from sgg_jax.data.manifest import Line, Sources, essence, json_lines, number_in, read_lines
from sgg_jax.data.problems import BadFileError
from sgg_jax.data.shards import TEMPORARY, VERSION, Shards, is_intact, replacing
from sgg_jax.data.writer import class_json
from sgg_jax.errors import InputError

PER_SHARD = 128
FORMAT = 1
"""Of the directory; a program that writes another one raises it."""

A = TypeVar("A")
B = TypeVar("B")


class Preparation:
    """A data set on its way into `directory`/`name`/1.0.0. First exhaust verify(), then write().

    settings: whatever tells this set from others that could be prepared here, as JSON has it.
    max_bad: how many examples may be unusable (dataset.Tolerant).
    workers: threads that read, resize and pack; 0 for one a core. Pillow lets them run at once.
    per_shard: examples of a shard, which are what a kill can cost; 0 for PER_SHARD.

    Attributes:
        folder: the version folder, which tfds reads.
        finished: whether an earlier run finished it.
        size: (H, W) of every example; None where each has its own.
        total: number of examples, unusable ones included.
        known: how many of them verify() goes through; once it did, how many need no work.
        examples, left_out: numbers of the finished set, once write() is exhausted.

    Raises InputError if the folder cannot be written or holds a set of other settings, the data set is empty or more of
    it than max_bad is unusable.
    """

    def __init__(
        self,
        dataset: Dataset,
        directory: Path,
        name: str,
        settings: dict[str, Any],
        max_bad: int = 0,
        workers: int = 0,
        per_shard: int = 0,
    ) -> None:
        if len(dataset) == 0:
            raise InputError("the data set is empty; there is nothing to prepare")
        self.folder, self.total, self.size = directory / name / VERSION, len(dataset), dataset.size
        self._sources = Sources(dataset)
        self._dataset = Tolerant(self._sources.dataset, max_bad)
        self._workers = workers or cores()
        per_shard = per_shard or PER_SHARD
        starts = range(0, len(dataset), per_shard)
        self._ranges = [range(start, min(start + per_shard, len(dataset))) for start in starts]
        self._shards = Shards(self.folder, name, dataset.classes, dataset.labelled, len(self._ranges))
        self._parts = self.folder / "parts"
        self.finished = (self.folder / "dataset_info.json").is_file()
        with _writing(self.folder):
            self._claim(
                {
                    **settings,
                    "size": self.size,
                    **{f"class {info.name}": info.ids for info in dataset.classes},
                    "examples": len(dataset),
                    "examples a shard": per_shard,
                    "format": FORMAT,
                }
            )
            for path in self.folder.glob(f".*{TEMPORARY}"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._lines = self._finished_lines() if self.finished else self._lines_of_parts()

    @property
    def known(self) -> int:
        return sum(len(lines) for lines in self._lines.values())

    def verify(self) -> Iterator[None]:
        """Reads again what an earlier run has prepared, an item for each example, and keeps what is still the same.

        The hash of the bytes is what counts: a time stamp says little after a copy or an unpacking. Of an unfinished
        set, shards whose files changed are made anew; so are missing or damaged shards of any set. Raises InputError if
        a file of a finished set changed: a run may be reading it, and results may rest on it.
        """
        shards = sorted(self._lines)
        known = [(index, line) for shard in shards for index, line in self._of_shard(shard)]
        with closing(_in_order(self._reread, known, self._workers)) as now:
            for shard in shards:
                lines = self._lines[shard]
                same = True
                for (_, line), found in zip(self._of_shard(shard), now, strict=False):
                    same = same and essence(line) == found
                    if self.finished and not same:
                        raise InputError(
                            f"{line['name']} has changed since it was prepared: delete {self.folder} and run again to "
                            "prepare it anew"
                        )
                    yield
                if not (same and is_intact(self._shards.path(shard), number_in(lines))):
                    del self._lines[shard]

    def write(self) -> Iterator[None]:
        """Prepares what verify() did not find, an item for each example, and finishes the set.

        Raises InputError if more than max_bad examples are unusable, or all are, or the folder cannot be written.
        """
        missing = [shard for shard in range(len(self._ranges)) if shard not in self._lines]
        indices = [index for shard in missing for index in self._ranges[shard]]
        with _writing(self.folder), closing(_in_order(self._pack, indices, self._workers)) as packed:
            for shard in missing:
                self._parts.mkdir(exist_ok=True)
                part = self._parts / f"{shard:05d}.jsonl"
                part.unlink(missing_ok=True)  # it must not vouch for another shard than the one it was written with
                lines: list[Line] = []
                with self._shards.writing(shard) as add:
                    for line, record in itertools.islice(packed, len(self._ranges[shard])):
                        lines.append({**line, "shard": shard})
                        if record is not None:
                            lines[-1]["position"] = number_in(lines) - 1
                            add(record)
                        yield
                _write(part, json_lines(lines))
                self._lines[shard] = lines
            self._finish(again=bool(missing) or not self.finished)

    def _finish(self, again: bool) -> None:
        """Writes all but the shards where that is needed."""
        lengths = [number_in(self._lines[shard]) for shard in range(len(self._ranges))]
        self.examples = sum(lengths)
        if self.examples == 0:
            raise InputError(f"no example could be used, so {self.folder} stays unfinished; mend the files named above")
        lines = [line for shard in range(len(self._ranges)) for line in self._lines[shard]]
        lines += [{"name": p.name, "left_out": p.category, "text": p.text} for p in self._dataset.problems]
        self.left_out = len(lines) - self.examples
        if again:
            _write(self.folder / "classes.json", class_json(self._dataset.classes))
            _write(self.folder / "manifest.jsonl", json_lines(lines))
            self._shards.write_metadata(lengths)
        if self._parts.exists():
            shutil.rmtree(self._parts)

    def _pack(self, index: int) -> tuple[Line, bytes | None]:
        """What the manifest says of the example, and its record unless it is left out."""
        name, image_id = self._dataset.name(index), self._dataset.image_id(index)
        line: Line = {"name": name, "image_id": image_id}
        self._sources.forget()
        try:
            example = self._dataset[index]
        except LeftOutError as error:
            assert isinstance(error.__cause__, BadFileError)
            reason = {"left_out": error.__cause__.category, "text": str(error)}
            return {**line, **self._sources.read_from(index), **reason}, None
        return {**line, **self._sources.read_from(index, example)}, self._shards.record(name, image_id, example)

    def _reread(self, known: tuple[int, Line]) -> Line:
        """What the manifest would say of the example now, its place apart; {} if its files cannot be read."""
        index, line = known
        if "left_out" in line:
            return essence(self._pack(index)[0])  # counts towards max_bad as it did when it was left out
        try:
            sources = self._sources.read(index)
        except BadFileError:
            return {}
        return {"name": self._dataset.name(index), "image_id": self._dataset.image_id(index), **sources}

    def _of_shard(self, shard: int) -> list[tuple[int, Line]]:
        return list(zip(self._ranges[shard], self._lines[shard], strict=True))

    def _claim(self, settings: dict[str, Any]) -> None:
        """Makes the folder, or refuses one that holds something else, naming every setting that differs."""
        path, new = self.folder / "settings.json", json.loads(json.dumps(settings))
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(not file.name.endswith(TEMPORARY) for file in self.folder.iterdir()):
                raise InputError(f"{self.folder} holds files that prepare_data did not write: name another --workdir")
            _write(path, json.dumps(new, indent=1) + "\n")
            return
        try:
            old = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}): delete {self.folder} to prepare it anew") from error
        changed = [
            f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if changed:
            raise InputError(
                f"{self.folder} was prepared with other settings ({'; '.join(changed)}): set them back, name another "
                "--workdir, or delete that folder to prepare it anew"
            )

    def _lines_of_parts(self) -> dict[int, list[Line]]:
        """Lines by shard of those that are finished."""
        paths = {shard: self._parts / f"{shard:05d}.jsonl" for shard in range(len(self._ranges))}
        found = {shard: read_lines(path) for shard, path in paths.items() if path.is_file()}
        return {shard: lines for shard, lines in found.items() if len(lines) == len(self._ranges[shard])}

    def _finished_lines(self) -> dict[int, list[Line]]:
        """Lines by shard, from the manifest of a finished set."""
        path = self.folder / "manifest.jsonl"
        found: dict[int, list[Line]] = {shard: [] for shard in range(len(self._ranges))}
        for line in read_lines(path):
            if "shard" in line:
                found[line["shard"]].append(line)
        if any(len(lines) != len(self._ranges[shard]) for shard, lines in found.items()):
            raise InputError(f"{path} does not list every example: delete {self.folder} and run again")
        return found


def _in_order(function: Callable[[A], B], items: Iterable[A], workers: int) -> Generator[B, None, None]:
    """function(item) for every item, computed by threads that run ahead by no more than twice their number."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Any OSError of the block leaves it as an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}): free some space, mend its permissions or name "
            "another --workdir; the same command goes on from here"
        ) from error


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
