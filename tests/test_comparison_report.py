"""The comparison of the methods: every number against one worked out by hand."""

import csv as standard_csv
import io
import math
import random
import re

import numpy as np
import pytest

from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.report import comparison
from sgg_jax.report.comparison import HEADER, TITLES, class_rows, csv, markdown, section, summary
from sgg_jax.report.page import Svg, Table, page
from sgg_jax.report.plots import COLORS, MARKERS, class_bars, scatter

NAN = float("nan")
NAMES = ["road", "train"]
OTHERS = ("agreement", "distance", "kid", "seconds_per_image")


def row(method, seed, miou, road=0.5, train=None, **others):
    return {
        "method": method,
        "seed": seed,
        "miou": miou,
        "per_class": {"road": road, "train": train},
        **{name: others.pop(name, None) for name in OTHERS},
        **others,
    }


ROWS = [
    row("oracle", 0, 0.60, 0.9, 0.3),
    row("sgg", 1, 0.52, 0.70, 0.2, agreement=0.81, distance=30.0, kid=0.021, seconds_per_image=12.34),
    row("sgg", 0, 0.50, 0.60, None, agreement=0.79, distance=31.0, kid=0.025, seconds_per_image=12.38),
    row("fda", 0, 0.43, 0.55, agreement=0.9, distance=66.66, kid=0.1, seconds_per_image=0.00213),
    row("none", 0, 0.38, 0.4, 0.0, agreement=0.95, distance=100.0, kid=0.15),
    row("none", 1, 0.42, 0.5, 0.0, agreement=0.95, distance=100.0, kid=0.15),
]


def by_title(table):
    header, lines = table
    assert all(len(line) == len(header) for line in lines)
    return {line[0]: dict(zip(header, line, strict=True)) for line in lines}


def invented(seeds=3, classes=("road", "building", "sky", "person", "car", "train")):
    """Rows of every method, about as they might come out."""
    draw = np.random.default_rng(0)
    #        none_plain none color  fda   sdedit gsg   lcg    sgg   sgg_ptl oracle
    mious = [0.335, 0.372, 0.398, 0.411, 0.405, 0.418, 0.431, 0.446, 0.468, 0.652]
    agreements = [None, 0.902, 0.871, 0.866, 0.641, 0.735, 0.771, 0.802, 0.811, None]
    distances = [None, 118.0, 96.0, 88.0, 41.0, 47.0, 49.5, 46.0, 43.8, None]
    seconds = [None, None, 0.0021, 0.0089, 1.21, 3.42, 3.55, 3.49, 3.51, None]
    rows = []
    for method, miou, agreement, distance, second in zip(TITLES, mious, agreements, distances, seconds, strict=True):
        for seed in range(seeds):
            shift = draw.normal(0, 0.006)
            ious = {name: float(np.clip(miou * draw.uniform(0.3, 1.6), 0, 0.98)) for name in classes}
            measured = {} if agreement is None else dict(agreement=agreement + shift, distance=distance * (1 - shift))
            measured |= {} if distance is None else dict(kid=distance / 1000 + shift / 10, seconds_per_image=second)
            rows.append(row(method, seed, miou + shift, **measured) | {"per_class": ious | {classes[-1]: None}})
    return rows


# Tables


def test_summary_against_numbers_worked_out_by_hand():
    table = by_title(summary(ROWS))
    assert list(table["SGG"].values()) == [
        "SGG", "51.0 ± 1.4", "55.0", "80.0 ± 1.4", "30.5 ± 0.7", "23.0 ± 2.8", "12.4", "2",
    ]  # fmt: skip
    assert list(table["FDA"].values()) == ["FDA", "43.0", "15.0", "90.0", "66.7", "100.0", "0.00213", "1"]
    assert list(table["no translation"].values())[1:4] == ["40.0 ± 2.8", "0.0", "95.0 ± 0.0"]
    assert list(table[TITLES["oracle"]].values())[1:] == ["60.0", "100.0", "", "", "", "", "1"]


def test_methods_stand_in_the_order_of_the_titles_whatever_that_of_the_rows():
    expected = summary(ROWS), class_rows(ROWS), markdown(ROWS), csv(ROWS), section(ROWS, NAMES, "f")
    assert list(by_title(expected[0])) == ["no translation", "FDA", "SGG", "target labels (oracle)"]
    for seed in range(3):
        rows = random.Random(seed).sample(ROWS, len(ROWS))
        assert (summary(rows), class_rows(rows), markdown(rows), csv(rows), section(rows, NAMES, "f")) == expected


def test_every_method_has_a_title_and_a_colour():
    assert [line[0] for line in summary(invented())[1]] == list(TITLES.values())
    assert list(comparison._COLORS) == list(TITLES)
    assert set(comparison._COLORS.values()) <= set(COLORS)
    assert len({comparison._COLORS[method] for method in comparison.BARS}) == len(comparison.BARS)


@pytest.mark.parametrize("missing", ["none", "oracle"])
def test_no_gap_without_its_ends(missing):
    table = by_title(summary([r for r in ROWS if r["method"] != missing]))
    assert {line["gap closed, %"] for line in table.values()} == {""}


@pytest.mark.parametrize("oracle", [0.40, 0.39])
def test_no_gap_where_the_oracle_is_no_better(oracle):
    table = by_title(summary([*ROWS[1:], row("oracle", 0, oracle)]))
    assert {line["gap closed, %"] for line in table.values()} == {""}


def test_a_gap_can_widen_and_be_more_than_closed():
    rows = [row("none", 0, 0.4), row("fda", 0, 0.39), row("sgg", 0, 0.51), row("oracle", 0, 0.5)]
    assert [line[2] for line in summary(rows)[1]] == ["0.0", "-10.0", "110.0", "100.0"]


def test_missing_values_are_left_out_of_the_means():
    rows = [
        row("sgg", 0, 0.5, agreement=0.8, distance=NAN, kid=-0.00004),
        row("sgg", 1, 0.5, agreement=None, distance=math.inf, kid=0.00001),
        row("sgg", 2, 0.5, agreement=0.9) | {"per_class": {}},
        row("lcg", 0, 0.5, kid=0.31),
    ]
    del rows[2]["kid"]
    table = by_title(summary(rows))
    assert list(table["SGG"].values())[1:] == ["50.0 ± 0.0", "", "85.0 ± 7.1", "", "0.0 ± 0.0", "", "3"]
    assert list(table["LCG only"].values())[3:] == ["", "", "310.0", "", "1"]
    assert class_rows(rows)[1][1] == ["SGG", "50.0", ""]


def test_small_numbers_have_more_decimals():
    rows = [row("sgg", 0, 0.05, distance=0.0312, seconds_per_image=0.5), row("lcg", 0, 0.5, distance=0.5, kid=0.0)]
    table = by_title(summary(rows))
    assert list(table["SGG"].values())[1:-1] == ["5.0", "", "", "0.031", "", "0.500"]
    assert list(table["LCG only"].values())[1:-1] == ["50.0", "", "", "0.500", "0.0", ""]


def test_classes_of_cityscapes_have_their_three_means():
    names = [info.name for info in CITYSCAPES]
    iou = dict(zip(names, np.arange(19) / 20, strict=True)) | {"bicycle": None}
    rows = [{**row("sgg", seed, 0.4), "per_class": {**iou, "road": 0.1 * seed}} for seed in (0, 1)]
    cells = by_title(class_rows(rows))["SGG"]
    for title, left_out in (("19", ()), ("16", (9, 14, 16)), ("13", (3, 4, 5, 9, 14, 16))):
        kept = [5.0, *(5.0 * i for i in range(1, 18) if i not in left_out)]
        assert cells[f"mean of {title}"] == f"{sum(kept) / len(kept):.1f}"
    assert cells["wall"] == "15.0" and cells["bicycle"] == ""


def test_class_rows_are_means_over_the_seeds_that_have_the_class():
    assert class_rows(ROWS) == (
        ["IoU, %", "road", "train"],
        [["no translation", "45.0", "0.0"], ["FDA", "55.0", ""], ["SGG", "65.0", "20.0"]]
        + [["target labels (oracle)", "90.0", "30.0"]],
    )


def test_markdown_holds_both_tables():
    first, second = markdown(ROWS).split("\n\n")
    assert first.splitlines()[0] == "| " + " | ".join(HEADER) + " |"
    assert first.splitlines()[4] == ("| SGG | 51.0 ± 1.4 | 55.0 | 80.0 ± 1.4 | 30.5 ± 0.7 | 23.0 ± 2.8 | 12.4 | 2 |")
    assert second.splitlines() == [
        "| IoU, % | road | train |",
        "| --- | ---: | ---: |",
        "| no translation | 45.0 | 0.0 |",
        "| FDA | 55.0 |  |",
        "| SGG | 65.0 | 20.0 |",
        "| target labels (oracle) | 90.0 | 30.0 |",
    ]


def test_csv_reads_back_unrounded():
    rows = [dict(r, accuracy=1 / 3, nested={"a": 1}, note="a, b") for r in ROWS]
    read = list(standard_csv.DictReader(io.StringIO(csv(rows))))
    expected = sorted(rows, key=lambda r: (list(TITLES).index(r["method"]), r["seed"]))
    assert len(read) == len(ROWS)
    for line, original in zip(read, expected, strict=True):
        assert list(line) == ["method", "seed", "miou", *OTHERS, "accuracy", "note", "iou road", "iou train"]
        assert (line["method"], int(line["seed"])) == (original["method"], original["seed"])
        assert (float(line["accuracy"]), line["note"]) == (1 / 3, "a, b")
        values = {name: original[name] for name in ("miou", *OTHERS)}
        values |= {f"iou {name}": iou for name, iou in original["per_class"].items()}
        assert {name: None if line[name] == "" else float(line[name]) for name in values} == values


def test_variants_of_ones_own_follow_under_their_own_names():
    rows = [*ROWS, row("focal", 0, 0.5, agreement=0.7, distance=20.0), row("blend", 0, 0.4), row("oracle", 7, 0.6)]
    names = [line[0] for line in summary(rows)[1]]
    assert names[-3:] == ["blend", "focal", TITLES["oracle"]] and "SGG" in names[:-3]
    assert "focal" in markdown(rows) and "focal" in csv(rows)
    drawn = section(rows, ["road"], "its last layer")
    assert any("focal" in getattr(block, "svg", "") for block in drawn.blocks)


def test_doubles_are_refused():
    with pytest.raises(ValueError, match="sgg has seed 1 twice"):
        summary([*ROWS, row("sgg", 1, 0.5)])


# Section


def points(svg):
    """(colour, x, y) of the points in a scatter, then of the legend's; the rim tells them from an axis's ticks."""
    found = re.findall(r'<use [^>]*x="([^"]*)" y="([^"]*)" style="fill: (#\w+); stroke: currentColor', svg)
    return [(color, float(x), float(y)) for x, y, color in found]


def test_section_holds_table_bars_and_scatter():
    made = section(invented(), ["road", "train"], "the judge's last layer")
    table, bars, plot = made.blocks
    assert (type(table), type(bars), type(plot)) == (Table, Svg, Svg)
    assert all("over 3 seeds" in block.caption for block in (table, bars))
    assert all("the judge's last layer" in block.caption for block in (table, plot))
    drawn = [TITLES[method] for method in comparison.BARS]
    assert [name for name in TITLES.values() if f">{name}</text>" in bars.svg] == drawn
    assert len(points(plot.svg)) == 8 * 3 + 8  # eight methods with a distance; the legend has one each
    assert made == section(invented(), ["road", "train"], "the judge's last layer")


def test_the_best_stand_out_and_the_oracle_does_not_compete():
    html = page("t", "", [section(ROWS, NAMES, "f")])
    best = ["95.0 ± 0.0", "51.0 ± 1.4", "30.5 ± 0.7", "23.0 ± 2.8"]
    assert re.findall("<strong>(.*?)</strong>", html) == best
    assert '<td class="number">60.0' in html  # a number like the others, but not the best
    oracle_first = section([row("oracle", 0, 0.9, agreement=0.9), row("fda", 0, 0.5, agreement=0.4)], NAMES, "f")
    assert re.findall("<strong>(.*?)</strong>", page("t", "", [oracle_first])) == ["50.0", "40.0"]
    alone = section([row("oracle", 0, None)], NAMES, "f").blocks[0]
    assert alone.rows == [["target labels (oracle)", "", "", "", "", "", "", "1"]]


def test_section_of_little():
    assert len(section([], NAMES, "f").blocks) == 1
    assert [type(block) for block in section([row("fda", 0, 0.5)], NAMES, "f").blocks] == [Table]
    table, bars = section([row("sgg", 0, 0.5)], [*NAMES, "bus"], "f").blocks
    assert "one seed" in table.caption
    assert bars.svg.count("\u2013") == 2  # a dash for train, which is None, and for bus, of which nothing is known
    assert "2 seeds" in section(ROWS[1:3], NAMES, "f").blocks[0].caption
    assert "1 to 2 seeds" in section(ROWS, NAMES, "f").blocks[0].caption


def test_same_method_same_colour_in_both_plots():
    _, bars, plot = section(invented(), ["road"], "f").blocks
    drawn = set(re.findall(r'clip-path="[^"]*" style="fill: (#\w+)', bars.svg))
    assert drawn == {comparison._COLORS[method] for method in comparison.BARS}
    dots = [color for color, _, _ in points(plot.svg)]
    assert [dots.count(comparison._COLORS[method]) for method in ("sgg", "none", "oracle")] == [4, 4, 4]  # as gsg


# Plots


def test_scatter_places_points_where_their_values_are():
    series = {"_a $x$ <b>": [(0.0, 0.0), (10.0, 5.0), (NAN, 1.0), (5.0, 2.5)], "b": [], "c": [(2.5, 5.0)]}
    svg = scatter(series, "distance", "agreement", title="T & T")
    assert svg == scatter(series, "distance", "agreement", title="T & T")
    assert "#010203" not in svg
    for text in ("_a $x$ &lt;b&gt;", "b", "c", "distance", "agreement", "T &amp; T"):
        assert f">{text}</text>" in svg
    (_, x0, y0), (_, x1, y1), (_, x2, y2), (last, x3, y3), *legend = points(svg)  # the one that is NAN is not there
    assert [color for color, _, _ in legend] == [COLORS[0], COLORS[1], COLORS[2]]
    assert last == COLORS[2]
    assert [(x - x0) / (x1 - x0) for x in (x2, x3)] == pytest.approx([0.5, 0.25])
    assert [(y - y0) / (y1 - y0) for y in (y2, y3)] == pytest.approx([0.5, 1])
    assert x1 > x0
    assert y1 < y0  # upwards


def test_no_two_of_many_series_look_alike():
    looks = {(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i in range(88)}
    assert len(looks) == 88
    svg = scatter({f"m{i}": [(i, i)] for i in range(len(MARKERS))}, "x", "y")
    used = re.findall(r'<use xlink:href="#(\w+)"[^>]*stroke: currentColor; stroke-width: 0.7', svg)
    shapes = {re.search(rf'<path id="{key}" d="([^"]*)"', svg)[1] for key in used}
    assert len(shapes) == len(MARKERS)


def test_scatter_of_nothing():
    assert "<svg" in scatter({}, "x", "y")
    assert "<svg" in scatter({"a": [(NAN, 1.0)]}, "x", "y")


def test_error_bars_reach_as_far_as_the_spread():
    svg = class_bars(["road", "sky", "train"], {"a": [50, 20, NAN], "b": [100, 1, 10]}, "x", {"a": [10, NAN, 5]})
    ends = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [\d.]+ \n" clip-path[^>]*stroke: currentColor', svg)
    lines = [(float(a), float(b)) for a, b in ends]
    lines = [(a, b) for a, b in lines if a < b]  # the others are the grid's
    assert len(lines) == 1
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: #3f83d6', svg)
    (start, end), _ = ((float(a), float(b)) for a, b in bars)
    assert [(x - start) / (end - start) * 50 for x in lines[0]] == pytest.approx([40, 60], abs=0.01)


def test_bars_without_spread_are_as_before_and_a_wide_spread_stops_at_zero():
    values = {"a": [50.0, 1.0]}
    plain = class_bars(NAMES, values, "x")
    assert plain == class_bars(NAMES, values, "x", {}) == class_bars(NAMES, values, "x", colors=COLORS)
    assert ">\u22125<" not in class_bars(NAMES, values, "x", {"a": [5.0, 30.0]})
    assert ">\u221220<" in class_bars(NAMES, {"a": [50.0, -1.0]}, "x", {"a": [5.0, 30.0]})
    assert "#8a6ed6" in class_bars(NAMES, values, "x", colors=["#8a6ed6"])


def test_spread_needs_a_series_and_a_value_per_class():
    with pytest.raises(ValueError, match=r"spread of \['b'\]"):
        class_bars(["x"], {"a": [1.0]}, "", {"b": [1.0]})
    with pytest.raises(ValueError, match="a has 2 values for 1 classes"):
        class_bars(["x"], {"a": [1.0]}, "", {"a": [1.0, 2.0]})
