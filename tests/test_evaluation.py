"""Scores against literal loops over pixels; predictions keep order and count whatever the batch."""

import copy
import json
import warnings
from importlib import import_module

import jax.numpy as jnp
import lookalikes
import numpy as np
import pytest
from jax.tree_util import Partial
from test_prediction import literal_bilinear, logits_of

from sgg_jax.data.classes import CITYSCAPES, SUBSETS
from sgg_jax.data.dataset import VOID, ClassInfo, Example, LeftOutError, Tolerant
from sgg_jax.data.problems import BadFileError
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.evaluation import (
    class_iou,
    confusion_matrix,
    denoising_error,
    descriptions,
    examine,
    mean_iou,
    pixel_accuracy,
    score,
    subset_ious,
    summary,
    sure_predictions,
)
from sgg_jax.prediction import AS_IT_IS, Views
from sgg_jax.schedule import linear, noise_schedule


def literal_confusion(predicted, labels, classes):
    confusion = np.zeros((classes, classes), int)
    for guess, truth in zip(predicted.ravel(), labels.ravel(), strict=True):
        if truth != VOID:
            confusion[truth, guess] += 1
    return confusion


def pair(seed, classes=4, shape=(6, 7)):
    rng = np.random.default_rng(seed)
    labels = rng.choice([*range(classes), VOID], shape).astype(np.uint8)
    return rng.integers(0, classes, shape).astype(np.uint8), labels


@pytest.mark.parametrize("classes", [1, 4, 19])
def test_confusion_is_the_literal_loop(classes):
    predicted, labels = pair(classes, classes)
    confusion = confusion_matrix(predicted, labels, classes)
    np.testing.assert_array_equal(confusion, literal_confusion(predicted, labels, classes))
    assert confusion.dtype == np.int64 and confusion.sum() == (labels != VOID).sum()


def test_confusion_of_many_classes_does_not_wrap():
    """uint8 times the number of classes would."""
    confusion = confusion_matrix(np.array([[199]], np.uint8), np.array([[198]], np.uint8), 200)
    assert confusion[198, 199] == 1 and confusion.sum() == 1


def test_void_alone_scores_nothing():
    confusion = confusion_matrix(np.zeros((2, 2), np.uint8), np.full((2, 2), VOID, np.uint8), 3)
    assert not confusion.any()
    assert (
        np.isnan(class_iou(confusion)).all() and np.isnan(mean_iou(confusion)) and np.isnan(pixel_accuracy(confusion))
    )


def test_iou_is_overlap_over_union_of_the_masks():
    predicted, labels = pair(1)
    iou, known = class_iou(confusion_matrix(predicted, labels, 4)), labels != VOID
    for c in range(4):
        guess, truth = (predicted == c) & known, labels == c
        assert iou[c] == pytest.approx((guess & truth).sum() / (guess | truth).sum(), rel=1e-12)


def test_absent_classes_are_left_out_of_the_mean():
    labels = np.array([[0, 0, 1, VOID]], np.uint8)
    predicted = np.array([[0, 2, 1, 3]], np.uint8)  # 2 is predicted only: IoU 0. 3 stands on void only: absent
    confusion = confusion_matrix(predicted, labels, 5)
    np.testing.assert_array_equal(class_iou(confusion), [1 / 2, 1, 0, np.nan, np.nan])
    assert mean_iou(confusion) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert pixel_accuracy(confusion) == pytest.approx(2 / 3)


def test_summary_is_valid_json_with_null_for_absent_classes():
    confusion = confusion_matrix(np.array([0, 1], np.uint8), np.array([0, 0], np.uint8), 3)
    found = json.loads(json.dumps(summary(confusion, ["a", "b", "c"]), allow_nan=False))
    rows = [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert found == {"miou": 0.25, "accuracy": 0.5, "iou": {"a": 0.5, "b": 0.0, "c": None}, "confusion": rows}


NAMES = [info.name for info in CITYSCAPES]


def test_subsets_are_literal_means_over_their_classes():
    """From masks: what is predicted outside the subset is missed, what is outside it and taken for one is false."""
    rng = np.random.default_rng(3)
    labels = rng.choice([*range(18), VOID], 4000).astype(np.uint8)  # no bicycle
    predicted = np.where(rng.random(4000) < 0.5, np.minimum(labels, 17), rng.integers(0, 18, 4000)).astype(np.uint8)
    found = subset_ious(confusion_matrix(predicted, labels, 19), NAMES)
    assert list(found) == list(SUBSETS)
    for title, ids in SUBSETS.items():
        shares = []
        for c in ids:
            hit = sum(p == c == t for p, t in zip(predicted, labels, strict=True))
            union = sum((p == c or t == c) and t != VOID for p, t in zip(predicted, labels, strict=True))
            shares += [hit / union] if union else []
        assert len(shares) == len(ids) - 1
        assert found[title] == pytest.approx(np.mean(shares), rel=1e-12)
    assert len(set(found.values())) == 3


def test_a_subset_may_miss_altogether_and_other_classes_have_none():
    confusion = np.zeros((19, 19), np.int64)
    confusion[9, 9] = 5  # terrain alone, which is in no subset but the whole
    assert subset_ious(confusion, NAMES)["19 classes"] == 1
    assert np.isnan(subset_ious(confusion, NAMES)["16 classes"])
    assert summary(confusion, NAMES)["subsets"] == {"19 classes": 1.0, "16 classes": None, "13 classes": None}
    assert subset_ious(confusion, NAMES[::-1]) == {}
    assert "subsets" not in summary(confusion[:2, :2], ["a", "b"])


# networks


def nearest_color(table, image):
    """A segmenter: minus the distance of each pixel to each class's colour. [C,3] in [-1,1]."""
    return -jnp.sum(jnp.square(image[..., None, :] - table), -1)


COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 255]], np.uint8)
SEGMENTER = Partial(nearest_color, jnp.asarray(COLORS / 127.5 - 1, jnp.float32))


def painted(seed):
    """(image, what the segmenter must say of it)"""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 4, (4, 5)).astype(np.uint8)
    return np.clip(COLORS[classes] + rng.integers(-40, 40, (4, 5, 3)), 0, 255).astype(np.uint8), classes


@pytest.mark.parametrize("threshold", [0.0, 0.8, 0.95])
def test_sure_predictions_are_of_both_mirror_images_or_void(four_devices, threshold):
    def tilted(colors, image):  # another opinion at every column, so that mirroring matters
        return 0.7 * nearest_color(colors, image) * jnp.linspace(0.2, 2.0, image.shape[2])[:, None]

    images = [painted(i)[0] for i in range(5)]
    segmenter = Partial(tilted, SEGMENTER.args[0])
    found = list(sure_predictions(segmenter, iter(images), threshold, 4, four_devices))
    assert len(found) == 5
    for image, labels in zip(images, found, strict=True):
        logits, mirrored = (np.asarray(segmenter(jnp.float32(i[None]) / 127.5 - 1))[0] for i in (image, image[:, ::-1]))
        share, other = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (logits, mirrored))
        mean = (share + other[:, ::-1]) / 2
        np.testing.assert_array_equal(labels, np.where(mean.max(-1) >= threshold, mean.argmax(-1), VOID))
    shares = [(labels == VOID).mean() for labels in found]
    assert threshold == 0 and not any(shares) or 0 < np.mean(shares) < 1


class Painted:
    classes = tuple(ClassInfo(name, (i,), (0, 0, 0)) for i, name in enumerate("abcd"))
    size = (4, 5)
    labelled = True

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return Example(painted(index)[0], pair(index, shape=self.size)[1])

    full = __getitem__


@pytest.mark.parametrize("batch_size", [4, 8])
def test_score_is_the_literal_sum(four_devices, batch_size):
    indices = [7, 0, 3, 8, 2]
    wanted = sum(literal_confusion(painted(i)[1], pair(i, shape=(4, 5))[1], 4) for i in indices)
    found = score(SEGMENTER, Painted(), iter(indices), batch_size, four_devices)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.int64


# full resolution


class Halved:
    """Examples seen at half the size of their files, or each at another size; the fourth cannot be used."""

    classes, labelled, problems = Painted.classes, True, ()

    def __init__(self, size=(4, 5)):
        self.size = size

    def __len__(self):
        return 6

    def name(self, index):
        return str(index)

    image_id = origin = name

    def full(self, index):
        if index == 3:
            raise BadFileError("damaged", "3.png is damaged")
        height, width = (8, 10) if self.size else (8 + 2 * (index % 2), 10)
        blocks = np.random.default_rng(index).integers(0, 4, (height, width)).astype(np.uint8)
        labels = np.where(np.random.default_rng(index + 100).random(blocks.shape) < 0.1, VOID, blocks)
        return Example(COLORS[blocks] // 2 + 50, labels.astype(np.uint8))

    def __getitem__(self, index):
        image, labels = self.full(index)
        return Example(image[::2, ::2], labels[::2, ::2])


@pytest.mark.parametrize("size", [(4, 5), None])
@pytest.mark.parametrize("views", [AS_IT_IS, Views((3, 4), 0.5)])
def test_scores_are_counted_at_full_resolution(four_devices, size, views, capsys):
    """This segmenter looks at single pixels, so that windows change nothing."""
    dataset = Tolerant(Halved(size), 1)
    wanted, coarse = np.zeros((4, 4), int), np.zeros((4, 4), int)
    for index in (5, 0, 1, 2, 4):
        full, seen = dataset.full(index), dataset[index]
        logits = logits_of(SEGMENTER, seen.image)
        predicted = literal_bilinear(logits, full.labels.shape).argmax(-1)
        wanted += literal_confusion(predicted, full.labels, 4)
        coarse += literal_confusion(logits.argmax(-1), seen.labels, 4)
    found = score(SEGMENTER, dataset, [5, 0, 3, 1, 2, 4], 4, four_devices, views)
    np.testing.assert_array_equal(found, wanted)
    assert mean_iou(found) != pytest.approx(mean_iou(coarse), abs=0.01)
    assert capsys.readouterr().err.count("left out: 3.png is damaged") == 1


def test_what_is_seen_keeps_its_labels_when_examples_are_left_out(four_devices):
    dataset = Tolerant(Halved(), 1)
    with pytest.raises(LeftOutError):
        dataset.full(3)
    found = list(examine(SEGMENTER, dataset, range(6), 4, four_devices, AS_IT_IS))
    assert [seen.example for seen in found] == [0, 1, 2, 4, 5]
    for seen in found:
        np.testing.assert_array_equal(seen.labels, dataset.full(seen.example).labels)
        assert seen.predicted.shape == seen.labels.shape == (8, 10)


def test_scores_are_those_of_cityscapesscripts(tmp_path, one_device, monkeypatch):
    """Label files and predictions as files, scored by the original code."""
    root = lookalikes.cityscapes_val(tmp_path / "cityscapes", 3)
    val = open_public(LAYOUTS["cityscapes"], str(root), "val", (32, 64), "stretch")
    colors = np.array([info.color for info in CITYSCAPES]) / 127.5 - 1
    colors[16] = 100  # trains are neither there nor predicted
    segmenter = Partial(nearest_color, jnp.asarray(colors, jnp.float32))
    for seen in examine(segmenter, val, range(3), 2, one_device, AS_IT_IS):
        assert seen.predicted.shape == (64, 128)
        ids = lookalikes.LABEL_IDS[seen.predicted]
        lookalikes.save(tmp_path / "results" / f"{val.name(seen.example)}_pred.png", ids)
    found = summary(score(segmenter, val, range(3), 2, one_device), NAMES)

    monkeypatch.setenv("CITYSCAPES_DATASET", str(root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old code under new libraries
        original = import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
        args = copy.copy(original.args)
        args.predictionPath, args.predictionWalk = str(tmp_path / "results"), None
        args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
        truth = sorted(map(str, root.glob("gtFine/val/*/*_gtFine_labelIds.png")))
        wanted = original.evaluateImgLists([original.getPrediction(args, one) for one in truth], truth, args)
    assert found["iou"].pop("train") is None and np.isnan(wanted["classScores"]["train"])
    for name, iou in found["iou"].items():
        assert iou == pytest.approx(wanted["classScores"][name], abs=1e-12)
    assert found["miou"] == found["subsets"]["19 classes"]
    assert found["miou"] == pytest.approx(wanted["averageScoreClasses"], abs=1e-12)
    assert min(found["iou"].values()) > 0.02 and max(found["iou"].values()) < 0.98
    ids = lookalikes.LABEL_IDS
    np.testing.assert_array_equal(found["confusion"], np.array(wanted["confMatrix"])[np.ix_(ids, ids)])


class Greys:
    """Images of one grey value each: the value is the image's id."""

    classes, size, labelled = (), (4, 6), False

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def name(self, index):
        return str(index)

    def image_id(self, index):
        return index

    def __getitem__(self, index):
        return Example(np.full((4, 6, 3), index, np.uint8), None)


def test_denoising_error_is_0_for_who_knows_and_1_for_who_says_nothing(four_devices):
    """A grey image is known by the mean of its pixels at low noise; here the denoiser is told the level by its step."""
    schedule, whole = noise_schedule(linear(1000)), Greys(70)  # 70 do not fill two batches of 64
    silent = Partial(lambda params, x, step: params * x, 0.0)
    errors = denoising_error(silent, schedule, whole, [0, 500, 999], (4, 6), 16, four_devices)
    assert errors == pytest.approx([1, 1, 1], abs=5 * np.sqrt(2 / (70 * 72)))
    assert len(set(errors)) == 3  # noise differs from step to step
    assert denoising_error(silent, schedule, whole, [500], (4, 6), 16, four_devices)[0] == pytest.approx(
        errors[1], rel=1e-6
    )

    def half(params, x, step):  # knows the image is grey, not which: eps up to its mean over the image
        scale = jnp.sqrt(1 - jnp.cumprod(1 - jnp.asarray(linear(1000))))[step][:, None, None, None]
        return (x - x.mean((1, 2, 3), keepdims=True)) / scale

    found = denoising_error(Partial(half, 0.0), schedule, whole, [300, 900], (4, 6), 16, four_devices)
    assert found == pytest.approx([1 / 72, 1 / 72], rel=0.5)  # the mean of 72 normal draws is lost


def test_descriptions_are_those_of_each_image_in_order(four_devices):
    features = Partial(lambda params, image: jnp.stack([image.mean((1, 2, 3)), image[:, 0, 0, 0] * 2], -1), 0)
    found = descriptions(features, (Greys(7)[i].image for i in range(7)), 4, four_devices)
    wanted = np.arange(7) / 127.5 - 1
    np.testing.assert_allclose(found, np.stack([wanted, 2 * wanted], -1), atol=1e-6)
