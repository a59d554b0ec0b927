"""Tables of scores: what stands in them, for streets and for the classes of Cityscapes."""

import csv
import io

import numpy as np

from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.evaluation import summary
from sgg_jax.results import agreement_rows, network_rows, score_csv, score_tables

NAMES = [info.name for info in CITYSCAPES]


def scores(names):
    rng = np.random.default_rng(0)
    found = {title: summary(rng.integers(0, 9, (len(names), len(names))), names) for title in ("a", "b")}
    return {"networks": found, "agreement": {"guided": {"images": 5, **found["a"]}}}


def test_cityscapes_has_three_means_and_every_class_in_one_table():
    found = scores(NAMES)
    for rows in (network_rows, agreement_rows):
        header, lines = rows(found)
        assert header[1:] == ["mIoU 19", "mIoU 16", "mIoU 13", "accuracy", *NAMES]
        assert lines[0][1:4] == [f"{100 * value:.1f}" for value in found["networks"]["a"]["subsets"].values()]
    text = score_tables(found)
    assert text.count("mIoU 19  mIoU 16  mIoU 13") == 2 and "motorcycle" in text


def test_other_classes_have_one_mean():
    header, lines = network_rows(scores(["road", "sky"]))
    assert header == ["network", "mIoU", "accuracy", "road", "sky"]
    assert len(lines) == 2 and all(len(line) == 5 for line in lines)


def test_csv_is_the_table_unrounded_with_nothing_for_what_is_absent():
    found = scores(NAMES)
    found["networks"]["a"]["iou"]["train"] = None
    rows = list(csv.DictReader(io.StringIO(score_csv(found))))
    assert [row["network"] for row in rows] == ["a", "b"]
    for row, entry in zip(rows, found["networks"].values(), strict=True):
        assert float(row["mIoU 16"]) == entry["subsets"]["16 classes"]
        assert [row[name] for name in NAMES] == ["" if v is None else repr(v) for v in entry["iou"].values()]
    assert rows[0]["train"] == ""
    assert score_csv({"networks": {}, "agreement": {}}) == "network,mIoU\n"


def test_scores_of_earlier_versions_can_be_shown():
    old = {"miou": 0.5, "accuracy": 0.75, "iou": {"road": 1.0, "sky": 0.0}}
    assert network_rows({"networks": {"a": old}})[1] == [["a", "50.0", "75.0", "100.0", "0.0"]]
