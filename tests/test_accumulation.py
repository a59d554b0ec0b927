"""Gradients in groups: what they are the mean of, and the order in which they are added. (Bits: test_same_bits.py.)"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from line_fit import RECIPE
from same_bits import mesh_of, training_networks
from test_training import KilledError, assert_same, train, until

from sgg_jax import devices
from sgg_jax.accumulation import groups_of, mean_of_groups
from sgg_jax.errors import InputError
from sgg_jax.training import init_state, make_step
from sgg_jax.types import VOID


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


def test_groups_are_a_way_to_add_and_nothing_else(four_devices):
    """The step is that of the whole batch at once but for rounding, though groups differ in their classes' weights and
    one of them shows nothing that is known; with split weights, and with random views."""
    images, kinds = training_networks()
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
