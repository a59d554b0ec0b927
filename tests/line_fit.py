"""The smallest network there is, a line through points, with its recipe: for the tests of training."""

import jax
import jax.numpy as jnp
import numpy as np

from sgg_jax.optimization import Recipe

RECIPE = Recipe(
    steps=11, batch_size=8, learning_rate=0.2, warmup=3, weight_decay=0.01, clip=1.0, ema=0.9, save_every=4,
    optimizer="adamw", schedule="cosine", power=0.9, b2=0.99, decay_all=True, rates=(), weight_shards=1, groups=4,
)  # fmt: skip
TRUTH = np.array([[1.0, -2.0], [0.5, 0.0], [-1.0, 3.0]], np.float32)
PARAMS = {"line": {"slope": jnp.zeros((3, 2)), "offset": jnp.zeros(2)}}


def batch(step):
    """x as the image, y = x @ TRUTH + 1 as the labels."""
    x = np.random.default_rng(step).standard_normal((8, 3)).astype(np.float32)
    return {"image": x, "labels": x @ TRUTH + 1, "image_id": np.arange(8)}


def noise(keys):
    return 0.01 * jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)


def keys_of(seed, step):
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jnp.stack([jax.random.fold_in(key, i) for i in range(8)])


def squares(params, scale, batch, keys):
    """Least squares on inputs with a little noise, so that a wrong key shows."""
    x = batch["image"] + noise(keys)
    found = x @ params["line"]["slope"] + params["line"]["offset"]
    return scale * jnp.sum(jnp.square(found - batch["labels"])), jnp.float32(batch["labels"].size)


def literal_rates(recipe):
    rates = []
    for t in range(1, recipe.steps + 1):
        if t < recipe.warmup:
            rates.append(recipe.learning_rate * t / recipe.warmup)
        else:
            done = (t - recipe.warmup) / (recipe.steps + 1 - recipe.warmup)
            rates.append(recipe.learning_rate * (1 + np.cos(np.pi * done)) / 2)
    return rates
