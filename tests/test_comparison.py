"""Methods side by side on tiny networks: rows, what they share, resuming, choices and refusals."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_browser import CHROMIUM, PHONE, WIDE, running
from tiny_run import files, tiny

from sgg_jax import stages
from sgg_jax.baselines import color_statistics, color_transfer
from sgg_jax.comparison import Comparison
from sgg_jax.data.exports import open_export
from sgg_jax.distances import frechet
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.methods import METHODS as ALL
from sgg_jax.pipeline import main
from sgg_jax.records import write_json
from sgg_jax.report.comparison import TITLES
from sgg_jax.summary_page import write_report

METHODS = ("none_plain", "none", "color", "sdedit", "sgg", "sgg_ptl", "oracle")

pytestmark = pytest.mark.whole


def config(methods=METHODS, seeds=(0, 1)):
    found = tiny()
    found.compare.methods, found.compare.seeds = methods, seeds
    found.compare.sdedit_depths, found.compare.fda_betas = (300, 400), (0.1,)
    found.compare.sdedit_steps = 2
    for section in (found.denoiser, found.segmenter, found.adapt, found.student):
        section.training.save_every = section.training.steps  # two dozen trainings: a save each
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("compared")
    main("compare", config(), workdir, "python main.py compare ...")
    return workdir


def rows(workdir):
    return {(row["method"], row["seed"]): row for row in json.loads((workdir / "compare.json").read_text())["rows"]}


def test_every_method_and_seed_has_its_row(finished):
    record = json.loads((finished / "compare.json").read_text())
    assert set(record) == {"rows", "commit", "command", "versions", "features"}
    assert record["command"] == "python main.py compare ..."
    assert record["versions"]["jax"] == jax.__version__
    found = rows(finished)
    assert set(found) == {(method, seed) for method in METHODS for seed in (0, 1)}
    for (method, _), row in found.items():
        for key in ("miou", "agreement", "distance", "kid", "seconds_per_image", "val_miou"):
            assert isinstance(row[key], float) and np.isfinite(row[key])
        assert row["miou"] == pytest.approx(np.mean([v for v in row["per_class"].values() if v is not None]))
        assert (row["seconds_per_image"] > 0) == (method in ("color", "sdedit", "sgg", "sgg_ptl"))
        assert row["images"] == 6 and len(row["commit"]) >= 7
    assert "| SGG + PTL |" in (finished / "compare.md").read_text()
    assert (finished / "compare.csv").read_text().count("\n") == 1 + len(found)


def test_seeds_differ_and_share_judge_and_denoiser(finished):
    found = rows(finished)
    for method in ("none", "sdedit", "sgg", "sgg_ptl", "oracle"):
        assert found[method, 0]["miou"] != found[method, 1]["miou"]
    for score in ("agreement", "distance"):  # the source's images are the same for every seed
        assert found["none", 0][score] == found["none", 1][score]
    assert found["sdedit", 0]["distance"] != found["sdedit", 1]["distance"]
    other = finished / "seeds" / "1"
    assert not (other / "judge").exists() and not (other / "denoiser").exists()
    assert (other / "source" / "checkpoints").is_dir()


def test_students_start_alike_and_see_the_same_views(finished, monkeypatch, tmp_path):
    """What two methods of one seed hand to training differs by the images alone."""
    seen = []
    monkeypatch.setattr(stages, "fit", lambda *given, **named: seen.append((given, named)))
    compared = Comparison(Experiment(config(), finished))
    for method in ("none", "sgg", "none_plain"):
        run = compared.run.with_seed(1)
        compared._student(run, method, None, compared._images(run, method, None))
    students = [(given, named) for given, named in seen if named["label"].startswith("student")]
    (one, one_named), (two, two_named), (bare, _) = students
    _, objective, params, _, batches, recipe = one
    assert (two[1], two[5]) == (objective, recipe) and two_named["seed"] == one_named["seed"]
    assert bare[1] != objective  # its images are not augmented
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (params, two[2])), strict=True))
    assert [batches.indices(step) for step in range(9)] == [two[4].indices(step) for step in range(9)]
    assert (batches(0)["labels"] == two[4](0)["labels"]).all() and (batches(0)["image"] != two[4](0)["image"]).any()


def test_the_best_depth_of_sdedit_is_chosen_on_val_by_the_configs_seed(finished):
    tried = json.loads((finished / "compare" / "sdedit.json").read_text())
    assert [entry["setting"] for entry in tried] == [300, 400]
    best = max(tried, key=lambda entry: entry["val_miou"])
    found = rows(finished)
    assert found["sdedit", 0]["setting"] == found["sdedit", 1]["setting"] == best["setting"]
    assert found["sdedit", 0]["val_miou"] == best["val_miou"]
    assert (finished / "seeds" / "1" / "methods" / f"sdedit-{best['setting']}").is_dir()
    assert len(list((finished / "seeds" / "1" / "methods").glob("sdedit-*"))) == 1


def test_sdedit_has_its_own_number_of_steps(finished):
    for name, steps in (("sdedit-300", 2), ("sgg", 3)):
        lines = (finished / "methods" / name / "translated" / "manifest.jsonl").read_text().splitlines()
        assert {len(json.loads(line)["ratios"]) for line in lines} == {steps}


def test_painted_images_follow_a_target_image_drawn_by_seed_and_id(finished):
    run = Experiment(config(), finished)
    translated = open_export(str(finished / "methods" / "color" / "translated"), (16, 32))
    other = open_export(str(finished / "seeds" / "1" / "methods" / "color" / "translated"), (16, 32))
    for index in range(6):
        example = run.source[index]
        candidates = [color_transfer(example.image, color_statistics([run.target[i].image])) for i in range(12)]
        assert sum((candidate == translated[index].image).all() for candidate in candidates) == 1
        np.testing.assert_array_equal(translated[index].labels, example.labels)
    assert any((translated[i].image != other[i].image).any() for i in range(6))


def test_distance_is_to_the_targets_features(finished):
    """Against features taken layer by layer, without padding or batches."""
    run = Experiment(config(), finished)
    apply = run.segmenter_network()[0].of("features")
    judge = run.segmenter_params("judge")

    def features(dataset):
        images = np.stack([dataset[i].image for i in range(len(dataset))])
        return np.asarray(apply(judge, images.astype(np.float32) / 127.5 - 1))

    translated = open_export(str(finished / "methods" / "sgg" / "translated"), (16, 32))
    wanted = frechet(features(translated), features(run.target))
    assert rows(finished)["sgg", 0]["distance"] == pytest.approx(wanted, rel=1e-4)


def test_a_killed_comparison_goes_on_with_the_missing_row_and_the_same_bytes(finished, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    (again / "stages" / "compare.json").unlink()
    for name in ("compare.json", "compare/sgg-1.json", "compare/sdedit.json", "compare/sdedit-0.json"):
        (again / name).unlink()
    shutil.rmtree(again / "seeds" / "1" / "methods" / "sgg" / "student")
    lost = sorted((again / "seeds" / "1" / "methods" / "sgg" / "translated").rglob("*_leftImg8bit.png"))[3:]
    for path in lost:
        path.unlink()
    kept = (again / "compare" / "none-0.json").stat().st_mtime_ns
    main("compare", config(), again)
    assert (again / "compare" / "none-0.json").stat().st_mtime_ns == kept
    before, after = rows(finished), rows(again)
    assert all(after[key] | {"seconds_per_image": 0} == row | {"seconds_per_image": 0} for key, row in before.items())
    assert files(again / "seeds") == files(finished / "seeds")
    capsys.readouterr()
    main("compare", config(), again)
    assert "compare: finished already" in capsys.readouterr().out


def test_a_comparison_may_grow(finished, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    main("compare", config((*METHODS, "fda"), (0,)), again)
    found = rows(again)
    assert set(found) == {(method, seed) for method in METHODS for seed in (0, 1)} | {("fda", 0)}
    assert found["fda", 0]["setting"] == 0.1 and found["fda", 0]["translations"] == "methods/fda-0.1/translated"
    assert found["none", 0] == rows(finished)["none", 0]


def test_a_page_of_methods_that_translate_nothing_has_no_gallery(finished, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    record = json.loads((again / "compare.json").read_text())
    for row in record["rows"]:
        row["translations"] = None
    write_json(again / "compare.json", record)
    main("evaluate", config(), again)
    page = words(write_report(Experiment(config(), again)))
    assert "The methods compared" in page and "Gallery" not in page


def words(page: Path) -> str:
    """A page without its pictures, whose base64 has every short word sooner or later."""
    return re.sub(r"base64,[^\"]+", "", page.read_text())


def test_the_page_shows_the_comparison_and_what_was_added_to_it(finished, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    main("run", config(), again)
    assert "FDA" not in words(again / "report.html")
    main("run", config((*METHODS, "fda"), (0,)), again)
    page = words(again / "report.html")
    for text in (
        "FDA",
        "The methods compared",
        "Gallery",
        "One image through the reverse steps",
        "held out of training",
    ):
        assert text in page
    assert (again / "pictures" / "gallery.png").stat().st_size > 1000
    assert (again / "pictures" / "steps.png").stat().st_size > 1000


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")
@pytest.mark.parametrize(("width", "dark"), [(PHONE, True), (WIDE, False)], ids=["phone, dark", "wide, light"])
def test_the_page_is_quiet_whole_and_fits_in_a_browser(finished, tmp_path, width, dark):
    main("evaluate", config(), finished)
    main("report", config(), finished)
    with running(tmp_path) as browser:
        found = browser.look(finished / "report.html", width, dark)
    assert found["complaints"] == found["foreign"] == []
    assert len(found["pictures"]) == 6  # gallery, overlays, translations, steps, predictions, samples
    assert all(complete and natural > 50 for complete, natural in found["pictures"])
    assert found["overflow"] <= 0


def test_every_method_has_a_title():
    assert list(ALL) == list(TITLES)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda c: c.compare.update(methods=("none", "sgd")),
            "compare.methods has 'sgd': choose from none_plain, none",
        ),
        (lambda c: c.compare.update(methods=()), "must name at least one each"),
        (lambda c: c.compare.update(seeds=(0, 0)), r"seeds is \(0, 0\): give different whole numbers"),
        (lambda c: c.compare.update(seeds=(-1,)), r"seeds is \(-1,\)"),
        (lambda c: c.translate.update(guide="source"), "sgg_ptl is SGG under the guide of PTL"),
        (lambda c: c.translate.update(guidance="gsg"), "sgg_ptl is SGG under the guide of PTL"),
        (lambda c: c.compare.update(fda_betas=(0.7,)), "fda_betas has 0.7"),
        (lambda c: c.compare.update(sdedit_depths=(2000,)), r"sdedit_depths has 2000: a depth lies in 1\.\.1000"),
        (lambda c: c.compare.update(sdedit_depths=()), "sdedit_depths is empty"),
        (lambda c: c.compare.update(sdedit_steps=-2), r"compare.sdedit_steps is -2: it must be at least 0"),
        (lambda c: c.data.test.update(name="none"), "name them in config.data.test"),
        (lambda c: c.data.judge.update(name="none"), "oracle trains on labelled target images"),
        (lambda c: c.data.val.update(name="none"), "sdedit_depths has several candidates, and no config.data.val"),
    ],
)
def test_what_cannot_be_compared_is_said_before_any_work(tmp_path, change, sentence):
    wrong = config()
    change(wrong)
    with pytest.raises(InputError, match=sentence):
        main("compare", wrong, tmp_path)
    assert not (tmp_path / "denoiser").exists() and not (tmp_path / "source").exists()


def test_without_a_judge_students_are_compared_all_the_same(tmp_path):
    alone = config(("none",), (0,))
    alone.data.judge.name = "none"
    run = Experiment(alone, tmp_path)
    Comparison(run).finish("none", 0)
    row = json.loads((tmp_path / "compare" / "none-0.json").read_text())
    assert row["agreement"] is row["distance"] is row["kid"] is None
    assert row["miou"] > 0
