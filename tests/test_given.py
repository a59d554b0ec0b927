"""Networks given as directories, as guide, judge, student and denoiser of a run."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from test_importing import ADM, SEGFORMER, drawn
from tiny_run import tiny

from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.given import class_order, open_given, save_network
from sgg_jax.models import SEGMENTERS, build, named
from sgg_jax.networks import describe_network, make_network
from sgg_jax.pipeline import main
from sgg_jax.published.exporting import export_weights
from sgg_jax.published.importing import import_weights

NAMES = ("road", "sidewalk", "wall", "Traffic_Light", "sky")

pytestmark = pytest.mark.whole


def hugging_face(path: Path, names=NAMES, seed=0, **other):
    """A directory as Hugging Face publishes it, and its weights in our names."""
    options = {**SEGFORMER, **other, "classes": len(names)}
    rng = np.random.default_rng(seed)
    leaves = named(build(SEGMENTERS["segformer"], seed, **options)[1])
    ours = {n: np.asarray(v) + 0.1 * rng.standard_normal(v.shape).astype(np.float32) for n, v in leaves.items()}
    shapes = {name: values.shape for name, values in ours.items()}
    export_weights("segformer", options, tuple(names), shapes, ours.__getitem__, path)
    return ours


SMALL = dict(depths=(1, 1, 1, 1), reductions=(2, 1, 1, 1))  # for images of 16 x 32


def fresh(classes):
    return build(SEGMENTERS["segformer"], 1, **{**SEGFORMER, "classes": classes})[1]


def test_classes_are_put_into_our_order():
    assert class_order(NAMES, ["sky", "traffic light", "Road", "wall", "sidewalk"]).tolist() == [4, 3, 0, 2, 1]
    assert class_order(NAMES, ["sky", "car", "road", "wall", "sidewalk"]) is None
    assert class_order((), ["a", "b"]).tolist() == [0, 1]


def test_weights_of_a_directory_with_classes_in_another_order(tmp_path):
    ours = hugging_face(tmp_path / "hf")
    given = open_given(str(tmp_path / "hf"), "segmenter.network")
    assert given.network == "segformer" and given.classes == 5 and given.names == NAMES
    order = ["sky", "traffic light", "road", "wall", "sidewalk"]
    found = named(given.into(fresh(5), order, whole=True))
    assert found.keys() == ours.keys()
    for name, values in found.items():
        wanted = ours[name].take([4, 3, 0, 2, 1], -1) if name.startswith("head.classify") else ours[name]
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("names", [["a", "b", "c", "d", "e"], [*NAMES, "person"]])
def test_of_other_classes_the_last_layer_stays_fresh(names, tmp_path):
    ours = hugging_face(tmp_path / "hf")
    given, start = open_given(str(tmp_path / "hf"), "x"), fresh(len(names))
    found, before = named(given.into(start, names)), named(start)
    for name, values in found.items():
        if name.startswith("head.classify"):
            np.testing.assert_array_equal(values, before[name])
        else:
            np.testing.assert_allclose(values, ours[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"without head\.classify\.\w+, or has it for other classes"):
        given.into(start, names, whole=True)


def test_of_an_encoder_alone_the_head_stays_fresh(tmp_path):
    from safetensors.numpy import save_file

    ours, theirs = drawn("mit")
    save_file(theirs, tmp_path / "mit.safetensors")
    import_weights("mit", tmp_path / "mit.safetensors", tmp_path / "mit")
    given = open_given(str(tmp_path / "mit"), "x")
    assert given.classes == 0 and "channels" not in given.options
    found = named(given.into(fresh(5), NAMES))
    np.testing.assert_allclose(found["encoder.stages.0.embed.kernel"], ours["encoder.stages.0.embed.kernel"], rtol=1e-6)
    with pytest.raises(InputError, match=r"head\.\S+, or has it for other classes"):
        given.into(fresh(5), NAMES, whole=True)


def test_what_is_no_network_gets_a_sentence(tmp_path):
    for name in ("resnet", str(tmp_path), str(tmp_path / "no")):
        with pytest.raises(InputError, match=r"config\.segmenter\.network is .*no network has that name"):
            open_given(name, "segmenter.network")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="model_type"):
        open_given(str(tmp_path), "segmenter.network")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose denoiser is an imported ADM, whose guide and judge are Hugging Face directories, used as they are."""
    from safetensors.numpy import save_file

    place = tmp_path_factory.mktemp("given")
    config = tiny()
    streets = [info.name for info in Experiment(config, place).source.classes]
    hugging_face(place / "guide", streets, seed=3, **SMALL)
    hugging_face(place / "judge", streets[::-1], seed=4, **SMALL)
    save_file(drawn("adm")[1], place / "adm.safetensors")
    import_weights("adm", place / "adm.safetensors", place / "adm")
    config.denoiser.weights, config.denoiser.prediction = str(place / "adm"), "eps"
    config.segmenter.network, config.segmenter.as_it_is = str(place / "guide"), True
    config.segmenter.judge = str(place / "judge")
    config.data.judge.name = "none"
    config.student.network = "encoder_decoder"
    config.adapt.depths, config.translate.unguided, config.evaluate.overlays = (10,), 2, 0
    for stage in ("train_denoiser", "train_segmenter", "adapt", "translate", "train_student", "evaluate"):
        main(stage, config, place / "run")
    return place, config, streets


def test_a_run_on_given_networks(whole):
    place, config, streets = whole
    scores = json.loads((place / "run" / "scores.json").read_text())
    assert {"first guide (source only)", "PTL's last guide", "student on translations"} <= scores["networks"].keys()
    assert "judge (target labels)" in scores["networks"] and "guided" in scores["agreement"]
    assert not (place / "run" / "source" / "checkpoints").exists() and not (place / "run" / "judge").exists()
    run = Experiment(config, place / "run")
    guide = named(run.segmenter_params("source"))
    np.testing.assert_array_equal(guide["head.classify.kernel"].shape, (1, 1, 6, len(streets)))
    adapted = named(run.segmenter_params("adapt/round1"))
    assert adapted.keys() == guide.keys()  # PTL fine-tuned the given network
    assert any(np.abs(adapted[name] - guide[name]).max() > 1e-4 for name in guide)
    assert "stem.kernel" in named(run.segmenter_params("student"))  # an encoder_decoder


def test_a_trained_student_can_be_given_on_and_exported(whole, tmp_path):
    place, config, _ = whole
    student = place / "run" / "student"
    given = open_given(str(student), "segmenter.network")
    assert given.network == "encoder_decoder"
    run = Experiment(config, place / "run")
    trained = named(run.segmenter_params("student"))
    again = config.copy_and_resolve_references()
    again.segmenter.network, again.student.network = str(student), ""
    found = named(Experiment(again, tmp_path).segmenter_params("source"))
    for name, values in trained.items():
        np.testing.assert_array_equal(found[name], values)
    other = build(SEGMENTERS["encoder_decoder"], 1, **given.options, classes=3)[1]
    started = named(given.into(other, ["a", "b", "c"]))  # of other classes: the last layer stays fresh
    np.testing.assert_array_equal(started["out.kernel"], named(other)["out.kernel"])
    np.testing.assert_array_equal(started["stem.kernel"], trained["stem.kernel"])


def test_how_a_network_is_computed_is_the_run_s_and_not_the_directory_s(tmp_path):
    config = tiny()
    saved = make_network(config, "segmenter", "encoder_decoder", "x", 0, NAMES)[1]
    options = {**config.segmenter.encoder_decoder.to_dict(), "dtype": "bfloat16", "classes": len(NAMES)}
    story = {"network": "encoder_decoder", "options": options, "names": NAMES}
    save_network(tmp_path / "weights.safetensors", saved, story)
    _, found, _ = describe_network(config, "segmenter", str(tmp_path), "segmenter.judge")
    assert found["dtype"] == "float32" and found["widths"] == options["widths"]


def test_a_directory_that_changed_is_noticed(whole):
    place, config, streets = whole
    hugging_face(place / "judge", streets[::-1], seed=5, **SMALL)
    with pytest.raises(InputError, match="segmenter.judge_sha256"):
        main("evaluate", config, place / "run")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c, p: c.segmenter.update(as_it_is=True), "only the network of a directory has weights"),
        (lambda c, p: c.segmenter.update(judge=str(p / "adm")), "segmenter.judge is 'adm'|choose one of"),
        (lambda c, p: c.denoiser.update(weights=str(p / "adm")), "denoiser.prediction = 'eps'"),
        (lambda c, p: c.segmenter.update(network=str(p / "guide"), as_it_is=True), "trained first|does not suit"),
    ],
)
def test_given_networks_that_do_not_fit_are_refused_at_once(change, sentence, whole, tmp_path):
    place, _, _ = whole
    config = tiny()
    hugging_face(tmp_path / "guide", NAMES)
    (tmp_path / "adm").symlink_to(place / "adm")
    change(config, tmp_path)
    with pytest.raises(InputError, match=sentence):
        main("train_segmenter", config, tmp_path / "run")


def test_shapes_of_the_given_denoiser(whole):
    place, config, _ = whole
    apply, params = Experiment(config, place / "run").denoiser_network
    x, step = jax.ShapeDtypeStruct((2, 16, 32, 3), np.float32), jax.ShapeDtypeStruct((2,), np.int32)
    assert jax.eval_shape(apply, params, x, step).shape == (2, 16, 32, 3)
    assert params["embed1"]["kernel"].shape == (ADM["channels"], 4 * ADM["channels"])
