"""Three frames of GTA5, of which a test spoils the second, and what a check says of them."""

import io
import shutil
from pathlib import Path

import pytest
from lookalikes import gta5, scenes
from PIL import Image

from sgg_jax.data.checking import check
from sgg_jax.data.classes import CITYSCAPES, palette
from sgg_jax.data.folder import open_folders
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.data.summary import summarise

SIZE = (16, 32)
COUNT = 3
LABELS = list(scenes(COUNT, "source", size=SIZE))[1][2]  # of the second frame, the one that is spoilt


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return gta5(tmp_path_factory.mktemp("pristine"), COUNT, SIZE)


@pytest.fixture
def root(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "gta"))


def summary_of(name, root, split="train", spoil_late=None):
    """spoil_late: what happens to the files between their listing and their reading."""
    dataset = open_public(LAYOUTS[name], str(root), split, SIZE)
    if spoil_late:
        spoil_late(root)
    return summarise(dataset, dict(check(dataset, range(len(dataset)))), LAYOUTS[name])


def folder_summary(root, classes, void_ids=(255,)):
    dataset = open_folders(str(root / "images"), str(root / "labels"), classes, SIZE, void_ids=void_ids)
    return summarise(dataset, dict(check(dataset, range(len(dataset)))))


def image(root):
    return root / "images" / "00002.png"


def label(root):
    return root / "labels" / "00002.png"


def saved_as(path, picture, kind, **options):
    """A file whose suffix says nothing about its kind."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    path.write_bytes(buffer.getvalue())


def colors():
    return palette(CITYSCAPES)[LABELS]


def grey(array):
    return Image.fromarray(array)
