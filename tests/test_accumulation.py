"""Gradients in groups: what they are the mean of, and the same bits on any number of devices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from line_fit import RECIPE
from test_training import KilledError, assert_same, train, until

from sgg_jax import devices
from sgg_jax.accumulation import groups_of, mean_of_groups
from sgg_jax.augmentation import Strength
from sgg_jax.errors import InputError
from sgg_jax.models import EncoderDecoder, UNet, build
from sgg_jax.schedule import linear, noise_schedule
from sgg_jax.training import denoiser_objective, init_state, make_step, segmenter_objective


def mesh_of(count):
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def found_in_groups(function, groups, mesh, rows, key):
    operands = devices.replicate((jnp.float32(1.5), jnp.float32(0.5)), mesh)
    return mean_of_groups(function, groups, mesh)(*operands, devices.shard(rows, mesh), key)


@pytest.mark.parametrize(("groups", "count"), [(2, 1), (8, 1), (4, 4), (8, 2), (8, 4)])
def test_the_mean_is_that_of_a_literal_tree_of_sums(groups, count):
    rows, key = {"a": np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)}, jax.random.key(3)

    def function(params, constants, group, key):
        return {"found": params * constants * group["a"].sum(0) + jax.random.normal(key, (3,))}

    found = found_in_groups(function, groups, mesh_of(count), rows, key)
    noise = [np.asarray(jax.random.normal(jax.random.fold_in(key, g), (3,))) for g in range(groups)]
    sums = [1.5 * 0.5 * part.sum(0) + n for part, n in zip(rows["a"].reshape(groups, -1, 3), noise, strict=True)]
    while len(sums) > 1:
        sums = [sums[i] + sums[i + 1] for i in range(0, len(sums), 2)]
    np.testing.assert_allclose(found["found"], sums[0] / groups, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_groups_are_added_in_that_order_and_no_other(count):
    """Numbers whose sum depends on the order: 1 is lost beside 1e8."""
    values = np.float32([1e8, 1, -1e8, 1, 1, 1e8, 1, -1e8])
    found = found_in_groups(lambda p, c, group, key: group.sum(), 8, mesh_of(count), values, jax.random.key(0))
    assert float(found) == ((1e8 + -1e8) + (1e8 + -1e8)) / 8 != values.astype(float).sum() / 8


def networks():
    size, draw = (16, 8, 16), np.random.default_rng(0).integers
    images = {"image": draw(0, 256, (*size, 3)).astype(np.uint8), "labels": draw(0, 3, size).astype(np.uint8)}
    unet, paint = build(UNet, 0, widths=(32,), blocks=1, attention=(), patch=2)
    segmenter, see = build(EncoderDecoder, 0, classes=3, widths=(8, 16), blocks=1, patch=2)
    strength = Strength(recolor=0.5, texture=0.3, diffuse=0.5)
    return images, {
        "denoiser": (denoiser_objective(unet, True), paint, (noise_schedule(linear(1000)), jnp.ones(1000))),
        "segmenter": (segmenter_objective(segmenter, strength), see, jnp.ones(3)),
    }


def trained(kind, count, recipe, steps=3):
    """State, losses and norms after some steps on that many devices."""
    images, kinds = networks()
    objective, params, constants = kinds[kind]
    mesh = mesh_of(count)
    step = make_step(objective, recipe.rule, mesh, groups_of(recipe, mesh))
    state, constants = devices.replicate((init_state(params, recipe), constants), mesh)
    told = []
    for _ in range(steps):
        state, metrics = step(state, constants, devices.shard(images, mesh), 7, np.float32(0.01))
        told.append(metrics)
    return jax.tree.map(np.asarray, (state, told))


@pytest.mark.parametrize(("kind", "optimizer"), [("denoiser", "muon"), ("segmenter", "adamw")])
def test_networks_are_the_same_bits_on_any_number_of_devices(kind, optimizer):
    """Weights, averages, moments, losses and norms after three steps of all that a network's training has."""
    recipe = replace(RECIPE, batch_size=16, groups=4, optimizer=optimizer)
    one, four = (trained(kind, count, recipe) for count in (1, 4))  # two: below
    jax.tree.map(np.testing.assert_array_equal, one, four)
    assert float(one[1][0]["grad_norm"]) > 1e-3


def test_groups_give_the_gradient_of_the_whole_batch_where_nothing_is_random(four_devices):
    images, _ = networks()
    apply, params = build(EncoderDecoder, 0, classes=3, widths=(8, 16), blocks=1, patch=2)
    recipe, found = replace(RECIPE, optimizer="sgd"), []
    for groups in (1, 4):
        step = make_step(segmenter_objective(apply, None), recipe.rule, four_devices, groups)
        state, constants = devices.replicate((init_state(params, recipe), jnp.ones(3)), four_devices)
        found.append(step(state, constants, devices.shard(images, four_devices), 0, np.float32(0.01)))
    (whole, on_whole), (grouped, on_grouped) = found
    assert float(on_grouped["loss"]) == pytest.approx(float(on_whole["loss"]), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6), grouped.params, whole.params)


def test_training_goes_on_with_other_devices_to_the_same_bytes(tmp_path, one_device, four_devices):
    recipe = replace(RECIPE, groups=4)
    whole = train(tmp_path / "whole", mesh_of(2), recipe=recipe)
    with pytest.raises(KilledError):
        train(tmp_path / "run", four_devices, until(5), recipe=recipe)
    with pytest.raises(KilledError):
        train(tmp_path / "run", one_device, until(9), recipe=recipe)
    assert_same(train(tmp_path / "run", four_devices, recipe=recipe), whole)


@pytest.mark.parametrize(
    ("groups", "batch_size", "count", "wanted"),
    [
        *[(4, 16, count, 4) for count in (1, 2, 4)],
        (2, 16, 4, 4),  # more devices than groups
        (8, 12, 2, 4),  # as many as divide the batch
        (4, 2, 1, 2),
        (4, 15, 3, 1),  # three devices have no binary tree
        (1, 16, 4, 1),
    ],
)
def test_how_many_groups_there_are(groups, batch_size, count, wanted):
    assert groups_of(replace(RECIPE, groups=groups, batch_size=batch_size), mesh_of(count)) == wanted


def test_weights_that_are_split_are_trained_at_once(four_devices):
    assert groups_of(replace(RECIPE, groups=4), devices.split_mesh(four_devices, 2)) == 1


@pytest.mark.parametrize("groups", [0, -4, 3, 12])
def test_groups_that_are_no_power_of_two_are_refused(groups):
    with pytest.raises(InputError, match=rf"training\.groups is {groups}: it must be a power of two"):
        replace(RECIPE, groups=groups)
