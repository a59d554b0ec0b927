"""The noise schedule against the formulas of DDPM, written out literally in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgg_jax.errors import InputError
from sgg_jax.schedule import BETAS, cosine, diffuse, linear, noise_schedule, posterior_mean, predict_image, respace


def test_linear_is_ddpm():
    betas = linear(1000)
    assert betas.dtype == np.float64
    assert betas[0] == pytest.approx(1e-4)
    assert betas[-1] == pytest.approx(0.02)
    assert np.cumprod(1 - betas)[-1] == pytest.approx(4.036e-5, rel=1e-3)  # the number known from DDPM


def test_linear_ends_in_noise_at_any_length():
    for total in (50, 250, 4000):
        assert np.cumprod(1 - linear(total))[-1] < 2e-4


def test_cosine_follows_its_alpha_bar():
    alpha_bars = np.cumprod(1 - cosine(1000))
    t = np.arange(1, 1000) / 1000  # the last beta is clipped
    wanted = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alpha_bars[:-1], wanted, rtol=1e-9)
    assert cosine(1000).max() == 0.999


@pytest.mark.parametrize("name", BETAS)
def test_posterior_is_ddpm_eq_7(name):
    betas = BETAS[name](1000)
    alphas = 1 - betas
    alpha_bars = np.cumprod(alphas)
    schedule = noise_schedule(betas)
    for k in (1, 2, 17, 500, 998):
        row = schedule.row(k)
        image, x = jnp.float32(0.3), jnp.float32(-1.2)
        mean = (
            np.sqrt(alpha_bars[k - 1]) * betas[k] / (1 - alpha_bars[k]) * 0.3
            + np.sqrt(alphas[k]) * (1 - alpha_bars[k - 1]) / (1 - alpha_bars[k]) * -1.2
        )
        variance = (1 - alpha_bars[k - 1]) / (1 - alpha_bars[k]) * betas[k]
        assert float(posterior_mean(row, image, x)) == pytest.approx(mean, rel=2e-6)
        assert float(row.variance) == pytest.approx(variance, rel=1e-6)
    assert float(schedule.row(0).variance) == 0
    assert float(posterior_mean(schedule.row(0), jnp.float32(0.3), jnp.float32(9.0))) == pytest.approx(0.3)


def test_posterior_is_bayes_rule():
    """q(x_{k-1} | x_k, x_0) from the two Gaussians that it is made of, by completing the square."""
    betas = linear(1000)
    row = noise_schedule(betas).row(300)
    prior_mean, prior_var = np.sqrt(np.cumprod(1 - betas)[299]) * 0.7, 1 - np.cumprod(1 - betas)[299]
    a, noise_var, x = np.sqrt(1 - betas[300]), betas[300], 0.2
    variance = 1 / (1 / prior_var + a**2 / noise_var)
    mean = variance * (prior_mean / prior_var + a * x / noise_var)
    assert float(posterior_mean(row, jnp.float32(0.7), jnp.float32(x))) == pytest.approx(mean, rel=1e-5)
    assert float(row.variance) == pytest.approx(variance, rel=1e-5)


def test_respacing_to_all_steps_is_the_identity():
    betas = linear(1000)
    alpha_bars = np.cumprod(1 - betas)
    table = respace(betas, 1000, 1000).table
    np.testing.assert_array_equal(table.step, np.arange(1000))
    np.testing.assert_allclose(table.beta, betas, rtol=1e-6)
    np.testing.assert_array_equal(table.image_scale, np.sqrt(alpha_bars).astype(np.float32))
    np.testing.assert_array_equal(table.noise_scale, np.sqrt(1 - alpha_bars).astype(np.float32))


def test_respaced_steps_keep_the_marginals():
    betas = cosine(1000)
    schedule = respace(betas, 400, 13)
    steps = np.asarray(schedule.table.step)
    assert (steps[0], steps[-1], len(steps)) == (0, 399, 13)
    assert np.abs(np.diff(steps) - 399 / 12).max() <= 1
    np.testing.assert_array_equal(schedule.table.image_scale, np.sqrt(np.cumprod(1 - betas)[steps]).astype(np.float32))
    composed = np.cumprod(1 - np.asarray(schedule.table.beta, np.float64))  # the sub-process ends at the same noise
    np.testing.assert_allclose(composed, np.cumprod(1 - betas)[steps], rtol=1e-5)


@pytest.mark.parametrize(("depth", "steps", "count"), [(1, 1, 1), (1, 5, 1), (3, 5, 3), (5, 5, 5), (1000, 7, 7)])
def test_shapes_depend_on_steps_only(depth, steps, count):
    schedule = respace(linear(1000), depth, steps)
    assert len(schedule) == steps
    assert int(schedule.count) == count
    assert int(schedule.row(count - 1).step) == depth - 1
    assert all(np.isfinite(column).all() for column in jax.tree.leaves(schedule.table))


@pytest.mark.parametrize(("depth", "steps"), [(0, 5), (1001, 5), (100, 0), (100, 1001)])
def test_depth_and_steps_out_of_range_are_refused(depth, steps):
    with pytest.raises(InputError, match=r"must lie in 1\.\.1000"):
        respace(linear(1000), depth, steps)


def test_diffuse_and_predict_are_inverse():
    schedule = noise_schedule(linear(1000))
    image = jax.random.uniform(jax.random.key(0), (3, 4, 5, 3), minval=-1)
    noise = jax.random.normal(jax.random.key(1), image.shape)
    steps = jnp.array([0, 200, 600])
    x = diffuse(schedule, image, steps, noise)
    alpha_bars = np.cumprod(1 - linear(1000))
    for i, k in enumerate((0, 200, 600)):
        wanted = np.sqrt(alpha_bars[k]) * np.asarray(image[i]) + np.sqrt(1 - alpha_bars[k]) * np.asarray(noise[i])
        np.testing.assert_allclose(x[i], wanted, atol=1e-6)
        np.testing.assert_allclose(predict_image(schedule.row(k), x[i], noise[i]), image[i], atol=3e-6)


def test_trailing_steps_are_as_far_apart_as_the_lowest_is_from_the_image():
    assert np.asarray(respace(linear(1000), 100, 5, "trailing").table.step).tolist() == [19, 39, 59, 79, 99]
    assert np.asarray(respace(linear(1000), 7, 7, "trailing").table.step).tolist() == list(range(7))
    assert np.asarray(respace(linear(1000), 100, 1, "trailing").table.step).tolist() == [99]
    assert int(respace(linear(1000), 5, 8, "trailing").count) == 5


def test_extrapolation_is_half_the_ratio_of_steps_in_log_snr():
    alpha_bars = np.cumprod(1 - linear(1000))
    schedule = respace(linear(1000), 500, 7)
    steps = np.asarray(schedule.table.step)
    log_snr = np.log(np.sqrt(alpha_bars[steps]) / np.sqrt(1 - alpha_bars[steps]))
    for i in range(1, 6):
        wanted = (log_snr[i - 1] - log_snr[i]) / (2 * (log_snr[i] - log_snr[i + 1]))
        assert float(schedule.row(i).extrapolation) == pytest.approx(wanted, rel=1e-5)
    assert float(schedule.row(0).extrapolation) == float(schedule.row(6).extrapolation) == 0
    for count in (1, 2):
        np.testing.assert_array_equal(respace(linear(1000), 500, count).table.extrapolation, 0)
