"""Training objectives against what they must be for denoisers that know, literal loops and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgg_jax.losses import denoising_loss, mean, segmentation_sums
from sgg_jax.schedule import linear, noise_schedule
from sgg_jax.types import VOID

SCHEDULE = noise_schedule(linear(100))
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 3)), jnp.float32)


def knowing(x, step):
    """The noise in x, of whoever knows the image: DDPM Eq. 4 solved for it, in a table of its own."""
    alpha_bar = jnp.asarray(np.cumprod(1 - linear(100)), "float32")[step][:, None, None, None]
    return (x - jnp.sqrt(alpha_bar) * IMAGE) / jnp.sqrt(1 - alpha_bar)


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def losses(key):
    """Losses of a denoiser that knows the noise, of one that is always off by 1/2, and of one that says 0."""
    denoisers = (knowing, lambda x, step: knowing(x, step) + 0.5, lambda x, step: jnp.zeros_like(x))
    keys = jax.random.split(key, len(IMAGE))
    return [denoising_loss(denoiser, SCHEDULE, IMAGE, keys, jnp.ones(100)) for denoiser in denoisers]


def test_denoiser_that_knows_the_noise_has_no_loss():
    for seed in range(3):
        none, quarter, _ = losses(jax.random.key(seed))
        assert float(none) < 1e-7
        assert float(quarter) == pytest.approx(0.25, rel=1e-4)


def test_denoiser_that_says_zero_has_the_variance_of_the_noise():
    found = [float(losses(jax.random.key(seed))[2]) for seed in range(8)]
    assert np.mean(found) == pytest.approx(1, abs=5 * np.sqrt(2 / (8 * IMAGE.size)))
    assert len(set(found)) == 8  # every key draws anew


def test_steps_are_drawn_evenly_over_the_rows_in_use():
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def drawn(key):
        seen = []
        images = jnp.zeros((3000, 1, 1, 3))
        keys = jax.random.split(key, 3000)
        denoising_loss(lambda x, step: seen.append(step) or x, SCHEDULE, images, keys, jnp.ones(100))
        return seen[0]

    counts = np.bincount(drawn(jax.random.key(0)), minlength=100)
    assert len(counts) == 100 and counts.min() > 0
    assert ((counts - 30) ** 2 / 30).sum() < 99 + 5 * np.sqrt(2 * 99)  # chi-square, five sigma


def problem(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 3, VOID], (2, 3, 4)).astype(np.int32)
    return rng.standard_normal((2, 3, 4, 4)) * 3, labels, np.array([0.5, 2.0, 1.0, 0.0])


def segmentation_loss(logits, labels, weights):
    return mean(*segmentation_sums(logits, labels, weights))


def literal_segmentation_loss(logits, labels, weights):
    total = norm = 0.0
    for place in np.ndindex(labels.shape):
        if labels[place] != VOID:
            row = logits[place]
            weight = weights[labels[place]]
            total -= weight * (row[labels[place]] - np.log(sum(np.exp(value) for value in row)))
            norm += weight
    return total / norm


def test_segmentation_loss_is_the_literal_loop():
    logits, labels, weights = problem()
    assert (labels == VOID).any() and (labels == 3).any()
    wanted = literal_segmentation_loss(logits, labels, weights)
    for scale in (1.0, 1e-3, 1e3):
        loss = segmentation_loss(logits.astype(np.float32), labels, jnp.asarray(scale * weights, jnp.float32))
        assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_segmentation_loss_of_even_logits_is_log_classes():
    _, labels, weights = problem()
    assert float(segmentation_loss(jnp.full((2, 3, 4, 4), 7.0), labels, jnp.asarray(weights))) == pytest.approx(
        np.log(4), rel=1e-6
    )


def test_void_pixels_have_no_gradient():
    logits, labels, weights = problem()
    gradient = np.asarray(jax.grad(segmentation_loss)(jnp.asarray(logits, jnp.float32), labels, jnp.asarray(weights)))
    counted = (labels != VOID) & (labels != 3)  # class 3 weighs nothing
    assert not gradient[~counted].any()
    assert (np.abs(gradient[counted]).max(-1) > 1e-6).all()


def test_all_void_is_zero_with_a_zero_gradient():
    logits, labels, weights = problem()
    value, gradient = jax.value_and_grad(segmentation_loss)(
        jnp.asarray(logits, jnp.float32), np.full_like(labels, VOID), jnp.asarray(weights)
    )
    assert float(value) == 0
    assert (np.asarray(gradient) == 0).all()


def test_huge_logits_stay_finite():
    _, labels, weights = problem()
    logits = jnp.asarray(np.random.default_rng(1).choice([-1e4, 1e4], (2, 3, 4, 4)), jnp.float32)
    value, gradient = jax.value_and_grad(segmentation_loss)(logits, labels, jnp.asarray(weights, jnp.float32))
    assert np.isfinite(float(value)) and np.isfinite(gradient).all()


def test_segmentation_gradient_is_finite_differences():
    logits, labels, weights = problem()
    with jax.enable_x64(True):
        loss = jax.jit(segmentation_loss)
        gradient = np.asarray(jax.grad(loss)(logits, labels, weights))
        assert gradient.dtype == np.float64
        for index in np.random.default_rng(2).permutation(logits.size)[:30]:
            step = np.zeros(logits.size)
            step[index] = 1e-5
            step = step.reshape(logits.shape)
            slope = (float(loss(logits + step, labels, weights)) - float(loss(logits - step, labels, weights))) / 2e-5
            assert gradient.ravel()[index] == pytest.approx(slope, rel=1e-6, abs=1e-9)
