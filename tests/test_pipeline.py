"""The stages together, on tiny networks: files, resuming, and files or weights in place of the built-in."""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import copy_of, files, tiny

from configs import folders
from sgg_jax import pipeline, pretrained, stages, translated_sets
from sgg_jax.data.dataset import Subset, Tolerant
from sgg_jax.data.exports import open_export
from sgg_jax.data.problems import BadFileError
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.pipeline import main
from sgg_jax.pretrained import load_pretrained, read_story, trained_steps
from sgg_jax.translation import translate_all, translator


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A directory in which all stages ran."""
    workdir = tmp_path_factory.mktemp("run")
    main("run", tiny(), workdir)
    return workdir


def test_every_stage_leaves_its_files(finished):
    for place in ("denoiser", "source", "judge", "adapt/round1", "adapt/round2", "student"):
        records = [json.loads(line) for line in (finished / place / "metrics.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [1, 2, 3, 4]
        assert (finished / place / "checkpoints" / "4").is_dir()
    for place, count in (("translated", 6), ("unguided", 5), ("adapt/round1/translated", 6)):
        assert len(list((finished / place).rglob("*_leftImg8bit.png"))) == count
        manifest = [json.loads(line) for line in (finished / place / "manifest.jsonl").read_text().splitlines()]
        assert {record["guidance"] for record in manifest} == {"none" if place == "unguided" else "sgg"}
        assert all((record["ratio"] > 0) == (place != "unguided") for record in manifest)
    assert json.loads((finished / "config.json").read_text())["data"]["size"] == [16, 32]
    scores = json.loads((finished / "scores.json").read_text())
    assert set(scores["networks"]) == {
        "first guide (source only)", "PTL's last guide", "student on translations", "judge (target labels)"
    }  # fmt: skip
    assert scores["agreement"]["guided"]["images"] == scores["agreement"]["unguided"]["images"] == 5
    table = (finished / "scores.csv").read_text().splitlines()
    assert table[0].startswith("network,mIoU,accuracy,road,") and len(table) == 5
    page = (finished / "report.html").read_text()
    assert "Segmentation of the target" in page
    assert "What the student takes the pixels of each class for" in page
    assert "The student on target test images" in page
    for network in ("source", "adapt", "student", "judge"):
        assert (finished / "evaluation" / f"{network}_confusion.svg").read_text().startswith("<svg")
        with Image.open(finished / "evaluation" / "overlays" / f"{network}.png") as picture:
            assert picture.height > 8 * 48  # eight images of 16 x 32, three times as large
    assert "data:image/png;base64," in page
    for name in (
        "denoiser/samples.png",
        "pictures/translations.png",
        "pictures/predictions.png",
        "pictures/steps.png",
    ):
        with Image.open(finished / name) as picture:
            assert min(picture.size) > 50
    rows = json.loads((finished / "plan.json").read_text())["rows"]
    assert {row["stage"].split(":")[0] for row in rows} == {
        "train_denoiser", "train_segmenter", "adapt", "translate", "train_student", "evaluate", "report"
    }  # fmt: skip
    assert all(row["seconds"] > 0 and (row["flops"] > 0 or row["stage"] == "report") for row in rows)


def test_the_plan_knew_the_disk(finished):
    planned = json.loads((finished / "plan.json").read_text())["disk"]
    folders = ("denoiser", "source", "judge", "adapt", "student", "translated", "unguided")
    real = sum(p.stat().st_size for folder in folders for p in (finished / folder).rglob("*") if p.is_file())
    assert planned / 2 < real < planned * 2


def test_a_whole_run_compiles_each_function_once(finished):
    """On top of those of other tests: guided, unguided and the sample sheet; depths and weights add none."""
    run = pipeline.Experiment(tiny(), finished)
    guided = translator(run.method(), run.translation_mesh)
    before = guided._cache_size(), translator.cache_info().currsize
    for depth in (200, 300):
        for place in ("source", "adapt/round1"):
            guide = run.segmenter_at(place)
            images = translate_all(
                run.denoiser(), guide, run.schedule(depth), run.source, [[0], [1]], run.knobs, batch_size=2,
                method=run.method(), mesh=run.translation_mesh, tile=run.tile,
            )  # fmt: skip
            assert [len(block) for block in images] == [1, 1]
    assert (guided._cache_size(), translator.cache_info().currsize) == before


def test_scoring_early_does_not_end_scoring(finished, tmp_path):
    """evaluate and report look at what is there; when more is there they look again."""
    config = tiny()
    copy_of(finished, tmp_path, "train_segmenter")
    main("evaluate", config, tmp_path)
    main("report", config, tmp_path)
    assert set(json.loads((tmp_path / "scores.json").read_text())["networks"]) == {
        "first guide (source only)", "judge (target labels)"
    }  # fmt: skip
    copy_of(finished, tmp_path, "train_denoiser", "adapt", "translate", "train_student")
    with pytest.raises(InputError, match="report needs what evaluate makes"):  # of scores that are not of all this
        main("report", config, tmp_path)
    config.report.examples, config.evaluate.batch_size, config.data.max_bad = (
        1,
        2,
        3,
    )  # they change nothing that is made
    main("run", config, tmp_path)
    assert "student on translations" in json.loads((tmp_path / "scores.json").read_text())["networks"]
    assert "student on translations" in (tmp_path / "report.html").read_text()


def test_what_cannot_be_translated_is_not_tried_at_every_start(finished, tmp_path, monkeypatch):
    """A bad image that the run goes on without: nothing is computed to find it again."""
    run = Experiment(tiny(), tmp_path)
    run.config.data.max_bad = 1

    class OneBad(Subset):
        def __getitem__(self, index):
            if index == 4:
                raise BadFileError("empty", "4.png is empty")
            return super().__getitem__(index)

    run.source = Tolerant(OneBad(run.source, range(6)), 1)
    copy_of(finished, tmp_path, "translate")
    manifest, bad = tmp_path / "translated" / "manifest.jsonl", run.source.name(4)
    lines = [line for line in manifest.read_text().splitlines() if json.loads(line)["name"] != bad]
    manifest.write_text("\n".join(lines) + "\n")
    for path in (tmp_path / "translated").rglob(f"{bad}_*"):
        path.unlink()
    monkeypatch.setattr(translated_sets, "translate_all", None)  # would be called
    found = translated_sets.translate_into(run, tmp_path / "translated", None, 300, run.method(), range(6), "again")
    assert len(found) == len(lines) == 5


def test_the_labels_of_a_translation_are_those_of_its_source(finished):
    source = pipeline.Experiment(tiny(), finished).source
    translated = open_export(str(finished / "translated"), (16, 32))
    for index in range(6):
        assert translated.name(index) == source.name(index)
        np.testing.assert_array_equal(translated[index].labels, source[index].labels)
        assert (translated[index].image != source[index].image).mean() > 0.5


def test_the_same_command_again_says_that_it_is_done(finished, capsys):
    def times():
        return {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != "lock"}

    before = times()
    main("run", tiny(), finished)
    assert capsys.readouterr().out.count("finished already") == 7
    main("translate", tiny(), finished)
    assert times() == before


def test_a_changed_config_is_refused_with_the_fields(finished):
    config = tiny()
    config.translate.depth = 444
    config.data.source.streets.count = 5
    with pytest.raises(InputError) as refusal:
        main("run", config, finished)
    assert "translate.depth: 500 there, 444 now" in str(refusal.value)
    assert "data.source.streets.count: 6 there, 5 now" in str(refusal.value)
    assert "seed" not in str(refusal.value)


def test_what_is_missing_is_done_again_and_the_same(finished, tmp_path, monkeypatch):
    """As after a kill: translations half there, stages not marked. The rest is done, with the same bytes: in the same
    batches, though the first of them is half there."""
    asked, real = [], translated_sets.translate_all

    def watched(*operands, **settings):
        blocks = list(operands[4])
        asked.append(blocks)
        return real(*operands[:4], blocks, *operands[5:], **settings)

    monkeypatch.setattr(translated_sets, "translate_all", watched)
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    wanted = files(finished / "translated") | files(finished / "unguided")
    for name in ("translate", "train_student", "evaluate", "report"):
        (again / "stages" / f"{name}.json").unlink()
    shutil.rmtree(again / "student")
    kept = sorted((again / "translated").rglob("*_leftImg8bit.png"))[2]
    untouched = kept.stat().st_mtime_ns
    for lost in sorted((again / "translated").rglob("*_leftImg8bit.png"))[3:]:
        lost.unlink()
    main("run", tiny(), again)
    assert kept.stat().st_mtime_ns == untouched and asked == [[[2, 3], [4, 5]]]
    assert files(again / "translated") | files(again / "unguided") == wanted
    assert (again / "scores.json").read_text() == (finished / "scores.json").read_text()


ROLES = ("source", "target", "judge", "val", "test")


def on_folders(root: Path):
    """The tiny run, reading the folders that export_streets wrote."""
    config = tiny()
    config.data.classes = folders.get_config().data.classes
    for role in ROLES:
        config.data[role].name = "folder"
        config.data[role].folder.images = str(root / role / "images")
        config.data[role].folder.labels = "" if role == "target" else str(root / role / "labels")
    return config


def on_export(root: Path):
    """The tiny run, reading what export_streets wrote in the layout of Cityscapes."""
    config = tiny()
    for role in ROLES:
        config.data[role].name, config.data[role].root = "exported", str(root / role)
    return config


@pytest.mark.whole
@pytest.mark.parametrize(("layout", "opened"), [("folders", on_folders), ("cityscapes", on_export)])
def test_exported_streets_are_the_built_in_ones(layout, opened, finished, tmp_path):
    """Image by image; and read from folders they give the same run."""
    config = tiny()
    config.export.layout = layout
    main("export_streets", config, tmp_path / "export")
    exported = opened(tmp_path / "export" / "streets")
    built_in, read = (Experiment(c, tmp_path / "run") for c in (tiny(), exported))
    for role in ROLES:
        mine, theirs = (run.datasets[role] for run in (built_in, read))
        assert len(mine) == len(theirs) > 0
        assert [info.name for info in mine.classes] == [info.name for info in theirs.classes]
        for index in range(len(mine)):
            assert mine.image_id(index) == theirs.image_id(index)
            np.testing.assert_array_equal(mine[index].image, theirs[index].image)
            if role != "target":
                np.testing.assert_array_equal(mine[index].labels, theirs[index].labels)
    if layout == "folders":
        main("run", exported, tmp_path / "run")
        for place in ("adapt/round1/translated", "translated", "unguided"):
            assert files(tmp_path / "run" / place) == files(finished / place)
        assert (tmp_path / "run" / "scores.json").read_text() == (finished / "scores.json").read_text()


def test_the_manifest_tells_how_each_translation_was_made(finished):
    lines = [json.loads(line) for line in (finished / "translated" / "manifest.jsonl").read_text().splitlines()]
    run = Experiment(tiny(), finished)
    assert [line["name"] for line in lines] == [run.source.name(index) for index in range(6)]
    guide = pretrained.digest(run.segmenter_params("adapt/round2"))
    for index, line in enumerate(lines):
        pixels = hashlib.sha256(run.source[index].image.tobytes()).hexdigest()
        assert (line["image_id"], line["source_sha256"]) == (run.source.image_id(index), pixels)
        assert line["source"].endswith(f"image {run.source.image_id(index)}")
        assert (line["guide"], line["denoiser"]) == (guide, pretrained.digest(run.denoiser()))
        assert line["depth"] == run.config.translate.depth and line["seed"] == 0 and line["scale"] == 1.0
        assert 0 <= line["agreement"] <= 1 and line["ratio"] > 0
    first = json.loads((finished / "adapt" / "round1" / "translated" / "manifest.jsonl").read_text().splitlines()[0])
    assert first["guide"] != guide
    assert (finished / "translated" / "before_after.png").is_file()


def test_a_kill_after_the_last_image_leaves_no_less(finished, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    (again / "stages" / "translate.json").unlink()
    (again / "translated" / "before_after.png").unlink()
    manifest = again / "translated" / "manifest.jsonl"
    manifest.write_text("".join(reversed(manifest.read_text().splitlines(keepends=True))))
    main("translate", tiny(), again)
    assert files(again / "translated") == files(finished / "translated")
    assert manifest.read_bytes() == (finished / "translated" / "manifest.jsonl").read_bytes()


def test_translations_below_the_threshold_are_dropped_and_said_so(finished, tmp_path, capsys):
    lines = [json.loads(line) for line in (finished / "translated" / "manifest.jsonl").read_text().splitlines()]
    agreement = sorted(line["agreement"] for line in lines)
    config = tiny()
    config.translate.keep = (agreement[1] + agreement[2]) / 2
    copy_of(finished, tmp_path, "train_denoiser", "train_segmenter", "adapt")
    main("translate", config, tmp_path)
    told = [json.loads(line) for line in (tmp_path / "translated" / "manifest.jsonl").read_text().splitlines()]
    gone = {line["name"] for line in lines if line["agreement"] < config.translate.keep}
    assert {line["name"] for line in told if "dropped" in line} == gone and len(gone) == 2
    kept = files(tmp_path / "translated").keys() - {"before_after.png"}
    assert kept == {name for name in files(finished / "translated") if not any(g in name for g in gone)} - {
        "before_after.png"
    }
    assert "kept 4 of 6 translations" in capsys.readouterr().out
    unguided = open_export(str(tmp_path / "unguided"))
    assert {unguided.name(i) for i in range(len(unguided))} == {line["name"] for line in told if "dropped" not in line}
    for stage in ("train_student", "evaluate", "report"):
        main(stage, config, tmp_path)


def test_translations_that_are_gone_are_noticed(finished, tmp_path):
    copy_of(finished, tmp_path, "train_denoiser", "train_segmenter", "adapt", "translate")
    (lost,) = (tmp_path / "translated").rglob("0000003_leftImg8bit.png")
    lost.unlink()
    for stage in ("train_student", "evaluate"):
        with pytest.raises(
            InputError, match=r"1 of the translations .* are gone, the first is 0000003: delete .*translate"
        ):
            main(stage, tiny(), tmp_path)
    (tmp_path / "stages" / "translate.json").unlink()
    main("translate", tiny(), tmp_path)
    assert files(tmp_path / "translated") == files(finished / "translated")


def test_without_target_labels_there_is_no_judge_and_no_score(tmp_path, capsys):
    config = tiny()
    config.data.judge.name = config.data.val.name = config.data.test.name = "none"
    config.translate.guide = "source"
    config.translate.unguided = 0
    for stage in ("train_denoiser", "train_segmenter", "translate", "evaluate", "report"):
        main(stage, config, tmp_path)
    assert not (tmp_path / "judge").exists()
    assert "nothing to score" in capsys.readouterr().out
    assert "Predictions" not in (tmp_path / "report.html").read_text()


def test_weights_of_one_run_serve_another(finished, tmp_path, capsys):
    """The file that train_denoiser writes is the denoiser of a run that names it, to half precision."""
    file = finished / "denoiser" / "weights.safetensors"
    story = read_story(file)
    assert story["network"] == "unet" and tuple(story["options"]["widths"]) == (32,)
    assert story["steps"] == 4 and story["streets_version"] == "1" and story["denoiser"]["prediction"] == "v"
    config = tiny()
    config.denoiser.weights = str(file)
    main("train_denoiser", config, tmp_path / "new")
    assert not (tmp_path / "new" / "denoiser" / "checkpoints").exists()
    assert "trained for 4 steps" in capsys.readouterr().out
    errors = [json.loads((run / "denoiser" / "heldout.json").read_text()) for run in (finished, tmp_path / "new")]
    assert errors[0]["step"] == errors[1]["step"] == [10, 30, 60, 100, 150, 200, 300, 400, 500, 600, 700, 850, 999]
    assert errors[0]["error"] == pytest.approx(errors[1]["error"], rel=1e-2)
    config.denoiser.unet.widths = (16,)  # of a directory the network is told in it
    config.denoiser.weights = str(file.parent)
    mine, theirs = (Experiment(c, finished).denoiser() for c in (config, tiny()))
    x, step = np.zeros((1, 16, 32, 3), np.float32), np.array([500])
    np.testing.assert_allclose(mine(x, step), theirs(x, step), atol=2e-3)
    config = tiny()
    config.denoiser.weights = config.denoiser.start = str(file)
    with pytest.raises(InputError, match=r"denoiser.start is .* which is used as it is"):
        main("train_denoiser", config, tmp_path / "both")
    config.denoiser.start, config.denoiser.prediction = "", "eps"
    with pytest.raises(
        InputError, match=r"trained with denoiser.prediction = 'v', config.denoiser.prediction is 'eps'"
    ):
        main("train_denoiser", config, tmp_path / "other")


def test_training_may_start_from_given_weights(finished, tmp_path):
    """With a learning rate of 0 they stay what they were, to half precision; their story is told on."""
    file = finished / "denoiser" / "weights.safetensors"
    config = tiny()
    config.denoiser.start = str(file)
    config.denoiser.training.learning_rate = 0.0
    main("train_denoiser", config, tmp_path / "more")
    made = tmp_path / "more" / "denoiser" / "weights.safetensors"
    story = read_story(made)
    assert story["start"] == read_story(file) and trained_steps(story) == 8
    like = Experiment(config, tmp_path).denoiser_network[1]
    for one, other in zip(*(jax.tree.leaves(load_pretrained(path, like)) for path in (file, made)), strict=True):
        np.testing.assert_array_equal(one, other)
    config.denoiser.start = str(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match=r"config.denoiser.start is .*nothing.*there is no such file"):
        main("train_denoiser", config, tmp_path / "none")


def test_variants_of_ptl_and_of_the_start(finished, tmp_path):
    """Grey starts take the colour out, collages are the target's pixels; fresh rounds do not start from the guide, and
    resume like the others."""
    run = Experiment(tiny(), finished)
    guide = run.segmenter_params("source")
    run.config.translate.start = "grey"
    example, start = run.source[0], run.start(guide, 100)
    assert (start[0].labels == example.labels).all() and np.ptp(start[0].image.astype(int), axis=-1).max() == 0
    assert (start.name(0), start.image_id(0), len(start)) == (run.source.name(0), run.source.image_id(0), 6)
    run.config.translate.start, run.config.translate.donors = "collage", 3
    run.config.translate.donor_confidence = 0.0
    start = run.start(guide, 100)
    pixels = {tuple(p) for i in range(3) for p in run.target[i].image.reshape(-1, 3)}
    own = {tuple(p) for p in example.image.reshape(-1, 3)}  # of classes that the guide sees nowhere
    assert {tuple(p) for p in start[0].image.reshape(-1, 3)} <= pixels | own
    assert (start[0].image == run.start(guide, 100)[0].image).all() and (start[0].image != example.image).any()
    run.config.translate.donors = 12
    start, deeper = run.start(guide, 100), run.start(guide, 200)
    assert any((start[i].image != deeper[i].image).any() for i in range(6))  # other depths, other donors
    first_losses = []
    for fresh in (False, True):
        config = tiny()
        config.translate.start = "grey"
        config.adapt.fresh = fresh
        workdir = tmp_path / str(fresh)
        shutil.copytree(finished / "source", workdir / "source")
        shutil.copytree(finished / "denoiser", workdir / "denoiser")
        stages.adapt(Experiment(config, workdir))
        lines = (workdir / "adapt" / "round1" / "metrics.jsonl").read_text().splitlines()
        first_losses.append(json.loads(lines[0])["loss"])
    assert files(tmp_path / "False" / "adapt" / "round1") == files(tmp_path / "True" / "adapt" / "round1")
    assert files(tmp_path / "True" / "adapt" / "round1") != files(finished / "adapt" / "round1")
    assert first_losses[0] != first_losses[1]
