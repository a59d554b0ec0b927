"""Whole networks trained, and images translated, on one device and on several: the same bits?

    JAX_NUM_CPU_DEVICES=4 python tests/same_bits.py segmenter     # or another of CASES

A process of its own (test_same_bits.py), since the answer depends on how the compiler emits code, and the tests have it
emit as fast as it can. Ends with an AssertionError where bits differ.
"""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.tree_util import Partial
from line_fit import RECIPE
from toys import CLASSES, labels, short_schedule

import sgg_jax  # noqa: F401  (compiler defaults, before jax)
from sgg_jax import devices
from sgg_jax.accumulation import groups_of
from sgg_jax.augmentation import Strength
from sgg_jax.guidance import VARIANTS, at_denoised, clipped, through_denoiser
from sgg_jax.models import EncoderDecoder, UNet, build
from sgg_jax.parameterization import FromVelocity
from sgg_jax.sampling import Knobs, Method, ancestral, dpm_solver
from sgg_jax.schedule import linear, noise_schedule
from sgg_jax.training import denoiser_objective, init_state, make_step, segmenter_objective
from sgg_jax.translation import translate


def mesh_of(count):
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def training_networks():
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
    images, kinds = training_networks()
    objective, params, constants = kinds[kind]
    mesh = mesh_of(count)
    step = make_step(objective, recipe.rule, mesh, groups_of(recipe, mesh))
    state, constants = devices.replicate((init_state(params, recipe), constants), mesh)
    told = []
    for _ in range(steps):
        state, metrics = step(state, constants, devices.shard(images, mesh), 7, np.float32(0.01))
        told.append(metrics)
    return jax.tree.map(np.asarray, (state, told))


def training(kind, optimizer):
    """Weights, averages, moments, losses and norms after three steps of all that a network's training has."""
    recipe = replace(RECIPE, batch_size=16, groups=4, optimizer=optimizer)
    one, four = (trained(kind, count, recipe) for count in (1, 4))  # two hosts: test_hosts.py
    jax.tree.map(np.testing.assert_array_equal, one, four)
    assert float(one[1][0]["grad_norm"]) > 1e-3


def unlike(network, seed, **options):
    """(apply, weights) of which none is 0, as fresh ones are."""
    apply, params = build(network, seed, blocks=1, patch=2, dtype="float32", **options)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return apply, jax.tree.unflatten(tree, drawn)


def translation(reverse, look, counts=(1, 4)):
    """XLA optimises one device's program apart from that of several: nothing in it may be left to its choice."""
    apply, params = unlike(UNet, 1, widths=(32,), attention=(0,))
    denoiser = Partial(FromVelocity(apply, "linear", 1000), params)
    segmenter = Partial(*unlike(EncoderDecoder, 2, widths=(8, 16), classes=CLASSES))
    given = labels(8)
    image = np.random.default_rng(0).integers(0, 256, (*given.shape, 3), dtype=np.uint8)
    data = image, np.asarray(given, np.uint8), np.arange(50, 58, dtype=np.int32)
    knobs = Knobs(scale=jnp.float32(0.5), fill=jnp.float32(0), limit=jnp.float32(1), seed=jnp.int32(11))
    method = Method(clipped(look(VARIANTS["sgg"]), 0.5), reverse, 3)
    found = {}
    for count in counts:
        mesh = mesh_of(count)
        networks, rows = devices.replicate((denoiser, segmenter), mesh), 2 * count  # two rows a device
        parts = [
            translate(
                *networks, short_schedule(), *(part[i : i + rows] for part in data), knobs, method=method, mesh=mesh
            )
            for i in range(0, 8, rows)
        ]
        found[count] = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    for count in counts[1:]:
        for one, several in zip(found[1], found[count], strict=True):
            np.testing.assert_array_equal(one, several)
    assert found[1][1].max() > 0.1  # guided indeed


CASES = {
    "denoiser": lambda: training("denoiser", "muon"),
    "segmenter": lambda: training("segmenter", "adamw"),
    "ddpm": lambda: translation(ancestral, at_denoised, (1, 2, 4)),
    "dpm": lambda: translation(dpm_solver, at_denoised),
    "through the denoiser": lambda: translation(ancestral, through_denoiser),
}

if __name__ == "__main__":
    CASES[sys.argv[1]]()
