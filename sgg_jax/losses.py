"""Training objectives: means, for optimisers (guidance uses sums, see guidance.py)."""

import jax
import jax.numpy as jnp

from sgg_jax.schedule import NoiseSchedule, diffuse
from sgg_jax.types import VOID, Array, Denoiser, Image, Labels, Logits

NOTHING = 1e-8
"""Weight below which there is nothing that a loss could be the mean of: then it is 0."""


def denoising_loss(denoiser: Denoiser, schedule: NoiseSchedule, image: Image, keys: Array, weights: Array) -> Array:
    """E w_k |eps - eps_theta(x_k, k)|^2 per value, k uniform over the schedule. float32 [].

    keys: of each image [B], for its k and eps. weights: w by row of the schedule [K] (parameterization.WEIGHTINGS);
    all 1 for L_simple of DDPM Eq. 14.
    """

    def drawn(key: Array) -> tuple[Array, Array]:
        step_key, noise_key = jax.random.split(key)
        return jax.random.randint(step_key, (), 0, schedule.count), jax.random.normal(noise_key, image.shape[1:])

    row, noise = jax.vmap(drawn)(keys)
    predicted = denoiser(diffuse(schedule, image, row, noise), schedule.table.step[row])
    error = jnp.mean(jnp.square(predicted - noise), axis=(1, 2, 3))
    return jnp.mean(weights[row] * error)


def segmentation_loss(logits: Logits, labels: Labels, class_weights: Array) -> Array:
    """Class-weighted cross-entropy, averaged over the weight of all known pixels; 0 if there is none. float32 [].

    class_weights: [C], of any scale. VOID pixels never count.
    """
    total, weight = segmentation_sums(logits, labels, class_weights)
    return total / jnp.maximum(weight, NOTHING)


def segmentation_sums(logits: Logits, labels: Labels, class_weights: Array) -> tuple[Array, Array]:
    """Numerator and denominator of `segmentation_loss`: twice float32 []."""
    known = labels != VOID
    target = jnp.where(known, labels, 0)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
    weight = jnp.where(known, class_weights[target], 0.0)
    return -jnp.sum(weight * log_p), jnp.sum(weight)
