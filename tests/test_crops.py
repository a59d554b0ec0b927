"""Crops and rare classes: one geometry, no edges, the classes that were asked for, the distribution of the paper."""

import numpy as np
import pytest

from sgg_jax.data.crops import RARE_SHARE, Crop, RareClasses, random_crop
from sgg_jax.data.dataset import VOID, Example
from sgg_jax.errors import InputError

HEIGHT, WIDTH = 40, 60


def coordinates() -> Example:
    """The image tells row and column of each pixel, the labels a block of 4 x 4."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return Example(np.stack([rows, columns, rows * 0], axis=-1), (rows // 4 * 15 + columns // 4).astype(np.uint8))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_zoom_a_crop_is_a_window_of_whole_pixels():
    example, seen = coordinates(), set()
    for seed in range(30):
        found = random_crop(example, Crop((16, 24)), rng(seed))
        row, column = found.image[0, 0, :2].astype(int)
        np.testing.assert_array_equal(found.image, example.image[row : row + 16, column : column + 24])
        np.testing.assert_array_equal(found.labels, example.labels[row : row + 16, column : column + 24])
        seen.add((row, column))
    assert len(seen) > 20
    assert {row for row, _ in seen} <= set(range(25)) and max(c for _, c in seen) > 30


@pytest.mark.parametrize("scale", [(0.5, 0.5), (2.0, 2.0), (0.7, 1.9)])
def test_zoomed_image_and_labels_show_the_same_part_and_no_edge(scale):
    example = coordinates()
    for seed in range(20):
        found = random_crop(example, Crop((16, 24), scale), rng(seed))
        assert found.image.shape == (16, 24, 3) and found.labels.shape == (16, 24)
        rows, columns = found.image[..., 0].astype(float), found.image[..., 1].astype(float)
        step = np.median(np.diff(columns[8]))
        assert 1 / 2.1 <= max(step, 0.5) <= 2.1  # pixels of the image a pixel of the crop
        same = found.labels == np.clip(np.round(rows) // 4 * 15 + np.round(columns) // 4, 0, 255)
        assert same.mean() > 0.75  # but for the rounding at the borders of blocks


def test_a_zoom_that_would_show_edges_is_held_back():
    found = random_crop(coordinates(), Crop((30, 60), (0.1, 0.1)), rng())
    np.testing.assert_array_equal(found.image[0, :, 1], np.arange(60))  # the whole width, not less


def test_an_image_of_the_size_is_left_alone_and_a_smaller_one_is_enlarged():
    example = coordinates()
    assert random_crop(example, Crop((HEIGHT, WIDTH)), rng()) is example
    assert random_crop(example, Crop((80, 100)), rng()).image.shape == (80, 100, 3)
    unlabelled = random_crop(Example(example.image, None), Crop((16, 24), (0.5, 2.0)), rng())
    assert unlabelled.labels is None and unlabelled.image.shape == (16, 24, 3)


def test_a_crop_of_a_whole_side_fits_whatever_rounding_makes_of_it():
    for side in range(300, 1000, 7):
        for wanted in (256, 384, 512, 768):
            example = Example(np.zeros((side, 2 * side, 3), np.uint8), None)
            small = Crop((wanted, 16), (0.01, 0.01))
            assert random_crop(example, small, rng()).image.shape == (wanted, 16, 3)


def test_crops_of_one_class_alone_are_drawn_again():
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:, 40:] = 1
    example = Example(coordinates().image, labels)

    def alone(most):
        crops = [random_crop(example, Crop((8, 8), most=most), rng(seed)).labels for seed in range(100)]
        return np.mean([len(np.unique(crop)) == 1 for crop in crops])

    assert alone(1.0) > 0.75 and alone(0.75) < 0.6
    labels[:] = VOID
    assert random_crop(example, Crop((8, 8), most=0.75), rng()).labels.shape == (8, 8)


def test_a_crop_shows_the_class_it_was_drawn_for():
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[30:34, 50:54] = 7
    example = Example(coordinates().image, labels)

    def share(wanted):
        crops = [random_crop(example, Crop((20, 20)), rng(seed), wanted).labels for seed in range(60)]
        return np.mean([(crop == 7).mean() >= RARE_SHARE for crop in crops])

    assert share(None) < 0.2 and share(7) > 0.6


def test_images_are_drawn_by_the_softmax_of_rarity():
    pixels = np.array([[900, 90, 0, 0], [900, 0, 10, 0], [100, 0, 0, 0]])
    frequency = np.array([1900, 90, 10, 0]) / 2000
    wanted = np.exp((1 - frequency) / 0.5) * [1, 1, 1, 0]
    rare = RareClasses(pixels, 0.5)
    np.testing.assert_allclose(rare.probability, wanted / wanted.sum(), rtol=1e-12)
    drawn = [rare.draw(rng(seed)) for seed in range(3000)]
    assert all(pixels[index, label] > 0 for index, label in drawn)
    share = np.bincount([label for _, label in drawn], minlength=4) / 3000
    np.testing.assert_allclose(share, rare.probability, atol=0.03)
    assert np.isfinite(RareClasses(pixels, 0.001).probability).all()
    np.testing.assert_array_equal(RareClasses(np.array([[0, 7, 0]]), 1e-4).probability, [0, 1, 0])
    with pytest.raises(InputError, match=r"data\.crop\.rare draws images by their classes, and no pixel"):
        RareClasses(np.zeros((4, 3), int), 0.5)
