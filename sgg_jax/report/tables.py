"""Tables as text: for the terminal, for Markdown, for a spreadsheet.

Cells are shown as `str` gives them, so the caller rounds; None is an empty cell. A column whose cells are all
numbers is aligned to the right.
"""

import csv
import io
import math
import re
from collections.abc import Sequence

Rows = Sequence[Sequence[object]]

_NUMBER = re.compile(r"\s*([+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?)\s*%?\s*((±|\+-)\s*[\d.]+\s*%?\s*)?", re.IGNORECASE)
_NO_VALUE = {"", "-", "\u2013", "\u2014", "nan", "n/a"}


def text_table(header: Sequence[str], rows: Rows) -> str:
    """Columns aligned with spaces, a rule below the header; no newline at the end."""
    columns = _columns(header, rows)
    right = numeric(header, rows)
    padded = []
    for column, is_number in zip(columns, right, strict=True):
        width = max(len(cell) for cell in column)
        cells = [cell.rjust(width) if is_number else cell.ljust(width) for cell in column]
        padded.append([cells[0], "-" * width, *cells[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def markdown_table(header: Sequence[str], rows: Rows) -> str:
    """A GitHub table; no newline at the end."""
    columns = [[_escaped(cell) for cell in column] for column in _columns(header, rows)]
    rules = ["---:" if is_number else "---" for is_number in numeric(header, rows)]
    lines = zip(*([column[0], rule, *column[1:]] for column, rule in zip(columns, rules, strict=True)), strict=True)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def csv_text(header: Sequence[str], rows: Rows) -> str:
    """Comma-separated values, RFC 4180 quoting, lines that end in a single newline."""
    _columns(header, rows)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def number(cell: object) -> float | None:
    """The finite number that a cell shows ("41.3", "41.3 %", "41.3 ± 0.2" are 41.3), or None."""
    match = _NUMBER.fullmatch(cell_text(cell))
    value = float(match[1]) if match else math.nan
    return value if math.isfinite(value) else None


def numeric(header: Sequence[str], rows: Rows) -> list[bool]:
    """For each column: all its cells are numbers or stand for a missing one, and there is a number."""
    verdicts = []
    for j in range(len(header)):
        texts = [cell_text(row[j]) for row in rows]
        numbers = [text for text in texts if number(text) is not None]
        verdicts.append(bool(numbers) and all(text in numbers or text.lower() in _NO_VALUE for text in texts))
    return verdicts


def cell_text(cell: object) -> str:
    return "" if cell is None else " ".join(str(cell).split())


def _columns(header: Sequence[str], rows: Rows) -> list[list[str]]:
    """Every column as its heading and its cells. Raises ValueError at a row of another length than the header."""
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {index} of the table has {len(row)} cells for {len(header)} columns")
    return [[cell_text(name), *(cell_text(row[j]) for row in rows)] for j, name in enumerate(header)]


def _escaped(cell: str) -> str:
    """A cell that Markdown shows as it is."""
    return re.sub(r"([\\|`*_<\[\]])", r"\\\1", cell)
