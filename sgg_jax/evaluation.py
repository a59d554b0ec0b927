"""Scores: one confusion matrix per data set, and everything else from it.

IoU = TP / (TP + FP + FN) from one dataset-level confusion matrix in int64, of predictions in the resolution of the
label files (Cityscapes protocol); void ground truth never counts; a class that neither labels nor predictions contain
is left out of the mean.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sgg_jax.data.classes import CITYSCAPES, SUBSETS
from sgg_jax.data.crops import steady_crop
from sgg_jax.data.dataset import VOID, Dataset, LeftOutError, readable
from sgg_jax.devices import replicate, shard
from sgg_jax.models.operations import softmax
from sgg_jax.prediction import AS_IT_IS, Size, Views, predictions_at
from sgg_jax.progress import track
from sgg_jax.schedule import NoiseSchedule, diffuse
from sgg_jax.types import Array, Denoiser, Features, Segmenter, image_keys, to_float


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
    return _mean_known(class_iou(confusion))


def _mean_known(iou: np.ndarray) -> float:
    known = iou[~np.isnan(iou)]
    return float(np.mean(known)) if len(known) else float("nan")


def subset_ious(confusion: np.ndarray, names: list[str]) -> dict[str, float]:
    """Mean IoU over each of classes.SUBSETS, where the names are the 19 of Cityscapes; {} for other classes.

    All of them come from the one matrix of a prediction among all 19 classes: the mean of class_iou over the classes
    of the subset that occur. So a prediction outside the subset is a miss of the true class, and a pixel of a class
    outside the subset that is taken for one in it counts against that one. (Never the mean of all 19 times 19/16.)
    """
    if names != [info.name for info in CITYSCAPES]:
        return {}
    iou = class_iou(confusion)
    return {title: _mean_known(iou[list(ids)]) for title, ids in SUBSETS.items()}


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of known pixels predicted right; NaN without any."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


@jax.jit
def predict_surely(segmenter: Segmenter, image: Array, threshold: Array) -> Array:
    """Likeliest classes by the mean probabilities of an image and its mirror image; VOID where below the threshold."""
    batch = to_float(image)
    mirrored = softmax(segmenter(batch[:, :, ::-1]))[:, :, ::-1]
    chance = (softmax(segmenter(batch)) + mirrored) / 2
    return jnp.where(chance.max(-1) >= threshold, chance.argmax(-1), VOID).astype("uint8")


@jax.jit
def describe(features: Features, image: Array) -> Array:
    """Features of each image as a whole. [B,H,W,3] uint8 -> [B,D] float32."""
    return features(to_float(image))


def sure_predictions(
    segmenter: Segmenter, images: Iterable[np.ndarray], threshold: float, batch_size: int, mesh: Mesh
) -> Iterator[np.ndarray]:
    """`predict_surely` for images [H,W,3] uint8 one after the other: [H,W] uint8 each. threshold: in 0..1."""
    return _one_by_one(partial(predict_surely, threshold=threshold), segmenter, images, batch_size, mesh)


def descriptions(features: Features, images: Iterable[np.ndarray], batch_size: int, mesh: Mesh) -> np.ndarray:
    """`describe` for images [H,W,3] uint8. [n,D] float32."""
    return np.stack(list(_one_by_one(describe, features, images, batch_size, mesh)))


def _one_by_one(
    look: Callable[..., Array], network: Any, images: Iterable[np.ndarray], batch_size: int, mesh: Mesh
) -> Iterator[np.ndarray]:
    """look(network, batch) for images one after the other, in padded batches of `batch_size` for each device."""
    network, batch_size = replicate(network, mesh), batch_size * mesh.size
    waiting: list[np.ndarray] = []

    def run() -> Iterator[np.ndarray]:
        batch = np.stack(waiting + [waiting[-1]] * (batch_size - len(waiting)))
        yield from np.asarray(look(network, shard(batch, mesh)))[: len(waiting)]

    for image in images:
        waiting.append(image)
        if len(waiting) == batch_size:
            yield from run()
            waiting = []
    if waiting:
        yield from run()


class Seen(NamedTuple):
    """One example at full resolution."""

    example: int  # its index in the data set
    labels: np.ndarray  # [H,W] uint8 train ids
    predicted: np.ndarray  # [H,W] uint8 train ids


def examine(
    segmenter: Segmenter, dataset: Dataset, indices: Iterable[int], batch_size: int, mesh: Mesh, views: Views
) -> Iterator[Seen]:
    """What a segmenter sees in dataset[i] for i in indices, in the resolution of the files; see predictions_at.

    Examples that the run goes on without are passed over. Where every example has its own size, the network sees one
    on each device at a time, in place of `batch_size` of them.
    """
    waiting: deque[tuple[int, np.ndarray]] = deque()

    def wanted() -> Iterator[tuple[np.ndarray, Size]]:
        for index in indices:
            try:
                full = dataset.full(index)
                # of the size of its files an example need not be read twice
                image = full.image if full.image.shape[:2] == dataset.size else dataset[index].image
            except LeftOutError:
                continue
            labels = full.known_labels()
            waiting.append((index, labels))
            yield image, (labels.shape[0], labels.shape[1])

    together = 1 if dataset.size is None and views.window is None else batch_size
    for predicted in predictions_at(segmenter, wanted(), views, together, mesh):
        yield Seen(*waiting.popleft(), predicted)


def tally(found: Iterable[Seen], classes: int) -> np.ndarray:
    """The one confusion matrix of examples. [C,C] int64."""
    total = np.zeros((classes, classes), np.int64)
    for seen in found:
        total += confusion_matrix(seen.predicted, seen.labels, classes)
    return total


def score(
    segmenter: Segmenter, dataset: Dataset, indices: Iterable[int], batch_size: int, mesh: Mesh, views: Views = AS_IT_IS
) -> np.ndarray:
    """Confusion matrix of a segmenter over dataset[i] for i in indices, against the labels in the files. [C,C] int64.

    On a translated set with an independent judge this is the judge's agreement with the labels.
    """
    return tally(examine(segmenter, dataset, indices, batch_size, mesh, views), len(dataset.classes))


@jax.jit
def _noise_error(denoiser: Denoiser, schedule: NoiseSchedule, image: Array, image_id: Array, step: Array) -> Array:
    """[B,H,W,3] uint8, [B], [] -> [B] mean square of eps-hat - eps, the noise keyed by image and step."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(image_keys(jnp.int32(0), image_id))
    noise = jax.vmap(lambda key: jax.random.normal(key, image.shape[1:]))(keys)
    steps = jnp.broadcast_to(step, image_id.shape)
    predicted = denoiser(diffuse(schedule, to_float(image), steps, noise), steps)
    return jnp.mean(jnp.square(predicted - noise), axis=(1, 2, 3))


def denoising_error(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    dataset: Dataset,
    steps: Sequence[int],
    size: tuple[int, int],
    batch_size: int,
    mesh: Mesh,
) -> list[float]:
    """Mean square error of the predicted noise at each of `steps`, over all images of a data set, cut to `size` (H, W).

    schedule: the whole process. batch_size: images at once, on each device. Cut and noise of (image, step) are always
    the same, so denoisers can be compared.
    """
    batch = batch_size * mesh.size
    denoiser, schedule = replicate((denoiser, schedule), mesh)
    total, images = np.zeros(len(steps)), 0
    for start in track(range(0, len(dataset), batch), -(-len(dataset) // batch), "held-out error", unit="batch"):
        rows = []
        for index, example in readable(dataset, range(start, min(start + batch, len(dataset)))):
            image_id = dataset.image_id(index)
            rows.append((steady_crop(example, size, image_id).image, image_id))
        if not rows:
            continue
        images += len(rows)
        padded = rows + [rows[-1]] * (batch - len(rows))
        data = np.stack([image for image, _ in padded]), np.array([image_id for _, image_id in padded], np.int32)
        for at, step in enumerate(steps):
            error = _noise_error(denoiser, schedule, *shard(data, mesh), jnp.int32(step))
            total[at] += np.asarray(error, np.float64)[: len(rows)].sum()
    return [float(value) for value in total / max(images, 1)]


def summary(confusion: np.ndarray, names: list[str]) -> dict[str, Any]:
    """{"miou", "accuracy", "iou": {name: IoU}, "confusion": rows} for JSON; None where there is nothing to score.

    Of the 19 classes of Cityscapes also "subsets": {title: mIoU} (subset_ious).
    """

    def known(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    iou = {name: known(value) for name, value in zip(names, class_iou(confusion), strict=True)}
    found = {"miou": known(mean_iou(confusion)), "accuracy": known(pixel_accuracy(confusion)), "iou": iou}
    if subsets := subset_ious(confusion, names):
        found["subsets"] = {title: known(value) for title, value in subsets.items()}
    return {**found, "confusion": confusion.tolist()}
