"""Image and label files in the user's own folders, paired by name."""

import glob
import os
from collections.abc import Iterable

from sgg_jax.data.dataset import ClassInfo
from sgg_jax.data.decode import label_table
from sgg_jax.data.fit import check_fit
from sgg_jax.data.pairs import Files, Frame, Pairs, stem_id
from sgg_jax.data.problems import Problem
from sgg_jax.data.tree import read_file
from sgg_jax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def open_folders(
    images: str,
    labels: str,
    classes: tuple[ClassInfo, ...],
    size: tuple[int, int],
    fit: str = "crop",
    count: int = 0,
    void_ids: tuple[int, ...] = (255,),
) -> Pairs:
    """A data set made of a folder of images and, if labelled, a folder of label maps of the same names.

    Opening it lists and pairs the files; a file's contents are checked when it is read.

    Args:
        images: a directory, searched to the bottom, or a glob pattern (** allowed). Hidden files are passed over.
        labels: the same; "" for a set without labels.
        classes: class table; position is the train id, `ids` the values in the label files (0..65535).
        size, fit, count: as Pairs has them.
        void_ids: values in the label files that become VOID.

    A label file belongs to the image of the same path below its folder without suffix; if no file matches so, to the
    image of the same file name without suffix. Files that do not pair are `problems` of the set. An example's name is
    that path with "__" for "/".

    Raises:
        InputError: a setting is wrong, nothing is found, no file pairs, or two files have one name.
    """
    check_fit(fit, size)
    table = label_table(tuple(classes), void_ids)
    found = find_files(images, "images")
    paired, problems = pair(found, find_files(labels, "labels")) if labels else (dict.fromkeys(found, ""), [])
    frames = [Frame(stem.replace("/", "__"), found[stem], paired[stem]) for stem in sorted(paired)]
    _unique(((frame.name, frame.image) for frame in frames), "result name")
    numbers = {stem.replace("/", "__"): stem_id(stem) for stem in paired}
    try:
        files = Files(read_file, str)
        return Pairs(frames, files, classes, table, size, fit, count, problems, ids=lambda frame: numbers[frame.name])
    except InputError as error:
        raise InputError(f"{images}: {error}") from error


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


def pair(images: dict[str, str], labels: dict[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """The label path of every image that has one; both dictionaries are what find_files returns.

    Images without labels and labels without images are problems. Raises InputError if nothing pairs.
    """
    rule = "a label file must have the file name of its image, apart from the suffix"
    keys = {stem: stem for stem in images}
    if not images.keys() & labels.keys():
        keys = {stem: os.path.basename(stem) for stem in images}
        _unique(((keys[stem], images[stem]) for stem in sorted(images)), "file name, by which labels are found,")
        labels = _unique(((os.path.basename(stem), path) for stem, path in labels.items()), "file name")
    paired = {stem: labels[key] for stem, key in keys.items() if key in labels}
    if not paired:
        raise InputError(
            f"none of the {len(labels)} label files matches any of the {len(images)} images (the first are "
            f"{next(iter(labels.values()))} and {images[min(images)]}); {rule}"
        )
    problems = [
        Problem("missing label", images[stem], f"{images[stem]} has no label file; {rule}")
        for stem in sorted(images)
        if stem not in paired
    ]
    problems += [
        Problem("orphan label", labels[key], f"{labels[key]} has no image; {rule}")
        for key in sorted(labels.keys() - set(keys.values()))
    ]
    return paired, problems


def _unique(items: Iterable[tuple[str, str]], what: str) -> dict[str, str]:
    """{key: path}; InputError naming both files if two have one key."""
    found: dict[str, str] = {}
    for key, path in items:
        if key in found:
            raise InputError(f"{found[key]} and {path} have the same {what} {key!r}; rename one or narrow the pattern")
        found[key] = path
    return found
