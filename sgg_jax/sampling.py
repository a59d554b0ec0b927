"""Reverse steps and the chain of them: x_n -> image, with guidance.

A reverse step is `(row, x, eps, gradient, noise, limit) -> x_{k-1}`, all [B,H,W,3] but the row and the limit, where
`gradient` is lambda * grad log p(labels | image) and `limit` bounds |x0-hat|.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp

from sgg_jax.guidance import Guidance, Pairs, Point, noise_ratio
from sgg_jax.schedule import NoiseSchedule, Step, posterior_mean, predict_image
from sgg_jax.types import Array, Denoiser, Labels, NoisyImage, Segmenter

ReverseStep = Callable[[Step, NoisyImage, Array, Array, Array, Array], NoisyImage]


def ancestral(row: Step, x: NoisyImage, eps: Array, gradient: Array, noise: Array, limit: Array) -> NoisyImage:
    """The paper's step: x_{k-1} ~ N(mu + Sigma * gradient, Sigma), mu and Sigma of DDPM Eq. 7 at x0-hat."""
    image = jnp.clip(predict_image(row, x, eps), -limit, limit)
    mean = posterior_mean(row, image, x) + row.variance * gradient
    return mean + jnp.sqrt(row.variance) * noise


@cache
def ddim(eta: float) -> ReverseStep:
    """DDIM (Song et al. 2021, Eq. 12 and 16); eta = 0 is deterministic, eta = 1 without guidance is `ancestral`.

    Guidance enters through the noise estimate (Dhariwal & Nichol 2021, Alg. 2). At eta = 1 it moves the mean by
    beta / sqrt(1 - beta) * gradient, which is the ancestral Sigma * gradient up to the choice of Sigma.
    """

    def step(row: Step, x: NoisyImage, eps: Array, gradient: Array, noise: Array, limit: Array) -> NoisyImage:
        guided = eps - row.noise_scale * gradient
        image = jnp.clip(predict_image(row, x, guided), -limit, limit)
        implied = (x - row.image_scale * image) / row.noise_scale
        variance = eta**2 * row.variance
        direction = jnp.sqrt(jnp.maximum(row.noise_scale_prev**2 - variance, 0.0))
        return row.image_scale_prev * image + direction * implied + jnp.sqrt(variance) * noise

    return step


def step_noise(keys: Array, number: Array | int, shape: tuple[int, ...]) -> Array:
    """Standard normal noise of one step, image by image: fold_in(image's key, number). [B] keys -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), shape))(keys)


def chain(
    denoiser: Denoiser,
    segmenter: Segmenter,
    guidance: Guidance,
    reverse: ReverseStep,
    schedule: NoiseSchedule,
    x: NoisyImage,
    labels: Labels,
    pairs: Pairs,
    keys: Array,
    scale: Array,
    fill: Array,
    limit: Array,
) -> tuple[NoisyImage, Array]:
    """Runs the schedule's `count` reverse steps from x_n. Returns the image and the guidance-to-noise ratios.

    x [B,H,W,3], labels [B,H,W], keys [B]; scale (lambda), fill and limit float32 [].
    Ratios: [B,K] float32, rms(lambda * Sigma * gradient) / sigma by row of the schedule; 0 in unused rows.
    """

    def body(done: Array, carry: tuple[NoisyImage, Array]) -> tuple[NoisyImage, Array]:
        x, ratios = carry
        row = schedule.row(schedule.count - 1 - done)
        eps = denoiser(x, jnp.broadcast_to(row.step, x.shape[:1]))
        point = Point(x, x, eps, row, labels, pairs, fill, denoiser, segmenter)
        gradient = scale * guidance(point)
        noise = step_noise(keys, row.step + 1, x.shape[1:])  # number 0 is the forward draw
        ratios = ratios.at[:, row.index].set(noise_ratio(row, gradient))
        return reverse(row, x, eps, gradient, noise, limit), ratios

    ratios = jnp.zeros((x.shape[0], len(schedule)), jnp.float32)
    return jax.lax.fori_loop(0, schedule.count, body, (x, ratios))
