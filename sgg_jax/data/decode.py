"""Bytes of image and label files -> arrays; whatever is wrong with a file is one sentence that names it."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from sgg_jax.data.dataset import VOID, ClassInfo
from sgg_jax.data.problems import BadFileError
from sgg_jax.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 2**30 // 12
"""Pixels of the largest file that is decoded: 89.5 million, where Pillow begins to warn."""
MAX_ID = 2**16 - 1
"""Largest value of a label file that a class table can name."""
UNKNOWN = 254
"""Entry of the lookup table for values that the class table does not name; so a table has at most 254 classes."""

DecodeIds = Callable[[bytes, str], np.ndarray]
"""(bytes of a label file, its name for messages) -> [h,w] integers as stored; BadFileError where there are none."""


@contextmanager
def decoded(data: bytes, where: str) -> Iterator[Image.Image]:
    """The opened file, its header read; whatever goes wrong in the block leaves it as a BadFileError that names it."""
    large = f"{where} has more than {MAX_PIXELS / 1e6:.1f} megapixels; scale it down"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities in the metadata of good pictures
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise BadFileError("too large", large)
                yield picture
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadFileError("too large", large) from error
    except Image.UnidentifiedImageError as error:
        raise BadFileError(*_what_it_is(data, where)) from error
    except Exception as error:  # Pillow's decoders meet broken files with nearly every type there is
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = f"{where} cannot be read ({reason}); the file may be damaged or cut short"
        raise BadFileError("damaged", text) from error


def _what_it_is(data: bytes, where: str) -> tuple[str, str]:
    start = data[:64].lstrip().lower()
    if not start:
        return "empty", f"{where} is empty; replace the file"
    if start.startswith(b"<"):
        page = "an HTML or XML page and not an image, perhaps from a download that failed"
        return "not an image", f"{where} is {page}; replace the file"
    return "not an image", f"{where} is not an image of a known format ({', '.join(FORMATS)}); replace the file"


def read_image(data: bytes, where: str) -> np.ndarray:
    """[h,w,3] uint8 RGB of an image file, turned as its EXIF orientation says.

    Transparent pixels are laid over black: what a file hides under them is arbitrary. Grey of 16 bits has its whole
    range 0..65535 scaled to 0..255. Raises BadFileError if the file cannot be read or has values without a range.
    """
    with decoded(data, where) as picture:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode == "I" or picture.mode.startswith("I;16"):
            grey = np.asarray(picture).astype(np.int64)
            if grey.min() < 0 or grey.max() > 65535:
                raise BadFileError("pixel type", f"{where} has grey values outside 0..65535; save it as an 8-bit image")
            return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
        if picture.mode == "F":
            text = f"{where} holds floating-point values of unknown range; save it as an 8-bit image"
            raise BadFileError("pixel type", text)
        if "transparency" in picture.info or picture.mode in ("RGBA", "RGBa", "LA", "PA"):
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
        return np.array(picture.convert("RGB"))


def raw_mode(picture: Image.Image) -> str:
    """How the pixels lie in the file, as Pillow's decoder names it ("RGB;16B"); "" where it does not say."""
    tile = getattr(picture, "tile", None)
    arguments = tile[0].args if tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def read_label_ids(data: bytes, where: str) -> np.ndarray:
    """[h,w] integers of a label file as stored: grey values, or palette indices whatever their colours.

    Raises BadFileError if the file cannot be read or its pixels are not one exact number each.
    """
    with decoded(data, where) as picture:
        if picture.mode in ("L", "P", "I") or picture.mode.startswith("I;16"):
            if raw_mode(picture) in ("L;2", "L;4"):
                text = f"{where} is grey with fewer than 8 bits, which come spread over 0..255; save it with 8 bits"
                raise BadFileError("pixel type", text)
            if picture.format not in ("JPEG", "MPO"):
                picture.load()
                return np.array(picture)
            text = f"{where} is a JPEG file, which does not keep label ids exactly; save labels as PNG"
            raise BadFileError("pixel type", text)
        raise BadFileError(
            "wrong encoding",
            f"{where} has pixels of type {picture.mode} ({', '.join(picture.getbands())}), but a label file must have "
            "one number a pixel; save it as greyscale PNG of 8 or 16 bits, or as palette PNG",
        )


def read_first_of_three(data: bytes, where: str) -> np.ndarray:
    """[h,w] uint8: the red channel of a PNG with three channels of 16 bits (SYNTHIA: class; green is the instance).

    Pillow keeps the high byte of such pixels, which is 0 for every class; its decoder is asked for each byte in turn.
    Raises BadFileError if the file is of another kind or has values above 255.
    """

    def channel(byte_order: str) -> np.ndarray:
        with decoded(data, where) as picture:
            if not isinstance(picture, PngImageFile) or not picture.tile or picture.tile[0].args != "RGB;16B":
                raise BadFileError(
                    "wrong encoding",
                    f"{where} has pixels of type {picture.mode}, but labels of this data set are PNG files with three "
                    "channels of 16 bits; take the original files, not ones that were converted",
                )
            picture.tile = [picture.tile[0]._replace(args=byte_order)]
            picture.load()
            return np.array(picture)[..., 0]

    low, high = channel("RGB;16L"), channel("RGB;16B")
    if high.any():
        value = int(low[high > 0][0]) + 256 * int(high[high > 0][0])
        raise BadFileError("unknown ids", f"{where} has label ids above 255, such as {value}; replace the file")
    return low


def label_table(classes: tuple[ClassInfo, ...], void_ids: tuple[int, ...]) -> np.ndarray:
    """uint8 [MAX_ID + 2]: file value -> train id, VOID or UNKNOWN; the last entry stands for values out of range.

    Raises InputError if a value is named by two classes or out of range, or if there are more than UNKNOWN classes.
    """
    if len(classes) > UNKNOWN:
        raise InputError(f"the class table has {len(classes)} classes, but it can have no more than {UNKNOWN}")
    table = np.full(MAX_ID + 2, UNKNOWN, np.uint8)
    owners: dict[int, str] = {}
    rows = [(info.name, info.ids, train_id) for train_id, info in enumerate(classes)]
    for name, ids, train_id in [*rows, ("void_ids", void_ids, VOID)]:
        for value in ids:
            if not 0 <= value <= MAX_ID:
                raise InputError(f"label id {value} of {name} is outside 0..{MAX_ID}; take it out of the class table")
            if owners.setdefault(value, name) != name:
                raise InputError(f"label id {value} belongs to both {owners[value]} and {name}; take it out of one")
            table[value] = train_id
    return table


def train_ids(ids: np.ndarray, table: np.ndarray, where: str) -> np.ndarray:
    """[h,w] file values -> [h,w] uint8 train ids; BadFileError names values that are in no class, and their pixels."""
    known = ids if ids.dtype.kind == "u" else np.where((ids < 0) | (ids > MAX_ID), MAX_ID + 1, ids)
    labels = table[known]
    if (labels == UNKNOWN).any():
        values, pixels = np.unique(ids[labels == UNKNOWN], return_counts=True)
        shown = ", ".join(f"{value} ({number} pixels)" for value, number in list(zip(values, pixels, strict=True))[:5])
        more = f" and {len(values) - 5} more" if len(values) > 5 else ""
        raise BadFileError(
            "unknown ids",
            f"{where} has label ids that no class names: {shown}{more}; add them to the ids of a class in "
            "config.data.classes, or to the void_ids of this data set if they mean no class",
        )
    return labels
