"""Look-alikes of public data sets through the real command line: check, prepare, train, translate, adapt, evaluate."""

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from lookalikes import OF_STREETS, acdc, cityscapes, gta5, scenes, synthia, zipped
from PIL import Image

from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.exports import open_export
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.models import DENOISERS, SEGMENTERS, named, outline
from sgg_jax.optimization import Recipe, learning_rates

ROOT = Path(__file__).resolve().parents[1]
SIZE, WINDOW = (24, 48), (16, 32)  # images are larger than what networks see: crops in training, tiles afterwards

TINY = [
    f"--config.data.size={WINDOW}",
    *(f"--config.data.{role}.size={SIZE}" for role in ("source", "target", "test")),
    "--config.data.workers=2",
    "--config.denoiser.network=unet",
    "--config.denoiser.unet.widths=(32,32)",
    "--config.denoiser.unet.attention=()",
    "--config.denoiser.unet.blocks=1",
    "--config.segmenter.network=encoder_decoder",
    "--config.segmenter.encoder_decoder.widths=(8,16)",
    "--config.segmenter.encoder_decoder.blocks=1",
    *(
        f"--config.{section}.training.{field}={value}"
        for section in ("denoiser", "segmenter", "adapt", "student")
        for field, value in (("steps", 3), ("batch_size", 4), ("save_every", 3), ("warmup", 1))
    ),
    "--config.translate.batch_size=2",
    "--config.translate.steps=3",
    "--config.translate.donors=4",
    "--config.translate.unguided=2",
    "--config.adapt.depths=(10,20)",
    "--config.evaluate.batch_size=2",
    "--config.report.examples=2",
]

pytestmark = pytest.mark.whole


def command(stage: str, config: str, workdir: Path, *settings: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "main.py", stage, "--config", f"configs/{config}.py", "--workdir", str(workdir)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run([*line, *TINY, *settings], cwd=ROOT, env=environment, capture_output=True, text=True)


def succeeded(found: subprocess.CompletedProcess) -> str:
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert "Traceback" not in found.stderr
    return found.stdout


def check_run(workdir: Path, images: int) -> None:
    """What a whole run on 19 classes leaves."""
    translated = open_export(str(workdir / "translated"))
    assert len(translated) == images and translated.classes == tuple(
        info._replace(ids=(i,)) for i, info in enumerate(CITYSCAPES)
    )
    for index in range(images):
        assert translated[index].image.shape == (*SIZE, 3)
    manifest = [json.loads(line) for line in (workdir / "translated" / "manifest.jsonl").read_text().splitlines()]
    assert len(manifest) == images and all(len(line["source_sha256"]) == 64 for line in manifest)
    scores = json.loads((workdir / "scores.json").read_text())
    rows = list(csv.DictReader((workdir / "scores.csv").read_text().splitlines()))
    for title, entry in scores["networks"].items():
        assert set(entry["iou"]) == {info.name for info in CITYSCAPES}
        (row,) = (row for row in rows if row["network"] == title)
        assert {"mIoU 19", "mIoU 16", "mIoU 13"} <= row.keys()
        assert entry["miou"] == pytest.approx(float(row["mIoU 19"]))
    assert set(scores["networks"]) == {"first guide (source only)", "PTL's last guide", "student on translations"}
    assert (workdir / "report.html").stat().st_size > 10_000


def test_gta5_from_its_zip_files_to_cityscapes(tmp_path):
    source, target = gta5(tmp_path / "gta5", 5, size=(48, 96)), tmp_path / "cityscapes"
    for folder in ("images", "labels"):
        zipped(source, f"01_{folder}.zip", folder)
    cityscapes(target, {"train": 4, "val": 2, "test": 1})
    roots = [f"--config.data.source.root={source}", f"--config.data.target.root={target}"]
    told = succeeded(command("check_data", "gta5_to_cityscapes", tmp_path / "run", *roots))
    assert "GTA5" in told and "Cityscapes" in told
    told = succeeded(command("run", "gta5_to_cityscapes", tmp_path / "run", *roots))
    assert "mIoU 19" in told and "mIoU 13" in told
    check_run(tmp_path / "run", 5)
    manifest = (tmp_path / "run" / "translated" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(manifest[0])["source"].endswith("01_images.zip")
    # labels are those of the set, brought to the size as its images are
    labels = [open_public(LAYOUTS["gta5"], str(source), "train", SIZE, "stretch")[i].labels for i in range(5)]
    translated = open_export(str(tmp_path / "run" / "translated"))
    for index in range(5):
        np.testing.assert_array_equal(translated[index].labels, labels[index])
    # what MMSegmentation's CityscapesDataset reads: suffixes, folders, modes and values
    images = sorted((tmp_path / "run" / "translated" / "leftImg8bit" / "train").rglob("*_leftImg8bit.png"))
    for path in images:
        label = str(path).replace("leftImg8bit/train", "gtFine/train").replace("_leftImg8bit", "_gtFine_labelTrainIds")
        with Image.open(label) as picture:
            assert picture.mode == "L" and set(np.unique(picture)) <= {*range(19), 255}
    told = succeeded(command("translate", "gta5_to_cityscapes", tmp_path / "run", *roots))
    assert "finished already" in told


def test_prepared_synthia_to_prepared_acdc(tmp_path):
    roots = [f"--config.data.source.root={synthia(tmp_path / 'synthia', 4)}", "--config.data.source.name=synthia"]
    roots += [f"--config.data.target.root={acdc(tmp_path / 'acdc', {'train': 4, 'val': 2})}"]
    succeeded(command("check_data", "cityscapes_to_acdc", tmp_path / "check", *roots))
    told = succeeded(command("prepare_data", "cityscapes_to_acdc", tmp_path / "packed", *roots))
    prepared = []
    for role in ("source", "target", "test"):
        directory = tmp_path / "packed" / "prepared" / role / "1.0.0"
        assert str(directory) in told
        prepared += [f"--config.data.{role}.name=tfds", f"--config.data.{role}.tfds.directory={directory}"]
    succeeded(command("run", "cityscapes_to_acdc", tmp_path / "run", *prepared))
    check_run(tmp_path / "run", 4)
    truth = next(scenes(1, "source"))[2]
    assert set(np.unique(open_export(str(tmp_path / "run" / "translated"))[0].labels)) <= {*np.unique(truth)}
    assert set(np.unique(truth)) <= {*OF_STREETS}


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*_to_*.py")))
def test_networks_and_recipes_of_the_configs_fit(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    size = tuple(config.data.size)
    for section, table in (("denoiser", DENOISERS), ("segmenter", SEGMENTERS)):
        network = config[section].network
        classes = {"classes": 19} if section == "segmenter" else {}
        apply, params = outline(table[network](**config[section][network].to_dict(), **classes, rng=None))
        inputs = [jax.ShapeDtypeStruct((2, *size, 3), np.float32)]
        inputs += [jax.ShapeDtypeStruct((2,), np.int32)] if section == "denoiser" else []
        assert jax.eval_shape(apply, params, *inputs).shape[:3] == (2, *size)
        names = named(params)
        for part in (section, *(("adapt", "student") if section == "segmenter" else ())):
            recipe = Recipe(**config[part].training.to_dict())
            assert learning_rates(recipe).max() == pytest.approx(recipe.learning_rate, rel=0.1)
            for prefix, _ in recipe.rates:  # of a part that the network has
                assert any(leaf.startswith(prefix) for leaf in names)
