"""Distances between two sets of feature vectors, whatever network the features come from. All in float64.

The numbers known as FID and KID are these distances on the features of one Inception network. On other features they
are other numbers: compare them only with numbers of the same features, and the Frechet distance, which is biased
upwards in small sets, only with those of the same set sizes.
"""

import numpy as np


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets. [n,d], [m,d] -> at least 0, in squared feature units.

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Dowson & Landau 1982; on networks' features since Heusel et
    al. 2017. Covariances are unbiased and may be singular, as they are where a set has at most d rows.
    ValueError for sets that cannot be compared (see checked).
    """
    a, b = checked(a, b)
    cov_a, cov_b = covariance(a), covariance(b)
    shift = np.sum(np.square(a.mean(0) - b.mean(0)))
    return float(max(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * trace_of_root(cov_a, cov_b), 0.0))


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x.y / d + 1)^3. [n,d], [m,d] -> float, maybe a bit below 0.

    Binkowski et al. 2018, on the whole sets, not the mean over subsets. Its expectation is 0 for two draws of one
    distribution, whatever their sizes. Holds matrices [n,n], [m,m], [n,m].
    ValueError for sets that cannot be compared (see checked).
    """
    a, b = checked(a, b)
    return float(mean_of_pairs(a) + mean_of_pairs(b) - 2 * kernel(a, b).mean())


def checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64. ValueError if one has fewer than 2 rows or non-finite values, or if the widths differ."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    for features in (a, b):
        if features.ndim != 2 or features.shape[0] < 2 or features.shape[1] < 1:
            raise ValueError(f"a set of features is [n,d] with at least 2 rows, not of shape {list(features.shape)}")
        if not np.isfinite(features).all():
            raise ValueError("the features contain values that are not finite")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the features are {a.shape[1]} wide in one set and {b.shape[1]} in the other")
    return a, b


def covariance(features: np.ndarray) -> np.ndarray:
    """Unbiased covariance. [n,d] -> [d,d]."""
    centered = features - features.mean(0)
    return centered.T @ centered / (len(features) - 1)


def trace_of_root(cov_a: np.ndarray, cov_b: np.ndarray) -> float:
    """tr (S_a S_b)^(1/2) of two covariances [d,d], singular or not.

    S_a S_b is not symmetric, but has the nonzero eigenvalues of the symmetric F^T S_b F for every F F^T = S_a.
    """
    values, vectors = np.linalg.eigh(cov_a)
    above = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps  # the root would magnify rounding
    factor = vectors[:, above] * np.sqrt(values[above])
    return float(np.sum(np.sqrt(np.maximum(np.linalg.eigvalsh(factor.T @ cov_b @ factor), 0))))


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(x.y / d + 1)^3 for all pairs of rows. [n,d], [m,d] -> [n,m]."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def mean_of_pairs(features: np.ndarray) -> float:
    """Mean kernel of two different rows of one set. [n,d]."""
    n, values = len(features), kernel(features, features)
    return float((values.sum() - np.trace(values)) / (n * (n - 1)))
