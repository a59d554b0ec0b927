"""A prepared TensorFlow Datasets directory, read without TensorFlow (ArrayRecord files)."""

from pathlib import Path

import numpy as np

from sgg_jax.data.dataset import ClassInfo, Example
from sgg_jax.data.decode import label_table, train_ids
from sgg_jax.data.fit import check_fit, fitted, reshaped, uncut
from sgg_jax.data.problems import BadFileError, Problem
from sgg_jax.errors import InputError


class Prepared:
    """One split of a data set that `tfds` wrote; see Dataset. Names and image ids are positions in the split.

    Args:
        directory: where its dataset_info.json and features.json lie.
        split: a split or a slice of one, such as "train" or "train[:100]".
        image: feature with the image, uint8 [h,w,3].
        label: feature with the label map, [h,w] or [h,w,1]; "" for a set without labels.
        classes, size, fit, count, void_ids: as folder pairs have them.

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
        if not (Path(directory) / "dataset_info.json").is_file():
            raise InputError(
                f"{directory!r} is no prepared data set: it has no dataset_info.json; name the version folder"
            )
        import tensorflow_datasets as tfds  # takes a second, and few runs need it

        try:
            self._source = tfds.builder_from_directory(directory).as_data_source(split)
        except (ValueError, KeyError, OSError, NotImplementedError, RuntimeError) as error:
            raise InputError(f"cannot read split {split!r} of {directory}: {' '.join(str(error).split())}") from error
        features = [name for name in (image, label) if name]
        missing = [name for name in features if name not in self._source.dataset_info.features]
        if missing:
            has = ", ".join(sorted(self._source.dataset_info.features))
            raise InputError(f"{directory} has no feature {', '.join(missing)}; it has {has}")
        if not 0 <= count <= len(self._source):
            raise InputError(f"count is {count}, but {split!r} of {directory} has {len(self._source)} examples")
        self.classes = tuple(classes)
        self.size = None if fit == "native" else (int(size[0]), int(size[1]))
        self.problems: tuple[Problem, ...] = ()
        self._size = (int(size[0]), int(size[1]))
        self.labelled = label != ""
        self._where, self._image, self._label, self._fit = f"{split} of {directory}", image, label, fit
        self._table = label_table(self.classes, void_ids)
        self._count = count or len(self._source)

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        """The position, zero-padded."""
        return f"{self.image_id(index):07d}"

    def image_id(self, index: int) -> int:
        """The position in the split."""
        return range(self._count)[index]

    def __getitem__(self, index: int) -> Example:
        """Example with image [H,W,3] and labels [H,W]; BadFileError names a record that cannot be used."""
        return reshaped(self._read(index), fitted, self._size, self._fit)

    def full(self, index: int) -> Example:
        """The same part of the same example in the record's own resolution."""
        return reshaped(self._read(index), uncut, self._size, self._fit)

    def _read(self, index: int) -> Example:
        """The example as the record has it."""
        where = f"record {self.image_id(index)} in {self._where}"
        try:
            record = self._source[self.image_id(index)]
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
