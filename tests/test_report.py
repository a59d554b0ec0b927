"""Pictures and the page: what they show is what went in."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from sgg_jax import records
from sgg_jax.data.dataset import VOID, ClassInfo
from sgg_jax.report.page import Picture, Section, Settings, Svg, Table, Text, page, write_page
from sgg_jax.report.pictures import (
    BLACK,
    GAP,
    MARGIN,
    MAX_CELL,
    PAPER,
    WRONG,
    colorize,
    mistakes,
    overlaid,
    png_bytes,
    save,
    sheet,
)
from sgg_jax.report.plots import curves

CLASSES = (ClassInfo("road", (7,), (128, 64, 128)), ClassInfo("sky", (23,), (70, 130, 180)))
VOID_TAGS = {"meta", "link", "img", "br"}


# Pictures


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def grown(image, factor):
    return image.repeat(factor, 0).repeat(factor, 1)


def find(picture, part):
    """(x, y) of the only place in a sheet where an array stands, pixel for pixel."""
    pixels = np.asarray(picture)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, part.shape)[:, :, 0]
    corners = np.argwhere((windows[..., 0, 0, :] == part[0, 0]).all(-1))
    places = [(x, y) for y, x in corners if (windows[y, x] == part).all()]
    assert len(places) == 1
    return places[0]


def test_colours_are_those_of_the_classes_and_void_is_black():
    labels = np.array([[0, 1], [VOID, 0]], np.uint8)
    expected = [[CLASSES[0].color, CLASSES[1].color], [(0, 0, 0), CLASSES[0].color]]
    assert (colorize(labels, CLASSES) == np.array(expected)).all()


def test_colorize_refuses_what_is_no_label_map():
    with pytest.raises(ValueError, match="label 2 is neither"):
        colorize(np.array([[0, 2]], np.uint8), CLASSES)
    with pytest.raises(ValueError, match="uint8"):
        colorize(np.zeros((2, 2), np.int32), CLASSES)


def test_overlays_mix_image_and_colours_and_mistakes_are_red():
    image, labels = np.full((2, 2, 3), 100, np.uint8), np.array([[0, 1], [VOID, 0]], np.uint8)
    shown = overlaid(image, labels, CLASSES)
    assert shown.dtype == np.uint8
    np.testing.assert_allclose(shown, 0.4 * image + 0.6 * colorize(labels, CLASSES), atol=0.5)
    image[0, 0] = 30, 60, 90
    found = mistakes(image, labels, np.array([[0, 0], [1, 0]], np.uint8))
    assert tuple(found[0, 1]) == WRONG and tuple(found[1, 0]) == BLACK  # what is unknown is not wrong
    assert len(set(found[0, 0].tolist())) == 1 and found[0, 0, 0] < found[1, 1, 0]  # right: the image in grey


def test_each_picture_stands_enlarged_in_its_cell():
    a, b, c = noise(8, 40, 1), noise(8, 40, 2), noise(12, 40, 3)
    labels = np.array([[0, 1] * 20, [VOID, 0] * 20], np.uint8)
    whole = sheet([[labels, a], [None, b], [c, None]], ["label", "source"], scale=2, classes=CLASSES)
    left, y_labels = find(whole, grown(colorize(labels, CLASSES), 2))
    right, y_a = find(whole, grown(a, 2))
    assert y_labels == y_a  # one row
    assert (left, right) == (MARGIN, MARGIN + 80 + GAP)
    assert find(whole, grown(b, 2)) == (right, y_a + 16 + GAP)
    assert find(whole, grown(c, 2)) == (left, y_a + 2 * (16 + GAP))


def test_parts_of_a_sheet_add_to_its_size():
    bare = sheet([[noise(20, 100)]], ["x"], scale=3)
    assert bare.width == 300 + 2 * MARGIN
    heading = bare.height - 60 - 2 * MARGIN - GAP
    assert 10 < heading < 30
    titled = sheet([[noise(20, 100)]], ["x"], scale=3, title="Title")
    legend = sheet([[noise(20, 100)]], ["x"], scale=3, classes=CLASSES)
    assert titled.height > bare.height < legend.height
    assert (np.asarray(titled)[MARGIN : MARGIN + 20] != PAPER).any()
    assert all((np.asarray(legend) == info.color).all(-1).sum() > 50 for info in CLASSES)


def test_large_pictures_shrink_and_labels_keep_their_colours():
    labels = np.random.default_rng(0).integers(0, 2, (400, 2 * MAX_CELL), np.uint8)
    whole = sheet([[labels], [noise(400, 2 * MAX_CELL)]], ["x"], classes=CLASSES)
    assert whole.width == MAX_CELL + 2 * MARGIN
    assert sheet([[noise(400, 2 * MAX_CELL)]], ["x"]).height == sheet([[noise(200, 10)]], ["x"], scale=1).height
    row = np.asarray(whole)[100, MARGIN:-MARGIN]
    assert set(map(tuple, row.tolist())) == {info.color for info in CLASSES}
    assert sheet([[noise(9, 300)]], ["x"], scale=3).width == 300 + 2 * MARGIN  # 600 would be too wide


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ([noise(4, 4), noise(4, 4)], "row 0 of the sheet has 2 cells"),
        ([np.zeros((4, 4), np.uint8)], "class table"),
        ([np.zeros((4, 4, 3), np.float32)], "uint8"),
    ],
)
def test_sheet_refuses_what_it_cannot_show(row, complaint):
    with pytest.raises(ValueError, match=complaint):
        sheet([row], ["x"])


def test_saved_picture_reads_back_and_leaves_no_other_file(tmp_path):
    image = Image.fromarray(noise(5, 7))
    save(image, tmp_path / "new" / "a.png")
    save(image, tmp_path / "new" / "a.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    with Image.open(tmp_path / "new" / "a.png") as read:
        assert (np.asarray(read) == np.asarray(image)).all()


def test_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    write_page(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(records.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_page(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# Page


class Reader(HTMLParser):
    """Checks that tags nest and gathers what a test asks about."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, name):
        return [attrs[name] for _, attrs in self.attributes if name in attrs]


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(noise(6, 9))


@pytest.fixture(scope="module")
def html(image):
    plot = curves({"a": ([1, 2], [3, 4])}, "x", "y")
    evil = "<script>alert('x')</script> & \"q\""
    table = Table(["run", "mIoU", "FID"], [["ours", "61.2 ± 0.1", "40"], [evil, "9.5", None]], evil, {"mIoU": "max"})
    settings = Settings({"unet": {"channels": 64, "empty": {}, "at": {"levels": (1, 2)}}, evil: evil})
    blocks = [Text(f"One.\n\n{evil}"), table, Svg(plot, evil), Svg(plot), settings]
    pictured = [Picture(image, evil, scale=4), Picture(png_bytes(image), alt="noise")]
    return page(f"Title {evil}", evil, [Section(evil, blocks), Section("Pictures", pictured), Section("Empty", [])])


def test_page_is_well_formed_and_self_contained(html):
    reader = Reader(html)
    assert "http" not in html
    assert not {"script", "iframe", "object", "base"} & set(reader.tags)
    assert not [name for _, attrs in reader.attributes for name in attrs if name.startswith("on")]
    assert all(source.startswith("data:image/png;base64,") for source in reader.all("src"))
    assert all(target.startswith(("#", "data:,")) for target in reader.all("href"))
    assert "url(" not in re.sub(r"url\(#", "", html)
    assert reader.all("lang") == ["en"]
    assert reader.tags.count("h1") == 1


def test_ids_are_unique_and_references_lead_somewhere(html):
    reader = Reader(html)
    ids = reader.all("id")
    assert len(ids) == len(set(ids))
    targets = [target[1:] for target in reader.all("href") if target.startswith("#")]
    targets += re.findall(r"url\(#([^)]+)\)", html) + reader.all("aria-labelledby")
    assert len(targets) > 10
    assert set(targets) <= set(ids)


def test_everything_is_escaped_yet_readable(html):
    assert "<script" not in html
    texts = Reader(html).text
    assert sum("<script>alert('x')</script> & \"q\"" in text for text in texts) == 12


def test_pictures_decode_at_their_size(html, image):
    found = [attrs for tag, attrs in Reader(html).attributes if tag == "img"]
    assert [(a["width"], a["height"], a.get("class")) for a in found] == [("36", "24", "pixels"), ("9", "6", None)]
    assert all(a["alt"] for a in found)
    for attrs in found:
        with Image.open(io.BytesIO(base64.b64decode(attrs["src"].split(",")[1]))) as decoded:
            assert (np.asarray(decoded) == np.asarray(image)).all()


def test_best_numbers_stand_out(html):
    assert re.findall("<strong>(.*?)</strong>", html) == ["61.2 ± 0.1"]
    table = Table(
        ["run", "a", "b"], [["x", "2", "10"], ["y", "10", "9"], ["z", "10", "n/a"]], "", {"a": "max", "b": "min"}
    )
    assert re.findall("<strong>(.*?)</strong>", page("t", "", [Section("s", [table])])) == ["10", "9", "10"]
    with pytest.raises(ValueError, match=r"best names \['c'\]"):
        page("t", "", [Section("s", [table._replace(best={"c": "max"})])])


def test_settings_are_dotted_names(html):
    entries = dict(re.findall("<dt>([^&]*?)</dt><dd>(.*?)</dd>", html))
    assert entries == {"unet.channels": "64", "unet.empty": "{}", "unet.at.levels": "(1, 2)"}


def test_contents_only_for_three_sections_and_more(html):
    assert Reader(html).tags.count("nav") == 1
    assert "nav" not in Reader(page("t", "lead", [Section("one", [])])).tags


def test_page_is_written_as_utf8(tmp_path, html):
    write_page(tmp_path / "deep" / "report.html", html)
    assert (tmp_path / "deep" / "report.html").read_bytes().decode() == html
