"""The methods side by side: from the rows of compare.json to tables, Markdown, CSV and a section of the page.

A row is one method with one seed: {"method": a name, "seed": int, "miou": 0..1, "per_class": {class: 0..1},
"agreement": 0..1, "distance": ..., "kid": ..., "seconds_per_image": ...}. A number that is None, not finite or not
there is left out of means and plots; its cell is empty. The order of the rows does not matter.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Literal

from sgg_jax.data.classes import CITYSCAPES, SUBSETS
from sgg_jax.report.page import Block, Section, Svg, Table
from sgg_jax.report.plots import class_bars, scatter
from sgg_jax.report.tables import csv_text, markdown_table

Row = Mapping[str, Any]
ROW = {"method": str, "seed": int, "per_class": dict, "translations": str | None, "commit": str}
"""What the file of a row holds at least, as records.fits has it."""

TITLES = {
    "none_plain": "no translation, no augmentation",
    "none": "no translation",
    "color": "colour transfer (Lab)",
    "fda": "FDA",
    "sdedit": "SDEdit, unguided",
    "gsg": "GSG only",
    "lcg": "LCG only",
    "sgg": "SGG",
    "sgg_ptl": "SGG + PTL",
    "oracle": "target labels (oracle)",
}
"""Readable names of the methods, in the order of the tables; variants of guidance that are not among them follow under
their own names, before the oracle."""

BARS = ("none", "sdedit", "sgg", "sgg_ptl", "oracle")  # the methods whose classes are drawn
HEADER = [
    "method",
    "mIoU, %",
    "gap closed, %",
    "agreement, %",
    "Fréchet distance",
    "KID × 1000",
    "s per image",
    "seeds",
]
# Not the gap, which orders the methods as the mIoU does, nor the time, in which the simplest method always wins.
_GOALS: dict[str, Literal["max", "min"]] = {
    "mIoU, %": "max",
    "agreement, %": "max",
    "Fréchet distance": "min",
    "KID × 1000": "min",
}

# A method has the same colour in every plot; methods that share one never meet in a plot or differ by their markers.
_COLORS = {
    "none_plain": "#7f8288",
    "none": "#7f8288",
    "color": "#a5764a",
    "fda": "#14939e",
    "sdedit": "#d8730f",
    "gsg": "#8a6ed6",
    "lcg": "#d6497f",
    "sgg": "#3f83d6",
    "sgg_ptl": "#2b9a5e",
    "oracle": "#8a6ed6",
}
_OTHER = "#b3372f"  # of variants without a title


def title(method: str) -> str:
    return TITLES.get(method, method)


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods as the tables have them."""
    known = list(TITLES)
    return sorted(methods, key=lambda name: (known.index(name if name in TITLES else "oracle"), name in TITLES, name))


def summary(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and a row per method: means over the seeds, with ± their sample standard deviation from two seeds on.

    The gap closed is (mIoU - none) / (oracle - none) of the means: 0 for no translation, 100 for the oracle.
    """
    groups = _grouped(rows)
    columns = [
        _column(groups, "miou", 100, decimals=1),
        [_gap_closed(group, groups) for group in groups.values()],
        _column(groups, "agreement", 100, decimals=1),
        _column(groups, "distance"),
        _column(groups, "kid", 1000),
        [_seconds(group) for group in groups.values()],
        [str(len(group)) for group in groups.values()],
    ]
    return HEADER, [[title(method), *cells] for method, *cells in zip(groups, *columns, strict=True)]


def class_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and a row per method: the IoU of every class in percent, mean over the seeds that have it.

    Of Cityscapes' classes also the means over classes.SUBSETS, of each seed's classes that occur.
    """
    names = _class_names(rows)
    cityscapes = [info.name for info in CITYSCAPES]
    subsets = {f"mean of {len(ids)}": [cityscapes[i] for i in ids] for ids in SUBSETS.values()}
    subsets = subsets if names == cityscapes else {}
    lines = []
    for method, group in _grouped(rows).items():
        values = [_subset_values(group, members) for members in subsets.values()]
        values += [_class_values(group, name) for name in names]
        lines.append([title(method), *(_shown(found, 1, with_spread=False) for found in values)])
    return ["IoU, %", *subsets, *names], lines


def markdown(rows: Sequence[Row]) -> str:
    """Both tables; no newline at the end."""
    return f"{markdown_table(*summary(rows))}\n\n{markdown_table(*class_rows(rows))}"


def csv(rows: Sequence[Row]) -> str:
    """A line per row, nothing rounded: what is a single value in the rows, then `iou CLASS` for every class, 0..1."""
    ordered = [row for group in _grouped(rows).values() for row in group]
    first = ["method", "seed", "miou", "agreement", "distance", "kid", "seconds_per_image"]
    single = {name for row in rows for name, value in row.items() if isinstance(value, str | int | float)}
    keys = [*first, *sorted(single - set(first))]
    names = _class_names(ordered)
    lines = [[*(row.get(key) for key in keys), *(row["per_class"].get(name) for name in names)] for row in ordered]
    return csv_text([*keys, *(f"iou {name}" for name in names)], lines)


def section(rows: Sequence[Row], names: Sequence[str], features: str) -> Section:
    """The table, the IoU of the classes `names` as bars, and agreement against distance.

    `features` says from which network, and layer, distance and KID take their features: "the judge's last layer".
    """
    groups = _grouped(rows)
    blocks: list[Block] = [_table(rows, features)]
    if drawn := {method: groups[method] for method in BARS if method in groups}:
        blocks.append(_class_plot(drawn, names))
    if any(_points(group) for group in groups.values()):
        blocks.append(_trade_plot(groups, features))
    return Section("The methods compared", blocks)


def _table(rows: Sequence[Row], features: str) -> Table:
    """The summary with the best of every column marked."""
    header, lines = summary(rows)
    caption = (
        f"mIoU on the target's test images of a network trained on each method's images; {_over(rows)}. "
        "Gap closed: how much of the way from no translation to the oracle, which is trained with the target's labels "
        "and does not compete. Agreement: mIoU of what the judge sees in the translated images, or the source images "
        "as they are, against their labels; the oracle's is that of real test images, and so are its distances. "
        f"Fréchet distance and KID to the target's images, less is better; features: {features}."
    )
    return Table(header, lines, caption, _GOALS, unranked=[TITLES["oracle"]])


def _class_plot(groups: Mapping[str, Sequence[Row]], names: Sequence[str]) -> Svg:
    values, spread = {}, {}
    for method, group in groups.items():
        numbers = [_class_values(group, name) for name in names]
        values[title(method)] = [fmean(found) if found else math.nan for found in numbers]
        spread[title(method)] = [stdev(found) if len(found) > 1 else math.nan for found in numbers]
    plot = class_bars(names, values, "IoU / %", spread, [_COLORS[method] for method in groups])
    everything = [row for group in groups.values() for row in group]
    return Svg(plot, f"IoU by class on the target's test images; {_over(everything)}. A dash: no value.")


def _trade_plot(groups: Mapping[str, Sequence[Row]], features: str) -> Svg:
    points = {method: _points(group) for method, group in groups.items()}
    shown = [method for method in points if points[method]]
    plot = scatter(
        {title(method): points[method] for method in shown},
        "Fréchet distance to the target",
        "agreement with the labels / %",
        colors=[_COLORS.get(method, _OTHER) for method in shown],
    )
    caption = (
        "What a translation has to weigh: keeping the content that the labels describe (up) and looking like the "
        f"target (left). A point per seed; features of the distance: {features}."
    )
    return Svg(plot, caption)


def _over(rows: Sequence[Row]) -> str:
    """What the numbers of a table or plot are taken over: "mean ± sample standard deviation over 3 seeds"."""
    counts = {len(group) for group in _grouped(rows).values()}
    low, high = min(counts, default=0), max(counts, default=0)
    if high <= 1:
        return "one seed"
    seeds = f"{high} seeds" if low == high else f"{low} to {high} seeds"
    return f"mean ± sample standard deviation over {seeds}"


# numbers -------------------------------------------------------------------------------------------------------------


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of every method, by seed, in the order of the tables. Raises ValueError at a double."""
    groups: dict[str, list[Row]] = {method: [] for method in in_order({row["method"] for row in rows})}
    for row in sorted(rows, key=lambda row: int(row["seed"])):
        group = groups[row["method"]]
        if group and group[-1]["seed"] == row["seed"]:
            raise ValueError(f"{row['method']} has seed {row['seed']} twice")
        group.append(row)
    return groups


def _class_names(rows: Sequence[Row]) -> list[str]:
    """Every class of every row, in the order of their first appearance in the table."""
    return list(dict.fromkeys(name for group in _grouped(rows).values() for row in group for name in row["per_class"]))


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _values(group: Iterable[Row], key: str, scale: float = 1) -> list[float]:
    """The known values of a method, one per seed."""
    return [scale * row[key] for row in group if _known(row.get(key))]


def _class_values(group: Iterable[Row], name: str) -> list[float]:
    """The known IoUs of a class in percent."""
    return _values((row["per_class"] for row in group), name, 100)


def _subset_values(group: Iterable[Row], names: Sequence[str]) -> list[float]:
    """The mean IoU over these classes in percent, one per seed in which any of them occurs."""
    known = [[value for name in names if _known(value := row["per_class"].get(name))] for row in group]
    return [100 * fmean(found) for found in known if found]


def _points(group: Iterable[Row]) -> list[tuple[float, float]]:
    """Distance, and agreement in percent, of every seed that has both."""
    pairs = [(row.get("distance"), row.get("agreement")) for row in group]
    return [(x, 100 * y) for x, y in pairs if x is not None and y is not None and _known(x) and _known(y)]


def _column(groups: Mapping[str, Sequence[Row]], key: str, scale: float = 1, decimals: int | None = None) -> list[str]:
    """A cell per method, all with equally many decimals; unless given, as many as the largest mean needs."""
    values = [_values(group, key, scale) for group in groups.values()]
    if decimals is None:
        decimals = _decimals(fmean(found) for found in values if found)
    return [_shown(found, decimals) for found in values]


def _gap_closed(group: Sequence[Row], groups: Mapping[str, Sequence[Row]]) -> str:
    """Percent of the way from the mean mIoU of `none` to that of the oracle; empty where there is no such way."""
    mine, start, end = (_values(rows, "miou") for rows in (group, groups.get("none", ()), groups.get("oracle", ())))
    if not (mine and start and end) or fmean(end) <= fmean(start):
        return ""
    return _fixed(100 * (fmean(mine) - fmean(start)) / (fmean(end) - fmean(start)), 1)


def _seconds(group: Sequence[Row]) -> str:
    """Mean seconds per image. They span orders of magnitude, so that each has its own number of decimals."""
    values = _values(group, "seconds_per_image")
    return _shown(values, _decimals([fmean(values)]) if values else 0, with_spread=False)


def _decimals(values: Iterable[float]) -> int:
    """Digits after the point, at least one, with which the largest value has three significant ones."""
    largest = max(map(abs, values), default=0.0)
    return max(1, 2 - math.floor(math.log10(largest))) if largest else 1


def _shown(values: Sequence[float], decimals: int, with_spread: bool = True) -> str:
    """ "41.3 ± 0.8", "41.3" for a single value, "" for none."""
    if not values:
        return ""
    mean = _fixed(fmean(values), decimals)
    return f"{mean} ± {_fixed(stdev(values), decimals)}" if with_spread and len(values) > 1 else mean


def _fixed(value: float, decimals: int) -> str:
    """Rounded, without "-0.0"."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
