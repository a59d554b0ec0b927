"""Optimisers against literal ones in float64 and PyTorch's; rates of parts of a network; schedules in closed form."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from line_fit import RECIPE

from sgg_jax.errors import InputError
from sgg_jax.optimization import learning_rates, optimizer

PARAMS = {
    "encoder": {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32), "bias": np.array([0.5, -1.0], np.float32)},
    "head": {"kernel": np.array([[2.0], [-1.0]], np.float32), "bias": np.array([4.0], np.float32)},
}
SGD = replace(RECIPE, optimizer="sgd", weight_decay=0.1, clip=0.0)


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), PARAMS)


def trained(recipe, steps=4, rate=0.1):
    transform = optimizer(recipe.rule)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = transform.init(params)
    for step in range(steps):
        updates, state = transform.update(jax.tree.map(jnp.asarray, gradients(step)), state, params)
        params = jax.tree.map(lambda p, u: p + rate * u, params, updates)
    return params


@pytest.mark.parametrize("decay_all", [True, False])
def test_sgd_is_literal_momentum_with_decay_in_the_gradient(decay_all):
    found = trained(replace(SGD, decay_all=decay_all))
    for part, weights in PARAMS.items():
        for name, start in weights.items():
            weight, velocity = start.astype(np.float64), 0.0
            decay = 0.1 if decay_all or name == "kernel" else 0.0
            for step in range(4):
                velocity = 0.9 * velocity + gradients(step)[part][name] + decay * weight
                weight = weight - 0.1 * velocity
            np.testing.assert_allclose(found[part][name], weight, rtol=1e-5)


def orthogonal(matrix):
    """Newton and Schulz' iteration as Jordan et al. give it: singular values come near 1."""
    matrix = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * square + 2.0315 * square @ square) @ matrix
    return matrix


def test_muon_is_literal_orthogonal_momentum_for_kernels():
    """Of a convolution, too, whose inputs are one side of the matrix."""
    rng = np.random.default_rng(0)
    kernel, slopes = rng.standard_normal((3, 3, 2, 4)), rng.standard_normal((4, 3, 3, 2, 4))
    transform = optimizer(replace(SGD, optimizer="muon").rule)
    params = {"conv": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(4)}}
    state, literal, momentum = transform.init(params), kernel.reshape(18, 4), 0.0
    for step, slope in enumerate(slopes, 1):
        gradient = {"conv": {"kernel": jnp.asarray(slope, jnp.float32), "bias": jnp.ones(4)}}
        updates, state = transform.update(gradient, state, params)
        params = jax.tree.map(lambda p, u: p + 0.1 * u, params, updates)
        matrix = slope.reshape(18, 4)
        momentum = 0.95 * momentum + 0.05 * matrix
        ahead = 0.95 * momentum / (1 - 0.95 ** (step + 1)) + 0.05 * matrix / (1 - 0.95**step)  # Nesterov's, unbiased
        literal = literal - 0.1 * (0.2 * np.sqrt(18) * orthogonal(ahead) + 0.1 * literal)
    np.testing.assert_allclose(params["conv"]["kernel"].reshape(18, 4), literal, rtol=2e-4, atol=1e-5)
    assert params["conv"]["bias"].max() < -0.1  # AdamW's


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_are_those_of_pytorch_with_groups_of_parameters(name):
    torch = pytest.importorskip("torch", reason="PyTorch has wheels for Python 3.11 here only")
    recipe = replace(SGD, optimizer=name, b2=0.999, decay_all=False, rates=(("head.", 10.0), ("enc", 0.5)))
    weights = {(part, n): torch.tensor(v, requires_grad=True) for part, row in PARAMS.items() for n, v in row.items()}
    groups = [
        {
            "params": [weight],
            "lr": 0.1 * (10.0 if part == "head" else 0.5),
            "weight_decay": 0.1 if n == "kernel" else 0.0,
        }
        for (part, n), weight in weights.items()
    ]
    other = torch.optim.SGD(groups, momentum=0.9) if name == "sgd" else torch.optim.AdamW(groups, betas=(0.9, 0.999))
    for step in range(4):
        for (part, n), weight in weights.items():
            weight.grad = torch.tensor(gradients(step)[part][n])
        other.step()
    found = trained(recipe)
    for (part, n), weight in weights.items():
        np.testing.assert_allclose(found[part][n], weight.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_of_rates_the_first_that_fits_counts_and_others_are_one():
    plain = trained(SGD, steps=1)
    found = trained(replace(SGD, rates=(("encoder.bias", 0.0), ("encoder", 3.0))), steps=1)
    np.testing.assert_array_equal(found["encoder"]["bias"], PARAMS["encoder"]["bias"])
    step = np.asarray(plain["encoder"]["kernel"]) - PARAMS["encoder"]["kernel"]
    np.testing.assert_allclose(found["encoder"]["kernel"], PARAMS["encoder"]["kernel"] + 3 * step, rtol=1e-5)
    np.testing.assert_array_equal(found["head"]["kernel"], plain["head"]["kernel"])


def test_without_a_clip_large_gradients_stay_large():
    few, clipped = trained(SGD, steps=1), trained(replace(SGD, clip=1e-3), steps=1)
    moved = [np.abs(run["head"]["kernel"] - PARAMS["head"]["kernel"]).max() for run in (few, clipped)]
    assert moved[0] > 0.05 and moved[1] < 0.025  # the clipped one decays its weights alone


def test_poly_rates_in_closed_form():
    recipe = replace(RECIPE, schedule="poly", power=0.9, steps=10, warmup=4, learning_rate=2.0)
    wanted = [2.0 * (1 - t / 10) ** 0.9 * min(1, (t + 1) / 4) for t in range(10)]
    np.testing.assert_allclose(learning_rates(recipe), wanted, rtol=1e-6)
    none = learning_rates(replace(recipe, warmup=0))
    np.testing.assert_allclose(none[:2], [2.0, 2.0 * 0.9**0.9], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"optimizer": "adam"}, "training.optimizer is 'adam': choose one of adamw, sgd, muon"),
        ({"schedule": "step"}, "training.schedule is 'step'"),
        ({"rates": (("head", -1.0),)}, "training.rates has"),
        ({"rates": (("head",),)}, "training.rates has"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        replace(RECIPE, **change)
