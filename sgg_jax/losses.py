"""Training objectives: means, or sums that have one (guidance uses sums, see guidance.py)."""

import jax
import jax.numpy as jnp

from sgg_jax.models.operations import computed_once
from sgg_jax.schedule import NoiseSchedule, diffuse
from sgg_jax.types import VOID, Array, Denoiser, Image, Labels, Logits


def mean(total: Array, weight: Array) -> Array:
    """A sum by its weight, 0 where the weight is 0. Multiplied, not divided: see docs/hosts.md."""
    return total * (1 / jnp.maximum(weight, 1e-8))


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


def log_probability(logits: Logits, labels: Labels) -> Array:
    """log p of each pixel's label; 0 where it is VOID. [B,H,W,C], [B,H,W] -> [B,H,W] float32.

    The label is found by comparing: the gradient of picking it would be a scatter, which XLA:CPU does pixel by pixel.
    """
    logits = computed_once(logits)
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    own = labels[..., None] == jnp.arange(logits.shape[-1])
    picked = jnp.sum(jnp.where(own, shifted, 0.0), axis=-1)
    return jnp.where(labels != VOID, picked - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)), 0.0)


def segmentation_sums(logits: Logits, labels: Labels, class_weights: Array) -> tuple[Array, Array]:
    """Class-weighted cross-entropy, summed over all known pixels, and the weight of these pixels: their `mean` is the
    loss. Twice float32 [].

    class_weights: [C], of any scale. VOID pixels never count.
    """
    known = labels != VOID
    weight = jnp.where(known, class_weights[jnp.where(known, labels, 0)], 0.0)
    return -jnp.sum(weight * log_probability(logits, labels)), jnp.sum(weight)
