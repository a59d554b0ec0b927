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
from sgg_jax.types import VOID


def mesh_of(count):
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def found_in_groups(function, groups, mesh, *rows):
    operands = devices.replicate((jnp.float32(1.5), jnp.float32(0.5)), mesh)
    return mean_of_groups(function, groups, mesh)(*operands, *devices.shard(rows, mesh))


@pytest.mark.parametrize(("groups", "count"), [(2, 1), (8, 1), (4, 4), (8, 2), (8, 4)])
def test_the_sums_of_all_groups_by_their_weights(groups, count):
    rng = np.random.default_rng(0)
    rows, keys = rng.standard_normal((16, 3)).astype(np.float32), jax.random.split(jax.random.key(3), 16)
    weights = rng.uniform(0, 1, 16).astype(np.float32)

    def function(params, constants, group, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return {"found": (params * constants * group["a"] + noise).sum(0)}, group["b"].sum()

    found = found_in_groups(function, groups, mesh_of(count), {"a": rows, "b": weights}, keys)
    noise = [np.asarray(jax.random.normal(key, (3,))) for key in keys]
    np.testing.assert_allclose(found["found"], (1.5 * 0.5 * rows + noise).sum(0) / weights.sum(), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_groups_are_added_in_that_order_and_no_other(count):
    """Numbers whose sum depends on the order: any other than halves to halves gives 16, 18, 23 or 24."""
    values = np.float32([4, 1, 3, 5, 5, -1e8, 1e8, 2])
    found = found_in_groups(lambda p, c, group, _: (group.sum(), jnp.float32(1)), 8, mesh_of(count), values, values)
    assert float(found) == 21 / 8


def networks():
    size, draw = (16, 8, 16), np.random.default_rng(0).integers
    images = {"image": draw(0, 256, (*size, 3)).astype(np.uint8), "labels": draw(0, 3, size).astype(np.uint8)}
    unet, paint = build(UNet, 0, widths=(8, 32), blocks=1, attention=(), patch=2)
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
    one, four = (trained(kind, count, recipe) for count in (1, 4))  # two hosts: test_hosts.py
    jax.tree.map(np.testing.assert_array_equal, one, four)
    assert float(one[1][0]["grad_norm"]) > 1e-3


def test_groups_are_a_way_to_add_and_nothing_else(four_devices):
    """The step is that of the whole batch at once but for rounding, though groups differ in their classes' weights and
    one of them shows nothing that is known; with split weights, and with random views."""
    images, kinds = networks()
    images["labels"][4:8] = VOID
    images["labels"][0] = 2
    objective, params, _ = kinds["segmenter"]
    recipe, found = replace(RECIPE, optimizer="sgd"), []
    for mesh, groups in ((four_devices, 1), (four_devices, 4), (devices.split_mesh(four_devices, 2), 1)):
        step = make_step(objective, recipe.rule, mesh, groups)
        state = devices.spread(init_state(params, recipe), mesh)
        weights = devices.replicate(jnp.array([1.0, 0.2, 3.0]), mesh)
        found.append(step(state, weights, devices.shard(images, mesh), 0, np.float32(0.01)))
    (whole, on_whole), *others = found
    for other, on_other in others:
        assert float(on_other["loss"]) == pytest.approx(float(on_whole["loss"]), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6), other.params, whole.params)


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
