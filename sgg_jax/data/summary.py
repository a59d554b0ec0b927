"""What the findings of all examples of a data set say together."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sgg_jax.data.dataset import VOID, Dataset
from sgg_jax.data.encodings import misread
from sgg_jax.data.examining import Finding, place
from sgg_jax.data.pairs import Pairs
from sgg_jax.data.problems import ERRORS, Problem
from sgg_jax.data.public.layout import Layout

NOTES = {
    "turned": "turned by an EXIF orientation (read upright)",
    "transparent": "transparent (read over black)",
    "grey": "grey",
    "palette": "a palette image (read in its colours)",
    "16 bits": "of 16 bits (8 of them are read)",
    "CMYK": "CMYK (read as RGB without a colour profile)",
    "one colour": "of one colour all over",
    "other size": "of another size than most",
    "same id": "of an image id that another has, too (both get the same noise)",
    "class absent": "classes that no image has",
    "count": "images found, but the original set has",
}
"""What is odd, but no error; the last two are of the whole set."""


class Note(NamedTuple):
    key: str  # of NOTES
    number: int  # of images (or of classes)
    text: str


class ClassShare(NamedTuple):
    """One row of the class histogram."""

    name: str
    pixels: int
    images: int  # that have the class
    known: bool = True  # False if no label value of this set means the class


class Summary(NamedTuple):
    found: int  # images
    usable: int
    expected: int | None  # images that the original set has; None where that is not known
    looked_at: int
    labelled: bool
    sizes: Counter[tuple[int, int]]  # (height, width) -> images
    images: Counter[str]  # kind of file -> images
    labels: Counter[str]
    classes: tuple[ClassShare, ...]  # and void last; empty for a set without labels
    errors: tuple[Problem, ...]
    known_bad: tuple[Problem, ...]
    notes: tuple[Note, ...]

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            **self._asdict(),
            "sizes": {f"{width}x{height}": number for (height, width), number in self.sizes.most_common()},
            "images": dict(self.images.most_common()),
            "labels": dict(self.labels.most_common()),
            "classes": [share._asdict() for share in self.classes],
            "counts": dict(sorted(Counter(problem.category for problem in self.errors).items())),
            "errors": [problem._asdict() for problem in self.errors],
            "known_bad": [problem._asdict() for problem in self.known_bad],
            "notes": [note._asdict() for note in self.notes],
        }


def summarise(
    dataset: Dataset, findings: Mapping[int, Finding], layout: Layout | None = None, expected: int | None = None
) -> Summary:
    """findings: index -> what was found, of all examples or some; layout: of a public set."""
    findings = _all_together(dataset, findings)
    errors = [problem for problem in dataset.problems if problem.category in ERRORS]
    errors += [Problem(found.category, found.name, found.text) for found in findings.values() if found.category]
    good = {index: found for index, found in findings.items() if not found.category}
    known_bad = tuple(problem for problem in dataset.problems if problem.category not in ERRORS)
    classes = _shares(dataset, list(good.values())) if dataset.labelled else ()
    found_images = len(dataset) + _left_out(dataset, layout)
    notes = [*_odd(dataset, findings), *_set_wide(classes, found_images, expected)]
    return Summary(
        found=found_images,
        usable=len(dataset) - (len(findings) - len(good)),
        expected=expected,
        looked_at=len(findings),
        labelled=dataset.labelled,
        sizes=Counter(found.size for found in findings.values() if found.size),
        images=Counter(found.image for found in findings.values() if found.image),
        labels=Counter(found.label for found in findings.values() if found.label),
        classes=classes,
        errors=tuple(errors),
        known_bad=known_bad,
        notes=tuple(notes),
    )


def _all_together(dataset: Dataset, findings: Mapping[int, Finding]) -> dict[int, Finding]:
    """The findings in order; label files that only the whole set shows to be of another encoding are in error."""
    together = {index: findings[index] for index in sorted(findings)}
    if not isinstance(dataset, Pairs):
        return together
    files = {found.name: found.values for found in together.values() if found.category in ("", "all void")}
    names, text = misread(files, dataset.table)
    suspects = set(names)
    for index, found in together.items():
        if found.name in suspects:
            where = dataset.files.where(dataset.frames[index].label)
            changed = {**found.record(), "category": "wrong encoding", "text": f"{where}: {text}"}
            together[index] = Finding.of(changed)
    return together


def _left_out(dataset: Dataset, layout: Layout | None) -> int:
    """Images that are there, but not in the data set."""
    used = (
        {name for frame in dataset.frames for name in (frame.image, frame.label)} if isinstance(dataset, Pairs) else ()
    )
    number = 0
    for problem in dataset.problems:
        if problem.category == "known bad":  # an example, or one of its files alone
            is_label = layout is not None and re.search(rf"(^|/){layout.label}$", problem.name)
            number += not is_label
        elif problem.category == "missing label":
            number += 1
        elif problem.category == "duplicate":  # of an image, or of an entry in two zip files
            number += problem.name not in used
    return number


def _shares(dataset: Dataset, findings: Sequence[Finding]) -> tuple[ClassShare, ...]:
    table = dataset.table if isinstance(dataset, Pairs) else np.arange(256)
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for found in findings:
        here: Counter[int] = Counter()
        for value, number in found.values.items():
            here[int(table[value])] += number
        pixels += here
        images.update(here.keys())
    known = set(np.unique(table).tolist())
    rows = [ClassShare(info.name, pixels[i], images[i], i in known) for i, info in enumerate(dataset.classes)]
    return (*rows, ClassShare("void", pixels[VOID], images[VOID]))


def _odd(dataset: Dataset, findings: Mapping[int, Finding]) -> list[Note]:
    """Notes of single images, counted, each with the first of them."""
    having: dict[str, list[int]] = defaultdict(list)
    sizes = Counter(found.size for found in findings.values() if found.size)
    usual = sizes.most_common(1)[0][0] if sizes else None
    ids: dict[int, int] = {}
    for index, found in findings.items():
        for key in found.notes:
            having[key].append(index)
        if found.size and found.size != usual:
            having["other size"].append(index)
        if ids.setdefault(dataset.image_id(index), index) != index:
            having["same id"].append(index)
    notes = []
    for key, words in NOTES.items():
        if having[key]:
            text = f"{len(having[key])} x {words}; the first: {place(dataset, having[key][0])}"
            notes.append(Note(key, len(having[key]), text))
    return notes


def _set_wide(classes: Sequence[ClassShare], found: int, expected: int | None) -> list[Note]:
    notes = []
    absent = [share.name for share in classes if share.known and not share.images and share.name != "void"]
    if absent:
        notes.append(Note("class absent", len(absent), f"{NOTES['class absent']}: {', '.join(absent)}"))
    if expected is not None and found != expected:
        notes.append(Note("count", found, f"{found} {NOTES['count']} {expected}"))
    return notes
