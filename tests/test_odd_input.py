"""Odd input that can be used: images unlike the others, odd names, absent classes are noted, and nothing crashes."""

import os
import shutil

import numpy as np
import pytest
import three_frames
from lookalikes import bdd100k, gta5, png_of_16_bits, scenes, synthia
from PIL import Image
from three_frames import COUNT, LABELS, SIZE, colors, folder_summary, grey, image, saved_as, summary_of

from sgg_jax.data.checking import check
from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.dataset import ClassInfo
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.data.summary import summarise

pristine, root = three_frames.pristine, three_frames.root  # fixtures


def rgb(mode="RGB"):
    return Image.fromarray(colors()).convert(mode)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif, "picture": rgb().rotate(90, expand=True)}


def transparent_palette():
    return {"picture": rgb().quantize(8), "transparency": 0}


ODD = {  # an image that is unlike the others, but usable -> what it is saved from and as, and its notes
    "turned by EXIF": (lambda: rotated(), "JPEG", {"turned"}),
    "turned by EXIF, PNG": (lambda: rotated(), "PNG", {"turned"}),
    "CMYK": (lambda: {"picture": rgb("CMYK")}, "JPEG", {"CMYK"}),
    "RGBA": (lambda: {"picture": rgb("RGBA")}, "PNG", {"transparent"}),
    "grey": (lambda: {"picture": rgb("L")}, "PNG", {"grey"}),
    "grey with alpha": (lambda: {"picture": rgb("LA")}, "PNG", {"grey", "transparent"}),
    "grey of 16 bits": (lambda: {"picture": grey(LABELS.astype(np.uint16) * 999)}, "PNG", {"grey", "16 bits"}),
    "palette": (lambda: {"picture": rgb().quantize(8)}, "PNG", {"palette"}),
    "palette with transparency": (transparent_palette, "PNG", {"palette", "transparent"}),
    "black": (lambda: {"picture": Image.new("RGB", SIZE[::-1])}, "PNG", {"one colour"}),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_images_are_noted_and_used(kind, root):
    make, file, notes = ODD[kind]
    saved_as(image(root), kind=file, **make())
    found = summary_of("gta5", root)
    assert not found.errors and found.usable == COUNT
    singles = {note.key: note for note in found.notes if note.key not in ("class absent", "count")}
    assert singles.keys() == notes
    assert all(note.number == 1 and str(image(root)) in note.text for note in singles.values())


def test_colours_of_16_bits_are_noted(root):
    image(root).write_bytes(png_of_16_bits(colors().astype(np.uint16) * 257))
    found = summary_of("gta5", root)
    assert not found.errors and found.images == {"PNG, RGB": 2, "PNG, RGB, 16 bits": 1}
    assert [note.key for note in found.notes if note.key == "16 bits"] == ["16 bits"]


def test_images_that_the_original_set_lacks_labels_of_are_counted(tmp_path):
    bdd100k(tmp_path, {"train": 3})
    masks = sorted((tmp_path / "labels").rglob("*.png"))
    masks[0].unlink()
    masks[1].rename(masks[1].with_name("more.png"))
    found = summary_of("bdd100k", tmp_path)
    assert not found.errors and len(found.known_bad) == 3  # two images and one label file
    assert (found.found, found.usable) == (3, 1)


def test_sizes_classes_and_counts_of_a_set(root):
    gta5(root, 1, (24, 32), first=4)
    dataset = open_public(LAYOUTS["gta5"], str(root), "train", SIZE)
    found = summarise(dataset, dict(check(dataset, range(4))), LAYOUTS["gta5"], expected=24_966)
    notes = {note.key: note for note in found.notes}
    assert found.sizes == {(16, 32): 3, (24, 32): 1}
    assert notes["other size"].number == 1 and "00004.png" in notes["other size"].text
    assert "train" in notes["class absent"].text and "road" not in notes["class absent"].text
    assert "4 images" in notes["count"].text and "24966" in notes["count"].text
    assert found.labels == {"PNG, palette": 4}
    truth = [labels for _, _, labels in scenes(COUNT, "source", size=SIZE)]
    truth += [labels for _, _, labels in scenes(1, "source", size=(24, 32))]
    for index, share in enumerate(found.classes[:19]):
        assert share.pixels == sum((labels == index).sum() for labels in truth)
        assert share.images == sum((labels == index).any() for labels in truth)


def test_classes_that_a_set_cannot_have_are_not_said_to_be_absent(tmp_path):
    found = summary_of("synthia", synthia(tmp_path, 1, SIZE))
    absent = next(note for note in found.notes if note.key == "class absent").text
    assert "rider" in absent and "terrain" not in absent and "truck" not in absent


def test_numbers_that_are_the_same_image_id(root):
    classes = tuple(ClassInfo(c.name, c.ids, c.color) for c in CITYSCAPES)
    for kind in ("images", "labels"):
        shutil.copy(root / kind / "00001.png", root / kind / "1.png")
    found = folder_summary(root, classes, tuple(range(7)))
    note = next(note for note in found.notes if note.key == "same id")
    assert not found.errors and note.number == 1 and "1.png" in note.text


@pytest.mark.parametrize("name", ["straße ☃", os.fsdecode(b"latin-\xe9"), "a b'c\"d", "-o", "new\nline"])
def test_names_of_all_kinds(name, root):
    classes = tuple(ClassInfo(c.name, c.ids, c.color) for c in CITYSCAPES)
    for kind in ("images", "labels"):
        (root / kind / "00002.png").rename(root / kind / f"{name}.png")
    assert not folder_summary(root, classes).errors
    (root / "images" / f"{name}.png").write_bytes(b"")
    found = folder_summary(root, classes)
    assert [(p.category, p.name) for p in found.errors] == [("empty", name)] and name in found.errors[0].text
