"""One example of a data set, looked at: what its files are, what is in them, what is wrong with them."""

import struct
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from PIL import Image

from sgg_jax.data.dataset import VOID, Dataset
from sgg_jax.data.decode import MAX_ID, UNKNOWN, decoded, raw_mode, read_image, train_ids
from sgg_jax.data.encodings import explained, guess
from sgg_jax.data.pairs import Pairs, check_sizes
from sgg_jax.data.problems import BadFileError

MOST_VALUES = 256
"""Label values of one file that are kept, the most frequent: more are no label ids."""

KINDS = {
    "1": "black and white", "L": "grey", "LA": "grey with alpha", "P": "palette", "PA": "palette with alpha",
    "I": "grey", "F": "floating point",
}  # fmt: skip
"""Pillow's mode -> what people call it, where that differs."""


@dataclass
class Finding:
    """What is known of an example; fields keep their defaults from where an error ended the look at it."""

    name: str
    category: str = ""  # of its error, a key of problems.ERRORS; "" if it can be used
    text: str = ""  # the error in a sentence
    size: tuple[int, int] | None = None  # (height, width) of the image, turned as its EXIF orientation says
    image: str = ""  # what its file is: "PNG, RGB"
    label: str = ""
    notes: tuple[str, ...] = ()  # keys of summary.NOTES: odd, but no errors
    values: dict[int, int] = field(default_factory=dict)  # value in the label file (or train id) -> pixels

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """The finding that gave the record; ValueError, KeyError or TypeError if it is none."""
        found = cls(**{name: record[name] for name in cls.__dataclass_fields__})
        found.size = (found.size[0], found.size[1]) if found.size else None
        found.notes = tuple(found.notes)
        found.values = {int(value): int(pixels) for value, pixels in found.values.items()}
        return found


def examine(dataset: Dataset, index: int) -> Finding:
    """Reads all of an example's files, each once; whatever is wrong with them is in the finding."""
    found = Finding(dataset.name(index))
    try:
        if isinstance(dataset, Pairs):
            _look_at_files(dataset, index, found)
        else:
            _look_at_example(dataset, index, found)
    except BadFileError as error:
        found.category, found.text = error.category, str(error)
    except MemoryError:
        found.category = "too large"
        found.text = f"{place(dataset, index)} does not fit into memory; scale it down, or close other programs"
    return found


def place(dataset: Dataset, index: int) -> str:
    """The example's image file, or its name where it has none of its own."""
    return dataset.files.where(dataset.frames[index].image) if isinstance(dataset, Pairs) else dataset.name(index)


def _look_at_files(pairs: Pairs, index: int, found: Finding) -> None:
    """Fills the finding as far as it comes; BadFileError where it ends."""
    frame = pairs.frames[index]
    where = pairs.files.where(frame.image)
    _look_at_image(pairs.files.read(frame.image), where, found)
    if not pairs.labelled:
        return
    label = pairs.files.where(frame.label)
    data = pairs.files.read(frame.label)
    with decoded(data, label) as picture:
        found.label = kind(picture)
        if picture.format == "PNG":
            _png_chunks(data, label)
    try:
        ids = pairs.decode(data, label)
    except BadFileError as error:
        raise explained(error, data, label, pairs) from error
    values = count_values(ids)
    found.values = _most_frequent(values)
    assert found.size is not None
    check_sizes(found.size, ids.shape, where, label)
    classes = {int(pairs.table[value if 0 <= value <= MAX_ID else MAX_ID + 1]) for value in values}
    if UNKNOWN in classes:
        seen = guess(values, pairs)
        if seen:
            raise BadFileError("wrong encoding", f"{label}: {seen}")
        train_ids(ids, pairs.table, label)  # raises, and says which
    _some_class(classes, label)


def _look_at_example(dataset: Dataset, index: int, found: Finding) -> None:
    """The same for a set that has no files of its own: what its examples themselves show."""
    image, labels = dataset.full(index)
    found.size = (image.shape[0], image.shape[1])
    if image.min() == image.max():
        found.notes = ("one colour",)
    if labels is not None:
        found.values = count_values(labels)
        _some_class(set(found.values), f"example {found.name}")


def _some_class(classes: set[int], where: str) -> None:
    if classes <= {VOID}:
        raise BadFileError("all void", f"{where} has no pixel of any class; leave the example out, or label it")


def _look_at_image(data: bytes, where: str, found: Finding) -> None:
    """Decodes all pixels, once. Plain pictures are not made an array, which takes as long as decoding them."""
    with decoded(data, where) as picture:
        found.image = kind(picture)
        chunks = _png_chunks(data, where) if picture.format == "PNG" else set()
        turned = _is_turned(picture, chunks)
        alpha = "transparency" in picture.info or picture.mode in ("RGBA", "RGBa", "LA", "PA")
        found.notes = _notes(picture, turned, alpha)
        plain = picture.mode in ("RGB", "L") and not turned and not alpha
        if plain:
            picture.load()
            found.size = (picture.height, picture.width)
            one = _is_one_color(picture)
    if not plain:
        image = read_image(data, where)
        found.size = (image.shape[0], image.shape[1])
        one = bool((image == image[0, 0]).all())
    if one:
        found.notes += ("one colour",)


def _is_one_color(picture: Image.Image) -> bool:
    few = picture.resize((8, 8), Image.Resampling.NEAREST)  # nearly always tells, and at once
    return all(len(part.getcolors(2) or "many") == 1 for part in (few, picture))


def _is_turned(picture: Image.Image, chunks: set[bytes]) -> bool:
    """Whether the EXIF orientation is other than upright. Of a PNG file it may stand behind the pixels."""
    if (
        picture.format == "PNG"
        and b"eXIf" not in chunks
        and not picture.info.keys() & {"exif", "Raw profile type exif"}
    ):
        return False  # asking Pillow would decode the picture
    return picture.getexif().get(0x0112, 1) != 1


def _notes(picture: Image.Image, turned: bool, alpha: bool) -> tuple[str, ...]:
    """Keys of summary.NOTES that the header of an image gives."""
    true = {
        "turned": turned,
        "transparent": alpha,
        "grey": picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;16"),
        "palette": picture.mode in ("P", "PA"),
        "16 bits": "16 bits" in kind(picture),
        "CMYK": picture.mode == "CMYK",
    }
    return tuple(note for note, is_true in true.items() if is_true)


def kind(picture: Image.Image) -> str:
    """What an opened file is, such as "PNG, RGB" or "PNG, grey, 16 bits"."""
    mode = "I" if picture.mode.startswith("I;16") else picture.mode
    deep = picture.mode.startswith("I;16") or ";16" in raw_mode(picture)
    return f"{picture.format}, {KINDS.get(mode, mode)}{', 16 bits' if deep else ''}"


def _png_chunks(data: bytes, where: str) -> set[bytes]:
    """Names of the parts of a PNG file. BadFileError if a checksum fails: decoders pass over changed bytes."""
    found, start = set(), 8
    while b"IEND" not in found:
        length, name = struct.unpack_from(">I4s", data, start) if start + 12 <= len(data) else (len(data), b"")
        end = start + 12 + length
        if end > len(data):
            raise BadFileError("damaged", f"{where} is cut short; replace the file")
        if zlib.crc32(memoryview(data)[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise BadFileError("damaged", f"{where} has changed bytes (its checksum fails); replace the file")
        found.add(name)
        start = end
    return found


def count_values(ids: np.ndarray) -> dict[int, int]:
    """Value -> pixels of an integer array, in the order of the values."""
    if ids.dtype.kind == "u" and ids.dtype.itemsize <= 2:
        counted = np.bincount(ids.ravel())
        values = np.flatnonzero(counted)
        numbers = counted[values]
    else:
        values, numbers = np.unique(ids, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers, strict=True)}


def _most_frequent(values: dict[int, int]) -> dict[int, int]:
    if len(values) <= MOST_VALUES:
        return values
    return dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))[:MOST_VALUES])
