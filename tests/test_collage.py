"""The collage against a literal search for the nearest pixel, and what it does where donors lack a class."""

import numpy as np
import pytest

from sgg_jax.collage import CHOICES, LEAST, Donors, collage
from sgg_jax.data.dataset import VOID

SIZE = (12, 16)


def scene(seed: int) -> np.ndarray:
    """Three classes in blocks of 4x4 pixels, each of them at least LEAST pixels."""
    blocks = np.random.default_rng(seed).permutation(np.arange(12) % 3).reshape(3, 4)
    return np.kron(blocks, np.ones((4, 4), int)).astype(np.uint8)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_every_pixel_comes_from_a_nearest_pixel_of_its_class(seed):
    labels, image = scene(seed), picture(seed)
    donor_labels, donor_image = scene(seed + 10), picture(seed + 10)
    made = collage(image, labels, Donors.of(donor_image[None], donor_labels[None], 3), (0,))
    for y, x in np.ndindex(SIZE):
        rows, columns = np.nonzero(donor_labels == labels[y, x])
        distance = (rows - y) ** 2 + (columns - x) ** 2
        nearest = distance == distance.min()
        candidates = donor_image[rows[nearest], columns[nearest]]
        assert (candidates == made[y, x]).all(-1).any()


def test_it_depends_on_the_seed_alone():
    given = Donors.of(np.stack([picture(i) for i in range(20)]), np.stack([scene(i) for i in range(20)]), 3)
    first, again, other = (collage(picture(50), scene(50), given, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_donor_with_the_same_layout_gives_its_own_picture():
    """Where labels agree everywhere, the collage is the donor's image; it is among the drawn ones almost surely."""
    labels = np.stack([scene(3), 2 - scene(3)])
    given = Donors.of(np.stack([picture(0), picture(1)]), labels, 3)
    np.testing.assert_array_equal(collage(picture(9), scene(3), given, (4,)), picture(0))
    assert CHOICES >= 8  # the chance that the better of two is not drawn is 2^-CHOICES


def test_a_class_comes_from_another_donor_where_the_first_lacks_it():
    labels = scene(0)
    lacking = np.where(labels == 2, VOID, labels).astype(np.uint8)  # agrees best but for class 2
    only = np.full(SIZE, 2, np.uint8)
    given = Donors.of(np.stack([picture(1), np.full((*SIZE, 3), 7, np.uint8)]), np.stack([lacking, only]), 3)
    made = collage(picture(9), labels, given, (0,))
    assert (made[labels == 2] == 7).all()
    np.testing.assert_array_equal(made[labels != 2], picture(1)[labels != 2])


def test_a_donor_that_is_unsure_where_the_source_is_void_is_no_better():
    labels = np.array(scene(0))
    labels[:8] = VOID
    unsure, alike = labels.copy(), scene(0)
    unsure[11] = (unsure[11] + 1) % 3  # agrees less where something is known
    given = Donors.of(np.stack([picture(1), picture(2)]), np.stack([unsure, alike]), 3)
    np.testing.assert_array_equal(collage(picture(9), labels, given, (0,))[:8], picture(2)[:8])


def test_void_pixels_take_the_donors_and_unknown_classes_keep_the_sources():
    labels = scene(0).copy()
    labels[0] = VOID
    few = np.zeros(SIZE, np.uint8)
    few.reshape(-1)[: LEAST - 1] = 1  # too few pixels of class 1, none of class 2
    given = Donors.of(picture(1)[None], few[None], 3)
    made = collage(picture(9), labels, given, (0,))
    np.testing.assert_array_equal(made[0], picture(1)[0])
    np.testing.assert_array_equal(made[(labels == 1) | (labels == 2)], picture(9)[(labels == 1) | (labels == 2)])
