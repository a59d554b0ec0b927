"""Data sets by role: whatever labels a target has, nothing that learns the target's look sees them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from lookalikes import cityscapes, gta5
from prepared_sets import prepare

from configs import default
from sgg_jax.data.classes import CITYSCAPES, LABEL_IDS
from sgg_jax.data.exports import export
from sgg_jax.data_stages import check_data
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.roles import open_role, open_roles

SIZE, WINDOW = (24, 48), (16, 32)


def config_of(root: Path, name: str):
    """A GTA5 look-alike as source, and a target of that kind; crops are drawn by all that labels can tell."""
    config = default.get_config()
    config.data.size, config.data.source.size, config.data.target.size = WINDOW, SIZE, SIZE
    config.data.source.name, config.data.source.root = "gta5", str(root / "gta5")
    for role in ("judge", "val", "test"):
        config.data[role].name = "none"
    config.data.crop.scale, config.data.crop.most, config.data.crop.rare = (1.0, 2.0), 0.3, 0.01
    if name == "folder":
        config.data.classes = tuple((info.name, LABEL_IDS[i], info.color) for i, info in enumerate(CITYSCAPES))
    target = config.data.target
    target.name, target.root = name, str(root / "target")
    target.folder.images, target.folder.labels = str(root / "images"), str(root / "labels")
    target.folder.fit = "stretch"
    target.tfds.directory = str(root / "prepared" / "target" / "1.0.0")
    return config


def test_a_target_without_labels_needs_no_class_table(tmp_path, capsys):
    """A public set's classes, and the images of one's own camera."""
    gta5(tmp_path / "gta5", 3)
    config = config_of(tmp_path, "cityscapes")
    cityscapes(tmp_path / "target", {"train": 2})
    config.data.target.name = "folder"
    config.data.target.folder.images = str(tmp_path / "target" / "**" / "*_leftImg8bit.png")
    config.data.target.folder.labels = ""
    found = open_roles(config.data)
    assert not found["target"].labelled and len(found["target"]) == 2 and len(found["source"].classes) == 19
    check_data(config, tmp_path / "run")
    assert "different classes" not in capsys.readouterr().out
    config.data.test.update(name="streets", size=SIZE)
    config.data.test.streets.count = 2
    check_data(config, tmp_path / "run")
    assert "note: test and source have different classes" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"config.data.test and config.data.source have different classes"):
        open_roles(config.data)


@pytest.fixture
def root(tmp_path):
    """Label files of the target: one is missing, one has no image, and one is damaged."""
    gta5(tmp_path / "gta5", 3)
    labels = sorted(cityscapes(tmp_path / "target", {"train": 4}).rglob("*_labelIds.png"))
    whole = open_role(config_of(tmp_path, "cityscapes").data, "target", target_labels=True)
    export(whole, str(tmp_path / "exported"))
    prepare(whole, tmp_path / "prepared", "target")
    for kind, suffix in (("images", "_leftImg8bit.png"), ("labels", "_gtFine_labelIds.png")):
        (tmp_path / kind).mkdir()
        for path in (tmp_path / "target").rglob(f"*{suffix}"):
            shutil.copy(path, tmp_path / kind / f"{path.name.removesuffix(suffix)}.png")
    for first, second, third, *_ in (labels, sorted((tmp_path / "labels").iterdir())):
        first.unlink()
        second.rename(second.with_name(second.name.replace("_0000", "_9999")))
        third.write_bytes(b"no picture")
    return tmp_path


@pytest.mark.parametrize("name", ["cityscapes", "folder", "tfds", "exported"])
def test_labels_of_the_target_change_nothing(name, root):
    """Neither which images there are, nor how they are cut and drawn, nor whether they can be read."""
    config = config_of(root, name)
    if name == "exported":
        config.data.target.root = str(root / "exported")
    run = Experiment(config, root / "run")
    assert not run.target.labelled and len(run.target) == 4 and run.target.problems == ()
    batches = run.batches(run.target, 8, 3, root)
    assert not (root / "class_pixels.npy").exists()
    config = config_of(root, "cityscapes")
    shutil.rmtree(root / "target" / "gtFine", ignore_errors=True)
    bare = Experiment(config, root / "bare")
    for step in (0, 1):
        found, wanted = batches(step), bare.batches(bare.target, 8, 3)(step)
        assert set(found) == {"image", "image_id"} and found["image"].shape == (8, *WINDOW, 3)
        if name != "tfds":  # whose ids are its own
            np.testing.assert_array_equal(found["image_id"], wanted["image_id"])
        np.testing.assert_array_equal(found["image"], wanted["image"])


def test_streets_show_a_target_no_labels_and_others_theirs():
    data = default.get_config().data
    data.judge.streets.count = data.target.streets.count
    roles = open_roles(data)
    assert not roles["target"].labelled and roles["target"][0].labels is None
    np.testing.assert_array_equal(roles["target"][0].image, roles["judge"][0].image)
    asked = open_role(data, "target", target_labels=True)
    np.testing.assert_array_equal(asked[0].labels, roles["judge"][0].labels)
