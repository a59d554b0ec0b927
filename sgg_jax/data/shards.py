"""A data set as TensorFlow Datasets keeps it in ArrayRecord files, written without TensorFlow."""

import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from sgg_jax.data.dataset import ClassInfo, Example
from sgg_jax.errors import InputError

VERSION = "1.0.0"
SPLIT = "train"
"""The only split: a directory holds one set, and this is what readers take where they are not told otherwise."""
TEMPORARY = ".tmp"
IMAGE_LEVEL, LABEL_LEVEL = 1, 6
"""How hard zlib tries, 1 to 9. Noisy images of 1280x720: level 1 in 93 ms, 6 in 174 ms, to 13% larger files of 1.8 MB;
labels: 5 and 7 ms, to 12 and 7 kB."""
OPTIONS = "group_size:1,uncompressed"
"""Of ArrayRecord: each example by itself, so that it can be read by itself; PNG files do not become smaller twice."""


class Shards:
    """The files of one data set in `folder`: how an example becomes a record, and where it lies.

    Features: image, PNG, uint8 [H,W,3]; label, PNG, uint8 [H,W,1] train ids, 255 where there is none, absent from sets
    without labels; name, the example's name; image_id, int64.

    Raises InputError if tfds cannot keep the class names.
    """

    def __init__(self, folder: Path, name: str, classes: Sequence[ClassInfo], labelled: bool, number: int) -> None:
        import tensorflow_datasets as tfds  # takes a second

        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "name": tfds.features.Text(),
            "image_id": tfds.features.Scalar(np.int64),
        }
        if labelled:
            names = [info.name for info in classes]
            try:
                label = tfds.features.LabeledImage(labels=names, shape=(None, None, 1), encoding_format="png")
            except ValueError as error:
                raise InputError(f"the class names cannot be kept ({error}); change them in the class table") from error
            features["label"] = label
        self.folder, self.name = folder, name
        self._features = tfds.features.FeaturesDict(features)
        self._serializer = tfds.core.example_serializer.ExampleSerializer(self._features.get_serialized_info())
        self._number = number

    def path(self, shard: int) -> Path:
        return self.folder / f"{self.name}-{SPLIT}.array_record-{shard:05d}-of-{self._number:05d}"

    def record(self, name: str, image_id: int, example: Example) -> bytes:
        """The example as a record, the same bytes in every process. Threads may call it at once."""
        content = {
            "image": png(example.image, IMAGE_LEVEL),
            "name": name.encode("utf-8", "surrogateescape"),  # file names may be any bytes
            "image_id": image_id,
        }
        if example.labels is not None:
            content["label"] = png(example.labels, LABEL_LEVEL)
        proto = self._serializer.get_tf_example(self._features.encode_example(content))
        return proto.SerializeToString(deterministic=True)  # otherwise the order of the features varies

    @contextmanager
    def writing(self, shard: int) -> Iterator[Callable[[bytes], None]]:
        """Gives a function that adds a record; the file takes its place when the block ends and is whole."""
        from tensorflow_datasets.core.utils.lazy_imports_utils import array_record_module

        number = 0

        def add(record: bytes) -> None:
            nonlocal number
            number += 1
            with _runtime_error_as_os_error():
                writer.write(record)

        with replacing(self.path(shard)) as temporary:
            with _runtime_error_as_os_error():
                writer = array_record_module.ArrayRecordWriter(os.fspath(temporary), OPTIONS)
            try:
                yield add
            except BaseException:
                with suppress(RuntimeError):
                    writer.close()
                raise
            with _runtime_error_as_os_error():
                writer.close()
            if not is_intact(temporary, number):
                raise OSError(f"{temporary.name} does not read back as it was written")

    def write_metadata(self, lengths: list[int]) -> None:
        """What tfds reads first, dataset_info.json last of all: a directory without it is unfinished.

        lengths: examples in each shard.
        """
        import tensorflow_datasets as tfds

        aside = self.folder / f".metadata{TEMPORARY}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        identity = tfds.core.DatasetIdentity(
            name=self.name, version=tfds.core.Version(VERSION), data_dir=os.fspath(aside), module_name=""
        )
        info = tfds.core.DatasetInfo(builder=identity, features=self._features)
        info.set_file_format("array_record")
        template = tfds.core.ShardedFileTemplate(
            data_dir=aside, dataset_name=self.name, split=SPLIT, filetype_suffix="array_record"
        )
        size = sum(self.path(shard).stat().st_size for shard in range(self._number))
        split = tfds.core.SplitInfo(name=SPLIT, shard_lengths=lengths, num_bytes=size, filename_template=template)
        info.set_splits(tfds.core.splits.SplitDict([split]))
        info.write_to_directory(aside)
        for path in sorted(aside.iterdir(), key=lambda path: (path.name == "dataset_info.json", path.name)):
            os.replace(path, self.folder / path.name)
        aside.rmdir()


def png(pixels: np.ndarray, level: int) -> io.BytesIO:
    """[H,W,3] or [H,W] uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
    buffer.seek(0)
    return buffer


def is_intact(path: Path, number: int) -> bool:
    """Whether the file is there with so many records, all of which pass their checksums."""
    from tensorflow_datasets.core.utils.lazy_imports_utils import array_record_module

    if not path.is_file():
        return False
    try:
        reader = array_record_module.ArrayRecordReader(os.fspath(path))
        if reader.num_records() != number:
            return False
        for position in range(number):
            reader.read([position])
        reader.close()
    except RuntimeError:
        return False
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside it to write to, which takes its place when the block ends without an error."""
    beside = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _runtime_error_as_os_error() -> Iterator[None]:
    """ArrayRecord reports a full disk and the like as RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(" ".join(str(error).split())) from error
