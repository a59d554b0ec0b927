"""What stages hand on to trainings and pictures, with nothing trained."""

import json

import numpy as np
import pytest
from tiny_run import tiny

from sgg_jax import methods, sheets, stages, translated_sets
from sgg_jax.data.dataset import Example, Subset
from sgg_jax.errors import InputError
from sgg_jax.evaluation import examine
from sgg_jax.experiment import Experiment
from sgg_jax.report.pictures import colorize


@pytest.fixture
def fits(monkeypatch):
    """The arguments of every training, none of which takes place."""
    found = []
    monkeypatch.setattr(stages, "fit", lambda *given, **named: found.append((given, named)) or given[2])
    return found


def test_rounds_of_ptl_draw_batches_and_augmentation_of_their_own(fits, tmp_path, monkeypatch):
    config = tiny()
    config.adapt.depths = (100, 200, 300)
    run = Experiment(config, tmp_path)
    monkeypatch.setattr(stages, "translate_into", lambda run, *_: run.source)
    monkeypatch.setattr(run, "segmenter_params", lambda place: run.segmenter_network()[1])
    stages.adapt(run)
    assert [named["label"] for _, named in fits] == [f"round {i}/3, depth {100 * i}" for i in (1, 2, 3)]
    assert len({named["seed"] for _, named in fits} | {run.seed("adapt"), run.seed("source")}) == 5
    orders = [[index for step in range(3) for index in given[4].indices(step)] for given, _ in fits]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_given_guide_is_the_one_of_every_method(fits, tmp_path, monkeypatch):
    run = Experiment(tiny(), tmp_path)
    methods.guide(run)
    assert len(fits) == 1
    monkeypatch.setattr(run, "given_segmenter", lambda place: "weights/guide" if place == "source" else "")
    monkeypatch.setattr(run, "segmenter_params", lambda place: (place, "as it is"))
    assert methods.guide(run) == ("source", "as it is") and len(fits) == 1


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_all_guided_methods_keep_the_same_share_of_images(fits, tmp_path, monkeypatch, keep):
    kept = []
    for module in (methods, stages):
        monkeypatch.setattr(module, "translate_into", lambda run, *_, keep, **__: kept.append(keep) or run.source)
    config = tiny()
    config.translate.keep = keep
    run = Experiment(config, tmp_path)
    monkeypatch.setattr(run, "segmenter_params", lambda place: None)
    methods.METHODS["gsg"].make(run, tmp_path / "gsg", None)
    stages.translate_guided(run)
    assert kept == [keep, keep]


def test_the_first_guide_is_augmented_at_least_as_its_section_says(tmp_path):
    config = tiny()
    config.segmenter.augmentation.recolor, config.guide.recolor, config.guide.texture = 0.5, 0.0, 0.3
    run = Experiment(config, tmp_path)
    assert (run.strength("source").recolor, run.strength("source").texture) == (0.5, 0.3)
    assert (run.strength("student").recolor, run.strength("student").texture) == (0.5, 0.0)
    config.segmenter.augment = False
    assert (run.strength("source").recolor, run.strength("source").texture) == (0.0, 0.3)
    assert run.strength("student") is None


def test_a_collage_without_a_readable_donor_says_so(tmp_path, monkeypatch):
    run = Experiment(tiny(), tmp_path)
    run.config.translate.start = "collage"
    monkeypatch.setattr("sgg_jax.experiment.readable", lambda dataset, indices: iter(()))
    with pytest.raises(InputError, match=r"first \d+ target images, .* raise config\.translate\.donors"):
        run.start(None, 100)


def test_a_damaged_count_of_pixels_is_made_again(tmp_path):
    run = Experiment(tiny(), tmp_path)
    path = tmp_path / "class_pixels.npy"
    wanted = run._class_pixels(run.source, path)
    kept = path.read_bytes()
    for damage in (b"", b"junk", kept[:-8]):
        path.write_bytes(damage)
        np.testing.assert_array_equal(run._class_pixels(run.source, path), wanted)
        assert path.read_bytes() == kept


def test_names_that_are_no_utf_8_have_a_digest(tmp_path):
    run = Experiment(tiny(), tmp_path)
    named = Subset(run.source, range(2))
    named.name = lambda index: ("a", "b\udcff")[index]
    found = run.about(named)["data"]
    assert (
        found["images"] == 2
        and found["names_sha256"] != run.about(Subset(run.source, range(2)))["data"]["names_sha256"]
    )


class OfManySizes(Subset):
    """Sides that are no multiples of a network's stride."""

    size = None

    def __init__(self, dataset):
        super().__init__(dataset, range(3))
        self.size = None

    def __getitem__(self, index):
        image, labels = super().__getitem__(index)
        height, width = 16 - index, 32 - 5 * index
        return Example(image[:height, :width], labels[:height, :width])

    full = __getitem__


def test_pictures_show_the_scored_predictions_of_images_of_any_size(tmp_path, monkeypatch):
    config = tiny()
    config.evaluate.flip = True
    run = Experiment(config, tmp_path)
    run.datasets["test"] = test = OfManySizes(run.datasets["test"])
    network, shown = run.segmenter(run.segmenter_network()[1]), []
    monkeypatch.setattr(run, "segmenter_at", lambda place: network)
    monkeypatch.setattr(sheets, "networks", lambda run: {"first guide": "source"})
    monkeypatch.setattr(sheets, "sheet", lambda rows, *_, **__: shown.extend(rows))
    sheets.prediction_sheet(run, 3)
    scored = list(examine(network, test, range(3), 1, run.mesh, run.views))
    for (image, _, predicted), seen in zip(shown, scored, strict=True):
        assert image.shape[:2] == seen.labels.shape
        np.testing.assert_array_equal(predicted, colorize(seen.predicted, test.classes))


def test_where_no_translation_is_kept_the_best_is_told(tmp_path):
    record = dict(agreement=0.34, dropped="too little")
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(dict(name=str(i), **record)) + "\n" for i in range(3)))
    with pytest.raises(InputError, match=r"all 3 translations agree less .*keep, which is 0.9; the best has 0.34"):
        translated_sets._check_manifest(tmp_path, ["0", "1", "2"], 0, 0.9)


def test_translations_that_no_host_made_are_noticed(tmp_path):
    (tmp_path / "manifest.jsonl").write_text('{"name": "a", "agreement": 0.5}\n')
    translated_sets._check_manifest(tmp_path, ["a", "b"], 1, 0.0)  # b was left out
    with pytest.raises(InputError, match="1 of 2 translations are missing in .*, the first is b: run the same command"):
        translated_sets._check_manifest(tmp_path, ["a", "b"], 0, 0.0)
