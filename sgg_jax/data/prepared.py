"""A prepared TensorFlow Datasets directory, read without TensorFlow (ArrayRecord files)."""

from pathlib import Path
from typing import Any

import numpy as np

from sgg_jax.data.dataset import ClassInfo, Example, pixels_digest
from sgg_jax.data.decode import label_table, train_ids
from sgg_jax.data.fit import check_fit, fitted, reshaped, uncut
from sgg_jax.data.manifest import Line, read_lines
from sgg_jax.data.problems import BadFileError, Problem
from sgg_jax.data.writer import read_classes
from sgg_jax.errors import InputError


class Prepared:
    """One split of a data set that `tfds` wrote; see Dataset.

    Sets that prepare_data wrote are the same, bit for bit, as those they were made from: they bring their class table,
    and names and image ids from their manifest. Of other sets, names and ids are positions in the split.

    Args:
        directory: where its dataset_info.json and features.json lie.
        split: a split or a slice of one, such as "train" or "train[:100]".
        image: feature with the image, uint8 [h,w,3].
        label: feature with the label map, [h,w] or [h,w,1]; "" for a set without labels.
        classes: as folder pairs have them. A set of prepare_data has train ids already: only the names must agree, and
            () stands for its own.
        size, fit, count, void_ids: as folder pairs have them.

    Raises:
        InputError: the directory is no such data set, has no such split or feature, or a setting is wrong.
    """

    def __init__(
        self,
        directory: str,
        split: str,
        image: str,
        label: str,
        classes: tuple[ClassInfo, ...],
        size: tuple[int, int],
        fit: str = "crop",
        count: int = 0,
        void_ids: tuple[int, ...] = (255,),
    ) -> None:
        check_fit(fit, size)
        self._source, files = _opened(directory, split)
        own = (Path(directory) / "settings.json").is_file()  # prepare_data wrote it
        has = sorted(self._source.dataset_info.features)
        label = "" if own and label == "label" and label not in has else label
        missing = [name for name in (image, label) if name and name not in has]
        if missing:
            raise InputError(f"{directory} has no feature {', '.join(missing)}; it has {', '.join(has)}")
        if not 0 <= count <= len(self._source):
            raise InputError(f"count is {count}, but {split!r} of {directory} has {len(self._source)} examples")
        self.classes = _own_classes(directory, classes) if own else tuple(classes)
        self.size = None if fit == "native" else (int(size[0]), int(size[1]))
        self._count = count or len(self._source)
        self._lines: list[Line] | None = None
        self.problems: tuple[Problem, ...] = ()
        if own:
            self._lines, self.problems = _from_manifest(directory, files)
        self._size = (int(size[0]), int(size[1]))
        self.labelled = label != ""
        self._where, self._image, self._label, self._fit = f"{split} of {directory}", image, label, fit
        self._table = label_table(self.classes, void_ids)

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        """The name in the manifest; without one, the position, zero-padded."""
        position = range(self._count)[index]
        return f"{position:07d}" if self._lines is None else self._lines[position]["name"]

    def image_id(self, index: int) -> int:
        """The image id in the manifest; without one, the position in the split."""
        position = range(self._count)[index]
        return position if self._lines is None else self._lines[position]["image_id"]

    def __getitem__(self, index: int) -> Example:
        """Example with image [H,W,3] and labels [H,W]; BadFileError names a record that cannot be used."""
        return reshaped(self._read(index), fitted, self._size, self._fit)

    def full(self, index: int) -> Example:
        """The same part of the same example in the record's own resolution."""
        return reshaped(self._read(index), uncut, self._size, self._fit)

    def origin(self, index: int) -> tuple[str, str]:
        """The file that the image was prepared from and its SHA-256; without a manifest, the record and its pixels'."""
        position = range(self._count)[index]
        if self._lines is None:
            return f"record {position} in {self._where}", pixels_digest(self._read(index).image)
        line = self._lines[position]
        return line.get("image", f"{line['name']}, prepared in {self._where}"), line["image_sha256"]

    def _read(self, index: int) -> Example:
        """The example as the record has it."""
        position = range(self._count)[index]
        where = f"record {position} in {self._where}"
        try:
            record = self._source[position]
        except (RuntimeError, ValueError, OSError) as error:
            text = f"cannot read {where} ({' '.join(str(error).split())}); prepare the data set again"
            raise BadFileError("damaged", text) from error
        image = np.asarray(record[self._image])
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            text = f"{where}: {self._image} is {image.dtype} {image.shape}; it must be uint8 [height,width,3]"
            raise BadFileError("pixel type", text)
        if not self.labelled:
            return Example(image, None)
        ids = np.asarray(record[self._label])
        ids = ids[..., 0] if ids.ndim == 3 and ids.shape[2] == 1 else ids
        if ids.shape != image.shape[:2] or ids.dtype.kind not in "ui":
            raise BadFileError(
                "size mismatch",
                f"{where}: {self._label} is {ids.dtype} {ids.shape}; it must be whole numbers, one for each of the "
                f"{image.shape[0]} x {image.shape[1]} pixels of the image",
            )
        return Example(image, train_ids(ids, self._table, where))


def _opened(directory: str, split: str) -> tuple[Any, list[Any]]:
    """The examples of a split as tfds gives them, and which parts of which files they are; InputError in a sentence."""
    folder = Path(directory)
    if not (folder / "dataset_info.json").is_file():
        if (folder / "settings.json").is_file():
            raise InputError(f"{directory!r} is unfinished: run prepare_data as before, which goes on from there")
        raise InputError(f"{directory!r} is no prepared data set: it has no dataset_info.json; name the version folder")
    import tensorflow_datasets as tfds  # takes a second, and few runs need it

    try:
        builder = tfds.builder_from_directory(directory)
        return builder.as_data_source(split), builder.info.splits[split].file_instructions
    except (ValueError, KeyError, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"cannot read split {split!r} of {directory}: {' '.join(str(error).split())}") from error


def _own_classes(directory: str, classes: tuple[ClassInfo, ...]) -> tuple[ClassInfo, ...]:
    """The class table that a set of prepare_data brings; InputError if other classes are asked for."""
    own = read_classes(directory)
    names, asked = ([info.name for info in table] for table in (own, classes))
    if asked and asked != names:
        raise InputError(
            f"{directory} was prepared with the classes {', '.join(names)}, but config.data.classes has "
            f"{', '.join(asked)}; take config.data.classes out, or prepare the set anew"
        )
    return own


def _from_manifest(directory: str, files: list[Any]) -> tuple[list[Line], tuple[Problem, ...]]:
    """The lines of the examples in these parts of files, in order, and what was left out when the set was prepared."""
    path = Path(directory) / "manifest.jsonl"
    shards: dict[int, list[Line]] = {}
    problems = []
    for line in read_lines(path):
        if "left_out" in line:  # "known bad", since it was decided on then and is not in the way now
            problems.append(Problem("known bad", line["name"], line["text"]))
        else:
            shards.setdefault(line["shard"], []).append(line)
    lines: list[Line] = []
    for file in files:
        shard = int(Path(file.filename).name.split("-")[-3])  # NAME-train.array_record-00003-of-00042
        found = shards.get(shard, [])
        if len(found) != file.examples_in_shard:
            raise InputError(f"{path} does not fit the shards beside it: delete {directory} and prepare the set again")
        lines += found[file.skip :][: file.take]
    return lines, tuple(problems)
