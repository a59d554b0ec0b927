"""What can be wrong with a file of a data set: one category each, so that a check can count them."""

from typing import NamedTuple

from sgg_jax.errors import InputError

ERRORS = {
    "unreadable": "the file is gone, may not be read, or its disk fails",
    "empty": "the file has no bytes",
    "not an image": "the file is of another kind, such as a saved web page",
    "damaged": "the file is cut short or its bytes have changed",
    "too large": "the header promises more pixels or bytes than is sane",
    "pixel type": "the pixels are of a kind that has no exact meaning here",
    "wrong encoding": "the labels are real, but encoded in another way than this data set's",
    "unknown ids": "the labels have values that the class table does not name",
    "size mismatch": "image and labels differ in size",
    "all void": "no pixel of the labels belongs to a class",
    "missing label": "an image without its label file",
    "orphan label": "a label file without its image",
    "duplicate": "two files for one example",
    "hole": "numbers that are missing from the middle of a consecutive set",
    "unsafe name": "a name in a zip file that leads out of the data set",
    "bad zip": "a zip file that cannot be opened or whose content fails its checksum",
}
"""Category -> what it means. Each example or file has at most one: the first that was met."""


class BadFileError(InputError):
    """A file that cannot be used; the text names it and says how to mend it, `category` is a key of ERRORS."""

    def __init__(self, category: str, text: str) -> None:
        super().__init__(text)
        self.category = category


class Problem(NamedTuple):
    """One entry of a report."""

    category: str  # a key of ERRORS, or "known bad": left out for a reason that the data set's file tells
    name: str  # of the example, or the file where there is no example
    text: str
