"""Labels that are real but encoded in another way than the data set's: what they look like, and how to mend it.

A file by itself often cannot tell: every train id 0..18 is a label id of Cityscapes, too. Then the whole set does.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from sgg_jax.data.classes import CITYSCAPES, LABEL_IDS
from sgg_jax.data.dataset import VOID, ClassInfo
from sgg_jax.data.decode import MAX_ID, UNKNOWN, decoded, raw_mode, read_first_of_three
from sgg_jax.data.pairs import Pairs
from sgg_jax.data.problems import BadFileError

Values = Mapping[int, int]
"""Value in a label file -> pixels that have it."""

LABELS = np.array([ids[0] for ids in LABEL_IDS.values()])
"""Train id -> label id of Cityscapes."""
COMMON = {LABEL_IDS[i][0] for i in (2, 8, 10, 11, 13)}
"""Label ids of building, vegetation, sky, person and car: hardly a street scene has fewer than two of them."""
LABEL_IDS_SEEN = "its values are Cityscapes' label ids, but train ids are expected"
LABEL_IDS_MENDED = (
    "name files of train ids (*_labelTrainIds.png), or give every class of config.data.classes its label ids (7 for "
    "road) where the set takes them"
)
TRAIN_IDS_MENDED = "name the *_labelIds.png files, or give the classes of config.data.classes their train ids as ids"


def expects_train_ids(table: np.ndarray) -> bool:
    """Whether the label values of a lookup table (decode.label_table) are the train ids themselves."""
    classes = np.unique(table[table < UNKNOWN])
    return len(classes) > 0 and bool((table[classes] == classes).all())


def expects_label_ids(table: np.ndarray) -> bool:
    """Whether a lookup table knows all label ids of Cityscapes, and they are not the train ids."""
    return bool((table[:34] != UNKNOWN).all()) and not expects_train_ids(table)


def guess(values: Values, pairs: Pairs) -> str:
    """What label values with unknown ones among them look like and how to mend it; "" if they look like nothing."""
    found = {value for value in values if value != VOID}
    if max(found) < len(LABELS) and (pairs.table[LABELS] == np.arange(len(LABELS))).all():
        return f"its values look like train ids, but label ids are expected; {TRAIN_IDS_MENDED}"
    if expects_train_ids(pairs.table) and max(found) <= 34 and len(found & COMMON) >= 2:
        return f"{LABEL_IDS_SEEN}; {LABEL_IDS_MENDED}"
    if max(found) >= 1000 and all(0 <= value <= 34 or 24 <= value // 1000 <= 33 for value in found):
        return (
            "its values are Cityscapes' instance ids (1000 x label id + number); name the files of label ids "
            "(*_labelIds.png)"
        )
    for factor in (257, 256):
        if max(found) > 255 and all(
            0 <= value <= MAX_ID and value % factor == 0 and pairs.table[value // factor] != UNKNOWN for value in found
        ):
            return f"its values are {factor} times label ids, as where 8 bits were stretched to 16; divide them"
    if len(found) >= 3 and found <= {_grey(color) for color in _colors(pairs.classes)}:
        return (
            "its values are the brightness of class colours, as where a palette or colour picture was turned grey; "
            "take the original label files"
        )
    return ""


def _colors(classes: Iterable[ClassInfo]) -> set[tuple[int, int, int]]:
    """Colours of the classes, of Cityscapes', and black."""
    return {info.color for info in (*classes, *CITYSCAPES)} | {(0, 0, 0)}


def _grey(color: tuple[int, int, int]) -> int:
    """The brightness that Pillow gives a colour (ITU-R 601-2)."""
    red, green, blue = color
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def explained(error: BadFileError, data: bytes, where: str, pairs: Pairs) -> BadFileError:
    """A "wrong encoding" that the decoder of label files met, in the words of what the file is; else the error."""
    if error.category != "wrong encoding":
        return error
    with decoded(data, where) as picture:
        if raw_mode(picture) == "RGB;16B":
            seen = "has three channels of 16 bits, as SYNTHIA's labels have, but one number a pixel is expected"
            return BadFileError(error.category, f"{where} {seen}; read the set by its name, synthia")
        first = picture.getchannel(0) if picture.mode in ("RGB", "RGBA", "L") else None
        if first is not None and first.getextrema() == (0, 0) and pairs.decode is read_first_of_three:
            seen = "was cut from 16 bits to 8, which left class 0 everywhere"
            return BadFileError(error.category, f"{where} {seen}; take the original label files")
        counts = picture.convert("RGB").getcolors(1024) if picture.mode in ("RGB", "RGBA") else None
        colors = _colors(pairs.classes)
        known = sum(number for number, color in counts or () if color in colors)
        if counts and known >= 0.8 * picture.width * picture.height:
            seen = "is a picture of the labels in colours, for people"
            return BadFileError(
                error.category, f"{where} {seen}; name the label files that hold ids, such as *_labelIds.png"
            )
    return error


def misread(files: Mapping[str, Values], table: np.ndarray) -> tuple[list[str], str]:
    """Names of the label files that only the whole set shows to be encoded in another way, and what they look like.

    files: the values of every label file that gave no error, or was all void.
    """
    known = {name: {v: n for v, n in values.items() if v != VOID} for name, values in files.items()}
    known = {name: values for name, values in known.items() if values}
    for suspects, verdict in (
        (_train_ids(known, table), _is_train_ids),
        (_label_ids(known, table), _is_label_ids),
        (_zeros(known, table), _is_zeros),
    ):
        # one scene in a tunnel has none of the common things; half a set does not
        if suspects and 2 * len(suspects) >= len(known):
            text = verdict(sum((Counter(known[name]) for name in suspects), Counter()))
            if text:
                return suspects, text
    return [], ""


def _train_ids(known: Mapping[str, Values], table: np.ndarray) -> list[str]:
    return [name for name, values in known.items() if max(values) < len(CITYSCAPES)] if expects_label_ids(table) else []


def _is_train_ids(total: Counter[int]) -> str:
    """Label ids 0 to 6 mean "no class" and are rare; train ids 0 to 6 are most of a street."""
    low, rest = _share(total, range(7)), _share(total, range(7, 19))
    if low < 0.25 or rest < 0.005:
        return ""
    return (
        f"its values are all below 19, {low:.0%} of the pixels of such files below 7: they look like train ids, but "
        f"label ids are expected; {TRAIN_IDS_MENDED}"
    )


def _label_ids(known: Mapping[str, Values], table: np.ndarray) -> list[str]:
    """Files of a set that takes the values above the train ids for void, so that no value is unknown."""
    if not expects_train_ids(table) or not (table[19:34] == VOID).all():
        return []
    return [name for name, values in known.items() if len(COMMON & values.keys()) >= 2]


def _is_label_ids(total: Counter[int]) -> str:
    return f"{LABEL_IDS_SEEN}; {LABEL_IDS_MENDED}" if _share(total, range(19, 34)) > 0.2 else ""


def _zeros(known: Mapping[str, Values], table: np.ndarray) -> list[str]:
    zeros = [name for name, values in known.items() if values.keys() == {0}]
    # a set of one file may well be one class, and zeros that mean void are told as such
    return zeros if 1 < len(zeros) == len(known) and table[0] not in (VOID, UNKNOWN) else []


def _is_zeros(_: Counter[int]) -> str:
    return (
        "it is 0 everywhere, as all label files of the set: they look like labels of 16 bits that were cut to 8; take "
        "the original label files"
    )


def _share(total: Counter[int], values: Iterable[int]) -> float:
    return sum(total[value] for value in values) / total.total()
