"""Numbers of the config that mean nothing, told before anything starts."""

import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import default, folders
from sgg_jax.errors import InputError
from sgg_jax.ranges import RANGES, check_numbers
from sgg_jax.roles import check_apart, class_table

NAN, INF = float("nan"), float("inf")
CONFIGS = sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_all_configs_are_within(name):
    module = importlib.import_module(f"configs.{name}")
    if hasattr(module, "get_config"):
        check_numbers(module.get_config())


@pytest.mark.parametrize("name", RANGES)
def test_every_number_has_its_least_and_is_finite(name):
    """The least is taken, what lies below is not; nan and, but for two, infinity never are."""
    config, wanted = default.get_config(), RANGES[name]
    section, field = config, name
    while "." in field:
        part, _, field = field.partition(".")
        section = section[part]
    whole = isinstance(section[field], int)
    section[field] = type(section[field])(wanted.least)
    check_numbers(config)
    for value in (wanted.least - 1, *(() if whole else (NAN, -INF))):
        section[field] = type(section[field])(value)
        with pytest.raises(InputError, match=rf"config\.{name} is {section[field]}: it must be (at least|in) "):
            check_numbers(config)
    if not whole:
        section[field] = INF
        if wanted.has(INF):
            assert name in ("translate.limit", "translate.memory")
            return check_numbers(config)
        with pytest.raises(InputError, match=f"{name} is inf: it must be .* and finite"):
            check_numbers(config)
    return None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.student.training.update(ema=1.5), r"student.training.ema is 1.5: it must be in 0..1$"),
        (lambda c: c.adapt.training.update(b2=1.0), r"adapt.training.b2 is 1.0: it must be in 0..1, below 1"),
        (lambda c: c.data.update(size=(48,)), r"data.size is \(48,\): give \(height, width\)"),
        (lambda c: c.data.update(size=()), r"data.size is \(\)"),
        (lambda c: c.data.source.update(size=("a", "b")), "data.source.size is"),
        (lambda c: c.translate.update(tile=(16,)), r"translate.tile is \(16,\)"),
        (lambda c: c.data.crop.update(scale=(2.0, 1.0)), r"crop.scale is \(2.0, 1.0\): give \(least, largest\) zoom"),
        (lambda c: c.data.crop.update(scale=(0.0, 1.0)), "both above 0"),
        (lambda c: c.data.crop.update(scale=(NAN, 1.0)), "both above 0"),
        (lambda c: c.translate.update(interval=(0.5,)), "translate.interval is .*give two numbers"),
        (lambda c: c.translate.update(interval=(0.5, 0.2)), "give .low, high. within 0..1"),
        (lambda c: c.adapt.update(depths=(1.5,)), r"adapt.depths is \(1.5,\): give whole numbers of at least 1"),
        (lambda c: c.data.test.folder.update(void_ids=("a",)), "data.test.folder.void_ids is"),
    ],
)
def test_what_means_nothing_is_a_sentence(change, sentence):
    config = default.get_config()
    change(config)
    with pytest.raises(InputError, match=sentence):
        check_numbers(config)


def test_a_config_that_does_not_begin_with_the_default_is_told_so():
    with pytest.raises(InputError, match="no field seed: let its file begin with configs/default.py"):
        check_numbers(ConfigDict(dict(size=3)))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ((("road", (0,), (300, 0, 0)),), r"'road' the colour \(300, 0, 0\)"),
        ((("road", (0,), (0, 0, 0)), ("road", (1,), (1, 0, 0))), "'road' twice or for no name"),
        ((("", (0,), (0, 0, 0)),), "'' twice or for no name"),
    ],
)
def test_classes_have_a_name_and_a_colour_of_their_own(rows, sentence):
    with pytest.raises(InputError, match=sentence):
        class_table(rows)


def test_a_run_does_not_draw_among_its_images(tmp_path):
    data = folders.get_config().data
    for role in ("source", "target", "judge", "val", "test"):
        data[role].folder.images = data[role].folder.labels = str(tmp_path / "elsewhere")
    data.target.folder.images = str(tmp_path / "images")
    for inside in ("images", "images/run"):
        (tmp_path / inside).mkdir()
        with pytest.raises(InputError, match="lies in config.data.target.folder.images"):
            check_apart(data, tmp_path / inside)
    check_apart(data, tmp_path)
    check_apart(data, tmp_path / "images of another")
    data.target.folder.images = str(tmp_path / "images" / "**" / "*.png")
    with pytest.raises(InputError, match="lies in"):
        check_apart(data, tmp_path / "images" / "run")
