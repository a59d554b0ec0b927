"""Preparing small data sets, here or by the command line, and reading them back."""

import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np

from sgg_jax.data.dataset import Dataset
from sgg_jax.data.prepared import Prepared
from sgg_jax.data.preparing import Preparation
from sgg_jax.data.public import LAYOUTS, open_public

ROOT = Path(__file__).resolve().parents[1]
SIZE = (24, 48)


def opened(name: str, root: Path, split: str = "train", **options) -> Dataset:
    return open_public(LAYOUTS[name], str(root), split, **{"size": SIZE, "fit": "stretch"} | options)


def prepare(dataset: Dataset, directory: Path, name: str = "source", settings=None, **options) -> Preparation:
    preparation = Preparation(dataset, directory, name, settings or {}, **{"per_shard": 2} | options)
    deque(preparation.verify(), maxlen=0)
    deque(preparation.write(), maxlen=0)
    return preparation


def read_back(folder: Path, **options) -> Prepared:
    """As a config that gives nothing but the directory reads it."""
    defaults = dict(split="train", image="image", label="label", classes=(), size=SIZE)
    return Prepared(str(folder), **defaults | options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(prepared: Dataset, original: Dataset) -> None:
    assert len(prepared) == len(original) and prepared.labelled == original.labelled
    assert [(c.name, c.color) for c in prepared.classes] == [(c.name, c.color) for c in original.classes]
    for index in range(len(original)):
        assert prepared.name(index) == original.name(index)
        assert prepared.image_id(index) == original.image_id(index)
        assert prepared.origin(index)[1] == original.origin(index)[1]
        for ours, theirs in zip(prepared[index], original[index], strict=True):
            np.testing.assert_array_equal(ours, theirs)


COMMAND = """
import sys
from sgg_jax.data import preparing
import main
preparing.PER_SHARD = 3
sys.argv = ["main.py", *sys.argv[1:]]
sys.exit(main.main())
"""


def command(workdir: Path, *settings: str) -> list[str]:
    """The command line of prepare_data, with small shards."""
    none = [f"--config.data.{role}.name=none" for role in ("judge", "val", "test")]
    arguments = ["prepare_data", "--config", "configs/default.py", "--workdir", str(workdir), *none, *settings]
    return [sys.executable, "-c", COMMAND, *arguments]


def run(workdir: Path, *settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(workdir, *settings), cwd=ROOT, capture_output=True, text=True)
