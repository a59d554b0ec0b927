"""Public data sets, read from look-alikes with their exact layouts: every class value, split, trap and zip file."""

import numpy as np
import pytest
from lookalikes import (
    LABEL_IDS,
    acdc,
    bdd100k,
    cityscapes,
    dark_zurich,
    gta5,
    mapillary,
    png_of_16_bits,
    save,
    save_palette,
    scenes,
    synscapes,
    synthia,
    urbansyn,
    zipped,
)

from sgg_jax.data.classes import CITYSCAPES, SUBSETS
from sgg_jax.data.dataset import VOID, ClassInfo, LeftOutError, Tolerant
from sgg_jax.data.decode import UNKNOWN
from sgg_jax.data.problems import BadFileError
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.errors import InputError

SIZE = (48, 96)
MAKERS = {
    "gta5": lambda root: gta5(root, 2),
    "synthia": lambda root: synthia(root, 2),
    "cityscapes": lambda root: cityscapes(root, {"train": 2, "val": 1, "test": 1}),
    "acdc": lambda root: acdc(root, {"train": 2, "test": 1}),
    "dark_zurich": lambda root: dark_zurich(root, {"train": 1, "val": 2}),
    "bdd100k": lambda root: bdd100k(root, {"train": 2, "test": 1}),
    "urbansyn": lambda root: urbansyn(root, 2),
    "synscapes": lambda root: synscapes(root, 2),
    "mapillary": lambda root: mapillary(root, {"training": 2, "testing": 1}),
}
DRAWN = {"gta5": "source", "synthia": "source", "urbansyn": "source", "synscapes": "source"}


def opened(name, root, split="train", **options):
    return open_public(LAYOUTS[name], str(root), split, SIZE, **options)


@pytest.mark.parametrize("name", MAKERS)
def test_labels_come_as_train_ids_and_images_as_they_are(name, tmp_path):
    split = {"dark_zurich": "val", "mapillary": "training"}.get(name, "train")
    data = opened(name, MAKERS[name](tmp_path), split)
    drawn = list(scenes(2, DRAWN.get(name, "target"), "val" if name == "acdc" else "train"))
    assert len(data) == 2 and data.labelled and data.classes == CITYSCAPES and not data.problems
    for index, (_, image, labels) in enumerate(drawn):
        example = data[index]
        np.testing.assert_array_equal(example.labels, labels)
        if name in ("bdd100k", "mapillary"):  # JPEG
            assert abs(example.image.astype(int) - image).mean() < 12
        else:
            np.testing.assert_array_equal(example.image, image)
    assert LAYOUTS[name].licence and LAYOUTS[name].counts


@pytest.mark.parametrize(("name", "split"), [("cityscapes", "test"), ("acdc", "test"), ("dark_zurich", "train"),
                                             ("bdd100k", "test"), ("mapillary", "testing")])  # fmt: skip
def test_splits_without_meaningful_labels_have_none(name, split, tmp_path):
    data = opened(name, MAKERS[name](tmp_path), split)
    assert len(data) == 1 and not data.labelled and data[0].labels is None


def test_every_label_value_of_the_original_sets():
    ids = np.arange(40)
    known = {"gta5": 35, "cityscapes": 34, "synscapes": 34}
    for name, values in known.items():
        table = LAYOUTS[name].table
        wanted = np.full(40, UNKNOWN, np.uint8)
        wanted[:values] = VOID
        wanted[LABEL_IDS] = np.arange(19)
        np.testing.assert_array_equal(table[ids], wanted, err_msg=name)
        assert table[255] == VOID
    # from the class list of SYNTHIA-RAND-CITYSCAPES: value -> train id
    synthia_table = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13, 19: 15,
                     12: 17, 11: 18}  # fmt: skip
    found = {int(v): int(t) for v, t in enumerate(LAYOUTS["synthia"].table[:23]) if t != VOID}
    assert found == synthia_table
    assert set(synthia_table.values()) == set(SUBSETS["16 classes"])
    for name in ("acdc", "dark_zurich", "bdd100k", "urbansyn"):
        np.testing.assert_array_equal(LAYOUTS[name].table[:19], np.arange(19))


def test_gta5_straight_from_its_zip_files_is_the_same(tmp_path):
    plain = opened("gta5", gta5(tmp_path / "plain", 4))
    gta5(tmp_path / "zips", 4)
    for part, numbers in (("01", (1, 2)), ("02", (3, 4))):
        for kind in ("images", "labels"):
            place = tmp_path / part / kind
            place.mkdir(parents=True)
            for number in numbers:
                (tmp_path / "zips" / kind / f"{number:05d}.png").rename(place / f"{number:05d}.png")
            zipped(tmp_path / part, f"{part}_{kind}.zip", kind).rename(tmp_path / "zips" / f"{part}_{kind}.zip")
    packed = opened("gta5", tmp_path / "zips")
    assert [packed.name(i) for i in range(4)] == ["00001", "00002", "00003", "00004"]
    for index in range(4):
        assert packed.image_id(index) == plain.image_id(index) == index + 1
        for a, b in zip(packed[index], plain[index], strict=True):
            np.testing.assert_array_equal(a, b)
    single = opened("cityscapes", zipped(cityscapes(tmp_path / "c", {"train": 1}), "all.zip", "leftImg8bit", "gtFine"))
    assert len(single) == 1 and single[0].labels is not None


def test_pairs_of_gta5_that_are_known_to_be_bad_are_left_out_with_the_reason(tmp_path):
    for number in (15187, 15188, 15189, 17705, 20801, 20860, 20861):
        save(tmp_path / "images" / f"{number:05d}.png", np.zeros((8, 8, 3), np.uint8))
        save_palette(tmp_path / "labels" / f"{number:05d}.png", np.full((8, 8), 7, np.uint8))
    data = opened("gta5", tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["15187", "15189", "20861"]
    bad = {p.name: p.text for p in data.problems if p.category == "known bad"}
    assert set(bad) == {"15188", "17705", "20801", "20860"}
    assert "black or white" in bad["15188"] and "sizes" in bad["20801"]
    holes = [p.name for p in data.problems if p.category == "hole"]
    assert holes == ["15190..17704", "17706..20800", "20802..20859"]


def test_synthia_reads_both_bytes(tmp_path):
    data = opened("synthia", synthia(tmp_path, 1))
    assert len(np.unique(data[0].labels)) > 3  # eight-bit readers find one class
    path = tmp_path / "RAND_CITYSCAPES" / "GT" / "LABELS" / "0000000.png"
    path.write_bytes(png_of_16_bits(np.full((48, 96, 3), 259)))
    with pytest.raises(BadFileError, match="label ids above 255, such as 259") as caught:
        _ = data[0]
    assert caught.value.category == "unknown ids"
    save(path, np.zeros((48, 96, 3), np.uint8))
    with pytest.raises(BadFileError, match="three channels of 16 bits") as caught:
        _ = data[0]
    assert caught.value.category == "wrong encoding"


def test_words_of_a_split_narrow_it_down(tmp_path):
    acdc(tmp_path, {"train": 2}, condition="fog")
    acdc(tmp_path, {"train": 1, "val": 1}, condition="night")
    assert len(opened("acdc", tmp_path, "train/fog")) == 2
    assert len(opened("acdc", tmp_path, "night/train")) == 1
    with pytest.raises(InputError, match="no images of the split 'train/snow' of ACDC: it has train, val"):
        opened("acdc", tmp_path, "train/snow")
    # two conditions have frames of one name; the second is reported, not lost in silence
    both = opened("acdc", tmp_path, "train")
    assert len(both) == 2 and [p.category for p in both.problems] == ["duplicate"]


def test_a_folder_of_something_else_is_refused_with_the_layout(tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"holds no images of GTA5: they lie there as images/<key>.png"):
        opened("gta5", tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        opened("gta5", tmp_path / "nothing")
    with pytest.raises(InputError, match="folder of GTA5 is not given"):
        opened("gta5", "")


def test_missing_and_orphan_labels_are_problems(tmp_path):
    gta5(tmp_path, 3)
    (tmp_path / "labels" / "00002.png").unlink()
    (tmp_path / "images" / "00003.png").unlink()
    data = opened("gta5", tmp_path)
    assert len(data) == 1
    assert {(p.category, p.name) for p in data.problems} == {
        ("missing label", "images/00002.png"),
        ("orphan label", "labels/00003.png"),
    }
    with pytest.raises(InputError, match="1 x missing label, 1 x orphan label.*max_bad is 1"):
        Tolerant(data, 1)
    assert len(Tolerant(data, 2)) == 1
    bdd100k(tmp_path / "bdd", {"train": 3})
    (tmp_path / "bdd" / "labels" / "sem_seg" / "masks" / "train" / "00000002-ff.png").unlink()
    known = opened("bdd100k", tmp_path / "bdd")
    assert len(known) == 2 and [p.category for p in known.problems] == ["known bad"]


def test_bad_files_are_left_out_up_to_max_bad_and_named(tmp_path, capsys):
    data = opened("gta5", gta5(tmp_path, 3))
    (tmp_path / "images" / "00001.png").write_bytes(b"")
    with pytest.raises(InputError, match="00001.png is empty.*max_bad is 0"):
        _ = Tolerant(data, 0)[0]
    some = Tolerant(data, 1)
    for _ in range(2):
        with pytest.raises(LeftOutError):
            _ = some[0]
    assert capsys.readouterr().err.count("left out: ") == 1
    (tmp_path / "labels" / "00003.png").unlink()  # vanishes in the middle of a run
    with pytest.raises(InputError, match="00003.png cannot be read .*max_bad is 1"):
        _ = some[2]
    assert some[1].image.shape == (48, 96, 3)


def test_mapillary_is_read_as_either_version_has_its_files(tmp_path):
    root = mapillary(tmp_path, {"training": 2})
    new = open_public(LAYOUTS["mapillary"], str(root), "training", SIZE)
    (root / "config_v1.2.json").rename(root / "config.json")
    (root / "training" / "v1.2" / "labels").rename(root / "training" / "labels")
    old = open_public(LAYOUTS["mapillary"], str(root), "training", SIZE)
    assert len(new) == len(old) == 2 and old.labelled
    assert (old[1].labels != VOID).any()
    np.testing.assert_array_equal(old.table, new.table)


def test_own_classes_take_values_of_the_label_files(tmp_path):
    classes = (ClassInfo("car", (26,), (0, 0, 142)), ClassInfo("ground", (7, 8), (128, 64, 128)))
    data = opened("gta5", gta5(tmp_path, 1), classes=classes)
    truth = next(scenes(1, "source"))[2]
    wanted = np.select([truth == 13, truth <= 1], [0, 1], VOID)
    np.testing.assert_array_equal(data[0].labels, wanted)


def test_native_size_and_full_resolution(tmp_path):
    root = gta5(tmp_path, 1, size=(48, 96))
    gta5(root, 1, size=(56, 96), first=2)
    native = opened("gta5", root, fit="native")
    assert native.size is None and [native[i].image.shape for i in range(2)] == [(48, 96, 3), (56, 96, 3)]
    small = open_public(LAYOUTS["gta5"], str(root), "train", (24, 48), fit="stretch")
    assert small[1].image.shape == (24, 48, 3) and small.full(1).labels.shape == (56, 96)
    cut = open_public(LAYOUTS["gta5"], str(root), "train", (24, 48), fit="crop")
    np.testing.assert_array_equal(cut.full(1).labels, native[1].labels[4:52])
