"""Plots as SVG text, made to be put inside a page.

Text and axes are drawn in `currentColor`, so they follow the page's text colour, light or dark; the series have
colours that stand out from both. Equal data give equal text. matplotlib is used without pyplot: no global figure.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

# Contrast of 3:1 and more against both white and near-black.
COLORS = ("#3f83d6", "#d8730f", "#2b9a5e", "#d6497f", "#8a6ed6", "#14939e", "#a5764a", "#7f8288")
DASHES = ("-", "--", "-.", ":")  # a full turn of the colours moves on to the next
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p")  # 11 and 8 share no factor: 88 unlike pairs
WIDTH = 5.8  # inches; at this width 11 pt text is still readable on a phone

_Place = Literal["outside upper left", "outside lower left"]
_INK = "#010203"  # drawn by matplotlib, replaced by currentColor
_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "sgg_jax",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],  # name -> (x, y)
    xlabel: str,
    ylabel: str,
    logy: bool = False,
    title: str = "",
) -> str:
    """One line per series. Points that are not finite, or not above 0 on a logarithmic axis, leave a gap."""
    with rc_context(_STYLE):
        figure = _figure(3.2, list(series))
        axes = figure.add_subplot()
        lines = []
        for index, (x, y) in enumerate(series.values()):
            values = np.array(y, float)
            values[~np.isfinite(values) | (logy & (values <= 0))] = np.nan
            style = DASHES[index // len(COLORS) % len(DASHES)]
            marker = "o" if len(values) <= 20 else ""
            lines += axes.plot(x, values, style, color=_color(index), marker=marker, markersize=4, linewidth=1.8)
        if logy:
            axes.set_yscale("log")
            axes.yaxis.set(major_formatter=_Decimal(), minor_formatter=_Decimal())
        axes.set(xlabel=_plain(xlabel), ylabel=_plain(ylabel), title=_plain(title))
        _legend(figure, lines, list(series), "outside lower left")
        return _svg(figure)


def scatter(
    points: Mapping[str, Sequence[tuple[float, float]]],  # name -> (x, y) of every point
    xlabel: str,
    ylabel: str,
    title: str = "",
    colors: Sequence[str] = COLORS,  # of the series in turn
) -> str:
    """Points in the plane, a colour and a marker per series. Points that are not finite are left out."""
    with rc_context(_STYLE):
        figure = _figure(3.4, list(points))
        axes = figure.add_subplot()
        dots = []
        for index, pairs in enumerate(points.values()):
            x, y = np.array([pair for pair in pairs if np.isfinite(pair).all()], float).reshape(-1, 2).T
            marker, color = MARKERS[index % len(MARKERS)], _color(index, colors)
            size = {"*": 12, "P": 9.5, "X": 9.5}.get(marker, 7.5)  # those with arms would look small
            # The rim keeps points apart that lie on one another.
            dots += axes.plot(
                x,
                y,
                linestyle="",
                marker=marker,
                markersize=size,
                color=color,
                markeredgecolor=_INK,
                markeredgewidth=0.7,
            )
        axes.set(xlabel=_plain(xlabel), ylabel=_plain(ylabel), title=_plain(title))
        _legend(figure, dots, list(points), "outside upper left")
        return _svg(figure)


def class_bars(
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    label: str,
    spread: Mapping[str, Sequence[float]] | None = None,
    colors: Sequence[str] = COLORS,  # of the series in turn
) -> str:
    """A group of horizontal bars per class, a bar per series; `label` says what a bar's length is.

    A value that is not finite, such as the IoU of a class that does not occur, has no bar but a dash. `spread` adds
    a line from value - spread to value + spread to the bars of the series it has; none where it is not finite.
    """
    spread = spread or {}
    if strangers := set(spread) - set(values):
        raise ValueError(f"spread of {sorted(strangers)}, the series are {list(values)}")
    for series, numbers in [*values.items(), *spread.items()]:
        if len(numbers) != len(names):
            raise ValueError(f"{series} has {len(numbers)} values for {len(names)} classes")
    with rc_context(_STYLE):
        thickness = 0.8 / max(len(values), 1)
        group = 0.1 + 0.13 * max(len(values), 1.5)  # inches
        figure = _figure(0.8 + group * len(names), list(values))
        axes = figure.add_subplot()
        bars = []
        for index, (series, numbers) in enumerate(values.items()):
            at = np.arange(len(names)) + (index + 0.5) * thickness - 0.4
            lengths = np.array(numbers, float)
            bars.append(_bars(axes, at, lengths, thickness, _color(index, colors)))
            if series in spread:
                _error_bars(axes, at, lengths, np.array(spread[series], float))
        if spread and not any(np.less(numbers, 0).any() for numbers in values.values()):
            axes.set_xlim(left=0)  # a spread that reaches below zero is cut off there
        axes.set_yticks(range(len(names)), [_plain(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)  # the first class at the top
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(_plain(label))
        _legend(figure, bars, list(values), "outside upper left")
        return _svg(figure)


def confusion(names: Sequence[str], counts: np.ndarray) -> str:
    """Pixels [C,C] by (class in the labels, class predicted): shares of each row, in percent where there is room.

    Shares below half a percent have no number; a row without pixels has a dash.
    """
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"a confusion matrix of shape {list(counts.shape)} for {len(names)} classes")
    count = max(len(names), 1)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    room = 0.72 * 72 * WIDTH / count  # points that a cell is wide
    with rc_context({**_STYLE, "font.size": min(11, 0.6 * room)}):
        figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
        axes = figure.add_subplot(aspect="equal")
        _cells(axes, shares)
        if room >= 14:
            texts = [["" if share < 0.005 else f"{100 * share:.0f}" for share in row] for row in shares]
            for i in np.flatnonzero(totals == 0):
                texts[i][i] = "\u2013"
            _cell_texts(axes, texts, min(10, 0.43 * room))
        plain = [_plain(name) for name in names]
        axes.set_xticks(range(len(names)), plain, rotation=90)
        axes.set_yticks(range(len(names)), plain)
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
        axes.set_xlabel("class predicted", fontsize=11)
        axes.set_ylabel("class in the labels", fontsize=11)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return _svg(figure)


def _cells(axes: Axes, shares: np.ndarray) -> None:
    """A square for every share, opaque where it is 1, so that 0 is nearly the page's own colour, light or dark."""
    side = np.array([(-0.47, -0.47), (0.47, -0.47), (0.47, 0.47), (-0.47, 0.47)])
    corners = [side + (j, i) for i, j in np.ndindex(shares.shape)]
    colors = [(*to_rgb(COLORS[0]), 0.05 + 0.95 * share) for share in shares.ravel()]
    axes.add_collection(PolyCollection(corners, facecolors=colors, edgecolors="none"))


def _cell_texts(axes: Axes, texts: Sequence[Sequence[str]], size: float) -> None:
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            if text:
                axes.text(j, i, text, ha="center", va="center_baseline", fontsize=size)


def _bars(axes: Axes, at: np.ndarray, lengths: np.ndarray, thickness: float, color: str) -> BarContainer:
    known = np.isfinite(lengths)
    for place in at[~known]:
        axes.text(0, place, " \u2013", color=color, va="center", fontweight="bold")
    return axes.barh(at[known], lengths[known], 0.9 * thickness, color=color)


def _error_bars(axes: Axes, at: np.ndarray, lengths: np.ndarray, spread: np.ndarray) -> None:
    known = np.isfinite(lengths) & np.isfinite(spread)
    axes.errorbar(
        lengths[known],
        at[known],
        xerr=spread[known],
        fmt="none",
        ecolor=_INK,
        elinewidth=0.9,
        capsize=1.6,
        capthick=0.9,
    )


def _color(index: int, colors: Sequence[str] = COLORS) -> str:
    return colors[index % len(colors)]


def _figure(height: float, names: Sequence[str]) -> Figure:
    """A figure with `height` inches for the axes and room for a legend of `names`."""
    lines = math.ceil(len(names) / _legend_columns(names))
    return Figure(figsize=(WIDTH, height + 0.21 * lines), layout="constrained")


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], place: _Place) -> None:
    """The series' names outside the axes, where they hide nothing; none for a single series without a name."""
    if any(names):
        figure.legend(handles, [_plain(name) for name in names], loc=place, ncols=_legend_columns(names))


def _legend_columns(names: Sequence[str]) -> int:
    """As many as fit: the width holds about 60 letters, and a line's sample takes the room of six."""
    return max(1, min(len(names), 60 // (max(map(len, names), default=0) + 6)))


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


class _Decimal(LogFormatter):
    """0.1 and 2.05 where matplotlib would typeset powers of ten, at the same ticks."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _svg(figure: Figure) -> str:
    """The figure from <svg> to </svg>, without the XML prologue and the metadata."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return text.replace(_INK, "currentColor").strip()
