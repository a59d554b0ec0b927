"""Images and label maps in the user's own folders: paired by name, checked, brought to one size."""

import glob
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from sgg_jax.data.dataset import VOID, ClassInfo, Example
from sgg_jax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 2**30 // 12
"""Pixels of the largest file that is decoded: 89.5 million, where Pillow begins to warn."""
MAX_ID = 2**16 - 1
"""Largest value of a label file that a class table can name."""
UNKNOWN = 254
"""Entry of the lookup table for values that the class table does not name; so a table has at most 254 classes."""


class FolderPair:
    """A data set made of a folder of images and, if labelled, a folder of label maps of the same names.

    Building it lists and pairs the files; a file's contents are checked when it is read. Reads share no state, so
    threads may read at once.

    Args:
        images: a directory, searched to the bottom, or a glob pattern (** allowed). Hidden files are passed over.
        labels: the same; "" for a set without labels.
        classes: class table; position is the train id, `ids` the values in the label files (0..65535).
        size: (H, W) of every example.
        fit: "crop" scales the image to cover `size` and cuts the middle out; "stretch" scales each axis.
        count: the first so many of the sorted list; 0 for all.
        void_ids: values in the label files that become VOID.

    A label file belongs to the image of the same path below its folder without suffix; if no file matches so, to the
    image of the same file name without suffix.

    Raises:
        InputError: a setting is wrong, nothing is found, or files do not pair one to one.
    """

    def __init__(
        self,
        images: str,
        labels: str,
        classes: tuple[ClassInfo, ...],
        size: tuple[int, int],
        fit: str = "crop",
        count: int = 0,
        void_ids: tuple[int, ...] = (255,),
    ) -> None:
        check_fit(fit, size)
        self.classes = tuple(classes)
        self.size = (int(size[0]), int(size[1]))
        self.labelled = labels != ""
        self._fit = fit
        self._table = label_table(self.classes, void_ids)
        found = find_files(images, "images")
        self._stems = sorted(found)
        self._images = [found[stem] for stem in self._stems]
        self._labels = pair(found, find_files(labels, "labels"), self._stems) if self.labelled else []
        _unique(((self.name(i), path) for i, path in enumerate(self._images)), "result name")
        if not 0 <= count <= len(self._stems):
            raise InputError(f"count is {count}, but {images} holds {len(self._stems)} images; 0 takes them all")
        if count:
            self._stems, self._images, self._labels = self._stems[:count], self._images[:count], self._labels[:count]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._stems)

    def name(self, index: int) -> str:
        """Path below the folder without suffix, with '__' for '/'; unique in the set."""
        return self._stems[index].replace("/", "__")

    def image_id(self, index: int) -> int:
        """The number in the name if it is nothing else and below 2**31, otherwise a checksum of the path's stem."""
        stem = self._stems[index]
        if stem.isascii() and stem.isdigit() and int(stem) < 2**31:
            return int(stem)
        return zlib.crc32(stem.encode("utf-8", "surrogateescape")) & 0x7FFFFFFF

    def __getitem__(self, index: int) -> Example:
        """Example with image [H,W,3] and labels [H,W]; InputError names a file that cannot be used."""
        image = read_image(self._images[index])
        if not self.labelled:
            return Example(fitted(image, self.size, self._fit), None)
        path = self._labels[index]
        ids = read_label_ids(path)
        if ids.shape != image.shape[:2]:
            raise InputError(
                f"{self._images[index]} is {image.shape[1]} x {image.shape[0]} pixels (after its EXIF orientation), "
                f"but its label file {path} is {ids.shape[1]} x {ids.shape[0]}; the two must have the same size"
            )
        labels = train_ids(ids, self._table, path)
        return Example(fitted(image, self.size, self._fit), fitted(labels, self.size, self._fit))


def check_fit(fit: str, size: tuple[int, int]) -> None:
    """InputError unless `fit` is one of BOXES and size is (H, W)."""
    if fit not in BOXES:
        raise InputError(f"fit is {fit!r}, but it must be one of {', '.join(BOXES)}")
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"size is {tuple(size)}, but it must be a height and a width of at least 1 pixel")


def fitted(array: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """An image [h,w,3] (smoothly) or labels [h,w] (nearest) resampled to size (H, W), both with the same geometry.

    uint8; the array itself if it has that size already.
    """
    if array.shape[:2] == tuple(size):
        return array
    resample = Image.Resampling.BICUBIC if array.ndim == 3 else Image.Resampling.NEAREST
    box = BOXES[fit](array.shape[1], array.shape[0], size)
    return np.array(Image.fromarray(array).resize((size[1], size[0]), resample, box=box))


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the file."""


def crop_box(width: int, height: int, size: tuple[int, int]) -> Box:
    """The largest middle part of the file that has the proportions of `size` (H, W)."""
    wide, high = float(width), float(height)
    if width * size[0] > height * size[1]:
        wide = height * size[1] / size[0]
    else:
        high = width * size[0] / size[1]
    # whole offsets: a cut without scaling then copies pixels instead of interpolating half way between them
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def stretch_box(width: int, height: int, size: tuple[int, int]) -> Box:
    """The whole file."""
    return 0, 0, width, height


BOXES = {"crop": crop_box, "stretch": stretch_box}


def find_files(where: str, field: str) -> dict[str, str]:
    """Image files of a directory or glob pattern: path below the fixed part of `where` without suffix -> path.

    Raises InputError, naming the config `field`, if there is none or if two differ in nothing but the suffix.
    """
    where = os.path.expanduser(where)
    folder = os.path.isdir(where)
    if not folder and not glob.has_magic(where) and not os.path.exists(where):
        raise InputError(f"{field}: there is no folder {where!r}; name a folder of image files or a glob pattern")
    pattern = os.path.join(glob.escape(where), "**") if folder else where
    root = where if folder else os.path.dirname(where)
    while not folder and glob.has_magic(root):
        root = os.path.dirname(root)
    paths = [path for path in glob.glob(pattern, recursive=True) if path.lower().endswith(SUFFIXES)]
    paths = sorted(path for path in paths if os.path.isfile(path))
    if not paths:
        raise InputError(f"{field}: {where} holds no readable image files ({' '.join(SUFFIXES)})")
    stems = (os.path.splitext(os.path.relpath(path, root or "."))[0].replace(os.sep, "/") for path in paths)
    return _unique(zip(stems, paths, strict=True), "stem")


def pair(images: dict[str, str], labels: dict[str, str], order: list[str]) -> list[str]:
    """Label paths of the images in `order`; both dictionaries are what find_files returns.

    Raises InputError unless every image has exactly one label file and every label file an image.
    """
    rule = "a label file must have the file name of its image, apart from the suffix"
    keys = {stem: stem for stem in order}
    if not images.keys() & labels.keys():
        keys = {stem: os.path.basename(stem) for stem in order}
        _unique(((keys[stem], images[stem]) for stem in order), "file name, by which labels are found,")
        labels = _unique(((os.path.basename(stem), path) for stem, path in labels.items()), "file name")
    missing = [stem for stem in order if keys[stem] not in labels]
    if len(missing) == len(order):
        raise InputError(
            f"none of the {len(labels)} label files matches any of the {len(order)} images (the first are "
            f"{next(iter(labels.values()))} and {images[order[0]]}); {rule}"
        )
    if missing:
        first = ", ".join(images[stem] for stem in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(f"{len(missing)} of {len(order)} images have no label file ({first}); {rule}")
    spare = sorted(labels.keys() - set(keys.values()))
    if spare:
        raise InputError(f"{len(spare)} label files have no image, the first is {labels[spare[0]]}; {rule}")
    return [labels[keys[stem]] for stem in order]


def _unique(items: Iterable[tuple[str, str]], what: str) -> dict[str, str]:
    """{key: path}; InputError naming both files if two have one key."""
    found: dict[str, str] = {}
    for key, path in items:
        if key in found:
            raise InputError(f"{found[key]} and {path} have the same {what} {key!r}; rename one or narrow the pattern")
        found[key] = path
    return found


@contextmanager
def _decoded(path: str) -> Iterator[Image.Image]:
    """The decoded file; whatever goes wrong in the block leaves it as an InputError that names the file."""
    large = f"{path} has more than {MAX_PIXELS / 1e6:.1f} megapixels; scale it down"
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(large)
            picture.load()
            yield picture
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(large) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{path} {_what_it_is(path)}; replace the file") from error
    except Exception as error:  # Pillow's decoders meet broken files with nearly every type there is
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); the file may be damaged or cut short") from error


def _what_it_is(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith(b"<"):
        return "is an HTML or XML page and not an image, perhaps from a download that failed"
    return f"is not an image of a known format ({', '.join(FORMATS)})"


def read_image(path: str) -> np.ndarray:
    """[h,w,3] uint8 RGB of an image file, turned as its EXIF orientation says.

    Transparent pixels are laid over black: what a file hides under them is arbitrary. Grey of 16 bits has its whole
    range 0..65535 scaled to 0..255. Raises InputError if the file cannot be read or has values without a range.
    """
    with _decoded(path) as picture:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode == "I" or picture.mode.startswith("I;16"):
            grey = np.asarray(picture).astype(np.int64)
            if grey.min() < 0 or grey.max() > 65535:
                raise InputError(f"{path} has grey values outside 0..65535; save it as an 8-bit image")
            return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
        if picture.mode == "F":
            raise InputError(f"{path} holds floating-point values of unknown range; save it as an 8-bit image")
        if "transparency" in picture.info or picture.mode in ("RGBA", "RGBa", "LA", "PA"):
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
        return np.array(picture.convert("RGB"))


def read_label_ids(path: str) -> np.ndarray:
    """[h,w] integers of a label file as stored: grey values, or palette indices whatever their colours.

    Raises InputError if the file cannot be read or its pixels are not one exact number each.
    """
    with _decoded(path) as picture:
        if picture.mode in ("L", "P", "I") or picture.mode.startswith("I;16"):
            if picture.format not in ("JPEG", "MPO"):
                return np.array(picture)
            raise InputError(f"{path} is a JPEG file, which does not keep label ids exactly; save labels as PNG")
        raise InputError(
            f"{path} has pixels of type {picture.mode} ({', '.join(picture.getbands())}), but a label file must have "
            "one number a pixel; save it as greyscale PNG of 8 or 16 bits, or as palette PNG"
        )


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


def train_ids(ids: np.ndarray, table: np.ndarray, path: str) -> np.ndarray:
    """[h,w] file values -> [h,w] uint8 train ids; InputError names values that are in no class, and their pixels."""
    known = ids if ids.dtype.kind == "u" else np.where((ids < 0) | (ids > MAX_ID), MAX_ID + 1, ids)
    labels = table[known]
    if (labels == UNKNOWN).any():
        values, pixels = np.unique(ids[labels == UNKNOWN], return_counts=True)
        shown = ", ".join(f"{value} ({number} pixels)" for value, number in list(zip(values, pixels, strict=True))[:5])
        more = f" and {len(values) - 5} more" if len(values) > 5 else ""
        raise InputError(
            f"{path} has label ids that no class names: {shown}{more}; add them to the ids of a class in "
            "config.data.classes, or to the void_ids of this data set if they mean no class"
        )
    return labels
