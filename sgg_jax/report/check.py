"""What check_data found, for people: text for the terminal, and a contact sheet of examples under their labels."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sgg_jax.data.dataset import ClassInfo, Dataset
from sgg_jax.data.problems import BadFileError
from sgg_jax.data.summary import Summary
from sgg_jax.report.pictures import overlaid, sheet
from sgg_jax.report.tables import text_table

TILES, ACROSS = 12, 4  # examples of a contact sheet, and of one of its lines
TILE = 440  # width of an example, pixels; with its margins it stays below pictures.MAX_CELL
LONGEST = 52  # letters of a name that fit over a tile
EDGE = (255, 255, 255)  # between classes


def summary_text(title: str, summary: Summary) -> str:
    """A block of lines about one data set: what it has, its errors counted, its notes, its class histogram."""
    number = f"{summary.found}"
    if summary.expected is not None:
        number += f" of the {summary.expected} that the original set has"
    if summary.looked_at < summary.usable:
        number += f", drawn when asked for; {summary.looked_at} of them looked at"
    rows = [
        ("images", number),
        ("", f"{summary.usable} can be used" if summary.errors or summary.known_bad else ""),
        ("size", _sizes(summary.sizes)),
        ("image files", _counted(summary.images)),
        ("label files", _counted(summary.labels) if summary.labelled else "none"),
        ("left out", f"{len(summary.known_bad)} x known bad" if summary.known_bad else ""),
        ("errors", _counted(Counter(problem.category for problem in summary.errors)) or "none"),
        *(("note", note.text) for note in summary.notes),
    ]
    lines = [title, *(f"  {name:12} {text}" for name, text in rows if text)]
    if summary.classes:
        lines += ["", *("  " + line for line in _histogram(summary).splitlines())]
    return "\n".join(lines)


def _counted(counts: Counter[str]) -> str:
    """The most frequent first: "3 x PNG, RGB; 1 x JPEG, CMYK"."""
    return "; ".join(f"{n} x {name}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    """Width x height."""
    if not sizes:
        return ""
    (height, width), number = max(sizes.items(), key=lambda item: (item[1], item[0]))
    text = f"{width} x {height}"
    if len(sizes) > 1:
        heights, widths = zip(*sizes, strict=True)
        text += f" ({number} images), {sizes.total() - number} of other sizes: widths {min(widths)} to {max(widths)}, "
        text += f"heights {min(heights)} to {max(heights)}"
    return text


def _histogram(summary: Summary) -> str:
    total = max(sum(share.pixels for share in summary.classes), 1)
    rows = [
        (share.name, f"{100 * share.pixels / total:.2f}", share.images) if share.known else (share.name, "-", "-")
        for share in summary.classes
    ]
    return text_table(("class", "% of pixels", "images"), rows)


def overlay(image: np.ndarray, labels: np.ndarray, classes: Sequence[ClassInfo], width: int = TILE) -> np.ndarray:
    """[H,W,3] uint8 and [H,W] train ids -> both at the size of a tile: class colours, edges between them."""
    labels = shown(labels, width)
    mixed = overlaid(shown(image, width), labels, classes)
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    mixed[edge] = EDGE
    return mixed


def shown(array: np.ndarray, width: int = TILE) -> np.ndarray:
    """An image or labels at the width of a tile. Pixels of small ones stay sharp, as those of labels do."""
    high, wide = array.shape[:2]
    sharp = array.ndim == 2 or 2 * wide <= width
    resample = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(array).resize((width, max(1, round(high * width / wide))), resample))


def contact_sheet(dataset: Dataset, indices: Sequence[int], title: str) -> Image.Image | None:
    """Up to TILES of the examples, evenly spread: each image, and below it the image under its labels; a legend.

    None if none of them can be read.
    """
    tiles = []
    for index in spread(indices, TILES):
        try:
            image, labels = dataset.full(index)
        except BadFileError:  # it was readable when it was checked
            continue
        rows = [[shown(image)]] if labels is None else [[shown(image)], [overlay(image, labels, dataset.classes)]]
        tiles.append(np.asarray(sheet(rows, [_short(dataset.name(index))])))
    if not tiles:
        return None
    across = min(ACROSS, len(tiles))
    lines = [
        [*tiles[i : i + across], *[None] * (across - len(tiles[i : i + across]))] for i in range(0, len(tiles), across)
    ]
    return sheet(lines, [""] * across, 1, dataset.classes if dataset.labelled else None, title)


def spread(indices: Sequence[int], number: int) -> list[int]:
    """Up to so many of the indices, evenly spread from the first to the last."""
    if len(indices) <= number:
        return list(indices)
    return [indices[round(i * (len(indices) - 1) / (number - 1))] for i in range(number)]


def _short(name: str) -> str:
    """A name that fits over a tile and that a font can draw."""
    name = name.encode("ascii", "backslashreplace").decode()
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 2]}...{name[-LONGEST // 2 + 2 :]}"
