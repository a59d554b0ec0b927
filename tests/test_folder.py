"""Folder pairs: pairing by name, one geometry for image and labels, and a sentence for every kind of bad file."""

import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgg_jax.data import decode
from sgg_jax.data.dataset import VOID, ClassInfo
from sgg_jax.data.folder import open_folders
from sgg_jax.data.pairs import Pairs
from sgg_jax.errors import InputError

CLASSES = (ClassInfo("road", (7, 8), (128, 64, 128)), ClassInfo("car", (26,), (0, 0, 142)))


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def image(path: Path, height: int = 8, width: int = 12, value: int = 90) -> Path:
    return save(path, np.full((height, width, 3), value, np.uint8))


def labels(path: Path, height: int = 8, width: int = 12, value: int = 7) -> Path:
    return save(path, np.full((height, width), value, np.uint8))


def folders(root: Path, **changes: Any) -> Pairs:
    settings: dict[str, Any] = {"images": str(root / "i"), "labels": str(root / "l"), "size": (8, 12)} | changes
    return open_folders(classes=CLASSES, **settings)


def ids_of(data: Pairs, index: int = 0) -> np.ndarray:
    got = data[index].labels
    assert got is not None
    return got


def refused(*words: object, call: Any) -> None:
    """The call raises an InputError of one paragraph that has all the words."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert all(str(word) in message for word in words), message
    assert "\n" not in message


# ---- pairing


def test_directories_pair_by_path_below_them(tmp_path: Path) -> None:
    for city, value in (("a", 7), ("b", 26)):
        image(tmp_path / "i" / city / "001.jpg")
        labels(tmp_path / "l" / city / "001.png", value=value)
    data = folders(tmp_path)
    assert len(data) == 2 and data.labelled
    assert [data.name(i) for i in range(2)] == ["a__001", "b__001"]
    assert [int(ids_of(data, i)[0, 0]) for i in range(2)] == [0, 1]


def test_globs_pair_by_file_name(tmp_path: Path) -> None:
    for number, value in ((10, 7), (9, 26)):
        image(tmp_path / "rgb" / f"part{number}" / f"{number:05d}.png")
        labels(tmp_path / "sem" / f"{number:05d}.png", value=value)
        (tmp_path / "sem" / f"{number:05d}.txt").write_text("passed over")
    data = folders(tmp_path, images=str(tmp_path / "rgb" / "**" / "*.png"), labels=str(tmp_path / "sem" / "*"))
    assert [data.name(i) for i in range(2)] == ["part10__00010", "part9__00009"]
    assert [int(ids_of(data, i)[0, 0]) for i in range(2)] == [0, 1]


def test_ids_and_count(tmp_path: Path) -> None:
    for stem in ("00012", "4294967296", "x"):
        image(tmp_path / "i" / f"{stem}.png")
    data = folders(tmp_path, labels="")
    assert not data.labelled and data[0].labels is None
    expected = [12] + [zlib.crc32(stem) & 0x7FFFFFFF for stem in (b"4294967296", b"x")]
    assert [data.image_id(i) for i in range(3)] == expected
    few = folders(tmp_path, labels="", count=2)
    assert len(few) == 2 and few.name(-1) == "4294967296"
    with pytest.raises(IndexError):
        few[2]
    refused("count is 4", "3 images", call=lambda: folders(tmp_path, labels="", count=4))


def test_folder_names_with_pattern_characters_and_hidden_files(tmp_path: Path) -> None:
    image(tmp_path / "set [1]" / "a.png")
    (tmp_path / "set [1]" / "._a.png").write_bytes(b"what a Mac leaves on other disks")
    assert len(folders(tmp_path, images=str(tmp_path / "set [1]"), labels="")) == 1


def test_what_does_not_pair_is_a_problem_and_left_out(tmp_path: Path) -> None:
    for stem in "abcde":
        image(tmp_path / "i" / f"{stem}.png")
    labels(tmp_path / "l" / "a.png")
    data = folders(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["a"]
    assert [p.category for p in data.problems] == ["missing label"] * 4
    assert str(tmp_path / "i" / "b.png") in data.problems[0].text and "file name of its image" in data.problems[0].text
    for stem in "bcdefg":
        labels(tmp_path / "l" / f"{stem}.png")
    data = folders(tmp_path)
    assert len(data) == 5
    assert [(p.category, p.name) for p in data.problems] == [
        ("orphan label", str(tmp_path / "l" / f"{stem}.png")) for stem in "fg"
    ]


def test_stems_that_never_match_are_refused_with_the_rule(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a_rgb.png")
    labels(tmp_path / "l" / "a_labels.png")
    both = {"images": str(tmp_path / "i" / "*"), "labels": str(tmp_path / "l" / "*")}
    for places in ({}, both):
        refused("none of the 1", "a_rgb.png", "file name of its image", call=lambda p=places: folders(tmp_path, **p))


def test_twins_are_refused(tmp_path: Path) -> None:
    one, two = image(tmp_path / "i" / "a.png"), image(tmp_path / "i" / "a.jpg")
    refused(one, two, "stem", call=lambda: folders(tmp_path, labels=""))
    two.unlink()
    two = image(tmp_path / "i" / "x" / "b.png")
    three = image(tmp_path / "i" / "x__b.png")
    refused(two, three, "result name", call=lambda: folders(tmp_path, labels=""))
    three.rename(tmp_path / "i" / "b.png")
    labels(tmp_path / "l" / "y" / "b.png")
    elsewhere = str(tmp_path / "l" / "y*" / "*")
    refused(two, tmp_path / "i" / "b.png", "file name", call=lambda: folders(tmp_path, labels=elsewhere))


def test_places_without_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    refused("images", tmp_path / "i", "no readable image files", call=lambda: folders(tmp_path))
    refused("images", "nowhere", "no folder", call=lambda: folders(tmp_path, images=str(tmp_path / "nowhere")))
    refused("images", "*.png", call=lambda: folders(tmp_path, images=str(tmp_path / "*.png")))
    image(tmp_path / "i" / "a.png")
    refused("labels", tmp_path / "l", "no folder", call=lambda: folders(tmp_path))


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png")
    refused("'pad'", "crop, stretch", call=lambda: folders(tmp_path, fit="pad"))
    refused("(0, 4)", call=lambda: folders(tmp_path, size=(0, 4)))
    refused("26", "car", "void_ids", call=lambda: folders(tmp_path, labels="", void_ids=(26,)))
    refused("-1", "void_ids", call=lambda: folders(tmp_path, labels="", void_ids=(-1,)))


# ---- geometry


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(40, 60), (24, 64), (61, 37), (200, 170)])
def test_image_and_labels_stay_aligned(tmp_path: Path, fit: str, size: tuple[int, int]) -> None:
    ids = np.full((97, 143), 7, np.uint8)
    row, column = np.mgrid[:97, :143]
    ids[(row - 40) ** 2 + (column - 75) ** 2 < 25**2] = 26
    ids[70:90, 50:60] = 26
    save(tmp_path / "i" / "a.png", np.repeat(np.where(ids == 26, 255, 0).astype(np.uint8)[..., None], 3, axis=2))
    save(tmp_path / "l" / "a.png", ids)
    data = folders(tmp_path, fit=fit, size=size)
    picture, got = data[0].image, ids_of(data)
    assert picture.shape == (*size, 3) and got.shape == size and got.dtype == picture.dtype == np.uint8
    shape, bright = got == 1, picture[..., 0] >= 128
    assert 0.03 < shape.mean() < 0.6
    # half a pixel of the larger grid along the rim at most; a shift of one pixel is several times as much
    wrong = (shape != bright).sum()
    assert wrong < 0.4 * (shape != np.roll(shape, 1, axis=1)).sum()
    assert wrong < 0.4 * (shape != np.roll(shape, 1, axis=0)).sum()


def test_crop_keeps_proportions_and_the_middle(tmp_path: Path) -> None:
    ids = np.full((20, 80), 8, np.uint8)
    ids[:, 30:50] = 26
    image(tmp_path / "i" / "a.png", 20, 80)
    save(tmp_path / "l" / "a.png", ids)
    assert (ids_of(folders(tmp_path, size=(10, 10))) == 1).all()
    stretched = ids_of(folders(tmp_path, size=(10, 16), fit="stretch"))
    assert (stretched == np.repeat([[0] * 6 + [1] * 4 + [0] * 6], 10, axis=0)).all()


def test_bytes_are_untouched_where_nothing_is_scaled(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    save(tmp_path / "i" / "a.png", noise)
    assert (folders(tmp_path, labels="", size=(9, 16))[0].image == noise).all()
    assert (folders(tmp_path, labels="", size=(9, 11))[0].image == noise[:, 2:13]).all()
    assert (folders(tmp_path, labels="", size=(6, 16))[0].image == noise[1:7]).all()


def test_shrinking_averages(tmp_path: Path) -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    save(tmp_path / "i" / "a.png", checks)
    assert np.ptp(folders(tmp_path, labels="", size=(8, 8))[0].image[1:-1, 1:-1].astype(int) - 127) <= 2


def test_sizes_of_a_pair_must_agree(tmp_path: Path) -> None:
    one, two = image(tmp_path / "i" / "a.png", 8, 12), labels(tmp_path / "l" / "a.png", 8, 13)
    refused(one, "12 x 8", two, "13 x 8", call=lambda: folders(tmp_path)[0])


# ---- kinds of images


def read(path: Path) -> np.ndarray:
    return decode.read_image(path.read_bytes(), str(path))


def test_transparent_pixels_become_black(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = (200, 100, 50, 255), (200, 100, 50, 0), (200, 100, 50, 128)
    for name in ("a.png", "a.webp"):
        got = read(save(tmp_path / name, rgba, lossless=True))
        assert np.abs(got[0].astype(int) - [(200, 100, 50), (0, 0, 0), (100, 50, 25)]).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "b.png", transparency=bytes([255, 0]))
    assert read(tmp_path / "b.png").tolist() == [[[10, 20, 30], [0, 0, 0]]]


def test_grey_palette_and_cmyk(tmp_path: Path) -> None:
    grey = np.array([[0, 128, 255]], np.uint8)
    assert (read(save(tmp_path / "a.png", grey)) == grey[..., None]).all()
    wide = np.array([[0, 128 * 257, 65535]], np.uint16)
    assert (read(save(tmp_path / "b.png", wide)) == grey[..., None]).all()
    assert (read(save(tmp_path / "b.tif", wide)) == grey[..., None]).all()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    assert np.abs(read(tmp_path / "c.jpg").astype(int) - (255, 0, 0)).max() <= 3
    negative = save(tmp_path / "d.tif", np.array([[-5, 70000]], np.int32))
    refused(negative, "65535", call=lambda: read(negative))
    real = save(tmp_path / "e.tif", np.ones((2, 2), np.float32))
    refused(real, "floating", call=lambda: read(real))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn anticlockwise
    path = save(tmp_path / "i" / "a.jpg", np.rot90(upright), exif=exif, quality=100, subsampling=0)
    assert read(path).shape == (16, 24, 3)
    assert np.abs(read(path).astype(int) - upright).max() < 30


# ---- kinds of label files


def read_one(tmp_path: Path) -> np.ndarray:
    return ids_of(folders(tmp_path, size=(1, 4)))


def test_label_files_are_read_as_stored(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png", 1, 4)
    ids, expected, path = np.array([[7, 26, 8, 255]]), [[0, 1, 0, VOID]], tmp_path / "l" / "a.png"
    for kind in (np.uint8, np.uint16):
        save(path, ids.astype(kind))
        assert read_one(tmp_path).tolist() == expected
    path.unlink()
    for wide in (np.int32, np.uint16, np.uint8):
        save(path.with_suffix(".tif"), ids.astype(wide))
        assert read_one(tmp_path).tolist() == expected
    path.with_suffix(".tif").unlink()
    palette = Image.frombytes("P", (4, 1), ids.astype(np.uint8).tobytes())
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    palette.save(path)
    assert read_one(tmp_path).tolist() == expected


def test_wide_label_ids_are_not_cut_to_a_byte(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png", 1, 4)
    path = save(tmp_path / "l" / "a.png", np.array([[7, 7 + 256, 7 + 256, 26]], np.uint16))
    refused(path, "263 (2 pixels)", call=lambda: read_one(tmp_path))
    path.unlink()
    path = save(tmp_path / "l" / "a.tif", np.array([[-1, 7, 65543, 26]], np.int32))
    refused(path, "-1 (1 pixels)", "65543 (1 pixels)", call=lambda: read_one(tmp_path))


def test_unknown_label_ids_are_named_with_the_remedy(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png", 1, 4)
    path = save(tmp_path / "l" / "a.png", np.array([[0, 7, 0, 33]], np.uint8))
    words = (path, "0 (2 pixels), 33 (1 pixels)", "config.data.classes", "void_ids")
    refused(*words, call=lambda: read_one(tmp_path))
    data = folders(tmp_path, size=(1, 4), void_ids=(0, 33))
    assert ids_of(data).tolist() == [[VOID, 0, VOID, VOID]]


def test_label_files_without_exact_numbers_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png", 1, 4)
    path = image(tmp_path / "l" / "a.png", 1, 4)
    refused(path, "RGB", "one number a pixel", call=lambda: read_one(tmp_path))
    Image.new("1", (4, 1)).save(path)
    refused(path, "one number a pixel", call=lambda: read_one(tmp_path))
    path.unlink()
    path = labels(tmp_path / "l" / "a.jpg", 1, 4)
    refused(path, "JPEG", call=lambda: read_one(tmp_path))


# ---- broken files


@pytest.mark.parametrize("kind", ["i", "l"])
def test_broken_files_are_named(tmp_path: Path, kind: str) -> None:
    image(tmp_path / "i" / "a.png", 64, 64)
    noise = np.random.default_rng(0).integers(7, 9, (64, 64), np.uint8)
    save(tmp_path / "l" / "a.png", noise)
    data, path = folders(tmp_path, size=(8, 8)), tmp_path / kind / "a.png"
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content, word in (
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "HTML"),
        (b"plain text", "not an image"),
        (whole[:20], "a.png"),
        (whole[:middle], "damaged"),
        (whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :], "damaged"),
    ):
        path.write_bytes(content)
        refused(path, word, call=lambda: data[0])
    path.unlink()
    refused(path, "No such file", call=lambda: data[0])


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / "i" / "a.jpg", noise)
    path.write_bytes(path.read_bytes()[:-500])
    refused(path, "cut short", call=lambda: folders(tmp_path, labels="")[0])


@pytest.mark.parametrize("pixels", [(9000, 10000), (10001, 10000), (60000, 60000)])
def test_huge_images_are_refused_before_decoding(tmp_path: Path, pixels: tuple[int, int]) -> None:
    path = image(tmp_path / "i" / "a.png")
    header = bytearray(path.read_bytes())
    header[16:24] = pixels[0].to_bytes(4, "big") + pixels[1].to_bytes(4, "big")
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    path.write_bytes(header)
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            refused(path, "89.5 megapixels", call=lambda: read(path))
