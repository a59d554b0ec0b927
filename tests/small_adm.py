"""Small ADM networks for tests: their options, and weights as files would have them."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from sgg_jax.models.adm import ADM
from sgg_jax.models.functional import named, outline
from sgg_jax.published import adm

SMALL = {"channels": 32, "widths": (32, 64), "blocks": 1, "attention": (2,), "head_channels": 16}
THREE_LEVELS = {"widths": (32, 32, 64), "attention": (2, 4)}
ONE_LEVEL = {**SMALL, "widths": (32,), "attention": ()}
OPTIONS = {  # every option at least once
    "as published": {},
    "convolutions, added embedding": {"resample": "conv", "scale_shift_norm": False, "attention": (1, 2)},
    "averages, no variance": {"resample": "plain", "learn_sigma": False, **THREE_LEVELS, "heads": 4},
    "three heads in new order": {"widths": (32, 96), "heads": 3, "new_attention_order": True, "blocks": 2},
    "narrow stem, classes": {"channels": 64, "classes": 5, "label": 3, "new_attention_order": True},
    "one level": ONE_LEVEL,
}


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def relative(found, wanted):
    found, wanted = (np.asarray(side, np.float64) for side in (found, wanted))
    assert found.shape == wanted.shape and np.abs(wanted).max() > 0
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def read(tensors, options):
    """(apply, params) of the network of `options`, every weight from `tensors` and every tensor used."""
    apply, like = outline(ADM(**options, rng=None))
    found, left = {}, dict(tensors)
    for link in adm.links(**options):
        given = tuple(np.asarray(left.pop(key), np.float32) for key in link.theirs)
        found.update(zip(link.ours, link.read(given), strict=True))
    assert not left and found.keys() == named(like).keys()
    assert all(found[name].shape == leaf.shape for name, leaf in named(like).items())
    return apply, jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(found[name]) for name in named(like)])


def write(params, options):
    ours, found = named(params), {}
    for link in adm.links(**options):
        found.update(zip(link.theirs, link.write(tuple(np.asarray(ours[n]) for n in link.ours)), strict=True))
    return found


def drawn(options, seed=0):
    """Published tensors of such a network, none of them trivially one or zero."""
    tensors = {}
    for place, (key, shape) in enumerate(adm.tensor_shapes(options).items()):
        spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
        is_norm = len(shape) == 1 and key.endswith("weight")
        tensors[key] = spread * draw(*shape, seed=seed + place) + np.float32(is_norm)
    return tensors
