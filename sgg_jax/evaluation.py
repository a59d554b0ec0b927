"""Scores: one confusion matrix per data set, and everything else from it.

IoU = TP / (TP + FP + FN) from one dataset-level confusion matrix in int64 (Cityscapes protocol); void ground truth
never counts; a class that neither labels nor predictions contain is left out of the mean.
"""

from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from sgg_jax.data.dataset import VOID, Dataset
from sgg_jax.devices import check_batch, replicate, shard
from sgg_jax.types import Array, Segmenter, to_float


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by (label, prediction). Two arrays of one shape, train ids -> [C,C] int64. VOID labels are left out."""
    known = labels != VOID
    pairs = labels[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """[C,C] -> [C] float64 in [0,1]; NaN for a class in neither labels nor predictions."""
    hit = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean of class_iou over the classes that occur; NaN if none does."""
    iou = class_iou(confusion)
    return float(np.mean(iou[~np.isnan(iou)])) if (~np.isnan(iou)).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of known pixels predicted right; NaN without any."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


@jax.jit
def predict(segmenter: Segmenter, image: Array) -> Array:
    """Most likely class of each pixel. [B,H,W,3] uint8 -> [B,H,W] uint8."""
    return segmenter(to_float(image)).argmax(-1).astype("uint8")


def predictions(
    segmenter: Segmenter, images: Iterable[np.ndarray], batch_size: int, mesh: Mesh
) -> Iterator[np.ndarray]:
    """`predict` for images [H,W,3] uint8 one after the other, in padded batches over all devices: [H,W] uint8 each."""
    check_batch(batch_size, mesh, "evaluate.batch_size")
    segmenter = replicate(segmenter, mesh)
    waiting: list[np.ndarray] = []

    def run() -> Iterator[np.ndarray]:
        batch = np.stack(waiting + [waiting[-1]] * (batch_size - len(waiting)))
        yield from np.asarray(predict(segmenter, shard(batch, mesh)))[: len(waiting)]

    for image in images:
        waiting.append(image)
        if len(waiting) == batch_size:
            yield from run()
            waiting = []
    if waiting:
        yield from run()


def score(segmenter: Segmenter, dataset: Dataset, indices: Iterable[int], batch_size: int, mesh: Mesh) -> np.ndarray:
    """Confusion matrix of a segmenter over dataset[i] for i in indices, against the data set's labels. [C,C] int64.

    On a translated set with an independent judge this is the judge's agreement with the labels.
    """
    classes = len(dataset.classes)
    labels: list[np.ndarray] = []

    def images() -> Iterator[np.ndarray]:
        for index in indices:
            example = dataset[index]
            labels.append(example.known_labels())
            yield example.image

    total = np.zeros((classes, classes), np.int64)
    for predicted in predictions(segmenter, images(), batch_size, mesh):
        total += confusion_matrix(predicted, labels.pop(0), classes)
    return total


def summary(confusion: np.ndarray, names: list[str]) -> dict[str, object]:
    """{"miou", "accuracy", "iou": {name: IoU}} for JSON; None where there is nothing to score."""

    def known(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    iou = {name: known(value) for name, value in zip(names, class_iou(confusion), strict=True)}
    return {"miou": known(mean_iou(confusion)), "accuracy": known(pixel_accuracy(confusion)), "iou": iou}
