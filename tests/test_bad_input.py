"""Bad input: files, labels and zips that cannot be used are found, counted and named, and nothing crashes."""

import shutil
import struct
import zipfile
import zlib
from collections import Counter

import numpy as np
import pytest
import three_frames
from lookalikes import (
    LABEL_IDS,
    acdc,
    bdd100k,
    png_of_4_bits,
    png_of_16_bits,
    save,
    save_palette,
    scenes,
    synthia,
    urbansyn,
)
from PIL import Image
from three_frames import COUNT, LABELS, SIZE, colors, folder_summary, grey, image, label, saved_as, summary_of

from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.dataset import ClassInfo
from sgg_jax.data.problems import ERRORS

pristine, root = three_frames.pristine, three_frames.root  # fixtures


def cut(path, end):
    path.write_bytes(path.read_bytes()[:end])


def flip_bit(path):
    """In the middle of the compressed pixels."""
    data = bytearray(path.read_bytes())
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    data[start + 4 + length // 2] ^= 4
    path.write_bytes(data)


def flip_checksum(path):
    """Pixels decode as before, so that only the checksum tells."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IEND") - 5] ^= 1
    path.write_bytes(data)


def huge(path):
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def with_link_to_nothing(path):
    path.unlink()
    path.symlink_to("/no/such/file")


WRITES = {  # what is done to one of three frames of GTA5 -> category, word of the sentence, whose file it names
    "empty image": (lambda r: image(r).write_bytes(b""), "empty", "is empty", image),
    "empty label": (lambda r: label(r).write_bytes(b""), "empty", "is empty", label),
    "HTML as image": (lambda r: image(r).write_text("<!DOCTYPE html>\n404"), "not an image", "HTML", image),
    "HTML as label": (lambda r: label(r).write_text("  <html>busy</html>"), "not an image", "HTML", label),
    "a text": (lambda r: image(r).write_text("version https://git-lfs"), "not an image", "known format", image),
    "GIF as PNG": (lambda r: saved_as(image(r), grey(LABELS), "GIF"), "not an image", "known format", image),
    "half an image": (lambda r: cut(image(r), 300), "damaged", "cut short", image),
    "only the end missing": (lambda r: cut(image(r), -12), "damaged", "cut short", image),
    "header only": (lambda r: cut(image(r), 20), "damaged", "damaged", image),
    "half a label": (lambda r: cut(label(r), -40), "damaged", "cut short", label),
    "bit flip in image": (lambda r: flip_bit(image(r)), "damaged", "changed bytes", image),
    "bit flip in label": (lambda r: flip_bit(label(r)), "damaged", "changed bytes", label),
    "wrong checksum": (lambda r: flip_checksum(image(r)), "damaged", "checksum", image),
    "huge header": (lambda r: huge(image(r)), "too large", "megapixels", image),
    "huge label": (lambda r: huge(label(r)), "too large", "megapixels", label),
    "link to nothing": (lambda r: with_link_to_nothing(image(r)), "unreadable", "cannot be read", image),
    "floats": (
        lambda r: saved_as(image(r), grey(LABELS.astype(np.float32)), "TIFF"), "pixel type", "floating-point", image,
    ),
    "negative pixels": (
        lambda r: saved_as(image(r), grey(LABELS.astype(np.int32) - 5), "TIFF"), "pixel type", "outside 0..", image,
    ),
    "other size": (lambda r: save_palette(label(r), np.full((16, 24), 7, np.uint8)), "size mismatch", "32 x 16", label),
    "missing label": (lambda r: label(r).unlink(), "missing label", "has no label file", image),
    "orphan label": (lambda r: image(r).rename(r / "images" / "00004.png.bak"), "orphan label", "no image", label),
    "all void": (lambda r: save_palette(label(r), np.zeros(SIZE, np.uint8)), "all void", "no pixel of any", label),
    "unknown ids": (
        lambda r: save_palette(label(r), np.where(LABELS == 0, 77, LABEL_IDS[LABELS]).astype(np.uint8)),
        "unknown ids", "77 (", label,
    ),
    "colours as labels": (lambda r: save(label(r), colors()), "wrong encoding", "in colours, for people", label),
    "RGBA colours as labels": (
        lambda r: Image.fromarray(colors()).convert("RGBA").save(label(r)), "wrong encoding", "for people", label,
    ),
    "a photograph as labels": (lambda r: shutil.copy(image(r), label(r)), "wrong encoding", "type RGB", label),
    "colours turned grey": (
        lambda r: Image.fromarray(colors()).convert("L").save(label(r)), "wrong encoding", "turned grey", label,
    ),
    "labels of one bit": (lambda r: grey(LABELS > 3).save(label(r)), "wrong encoding", "type 1", label),
    "labels with alpha": (
        lambda r: grey(LABEL_IDS[LABELS]).convert("LA").save(label(r)), "wrong encoding", "type LA", label,
    ),
    "labels of three times 16 bits": (
        lambda r: label(r).write_bytes(png_of_16_bits(np.full((*SIZE, 3), 7))), "wrong encoding", "SYNTHIA", label,
    ),
    "instance ids": (
        lambda r: save(label(r), np.where(LABELS > 10, 1000, 1).astype(np.uint16) * LABEL_IDS[LABELS]),
        "wrong encoding", "instance ids", label,
    ),
    "ids stretched to 16 bits": (
        lambda r: save(label(r), LABEL_IDS[LABELS].astype(np.uint16) * 257), "wrong encoding", "257 times", label,
    ),
    "grey labels of 4 bits": (  # 0, 1, 2 come as 0, 17, 34: ids, too, of other classes
        lambda r: label(r).write_bytes(png_of_4_bits((LABELS % 3).astype(np.uint8))), "pixel type", "8 bits", label,
    ),
    "JPEG labels": (lambda r: saved_as(label(r), grey(LABELS), "JPEG"), "pixel type", "JPEG", label),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITES)
def test_one_bad_file_of_gta5(kind, root):
    spoil, category, words, named = WRITES[kind]
    before = summary_of("gta5", root)
    assert not before.errors and before.usable == COUNT
    name = str(named(root))
    spoil(root)
    found = summary_of("gta5", root)
    wanted = {category: 1, **({"hole": 1} if category == "orphan label" else {})}
    assert Counter(problem.category for problem in found.errors) == wanted
    assert set(wanted) <= ERRORS.keys()
    problem = next(problem for problem in found.errors if problem.category == category)
    assert name in problem.text and words in problem.text
    assert found.usable == COUNT - 1
    assert sum(share.pixels for share in found.classes) == (COUNT - 1) * SIZE[0] * SIZE[1]


def test_a_jpeg_that_is_cut_short(tmp_path):
    bdd100k(tmp_path, {"train": 2})
    path = sorted(tmp_path.rglob("*.jpg"))[0]
    cut(path, path.stat().st_size // 2)
    found = summary_of("bdd100k", tmp_path)
    assert [p.category for p in found.errors] == ["damaged"] and str(path) in found.errors[0].text


@pytest.mark.parametrize("file", [image, label])
def test_a_file_that_vanishes_after_it_was_listed(file, root):
    found = summary_of("gta5", root, spoil_late=lambda root: file(root).unlink())
    assert [(p.category, p.name) for p in found.errors] == [("unreadable", "00002")]
    assert str(file(root)) in found.errors[0].text


def test_a_folder_that_vanishes_after_it_was_listed(root):
    found = summary_of("gta5", root, spoil_late=shutil.rmtree)
    assert Counter(p.category for p in found.errors) == {"unreadable": COUNT} and found.usable == 0


def test_a_hole(root):
    for file in (image, label):
        file(root).unlink()
    found = summary_of("gta5", root)
    assert [(p.category, p.name) for p in found.errors] == [("hole", "2..2")]
    assert found.usable == COUNT - 1 and "lacks number 2" in found.errors[0].text


def test_pairs_that_are_known_to_be_bad_are_no_errors(root):
    for kind in ("images", "labels"):
        (root / kind / "00001.png").rename(root / kind / "15188.png")
    found = summary_of("gta5", root)
    assert [p.name for p in found.known_bad] == ["15188"]
    assert Counter(p.category for p in found.errors) == {"hole": 1}
    assert (found.found, found.usable) == (COUNT, COUNT - 1)


def rewrite_labels(root, values):
    for number, (_, _, labels) in enumerate(scenes(COUNT, "source", size=SIZE), 1):
        save_palette(root / "labels" / f"{number:05d}.png", values[labels])


def test_train_ids_where_label_ids_are_expected(root):
    rewrite_labels(root, np.arange(19, dtype=np.uint8))
    found = summary_of("gta5", root)
    assert Counter(p.category for p in found.errors) == {"wrong encoding": COUNT}
    assert "look like train ids" in found.errors[1].text and str(label(root)) in found.errors[1].text
    rewrite_labels(root, LABEL_IDS)
    assert not summary_of("gta5", root).errors


def test_label_ids_where_train_ids_are_expected(tmp_path):
    acdc(tmp_path, {"train": 2}, SIZE)
    path = sorted((tmp_path / "gt").rglob("*.png"))[1]
    save(path, LABEL_IDS[np.asarray(Image.open(path))])
    found = summary_of("acdc", tmp_path)
    assert [p.category for p in found.errors] == ["wrong encoding"]
    assert "label ids, but train ids are expected" in found.errors[0].text and str(path) in found.errors[0].text


def test_label_ids_in_a_set_that_takes_their_values_for_void(tmp_path):
    urbansyn(tmp_path, 2)
    assert not summary_of("urbansyn", tmp_path).errors
    for path in (tmp_path / "ss").glob("*.png"):
        save(path, LABEL_IDS[np.asarray(Image.open(path))])
    found = summary_of("urbansyn", tmp_path)
    assert Counter(p.category for p in found.errors) == {"wrong encoding": 2}
    assert "ss_0001.png: its values are Cityscapes' label ids" in found.errors[0].text


def test_labels_of_synthia_that_were_cut_to_8_bits(tmp_path):
    synthia(tmp_path, 3, SIZE)
    first, second, third = sorted((tmp_path / "RAND_CITYSCAPES" / "GT" / "LABELS").glob("*.png"))
    save(first, np.zeros((*SIZE, 3), np.uint8))
    save(second, np.zeros(SIZE, np.uint8))
    third.write_bytes(png_of_16_bits(np.full((*SIZE, 3), 259)))
    found = summary_of("synthia", tmp_path)
    assert [p.category for p in found.errors] == ["wrong encoding", "wrong encoding", "unknown ids"]
    for problem, path in zip(found.errors, (first, second, third), strict=True):
        assert str(path) in problem.text
    assert all("cut from 16 bits to 8" in problem.text for problem in found.errors[:2])
    assert "259" in found.errors[2].text


def test_labels_that_are_0_all_over_the_set(root):
    classes = tuple(ClassInfo(c.name, (i,), c.color) for i, c in enumerate(CITYSCAPES))
    rewrite_labels(root, np.zeros(19, np.uint8))
    found = folder_summary(root, classes)
    assert Counter(p.category for p in found.errors) == {"wrong encoding": COUNT}
    assert "cut to 8" in found.errors[0].text
    save(label(root), LABELS)  # one that is not shows that 0 is a class like others
    assert not folder_summary(root, classes).errors


def test_one_name_in_two_conditions(tmp_path):
    for condition in ("fog", "night"):
        acdc(tmp_path, {"train": 1}, SIZE, condition)
    found = summary_of("acdc", tmp_path)
    assert [p.category for p in found.errors] == ["duplicate"]
    assert "night" in found.errors[0].text and (found.found, found.usable) == (2, 1)


def packed(root, name, *, compression=zipfile.ZIP_STORED):
    """The frames as a zip file in a folder of its own."""
    place = root.parent / "zips"
    place.mkdir(exist_ok=True)
    with zipfile.ZipFile(place / name, "w", compression) as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root).as_posix())
    return place / name


@pytest.mark.parametrize("entry", ["../evil.png", "/etc/evil.png", "images/../../evil.png", "C:/evil.png"])
def test_names_in_a_zip_that_lead_out_of_it(entry, root):
    path = packed(root, "all.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, b"x")
    found = summary_of("gta5", path.parent)
    assert [p.category for p in found.errors] == ["unsafe name"] and entry in found.errors[0].text
    assert found.usable == COUNT and not list(path.parent.parent.rglob("evil.png"))


def test_a_zip_entry_that_promises_a_gigabyte(root):
    path = packed(root, "all.zip")
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02", 0, data.rindex(b"images/00002.png"))
    data[directory + 24 : directory + 28] = struct.pack("<I", 2**30)
    path.write_bytes(data)
    found = summary_of("gta5", path.parent)
    assert [(p.category, p.name) for p in found.errors] == [("too large", "00002")]
    assert f"images/00002.png in {path}" in found.errors[0].text


def test_a_zip_entry_whose_content_changed(root):
    path = packed(root, "all.zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"labels/00002.png") + 40] ^= 1
    path.write_bytes(data)
    found = summary_of("gta5", path.parent)
    assert [(p.category, p.name) for p in found.errors] == [("bad zip", "00002")]
    assert f"labels/00002.png in {path}" in found.errors[0].text


def test_a_zip_file_that_is_none_and_one_that_is_there_twice(root):
    path = packed(root, "all.zip")
    shutil.copy(path, path.with_name("again.zip"))
    path.with_name("broken.zip").write_bytes(path.read_bytes()[:200])
    found = summary_of("gta5", path.parent)
    assert Counter(p.category for p in found.errors) == {"bad zip": 1, "duplicate": 2 * COUNT}
    assert "broken.zip" in next(p.text for p in found.errors if p.category == "bad zip")
    assert "again.zip" in next(p.text for p in found.errors if p.category == "duplicate")
    assert (found.found, found.usable) == (COUNT, COUNT)


def test_a_zip_file_that_vanishes(root):
    path = packed(root, "all.zip")
    found = summary_of("gta5", path.parent, spoil_late=lambda _: path.unlink())
    assert Counter(p.category for p in found.errors) == {"unreadable": COUNT} and str(path) in found.errors[0].text
