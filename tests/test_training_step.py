"""What one step of training computes: against a literal AdamW, learning rates, objectives, class weights."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from line_fit import PARAMS, RECIPE, batch, keys_of, literal_rates, noise, squares

from sgg_jax.augmentation import Strength, augment
from sgg_jax.losses import denoising_loss, mean, segmentation_sums
from sgg_jax.optimization import learning_rates
from sgg_jax.schedule import noise_schedule
from sgg_jax.training import class_weights, denoiser_objective, init_state, make_step, segmenter_objective
from sgg_jax.types import VOID, to_float

FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time


# the step


def literal_adamw(recipe, seed, rates):
    """Clipping by global norm, Adam (Kingma & Ba 2015) with b2 = 0.99, decoupled decay, EMA; float64, no optax."""
    params = {name: np.zeros(value.shape) for name, value in PARAMS["line"].items()}
    ema, m, v = ({name: np.zeros(value.shape) for name, value in params.items()} for _ in range(3))
    for t, rate in enumerate(rates):
        x = batch(t)["image"] + np.asarray(noise(keys_of(seed, t)), np.float64)
        error = x @ params["slope"] + params["offset"] - batch(t)["labels"]
        gradient = {"slope": x.T @ error / 8, "offset": error.sum(0) / 8}
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1, recipe.clip / norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.99 * v[name] + 0.01 * g**2
            direction = m[name] / (1 - 0.9 ** (t + 1)) / (np.sqrt(v[name] / (1 - 0.99 ** (t + 1))) + 1e-8)
            params[name] = params[name] - rate * (direction + recipe.weight_decay * params[name])
            decay = min(recipe.ema, (1 + t) / (10 + t))
            ema[name] = decay * ema[name] + (1 - decay) * params[name]
    return params, ema


@pytest.mark.parametrize(
    ("recipe", "groups"), [(replace(RECIPE, weight_decay=0.5), 1), (replace(RECIPE, clip=100.0, ema=0.15), 4)]
)
def test_steps_are_literal_adamw(recipe, groups, one_device):
    step = make_step(squares, recipe.rule, one_device, groups)
    rates = learning_rates(recipe)[:4]
    state = init_state(PARAMS, recipe)
    for t, rate in enumerate(rates):
        operands = {name: batch(t)[name] for name in ("image", "labels")}
        state, _ = step(state, jnp.float32(1.0), operands, 3, rate)
    params, ema = literal_adamw(recipe, 3, rates)
    assert int(state.step) == 4
    for name in params:
        np.testing.assert_allclose(state.params["line"][name], params[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.ema["line"][name], ema[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("steps", "warmup"), [(11, 3), (100, 10), (7, 0), (5, 1), (2, 1)])
def test_learning_rates_closed_form(steps, warmup):
    recipe = replace(RECIPE, steps=steps, warmup=warmup)
    np.testing.assert_allclose(learning_rates(recipe), literal_rates(recipe), rtol=1e-5, atol=1e-7)


def test_warmup_longer_than_the_run_is_cut():
    rates = learning_rates(replace(RECIPE, steps=6, warmup=100))
    np.testing.assert_allclose(rates, 0.2 * np.array([0.2, 0.4, 0.6, 0.8, 1.0, 0.5]), atol=1e-7)


# objectives and weights


def test_class_weights_closed_form():
    histogram = np.array([900, 90, 10, 0])
    np.testing.assert_allclose(class_weights(histogram, 0.0), [1, 1, 1, 1])
    # a class that the histogram missed counts as 1 pixel in 10,000, not as absent
    np.testing.assert_allclose(class_weights(histogram, 1.0), np.array([1 / 0.9, 1 / 0.09, 100, 1e4]) / 3, rtol=1e-6)
    raw = np.array([0.9, 0.09, 0.01]) ** -0.5
    wanted = raw / (raw * [0.9, 0.09, 0.01]).sum()
    np.testing.assert_allclose(
        class_weights(histogram, 0.5), [*wanted, 100 / (raw * [0.9, 0.09, 0.01]).sum()], rtol=1e-6
    )
    assert class_weights(histogram, 0.5).dtype == np.float32
    rare = class_weights(np.array([10**9, 1]), 1.0)  # no class counts as rarer than 1 in 10,000
    assert rare[1] / rare[0] == pytest.approx(1e4, rel=1e-4)
    np.testing.assert_array_equal(class_weights(np.zeros(3, int), 0.5), 1)


def pictures(seed):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (8, 4, 6, 3)).astype(np.uint8),
        "labels": rng.choice([0, 1, 2, VOID], (8, 4, 6)).astype(np.uint8),
    }


def linear_denoiser(params, x, step):
    return params * jnp.flip(x, 2) * jnp.arange(6)[None, None, :, None]  # knows left from right


def test_denoiser_objective_mirrors_whole_images_half_the_time():
    schedule, data, seen = noise_schedule(np.full(10, 0.1)), pictures(0), []

    def denoiser(params, x, step):
        seen.append(np.asarray(x))
        return x

    plain = to_float(jnp.asarray(data["image"]))
    for seed in range(6):
        keys = jax.random.split(jax.random.key(seed), 8)
        value, weight = denoiser_objective(linear_denoiser, False)(0.5, (schedule, jnp.ones(10)), data, keys)
        seconds = jnp.stack([jax.random.split(key)[1] for key in keys])
        wanted = denoising_loss(partial(linear_denoiser, 0.5), schedule, plain, seconds, jnp.ones(10))
        assert float(weight) == 8 and float(value) == pytest.approx(8 * float(wanted), rel=1e-6)
        denoiser_objective(denoiser, False)(0.5, (schedule, jnp.ones(10)), data, keys)
        denoiser_objective(denoiser, True)(0.5, (schedule, jnp.ones(10)), data, keys)
    mirrored = 0
    for straight, other in zip(seen[::2], seen[1::2], strict=True):
        for i in range(8):  # the noise and its level are the same: the difference is that of the images
            difference, turn = other[i] - straight[i], np.asarray(plain[i, :, ::-1] - plain[i])
            share = (difference * turn).sum() / (turn**2).sum()
            np.testing.assert_allclose(difference, share * turn, atol=1e-5)
            assert share == pytest.approx(0, abs=1e-5) or share > 0.05
            mirrored += share > 0.05
    assert 12 <= mirrored <= 36  # of 48 fair coins


def test_segmenter_objective_is_the_loss_of_augmented_images():
    data, weights = pictures(1), jnp.array([1.0, 2.0, 0.5])
    params = jnp.asarray(np.random.default_rng(2).standard_normal((3, 3)), jnp.float32)
    image, labels = data["image"].astype(np.float32) / 127.5 - 1, data["labels"].astype(np.int32)

    def apply(params, image):
        return image @ params

    @partial(jax.jit, compiler_options=FAST)
    def both(keys):
        bare, augmented = (
            segmenter_objective(apply, strength)(params, weights, data, keys) for strength in (None, Strength())
        )
        return bare[0] / bare[1], augmented[0] / augmented[1], augment(keys, image, labels, Strength())

    bare, augmented, (view, labels_of_view) = both(jax.random.split(jax.random.key(0), 8))
    assert float(bare) == pytest.approx(float(mean(*segmentation_sums(image @ params, labels, weights))), rel=1e-5)
    wanted = mean(*segmentation_sums(view @ params, labels_of_view, weights))
    assert float(augmented) == pytest.approx(float(wanted), rel=1e-5)
    assert abs(float(bare - augmented)) > 1e-3
