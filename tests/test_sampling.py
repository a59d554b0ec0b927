"""Reverse steps and chains against closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from toys import labels, mixing_segmenter, pairs, point, short_schedule, smooth_denoiser

from sgg_jax.guidance import VARIANTS, clipped, global_scene, local_class, noise_ratio, unguided, where_it_moves
from sgg_jax.sampling import Given, Knobs, Method, ancestral, chain, ddim, dpm_solver, step_noise
from sgg_jax.schedule import cosine, linear, noise_schedule, respace
from sgg_jax.types import VOID, image_keys

NO_LIMIT = jnp.float32(jnp.inf)


def draws(shape, count=5, seed=0):
    return [jax.random.normal(jax.random.key(100 * seed + i), shape) for i in range(count)]


def gaussian_denoiser(schedule, mean, variance):
    """E[eps | x_k] where images are N(mean, variance) in every value: what a perfect network would predict."""

    def eps(image_scale, noise_scale, x, step):
        signal, noise = image_scale[step][:, None, None, None], noise_scale[step][:, None, None, None]
        return noise * (x - signal * mean) / (signal**2 * variance + noise**2)

    return Partial(eps, schedule.table.image_scale, schedule.table.noise_scale)


def run_chain(
    denoiser, schedule, x, reverse=ancestral, guidance=unguided, scale=0.0, given=None, limit=NO_LIMIT, **every
):
    labels = jnp.full(x.shape[:3], VOID) if given is None else given
    keys = image_keys(jnp.int32(0), jnp.arange(x.shape[0]))
    knobs = Knobs(jnp.float32(scale), jnp.float32(0), limit)
    given = Given(denoiser, mixing_segmenter(), schedule, labels, pairs(labels), keys, knobs)
    return jax.jit(chain, static_argnums=0)(Method(guidance, reverse, 4, **every), given, x)


@pytest.mark.parametrize("betas", [linear(1000), cosine(1000)], ids=["linear", "cosine"])
def test_exact_denoiser_of_a_gaussian_recovers_it(betas):
    mean, variance = 0.4, 0.09
    schedule = noise_schedule(betas)
    x = jax.random.normal(jax.random.key(1), (1500, 2, 2, 3))
    image, _ = run_chain(gaussian_denoiser(schedule, mean, variance), schedule, x)
    values = np.asarray(image, np.float64).ravel()
    # 18,000 draws: standard errors 0.0022 of the mean and 1.05% of the variance; time discretisation below 1.5%
    assert values.mean() == pytest.approx(mean, abs=0.008)
    assert values.var() == pytest.approx(variance, rel=0.05)


def test_gaussian_chain_follows_its_recursion():
    """Respaced or not, with an affine denoiser every step is affine: mean and variance obey a scalar recursion."""
    mean, variance = -0.3, 0.2
    betas = linear(1000)
    whole, schedule = noise_schedule(betas), respace(betas, 700, 9)
    x = jnp.full((4000, 1, 2, 3), 0.5)
    image, _ = run_chain(gaussian_denoiser(whole, mean, variance), schedule, x)
    m, v = 0.5, 0.0
    for i in reversed(range(9)):
        t = {
            name: float(getattr(schedule.row(i), name))
            for name in ("image_scale", "noise_scale", "mean_image", "mean_x", "variance")
        }
        gain = t["image_scale"] * variance / (t["image_scale"] ** 2 * variance + t["noise_scale"] ** 2)
        slope = t["mean_image"] * gain + t["mean_x"]  # x0-hat = mean + gain * (x - image_scale * mean)
        m = t["mean_image"] * (mean - gain * t["image_scale"] * mean) + slope * m
        v = slope**2 * v + t["variance"]
    values = np.asarray(image, np.float64).ravel()
    assert values.mean() == pytest.approx(m, abs=0.01)
    assert values.var() == pytest.approx(v, rel=0.03)


def test_ddim_with_eta_one_is_the_ancestral_step():
    x, eps, noise = draws((2, 3, 4, 3), 3)
    for i in range(6):
        row = short_schedule().row(i)
        for limit in (NO_LIMIT, jnp.float32(1.0)):
            a, _ = ancestral(row, x, eps, 0 * x, noise, limit, 0 * x)
            b, _ = ddim(1.0)(row, x, eps, 0 * x, noise, limit, 0 * x)
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_ddim_with_eta_zero_keeps_the_predicted_noise():
    x, eps, noise = draws((2, 3, 4, 3), 3)
    row = short_schedule().row(4)
    image = (x - row.noise_scale * eps) / row.image_scale
    wanted = row.image_scale_prev * image + row.noise_scale_prev * eps
    found, _ = ddim(0.0)(row, x, eps, 0 * x, noise, NO_LIMIT, 0 * x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_deterministic_ddim_transports_a_gaussian():
    """The probability flow of a Gaussian is affine: standardised values are carried along unchanged."""
    mean, variance = 0.2, 0.25
    schedule = noise_schedule(linear(1000))
    row = schedule.row(999)
    z = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    x = row.image_scale * mean + jnp.sqrt(row.image_scale**2 * variance + row.noise_scale**2) * z
    image, _ = run_chain(gaussian_denoiser(schedule, mean, variance), schedule, x, reverse=ddim(0.0))
    np.testing.assert_allclose(image, mean + np.sqrt(variance) * z, atol=0.02)


def shift(reverse, row, x, eps, gradient, noise):
    """How far a gradient moves a reverse step."""
    guided, plain = (reverse(row, x, eps, g, noise, NO_LIMIT, 0 * x)[0] for g in (gradient, 0 * x))
    return guided - plain


def test_guidance_moves_the_mean_by_sigma_times_the_gradient():
    x, eps, noise, gradient = draws((2, 3, 4, 3), 4)
    for i in (0, 3, 5):
        row = short_schedule().row(i)
        moved = shift(ancestral, row, x, eps, gradient, noise)
        np.testing.assert_allclose(moved, row.variance * gradient, atol=1e-5)
        moved = shift(ddim(1.0), row, x, eps, gradient, noise)
        np.testing.assert_allclose(moved, row.beta / jnp.sqrt(1 - row.beta) * gradient, atol=3e-5)


@pytest.mark.parametrize("reverse", [ancestral, ddim(0.0), ddim(0.6), ddim(1.0), dpm_solver])
def test_push_is_how_far_a_gradient_moves_the_step(reverse):
    x, eps, noise, gradient = draws((2, 3, 4, 3), 4)
    for i in range(6):
        row = short_schedule().row(i)
        moved = shift(reverse, row, x, eps, gradient, noise)
        np.testing.assert_allclose(moved, reverse.push(row) * gradient, atol=3e-5)


def test_a_sampler_without_noise_has_its_gradient_clipped_in_the_last_step_too():
    """Where the ancestral step has no variance left, and moves nothing."""
    row, where = short_schedule().row(0), point(mixing_segmenter(), labels())
    assert float(ancestral.push(row)) == 0 < float(dpm_solver.push(row))
    where = replace(where, row=row, push=dpm_solver.push(row))
    strong = clipped(lambda point: 1e4 * global_scene(point), 0.5)(where)
    np.testing.assert_allclose(noise_ratio(where.push, strong), 0.5, rtol=1e-4)


def test_limit_bounds_the_predicted_image():
    x, eps, noise = draws((2, 3, 4, 3), 3)
    row = short_schedule().row(0)  # the last step returns x0-hat itself
    assert float(jnp.abs(ancestral(row, 5 * x, eps, 0 * x, noise, NO_LIMIT, 0 * x)[0]).max()) > 1.5
    for step in (ancestral, ddim(0.0), dpm_solver):
        for found in step(row, 5 * x, eps, 0 * x, noise, jnp.float32(0.7), 0 * x):
            assert float(jnp.abs(found).max()) <= 0.7 + 1e-5


def test_chain_is_the_literal_loop():
    """Every step in order, noise by (image, step), guidance alternating, ratios by row."""
    schedule, given = short_schedule(), labels()
    x = jax.random.normal(jax.random.key(5), (*given.shape, 3))
    image, ratios = run_chain(
        smooth_denoiser(), schedule, x, guidance=VARIANTS["sgg"], scale=2.0, given=given, limit=jnp.float32(1.0)
    )
    y = x
    where = point(mixing_segmenter(), given)
    for i in reversed(range(6)):
        row = schedule.row(i)
        step = jnp.full(3, int(row.step))
        eps = smooth_denoiser()(y, step)
        here = where.__class__(
            seen=y,
            x=y,
            eps=eps,
            row=row,
            push=row.variance,
            turn=row.index,
            labels=given,
            pairs=where.pairs,
            fill=jnp.float32(0),
            denoiser=where.denoiser,
            segmenter=where.segmenter,
        )
        gradient = 2.0 * (global_scene if i % 2 == 0 else local_class)(here)
        sigma = np.sqrt(float(row.variance))
        np.testing.assert_allclose(
            ratios[:, i], sigma * np.sqrt(np.mean(np.square(gradient), (1, 2, 3))), rtol=1e-3, atol=1e-6
        )
        noise = jnp.stack(
            [
                jax.random.normal(
                    jax.random.fold_in(jax.random.fold_in(jax.random.key(0), b), int(row.step) + 1), x.shape[1:]
                )
                for b in range(3)
            ]
        )
        clean = jnp.clip((y - row.noise_scale * eps) / row.image_scale, -1, 1)
        y = row.mean_image * clean + row.mean_x * y + row.variance * gradient + sigma * noise
    np.testing.assert_allclose(image, y, atol=2e-4)


@pytest.mark.parametrize("reverse", [ancestral, ddim(0.0), dpm_solver])
@pytest.mark.parametrize("every", [1, 2])
def test_the_last_ancestral_step_takes_no_gradient(reverse, every):
    """It would be multiplied by a variance of 0: one that is no number shows who looks at it."""

    def spoilt(point):
        return jnp.where(point.row.index == 0, jnp.nan, global_scene(point))

    schedule, given = respace(linear(1000), 600, 5), labels()  # of two steps' gradients the last is the last step's own
    x = jax.random.normal(jax.random.key(5), (*given.shape, 3))
    how = dict(reverse=reverse, scale=2.0, given=given, gradient_every=every)
    image, ratios = run_chain(smooth_denoiser(), schedule, x, guidance=where_it_moves(spoilt), **how)
    wanted, their_ratios = run_chain(smooth_denoiser(), schedule, x, guidance=global_scene, **how)
    if reverse is ancestral:
        np.testing.assert_array_equal(image, wanted)
        np.testing.assert_array_equal(ratios, their_ratios)
    else:
        assert np.isnan(image).all()


@pytest.mark.parametrize("variant", ["gsg", "lcg", "sgg"])
def test_scale_zero_is_bit_equal_to_unguided_in_float(variant):
    given = labels()
    x = jax.random.normal(jax.random.key(5), (*given.shape, 3))
    off, _ = run_chain(smooth_denoiser(), short_schedule(), x, guidance=VARIANTS[variant], scale=0.0, given=given)
    plain, _ = run_chain(smooth_denoiser(), short_schedule(), x, given=given)
    np.testing.assert_array_equal(off, plain)


def test_void_pixels_take_the_unguided_mean():
    """One LCG step from the same x: void pixels end exactly where they end without guidance."""
    schedule, given = respace(linear(1000), 400, 2), labels()
    one = schedule.__class__(jax.tree.map(lambda column: column[1:], schedule.table), jnp.int32(1))
    x = jax.random.normal(jax.random.key(5), (*given.shape, 3))
    plain, _ = run_chain(smooth_denoiser(), one, x, given=given)
    guided, _ = run_chain(smooth_denoiser(), one, x, guidance=local_class, scale=3.0, given=given)
    void = np.asarray(given == VOID)
    np.testing.assert_allclose(guided[void], plain[void], atol=1e-6)
    assert (np.abs(np.asarray(guided - plain)).sum(-1)[~void] > 0).all()


def test_noise_differs_by_image_and_step():
    keys = image_keys(jnp.int32(3), jnp.array([5, 6, 5]))
    a, b = step_noise(keys, 1, (4, 4, 3)), step_noise(keys, 2, (4, 4, 3))
    np.testing.assert_array_equal(a[0], a[2])
    assert float(jnp.abs(a[0] - a[1]).min()) > 0
    assert float(jnp.abs(a - b).min()) > 0
