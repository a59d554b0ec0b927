"""The report as one HTML file: no script, no request to anywhere, readable on a phone and in the dark.

>>> html = page("Run 7", "What it is.", [Section("Scores", [Table(["net", "mIoU"], [["ours", "61.2"]])])])
>>> write_page("out/report.html", html)
"""

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from sgg_jax.records import write_bytes
from sgg_jax.report.pictures import png_bytes
from sgg_jax.report.tables import cell_text, number, numeric


class Text(NamedTuple):
    """Plain text; an empty line starts a new paragraph."""

    text: str


class Table(NamedTuple):
    """`best` names columns and says whether "max" or "min" is good there; the best cells stand out.

    `unranked` names rows, by their first cell, that do not compete.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    best: Mapping[str, Literal["max", "min"]] = {}
    unranked: Sequence[str] = ()


class Picture(NamedTuple):
    """A PNG or a PIL image. `scale` shows a small one larger, pixels as sharp squares; `alt` is its description."""

    image: bytes | Image.Image
    caption: str = ""
    scale: int = 1
    alt: str = ""


class Svg(NamedTuple):
    """SVG text that is trusted, as report/plots.py makes it."""

    svg: str
    caption: str = ""


class Settings(NamedTuple):
    """Values by name, nested as deep as they are, behind a line to unfold."""

    values: Mapping[str, object]
    title: str = "Settings"


Block = Text | Table | Picture | Svg | Settings


class Section(NamedTuple):
    heading: str
    blocks: Sequence[Block]


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page. All text is escaped; `lead` is the paragraph below the title."""
    bodies = []
    for index, section in enumerate(sections, 1):
        blocks = "\n".join(_block(block, f"s{index}-{j}") for j, block in enumerate(section.blocks))
        heading = f'<h2 id="s{index}-h">{escape(section.heading)}</h2>'
        bodies.append(f'<section id="s{index}" aria-labelledby="s{index}-h">\n{heading}\n{blocks}\n</section>')
    main = "\n".join(bodies)
    # `data:,` as icon keeps browsers from asking the server for one.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_CSS}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{_paragraphs(lead, "lead")}
{_contents(sections)}
</header>
<main>
{main}
</main>
</body>
</html>
"""


def write_page(path: Path | str, html: str) -> None:
    """Write the page; a reader sees the old file or the whole new one."""
    write_bytes(Path(path), html.encode())


def _block(block: Block, key: str) -> str:
    """`key` is unique in the page."""
    match block:
        case Text():
            return _paragraphs(block.text)
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Svg():
            box = _scrolling(_embedded(block.svg, key), block.caption or "Plot", "plot")
            return _figure(box, block.caption)
        case Settings():
            entries = "\n".join(
                f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in _flat(block.values)
            )
            return f"<details>\n<summary>{escape(block.title)}</summary>\n<dl>\n{entries}\n</dl>\n</details>"


def _contents(sections: Sequence[Section]) -> str:
    """Links to the sections, if there are enough to get lost."""
    if len(sections) < 3:
        return ""
    links = (f'<li><a href="#s{i}">{escape(section.heading)}</a></li>' for i, section in enumerate(sections, 1))
    return f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'


def _paragraphs(text: str, kind: str = "") -> str:
    opening = f'<p class="{kind}">' if kind else "<p>"
    parts = (part.strip() for part in re.split(r"\n\s*\n", text))
    return "\n".join(f"{opening}{escape(part)}</p>" for part in parts if part)


def _table(table: Table) -> str:
    header, rows = table.header, table.rows
    if strangers := set(table.best) - set(header):
        raise ValueError(f"best names {sorted(strangers)}, the columns are {list(header)}")
    kinds = [' class="number"' if is_number else "" for is_number in numeric(header, rows)]
    ranked = [row for row in rows if row[0] not in table.unranked]
    goals = [_best([row[j] for row in ranked], table.best.get(name)) for j, name in enumerate(header)]
    top = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    lines = []
    for row in rows:
        cells = []
        for j, (cell, kind, goal) in enumerate(zip(row, kinds, goals, strict=True)):
            text = escape(cell_text(cell))
            stands_out = goal is not None and number(cell) == goal and row[0] not in table.unranked
            text = f"<strong>{text}</strong>" if stands_out else text
            cells.append(f"<td{kind}>{text}</td>" if j or kind else f'<th scope="row">{text}</th>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(["<table>", f"<thead><tr>{top}</tr></thead>", "<tbody>", *lines, "</tbody>", "</table>"])
    return _figure(_scrolling(body, table.caption or "Table", "table"), table.caption)


def _best(cells: Sequence[object], goal: str | None) -> float | None:
    """The best number of a column; None without a goal or a number."""
    numbers = [value for cell in cells if (value := number(cell)) is not None]
    if goal is None or not numbers:
        return None
    return {"max": max, "min": min}[goal](numbers)


def _picture(picture: Picture) -> str:
    data = picture.image if isinstance(picture.image, bytes) else png_bytes(picture.image)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        width, height = (side * picture.scale for side in image.size)
    alt = picture.alt or picture.caption or "Picture"
    kind = ' class="pixels"' if picture.scale > 1 else ""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    element = f'<img{kind} width="{width}" height="{height}" alt="{escape(alt)}" src="{source}">'
    return _figure(_scrolling(element, alt, "picture"), picture.caption)


def _scrolling(content: str, label: str, kind: str) -> str:
    """A box that scrolls sideways by itself, by keyboard too."""
    return f'<div class="box {kind}" role="group" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def _figure(content: str, caption: str) -> str:
    below = f"\n<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>\n{content}{below}\n</figure>"


def _embedded(svg: str, key: str) -> str:
    """SVG as HTML wants it: no prologue, no namespaces, and ids that no other plot of the page has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'(\s)id="([^"]*)"', rf'\1id="{key}-\2"', svg)
    return re.sub(r'(url\(|href=")#', rf"\1#{key}-", svg)


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a nested mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else repr(value)


_CSS = """
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #222428; --soft: #5f646c; --rule: #dddcd6;
  --tint: #f3f2ed; --accent: #1f5fae; --shade: #00000026; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17191c; --ink: #e4e3df; --soft: #a0a4aa; --rule: #34373c; --tint: #1f2226; --accent: #86b6f2;
    --shade: #00000099; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 92rem; padding: clamp(1.25rem, 4vw, 3.5rem) clamp(1rem, 4vw, 3rem);
  background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: clamp(1.6rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .8rem; padding-top: .9rem;
  border-top: 1px solid var(--rule); }
h1, h2 { font-weight: 650; text-wrap: balance; overflow-wrap: anywhere; }
p { margin: 0 0 1rem; max-width: 68ch; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; color: var(--soft); }
a { color: var(--accent); text-underline-offset: .2em; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: 1.2rem 0 0; padding: 0; list-style: none; }
figure { margin: 1.2rem 0 1.8rem; }
figcaption { margin-top: .5rem; max-width: 68ch; font-size: .9rem; color: var(--soft); overflow-wrap: anywhere; }
.box { max-width: 100%; width: fit-content; overflow-x: auto; }
.box:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
table { border-collapse: collapse; font-size: .95rem; line-height: 1.4; }
th, td { padding: .45rem .9rem .45rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th + th, th + td, td + td { padding-left: .5rem; }
thead th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; }
tbody th { font-weight: 400; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td strong { color: var(--accent); font-weight: 700; }
/* A shadow on the side where there is more: the covers scroll along with the content, the shadows do not. */
.table, .plot { background: linear-gradient(to right, var(--paper) 30%, transparent) left / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 30%, transparent) right / 2.5rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / .8rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / .8rem 100% no-repeat scroll; }
.picture { border: 1px solid var(--rule); border-radius: 6px; }
img { display: block; max-width: none; }
.pixels { image-rendering: pixelated; }
.plot svg { display: block; width: 38rem; max-width: none; height: auto; }
.plot text { font-family: inherit !important; }
details { margin: 1rem 0 1.6rem; border: 1px solid var(--rule); border-radius: 6px; padding: .6rem 1rem; }
summary { cursor: pointer; font-weight: 600; }
dl { margin: .8rem 0 .3rem; font: .85rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
dl div { display: grid; grid-template-columns: minmax(8rem, 18rem) 1fr; gap: 0 1rem; padding: .15rem 0; }
dl div + div { border-top: 1px solid var(--tint); }
dt { color: var(--soft); overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .plot svg { width: 26rem; }
  dl div { grid-template-columns: 1fr; padding: .35rem 0; } }
@media print { .box { overflow: visible; } }
"""
