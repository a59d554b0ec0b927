"""Tables and plots: the numbers that they show are those that went in."""

import csv
import io
import re

import numpy as np
import pytest

from sgg_jax.report.plots import class_bars, confusion, curves
from sgg_jax.report.tables import csv_text, markdown_table, number, text_table

NAN = float("nan")


# Tables

HEADER = ["run", "mIoU", "note"]
ROWS = [["source", "37.3", None], ["a|b", "-", "x, <y>"]]


def test_text_table_aligns_numbers_to_the_right():
    assert text_table(HEADER, ROWS).splitlines() == [
        "run     mIoU  note",
        "------  ----  ------",
        "source  37.3",
        "a|b        -  x, <y>",
    ]


def test_markdown_table_escapes_and_aligns():
    assert markdown_table(HEADER, ROWS).splitlines() == [
        "| run | mIoU | note |",
        "| --- | ---: | --- |",
        "| source | 37.3 |  |",
        r"| a\|b | - | x, \<y> |",
    ]


def test_csv_reads_back():
    rows = [["a,b", '"q"', "two\nlines"], [1, None, 2.5]]
    assert list(csv.reader(io.StringIO(csv_text(HEADER, rows)))) == [
        HEADER,
        ["a,b", '"q"', "two\nlines"],
        ["1", "", "2.5"],
    ]


@pytest.mark.parametrize("table", [text_table, markdown_table, csv_text])
def test_tables_without_rows_and_with_ragged_rows(table):
    assert table(HEADER, []).startswith(("run", "| run"))
    with pytest.raises(ValueError, match="row 1 of the table has 2 cells for 3 columns"):
        table(HEADER, [[1, 2, 3], [1, 2]])


def test_numbers_are_recognised():
    shown = ["41.3", " 41.3 % ", "41.3 ± 0.2", 41.3, "+4.13e1"]
    assert [number(cell) for cell in shown] == [41.3] * 5
    assert [number(cell) for cell in ["", None, "nan", "inf", "3 of 4", "1.2.3"]] == [None] * 6


# Plots


def test_curves_are_deterministic_and_follow_the_text_colour():
    series = {"_a $x$ <b>": (range(30), np.linspace(1, 2, 30)), "b": ([1, 2, 3], [0.1, NAN, 0.2])}
    svg = curves(series, "step", "loss", logy=True, title="T & T")
    assert svg == curves(series, "step", "loss", logy=True, title="T & T")
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")
    assert "_a $x$ &lt;b&gt;" in svg
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "#010203" not in svg


def test_a_curve_has_a_gap_where_there_is_no_value():
    lines = [curves({"a": ([0, 1, 2, 3, 4], [1, 1, y, 1, 1])}, "x", "y", logy=True) for y in (1, NAN, 0, -1)]
    whole, *gaps = [re.search(r'<path d="([^"]*)"[^>]*stroke: #3f83d6', svg)[1] for svg in lines]
    assert whole.count("M") == 1
    assert [gap.count("M") for gap in gaps] == [2, 2, 2]


@pytest.mark.parametrize(
    ("values", "labels"), [([1e-5, 0.5], {"1e-05", "0.001", "0.1"}), ([2.03, 2.19], {"2.06", "2.1", "2.18"})]
)
def test_a_logarithmic_axis_has_plain_numbers(values, labels):
    svg = curves({"a": ([0, 1], values)}, "x", "y", logy=True)
    assert labels <= set(re.findall(r">([^<>]*)</text>", svg)) and "tspan" not in svg


def test_plots_of_nothing():
    assert "<svg" in curves({}, "x", "y")
    assert "<svg" in curves({"a": ([], []), "b": ([1], [NAN])}, "x", "y", logy=True)
    assert "<svg" in class_bars([], {}, "IoU")


def test_bars_have_the_lengths_of_their_values():
    svg = class_bars(["road", "traffic light", "train"], {"ours": [50.0, 25.0, NAN], "theirs": [100, 0, 10]}, "IoU / %")
    assert all(f">{text}</text>" in svg for text in ["road", "traffic light", "train", "ours", "theirs", "IoU / %"])
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: #(\w+)"', svg)
    lengths = np.array([float(end) - float(start) for start, end, _ in bars])
    assert np.round(100 * lengths / lengths[2], 3).tolist() == [50, 25, 100, 0, 10]
    assert [color for *_, color in bars] == ["3f83d6"] * 2 + ["d8730f"] * 3


def test_bars_need_a_value_per_class():
    with pytest.raises(ValueError, match="ours has 1 values for 2 classes"):
        class_bars(["a", "b"], {"ours": [1.0]}, "IoU")


def test_confusion_shows_shares_of_its_rows():
    counts = np.array([[989, 4, 7], [0, 0, 0], [30, 50, 20]])
    svg = confusion(["road", "t $x$", "sky"], counts)
    assert svg == confusion(["road", "t $x$", "sky"], counts)
    shown = re.findall(r">([^<>]+)</text>", svg)
    assert [text for text in shown if text.isdigit()] == ["99", "1", "30", "50", "20"]  # 0.4 % has no number
    assert shown.count("\u2013") == 1 and shown.count("t $x$") == 2
    opacities = [float(found) for found in re.findall(r"fill: #3f83d6; fill-opacity: ([\d.]+)", svg)]
    np.testing.assert_allclose(
        opacities, [0.05 + 0.95 * share for share in (0.989, 0.004, 0.007, 0, 0, 0, 0.3, 0.5, 0.2)]
    )
    assert "#010203" not in svg and "currentColor" in svg


def test_confusion_of_many_classes_has_no_numbers_and_refuses_other_shapes():
    assert not re.search(r">\d+</text>", confusion([f"class {i}" for i in range(40)], np.eye(40)))
    assert "<svg" in confusion([], np.zeros((0, 0)))
    with pytest.raises(ValueError, match=r"\[2, 3\] for 2 classes"):
        confusion(["a", "b"], np.zeros((2, 3)))


def test_many_long_names_leave_room_for_the_plot():
    names = [f"a run with a long name, number {k}" for k in range(30)]
    assert names[-1] in curves({name: ([0, 1], [0, 1]) for name in names}, "x", "y")
