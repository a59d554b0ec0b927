"""What a check finds in examples and data sets, and the summary and pictures that tell it."""

import json
import os

import numpy as np
from lookalikes import LABEL_IDS, gta5, save
from PIL import Image

from sgg_jax.data.checking import check
from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.dataset import VOID, Example
from sgg_jax.data.encodings import expects_label_ids, expects_train_ids, misread
from sgg_jax.data.examining import MOST_VALUES, Finding, count_values, examine
from sgg_jax.data.folder import open_folders
from sgg_jax.data.problems import BadFileError
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.data.streets import Streets
from sgg_jax.data.summary import summarise
from sgg_jax.report.check import TILE, contact_sheet, overlay, shown, spread, summary_text

SIZE = (16, 32)


def test_a_finding_survives_its_record():
    found = Finding("a", "empty", "a is empty", (3, 4), "PNG, RGB", "PNG, grey", ("grey",), {7: 5, 255: 7})
    assert Finding.of(json.loads(json.dumps(found.record()))) == found
    assert Finding.of(json.loads(json.dumps(Finding("b").record()))) == Finding("b")


def test_values_are_counted_and_the_most_frequent_kept(tmp_path):
    for kind in (np.uint8, np.uint16, np.int32):
        assert count_values(np.array([[3, 200, 3]], kind)) == {3: 2, 200: 1}
    root = gta5(tmp_path, 1, (32, 32))
    many = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    many[0] = 1023
    save(root / "labels" / "00001.png", many)
    found = examine(open_public(LAYOUTS["gta5"], str(root), "train", SIZE), 0)
    assert found.category == "unknown ids" and "35 (1 pixels)" in found.text
    assert len(found.values) == MOST_VALUES and found.values[1023] == 33


class Sick:
    """A data set without files of its own."""

    classes, size, labelled, problems = CITYSCAPES, SIZE, True, ()

    def __len__(self):
        return 3

    def name(self, index):
        return f"record {index}"

    def image_id(self, index):
        return index

    def full(self, index):
        if index == 1:
            raise BadFileError("damaged", "record 1 is damaged")
        if index == 2:
            raise MemoryError
        return Example(np.zeros((*SIZE, 3), np.uint8), np.full(SIZE, VOID, np.uint8))

    __getitem__ = full


def test_a_set_without_files_is_judged_by_its_examples():
    found = summarise(Sick(), dict(check(Sick(), range(3))))
    assert [p.category for p in found.errors] == ["all void", "damaged", "too large"]
    assert [note.key for note in found.notes] == ["one colour", "class absent"]
    streets = Streets("source", "train", 3, (16, 32))
    good = summarise(streets, dict(check(streets, range(3))))
    labels = np.stack([streets[i].labels for i in range(3)])
    assert [share.pixels for share in good.classes[:-1]] == [(labels == i).sum() for i in range(8)]
    assert not good.errors and good.sizes == {(16, 32): 3}


def test_what_a_table_expects():
    assert expects_label_ids(LAYOUTS["cityscapes"].table) and not expects_train_ids(LAYOUTS["cityscapes"].table)
    assert expects_train_ids(LAYOUTS["acdc"].table) and not expects_label_ids(LAYOUTS["acdc"].table)
    assert not expects_label_ids(LAYOUTS["synthia"].table) and not expects_train_ids(LAYOUTS["synthia"].table)


def test_a_set_is_not_misread_for_one_scene_without_the_common_classes():
    table = LAYOUTS["gta5"].table
    tunnel = {7: 500, 11: 20, 4: 300, 0: 100}  # road, building, static, unlabelled
    street = {int(value): 100 for value in LABEL_IDS}
    assert misread({"1": tunnel, "2": street, "3": street}, table) == ([], "")
    dummies = {"1": {0: 900, 1: 50, 3: 50}}  # unlabelled, ego vehicle, out of roi
    assert misread(dummies, table) == ([], "")
    train_ids = {0: 300, 1: 50, 2: 200, 8: 100, 10: 80, 13: 20, 255: 30}
    names, text = misread({"1": train_ids, "2": train_ids, "3": street}, table)
    assert names == ["1", "2"] and "73% of the pixels" in text


def test_the_text_of_a_summary(tmp_path):
    root = gta5(tmp_path, 3, SIZE)
    (root / "images" / "00003.png").write_bytes(b"")
    dataset = open_public(LAYOUTS["gta5"], str(root), "train", SIZE)
    text = summary_text("GTA5", summarise(dataset, dict(check(dataset, range(3))), LAYOUTS["gta5"], 24_966))
    for line in (
        "images       3 of the 24966",
        "2 can be used",
        "size         32 x 16",
        "image files  2 x PNG, RGB",
        "label files  2 x PNG, palette",
        "errors       1 x empty",
        "note         classes that no image has: ",
    ):
        assert line in text
    shares = {line.split()[0]: line.split()[-2:] for line in text.splitlines() if line.startswith("  road")}
    truth = np.stack([dataset[i].labels for i in range(2)])
    assert shares["road"] == [f"{100 * (truth == 0).mean():.2f}", "2"]


def test_an_overlay_shows_classes_and_their_edges():
    image = np.full((8, 16, 3), 100, np.uint8)
    labels = np.zeros((8, 16), np.uint8)
    labels[:, 8:] = 1
    found = overlay(image, labels, CITYSCAPES, width=32)
    assert found.shape == (16, 32, 3) and (found[:, 16] == 255).all() and (found[:, 15] != 255).all()
    colors = [np.array(CITYSCAPES[i].color, int) for i in (0, 1)]
    for color, here in zip(colors, (found[3, 3], found[3, 28]), strict=True):
        assert np.abs(here.astype(int) - color).sum() < np.abs(100 - color).sum()
    assert shown(np.zeros((100, 2000, 3), np.uint8)).shape == (22, TILE, 3)
    assert np.unique(shown(np.tile(np.array([[0, 9]], np.uint8), (100, 1000)))).tolist() in ([0], [9], [0, 9])


def test_a_contact_sheet_shows_examples_evenly_spread(tmp_path):
    assert spread(range(100), 3) == [0, 50, 99] and spread([4, 7], 12) == [4, 7] and spread(range(0), 12) == []
    streets = Streets("source", "train", 5, (16, 32))
    whole, less = contact_sheet(streets, range(5), "streets"), contact_sheet(streets, range(2), "streets")
    assert whole.width > less.width and whole.height > less.height
    bare = open_folders(str(gta5(tmp_path, 1, SIZE) / "images"), "", (), SIZE)
    assert contact_sheet(bare, [0], os.fsdecode(b"\xe9 \xe2\x98\x83")).height < less.height
    assert contact_sheet(Sick(), [1], "sick") is None
    assert isinstance(whole, Image.Image)
