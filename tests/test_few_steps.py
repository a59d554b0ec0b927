"""Few steps: the order of DPM-Solver++(2M) and of its guidance against the flow's exact solution, and what is shared by
several steps against literal loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.integrate import solve_ivp
from test_sampling import gaussian_denoiser, run_chain
from toys import labels, mixing_segmenter, pairs, short_schedule, smooth_denoiser

from sgg_jax.guidance import Point, global_scene, semantic_gradients, unguided
from sgg_jax.models import UNet, functional
from sgg_jax.models.adm import ADM
from sgg_jax.parameterization import FromNoise, FromVelocity
from sgg_jax.sampling import ddim, dpm_solver, step_noise
from sgg_jax.schedule import linear, noise_schedule, respace
from sgg_jax.types import image_keys

MEAN, VARIANCE, WANTED = 0.3, 0.04, -0.5
BETAS = linear(1000)


def towards(point: Point) -> jax.Array:
    """The gradient of a log-likelihood that is highest where x_k is WANTED."""
    return -(point.seen - WANTED)


def flow(x: np.ndarray, depth: int, scale: float) -> np.ndarray:
    """The probability flow from x_n to the image, to nine digits: d(x / a) = (eps - s scale gradient) d(s / a)."""
    alpha_bar = np.cumprod(1 - BETAS)[depth - 1]

    def slope(ratio, scaled):
        a = 1 / np.sqrt(1 + ratio**2)
        x, s = a * scaled, a * ratio
        eps = s * (x - a * MEAN) / (a**2 * VARIANCE + s**2)
        return eps + s * scale * (x - WANTED)

    far = np.sqrt((1 - alpha_bar) / alpha_bar)
    return solve_ivp(slope, (far, 0), x / np.sqrt(alpha_bar), rtol=1e-9, atol=1e-9).y[:, -1]


def errors(reverse, scale: float) -> list[float]:
    """How far chains of 8, 16, 32 and 64 steps end from the flow."""
    x = jax.random.normal(jax.random.key(4), (1, 2, 3, 3))
    exact = flow(np.asarray(x, np.float64).ravel(), 600, scale)
    guidance = towards if scale else unguided
    found = []
    for steps in (8, 16, 32, 64):
        schedule = respace(BETAS, 600, steps, "trailing")
        denoiser = gaussian_denoiser(noise_schedule(BETAS), MEAN, VARIANCE)
        image, _ = run_chain(denoiser, schedule, x, reverse=reverse, guidance=guidance, scale=scale)
        found.append(float(np.abs(np.asarray(image).ravel() - exact).max()))
    return found


def test_without_guidance_twice_the_steps_leave_a_quarter_of_the_error():
    first, second = errors(ddim(0.0), 0.0), errors(dpm_solver, 0.0)
    orders = {name: np.log2(np.array(e[:-1]) / e[1:]) for name, e in (("ddim", first), ("dpm", second))}
    assert orders["ddim"][-1] == pytest.approx(1, abs=0.25), first
    assert orders["dpm"][-2:].min() > 1.6, second
    assert second[-1] < first[-1] / 5


def test_with_guidance_the_error_falls_with_the_steps():
    for reverse in (ddim(0.0), dpm_solver):
        found = errors(reverse, 0.2)
        assert found[0] > found[1] > found[2] > found[3], found
        assert found[0] / found[3] > 5, found  # first order: eight times fewer


def test_dpm_solver_is_algorithm_2():
    """Lu et al. 2022 (arXiv 2211.01095), written with their symbols in float64."""
    schedule = respace(BETAS, 500, 5)
    steps = np.asarray(schedule.table.step)
    alpha_bars = np.append(np.cumprod(1 - BETAS)[steps[::-1]], 1.0)  # t_0 > t_1 > ... > the clean image
    alpha, sigma = np.sqrt(alpha_bars), np.sqrt(1 - alpha_bars)
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(sigma)
    denoiser = gaussian_denoiser(noise_schedule(BETAS), MEAN, VARIANCE)
    start = jax.random.normal(jax.random.key(9), (1, 2, 2, 3))
    x, old = np.asarray(start, np.float64), None
    for i in range(1, 6):
        gain = alpha[i - 1] * VARIANCE / (alpha[i - 1] ** 2 * VARIANCE + sigma[i - 1] ** 2)
        predicted = MEAN + gain * (x - alpha[i - 1] * MEAN)
        h = lam[i] - lam[i - 1]
        d = predicted
        if old is not None and i < 5:
            r = (lam[i - 1] - lam[i - 2]) / h
            d = (1 + 1 / (2 * r)) * predicted - 1 / (2 * r) * old
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * d
        old = predicted
    image, _ = run_chain(denoiser, schedule, start, reverse=dpm_solver)
    np.testing.assert_allclose(image, x, atol=2e-5)


@pytest.mark.parametrize("every", [2, 4])
def test_a_gradient_is_taken_at_the_first_step_of_its_turn(every):
    """Six steps, rows 5, 4, ... 0; turns are counted down to 0, the last, which is GSG's."""
    schedule, given = short_schedule(), labels()
    x = jax.random.normal(jax.random.key(5), (*given.shape, 3))
    sgg = semantic_gradients(2)
    image, _ = run_chain(
        smooth_denoiser(), schedule, x, ddim(0.0), sgg, 2.0, given, limit=jnp.float32(1), gradient_every=every
    )
    gradient = None
    for i in reversed(range(6)):
        row = schedule.row(i)
        eps = smooth_denoiser()(x, row.step[None])
        if (5 - i) % every == 0:
            turn = jnp.int32({2: {5: 2, 3: 1, 1: 0}, 4: {5: 1, 1: 0}}[every][i])
            networks = smooth_denoiser(), mixing_segmenter()
            where = Point(x, x, eps, row, row.variance, turn, given, pairs(given), jnp.float32(0), *networks)
            gradient = 2.0 * sgg(where)
        x, _ = ddim(0.0)(row, x, eps, gradient, 0 * x, jnp.float32(1), 0 * x)
    np.testing.assert_allclose(image, x, atol=1e-4)


def small(kind: str):
    rng = np.random.default_rng(3)
    if kind == "unet":
        module = UNet((16, 32), 1, (1,), 2, rng=rng)
    else:
        module = ADM(channels=32, widths=(32, 64), blocks=1, attention=(2,), head_channels=32, rng=rng)
    apply, params = functional(module)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * rng.standard_normal(leaf.shape).astype(np.float32), params)
    return apply, params


@pytest.mark.parametrize("kind", ["unet", "adm"])
def test_own_deep_features_change_nothing_and_others_do(kind):
    apply, params = small(kind)
    x, other = (jax.random.normal(jax.random.key(i), (2, 16, 24, 3)) for i in range(2))
    for step, form in ((jnp.array([400]), FromNoise), (jnp.array([400, 400]), FromVelocity)):
        denoiser = form(apply, "linear", 1000)
        whole, with_deep, on_deep = map(jax.jit, (denoiser.__call__, denoiser.with_deep, denoiser.on_deep))
        eps, deep = with_deep(params, x, step)
        np.testing.assert_allclose(eps, whole(params, x, step), atol=1e-5)
        np.testing.assert_allclose(on_deep(params, x, step, deep), eps, atol=1e-5)
        foreign = with_deep(params, other, step)[1]
        assert float(jnp.abs(on_deep(params, x, step, foreign) - eps).max()) > 1e-2


def test_deep_features_serve_so_many_steps():
    apply, params = small("unet")
    denoiser = Partial(FromVelocity(apply, "linear", 1000), params)
    schedule, given = respace(BETAS, 400, 5), labels(height=16, width=24)
    start = x = jax.random.normal(jax.random.key(5), (*given.shape, 3))
    image, _ = run_chain(denoiser, schedule, x, guidance=global_scene, scale=1.0, given=given, deep_every=3)
    keys = image_keys(jnp.int32(0), jnp.arange(3))
    with_deep, on_deep = jax.jit(denoiser.func.with_deep), jax.jit(denoiser.func.on_deep)
    for done in range(5):
        row = schedule.row(4 - done)
        if done % 3 == 0:
            deep = with_deep(params, x, row.step[None])[1]
        eps = on_deep(params, x, row.step[None], deep)
        where = Point(
            x, x, eps, row, row.variance, row.index, given, pairs(given), jnp.float32(0), denoiser, mixing_segmenter()
        )  # fmt: skip
        noise = step_noise(keys, row.step + 1, x.shape[1:])
        clean = (x - row.noise_scale * eps) / row.image_scale
        mean = row.mean_image * clean + row.mean_x * x + row.variance * global_scene(where)
        x = mean + jnp.sqrt(row.variance) * noise
    np.testing.assert_allclose(image, x, atol=2e-3)
    plain, _ = run_chain(denoiser, schedule, start, guidance=global_scene, scale=1.0, given=given)
    assert float(jnp.abs(plain - image).max()) > 1e-2
