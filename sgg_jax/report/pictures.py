"""Contact sheets: what went in and what came out, side by side, as one picture.

A sheet is grids of small pictures all the way down: texts, cells and legend entries are pictures, and
`_grid` lines them up.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sgg_jax.data.classes import palette
from sgg_jax.data.dataset import VOID, ClassInfo
from sgg_jax.records import write_bytes

MAX_CELL = 480  # pixels; a wider picture is shrunk to this, a narrower one is not enlarged beyond it
MARGIN = 16
GAP = 8
SWATCH = 14  # side of a legend entry's square
TEXT, TITLE = 15, 21  # font sizes

PAPER = (252, 252, 250)
INK = (34, 36, 40)
RULE = (150, 150, 150)
BLACK = (0, 0, 0)
WRONG = (214, 40, 40)

Row = Sequence[np.ndarray | None]
"""A cell per thing: uint8 RGB [H,W,3], uint8 labels [H,W], or None for a cell left blank."""


def colorize(labels: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:  # [H,W] -> [H,W,3]
    """The uint8 train ids of a label map as the colours of their classes; VOID is black.

    Raises ValueError at an id that is neither a class nor VOID.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(f"labels must be uint8 [H,W], got {labels.dtype} {list(labels.shape)}")
    strangers = np.setdiff1d(labels, [*range(len(classes)), VOID])
    if strangers.size:
        raise ValueError(f"label {strangers[0]} is neither one of the {len(classes)} classes nor void ({VOID})")
    colors: np.ndarray = palette(tuple(classes))[labels]
    return colors


def overlaid(image: np.ndarray, labels: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """An image [H,W,3] uint8 under the colours of its labels [H,W]; dark where they are VOID. [H,W,3] uint8."""
    return _mixed(image, colorize(labels, classes), 0.6)


def mistakes(image: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Where a prediction [H,W] is wrong: WRONG over the image in grey; BLACK where labels are VOID. [H,W,3] uint8."""
    grey = np.broadcast_to(image.mean(-1, keepdims=True), image.shape)
    shown = _mixed(grey, np.full_like(image, 255), 0.3)
    shown[predicted != labels] = WRONG
    shown[labels == VOID] = BLACK
    return shown


def _mixed(below: np.ndarray, above: np.ndarray, share: float) -> np.ndarray:
    return np.round((1 - share) * below + share * above).astype(np.uint8)


def sheet(
    rows: Sequence[Row],
    columns: Sequence[str],
    scale: int = 3,
    classes: Sequence[ClassInfo] | None = None,
    title: str = "",
) -> Image.Image:
    """A contact sheet: a row of cells per example below a row of column headings.

    Small pictures grow by a whole factor, at most `scale` (pixels stay sharp squares); pictures wider than
    MAX_CELL shrink to it. `classes` colours the label maps and adds a legend at the bottom.
    """
    for index, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"row {index} of the sheet has {len(row)} cells for {len(columns)} columns")
    headings = [_text(name, TEXT) for name in columns]
    body = _grid([headings, *([_cell(picture, scale, classes) for picture in row] for row in rows)])
    above = [_text(title, TITLE)] if title else []
    below = [_text("", 1), _legend(classes, body.width)] if classes else []
    return _grid([[part] for part in [*above, body, *below]], margin=MARGIN)


def png_bytes(image: Image.Image) -> bytes:
    """The file a picture is saved as; equal pictures give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save(image: Image.Image, path: Path | str) -> None:
    """Write a PNG; a reader sees the old file or the whole new one."""
    write_bytes(Path(path), png_bytes(image))


def _cell(picture: np.ndarray | None, scale: int, classes: Sequence[ClassInfo] | None) -> Image.Image:
    """One picture at the size it is shown."""
    if picture is None:
        return Image.new("RGB", (1, 1), PAPER)
    is_labels = picture.ndim == 2
    if is_labels:
        if classes is None:
            raise ValueError("a sheet with label maps needs the class table")
        picture = colorize(picture, classes)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a cell must be uint8 [H,W,3] or [H,W], got {picture.dtype} {list(picture.shape)}")
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.width > MAX_CELL:
        size = (MAX_CELL, max(1, round(image.height * MAX_CELL / image.width)))
        # Mixed class colours would read as other classes, so label maps are picked, not averaged.
        return image.resize(size, Image.Resampling.NEAREST if is_labels else Image.Resampling.LANCZOS)
    factor = max(1, min(scale, MAX_CELL // image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _grid(rows: Sequence[Sequence[Image.Image]], margin: int = 0) -> Image.Image:
    """Pictures in lines and columns, each at the top left of its place; a row may end early."""
    columns = max(len(row) for row in rows)
    widths = [max(row[j].width for row in rows if j < len(row)) for j in range(columns)]
    heights = [max((part.height for part in row), default=0) for row in rows]
    width = sum(widths) + GAP * (columns - 1) + 2 * margin
    paper = Image.new("RGB", (max(width, 1), sum(heights) + GAP * (len(rows) - 1) + 2 * margin), PAPER)
    y = margin
    for row, height in zip(rows, heights, strict=True):
        x = margin
        for part, column in zip(row, widths, strict=False):
            paper.paste(part, (x, y))
            x += column + GAP
        y += height + GAP
    return paper


def _text(text: str, size: int) -> Image.Image:
    """One line of text, always as high. Pillow's own font has Latin letters and little else: "→" comes out as a box."""
    font = ImageFont.load_default(size)
    text = " ".join(text.split())
    height = round(font.getbbox("Ag")[3]) + 2
    image = Image.new("RGB", (max(1, round(font.getlength(text)) + 1), height), PAPER)
    ImageDraw.Draw(image).text((0, 0), text, INK, font)
    return image


def _legend(classes: Sequence[ClassInfo], width: int) -> Image.Image:
    """Swatch and name of every class, and of void, in as many columns as `width` holds."""
    entries = [_entry(name, color) for name, color in [*((c.name, c.color) for c in classes), ("void", BLACK)]]
    legend = _grid([[entry] for entry in entries])
    for columns in range(2, len(entries) + 1):
        wider = _grid([entries[i : i + columns] for i in range(0, len(entries), columns)])
        if wider.width > width:
            break
        legend = wider
    return legend


def _entry(name: str, color: tuple[int, int, int]) -> Image.Image:
    text = _text(name, TEXT)
    swatch = Image.new("RGB", (SWATCH, text.height), PAPER)
    top = (text.height - SWATCH) // 2 + 1
    ImageDraw.Draw(swatch).rectangle((0, top, SWATCH - 1, top + SWATCH - 1), fill=color, outline=RULE)
    return _grid([[swatch, text]])
