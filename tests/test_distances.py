"""Distances of sets against closed forms, scipy's matrix root and literal loops; what must not change them."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from sgg_jax.distances import frechet, kid


def features(seed, n, d, shift=0.0):
    """Correlated columns of different scales, so that the covariances of two seeds do not commute."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d) + shift


def diagonal(seed, n, mean, std):
    """A set whose mean and unbiased covariance are exactly mean [d] and diag(std^2)."""
    rows = np.random.default_rng(seed).normal(size=(n, len(mean)))
    columns, _ = np.linalg.qr(rows - rows.mean(0))
    return mean + columns * np.sqrt(n - 1) * std


def rotation(d):
    return np.linalg.qr(np.random.default_rng(99).normal(size=(d, d)))[0]


def literal_kid(a, b):
    d = a.shape[1]

    def kernel(x, y):
        return (sum(float(i) * float(j) for i, j in zip(x, y, strict=True)) / d + 1) ** 3

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return sum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))
    return within(a) + within(b) - 2 * between


# Frechet


@pytest.mark.parametrize(("n", "m", "d"), [(30, 40, 2), (25, 25, 7), (60, 33, 16)])
def test_frechet_is_the_formula_with_the_root_of_the_product(n, m, d):
    a, b = features(1, n, d), features(2, m, d)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    wanted = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-9)
    assert isinstance(frechet(a, b), float)


def test_frechet_of_one_dimension_is_the_distance_of_means_and_of_deviations():
    a, b = np.array([[1.0], [2.0], [6.0]]), np.array([[0.0], [10.0]])
    wanted = (3 - 5) ** 2 + (np.sqrt(7) - np.sqrt(50)) ** 2  # variances by hand, over n - 1
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-12)


def test_frechet_of_diagonal_covariances():
    mean_a, std_a = np.array([0.0, 3, -1]), np.array([1.0, 0.1, 5])
    mean_b, std_b = np.array([2.0, 3, 0]), np.array([4.0, 0.3, 0])  # one column of b is constant
    wanted = np.sum((mean_a - mean_b) ** 2) + np.sum((std_a - std_b) ** 2)
    assert frechet(diagonal(3, 12, mean_a, std_a), diagonal(4, 20, mean_b, std_b)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (6, 30), (2, 3)])
def test_frechet_of_a_set_and_itself_is_zero_and_of_a_shifted_copy_the_shift(n, d):
    a, shift = features(5, n, d), np.linspace(-1, 2, d)
    assert 0 <= frechet(a, a) < 1e-9
    assert frechet(a, a + shift) == pytest.approx(np.sum(shift**2), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(8, 9, 40), (8, 60, 40), (60, 8, 40), (2, 2, 5), (41, 40, 40)])
def test_frechet_of_singular_covariances(n, m, d):
    """tr (S_a S_b)^(1/2) is the nuclear norm of A B^T, A and B the centred sets over sqrt(n - 1)."""
    a, b = features(6, n, d), features(7, m, d)
    left, right = (a - a.mean(0)) / np.sqrt(n - 1), (b - b.mean(0)) / np.sqrt(m - 1)
    root = np.linalg.norm(left @ right.T, "nuc")
    wanted = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.sum(left**2) + np.sum(right**2) - 2 * root
    assert root > 0.1 and frechet(a, b) == pytest.approx(wanted, rel=1e-7)
    assert frechet(b, a) == pytest.approx(wanted, rel=1e-7)


def test_frechet_of_sets_in_orthogonal_spaces_has_no_root():
    a, b = features(8, 10, 6), features(9, 11, 6)
    a[:, 3:], b[:, :3] = 0, 0
    wanted = np.sum((a.mean(0) - b.mean(0)) ** 2) + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    assert frechet(a @ rotation(6), b @ rotation(6)) == pytest.approx(wanted, rel=1e-6)


def test_frechet_of_sets_without_spread():
    assert frechet(np.zeros((3, 4)), np.full((5, 4), 2.0)) == 16
    assert frechet(np.zeros((3, 4)), np.zeros((2, 4))) == 0


def test_frechet_grows_with_the_square_of_the_scale():
    a, b = features(10, 20, 6), features(11, 20, 6)
    for scale in (1e-6, 1e6):
        assert frechet(scale * a, scale * b) == pytest.approx(scale**2 * frechet(a, b), rel=1e-9)


# KID


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (5, 8, 3), (9, 4, 12)])
def test_kid_is_the_literal_loop(n, m, d):
    a, b = features(12, n, d), features(13, m, d)
    assert kid(a, b) == pytest.approx(literal_kid(a, b), rel=1e-9)
    assert isinstance(kid(a, b), float)


def test_kid_by_hand():
    """d = 1: kernels are (xy + 1)^3; 1 within a, 27 within b, (1 + 1 + 1 + 1) / 4 between."""
    assert kid(np.array([[0.0], [0.0]]), np.array([[1.0], [2.0]])) == 1 + 27 - 2


def test_kid_of_two_draws_of_one_distribution_is_zero_on_average():
    """Within 4 standard errors; with the diagonal kept (the biased estimate) it would be far above."""
    rng = np.random.default_rng(14)
    found = np.array([kid(rng.normal(size=(6, 3)), rng.normal(size=(9, 3))) for _ in range(2000)])
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean()) < 4 * error and error < 0.05
    assert (found < 0).mean() > 0.2  # not cut off at 0
    apart = np.array([kid(rng.normal(size=(6, 3)), rng.normal(size=(9, 3)) + 1) for _ in range(200)])
    assert apart.mean() > 20 * error


# both


@pytest.mark.parametrize("distance", [frechet, kid])
@pytest.mark.parametrize(("n", "m", "d"), [(30, 20, 4), (6, 7, 15)])
def test_symmetry_order_and_rotation_do_not_matter(distance, n, m, d):
    a, b = features(15, n, d), features(16, m, d)
    wanted, order = distance(a, b), np.random.default_rng(17)
    assert distance(b, a) == pytest.approx(wanted, rel=1e-7)
    assert distance(order.permutation(a), order.permutation(b)) == pytest.approx(wanted, rel=1e-7)
    assert distance(a @ rotation(d), b @ rotation(d)) == pytest.approx(wanted, rel=1e-7)
    assert distance(a * 1.1, b) != pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("distance", [frechet, kid])
def test_float32_and_integers_are_computed_in_float64(distance):
    """A mean far from 0 would cost float32 most of its digits."""
    a, b = (features(seed, 12, 5, shift=1000).astype(np.float32) for seed in (18, 19))
    assert distance(a, b) == distance(a.astype(np.float64), b.astype(np.float64))
    whole = np.array([[100, 200], [250, 0], [3, 4]], np.uint8)
    assert distance(whole, whole[:2]) == distance(whole.astype(np.float64), whole[:2].astype(np.float64))


@pytest.mark.parametrize("distance", [frechet, kid])
def test_arguments_stay_as_they_are(distance):
    a, b = features(20, 5, 3), features(21, 6, 3)
    before = a.copy(), b.copy()
    distance(a, b)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


@pytest.mark.parametrize("distance", [frechet, kid])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((1, 3)), r"at least 2 rows.*\[1, 3\]"),
        (np.zeros((0, 3)), r"at least 2 rows.*\[0, 3\]"),
        (np.zeros((3, 0)), r"\[3, 0\]"),
        (np.zeros(3), r"\[3\]"),
        (np.zeros((4, 2)), "wide"),
        (np.array([[0, 0, np.nan], [0, 0, 0]]), "not finite"),
        (np.array([[0, 0, 0], [np.inf, 0, 0]]), "not finite"),
    ],
)
def test_sets_that_cannot_be_compared(distance, swap, bad, message):
    good = features(22, 5, 3)
    with pytest.raises(ValueError, match=message):
        distance(*((good, bad) if swap else (bad, good)))
