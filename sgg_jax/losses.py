"""Training objectives: means, for optimisers (guidance uses sums, see guidance.py)."""

import jax
import jax.numpy as jnp

from sgg_jax.schedule import NoiseSchedule, diffuse
from sgg_jax.types import VOID, Array, Denoiser, Image, Labels, Logits


def denoising_loss(denoiser: Denoiser, schedule: NoiseSchedule, image: Image, key: Array, weights: Array) -> Array:
    """E w_k |eps - eps_theta(x_k, k)|^2 per value, k uniform over the schedule. float32 [].

    weights: w by row of the schedule [K] (parameterization.WEIGHTINGS); all 1 for L_simple of DDPM Eq. 14.
    """
    step_key, noise_key = jax.random.split(key)
    row = jax.random.randint(step_key, image.shape[:1], 0, schedule.count)
    noise = jax.random.normal(noise_key, image.shape)
    predicted = denoiser(diffuse(schedule, image, row, noise), schedule.table.step[row])
    error = jnp.mean(jnp.square(predicted - noise), axis=(1, 2, 3))
    return jnp.mean(weights[row] * error)


def segmentation_loss(logits: Logits, labels: Labels, class_weights: Array) -> Array:
    """Class-weighted cross-entropy, averaged over the weight of all known pixels; 0 if there is none. float32 [].

    class_weights: [C], of any scale. VOID pixels never count.
    """
    known = labels != VOID
    target = jnp.where(known, labels, 0)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
    weight = jnp.where(known, class_weights[target], 0.0)
    return -jnp.sum(weight * log_p) / jnp.maximum(jnp.sum(weight), 1e-8)
