"""What the network puts out: v and eps say the same, and the weights of the levels are those of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgg_jax.losses import denoising_loss
from sgg_jax.parameterization import PREDICTIONS, WEIGHTINGS, FromVelocity
from sgg_jax.schedule import linear, noise_schedule

ALPHA_BARS = np.cumprod(1 - linear(1000))
STEPS = np.array([0, 10, 300, 700, 999])
IMAGE, NOISE = (np.random.default_rng(seed).standard_normal((5, 4, 6, 3)) for seed in (0, 1))
A, S = (np.sqrt(share)[STEPS][:, None, None, None] for share in (ALPHA_BARS, 1 - ALPHA_BARS))


def test_the_true_velocity_gives_the_true_noise():
    velocity = A * NOISE - S * IMAGE  # Salimans & Ho 2022, Eq. in Appendix D
    denoiser = FromVelocity(lambda params, x, step: params * jnp.asarray(velocity, jnp.float32), "linear", 1000)
    x = jnp.asarray(A * IMAGE + S * NOISE, jnp.float32)
    np.testing.assert_allclose(denoiser(1.0, x, jnp.asarray(STEPS)), NOISE, atol=2e-6)


def test_putting_out_nothing_takes_all_of_a_noisy_image_for_noise():
    x = jnp.asarray(IMAGE, jnp.float32)
    eps = PREDICTIONS["v"](lambda params, x, step: jnp.zeros_like(x), "linear", 1000)(None, x, jnp.asarray(STEPS))
    np.testing.assert_allclose(eps, S * IMAGE, atol=1e-6)
    same = PREDICTIONS["eps"](lambda params, x, step: 2 * x, "linear", 1000)(None, x, jnp.asarray(STEPS))
    np.testing.assert_array_equal(same, 2 * x)


def test_equal_settings_give_equal_functions():
    def apply(params, x, step):
        return x

    assert FromVelocity(apply, "linear", 10) == FromVelocity(apply, "linear", 10)
    assert len({FromVelocity(apply, "linear", 10), FromVelocity(apply, "cosine", 10)}) == 2


def test_weights_make_the_error_of_the_noise_that_of_velocity_or_image():
    """|eps error|^2 weighted is |v error|^2, and min(SNR, 5) |image error|^2, of the same wrong network."""
    wrong = 0.1 * np.random.default_rng(2).standard_normal(IMAGE.shape)
    v_error = wrong / A  # eps = a v + s x
    image_error = wrong * S / A  # image = (x - s eps) / a
    snr = (A / S) ** 2
    for name, wanted in (
        ("even", wrong**2),
        ("velocity", v_error**2),
        ("min_snr", np.minimum(snr, 5) * image_error**2),
    ):
        weights = WEIGHTINGS[name](ALPHA_BARS)[STEPS][:, None, None, None]
        np.testing.assert_allclose(weights * wrong**2, wanted, rtol=1e-9)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_loss_weighs_each_image_by_its_level(name):
    """Against a literal loop over the images that the loss drew."""
    schedule, weights = noise_schedule(linear(1000)), WEIGHTINGS[name](ALPHA_BARS)
    seen = []

    def denoiser(x, step):
        seen.append((x, step))
        return jnp.zeros_like(x)

    image, key = jnp.asarray(IMAGE, jnp.float32), jax.random.key(5)
    found = denoising_loss(
        denoiser, schedule, image, jax.random.split(key, len(image)), jnp.asarray(weights, jnp.float32)
    )
    x, step = (np.asarray(part, np.float64) for part in seen[0])
    total = 0.0
    for one, k, clean in zip(x, step.astype(int), IMAGE, strict=True):
        noise = (one - np.sqrt(ALPHA_BARS[k]) * clean) / np.sqrt(1 - ALPHA_BARS[k])
        total += weights[k] * np.mean(noise**2)
    assert float(found) == pytest.approx(total / len(x), rel=2e-3)
