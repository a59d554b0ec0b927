"""Whether a config can work, told before hours of work; and the tie between a run directory and its config."""

import json
from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sgg_jax import devices
from sgg_jax.data import streets
from sgg_jax.errors import InputError
from sgg_jax.experiment import STARTS, Experiment
from sgg_jax.given import is_directory, open_given
from sgg_jax.pretrained import SHIPPED, load_pretrained, locate, read_story
from sgg_jax.ptl import check_depths
from sgg_jax.published.importing import sha256
from sgg_jax.ranges import check_numbers
from sgg_jax.roles import choose
from sgg_jax.workdir import claim as claim_directory

FREE = (
    *("compare.methods", "compare.seeds"),  # a comparison may grow
    *("data.max_bad", "data.workers", "translate.memory", "evaluate.batch_size", "report.examples"),
    *(f"{section}.training.save_every" for section in ("denoiser", "segmenter", "adapt", "student")),
)
"""Fields that may change while a run directory is in use: what is made by one value goes on by another."""


def claim(run: Experiment) -> None:
    """Checks the config, then ties the run directory to it and to the version of streets (see workdir.claim)."""
    check(run)
    record = json.loads(json.dumps(run.config.to_dict()))
    for field in FREE:
        *sections, name = field.split(".")
        del reduce(dict.__getitem__, sections, record)[name]
    for field in ("weights", "start"):
        if run.config.denoiser[field]:
            record["denoiser"][f"{field}_sha256"] = sha256(locate(run.config.denoiser[field], field))
    networks = (("denoiser", "network"), ("segmenter", "network"), ("segmenter", "judge"), ("student", "network"))
    for section, field in networks:
        name = run.config[section][field]
        if is_directory(name):
            record[section][f"{field}_sha256"] = [sha256(path) for path in open_given(name, f"{section}.{field}").files]
    claim_directory(run.workdir, {**record, "streets_version": streets.VERSION}, FREE)


def check(run: Experiment) -> None:
    """InputError for settings that cannot work together; cheap, so that a long run cannot end in it."""
    c = run.config
    check_numbers(c)
    choose(dict.fromkeys(STARTS), c.translate.start, "translate.start")
    _check_shared_gradients(c.translate)
    if c.translate.normalize and 0 < c.translate.clip_ratio < 1:
        raise InputError(
            "config.translate.normalize scales gradients to a guidance-to-noise ratio of 1, and "
            f"config.translate.clip_ratio={c.translate.clip_ratio} would cut them again: set one of the two to 0"
        )
    for section in ("denoiser", "segmenter", "adapt", "student"):
        size = run.recipe(section).batch_size
        devices.check_batch(size, run.everywhere, f"config.{section}.training.batch_size")
        try:
            devices.split_mesh(run.everywhere, run.recipe(section).weight_shards)
        except InputError as error:
            raise InputError(f"config.{section}.{error}") from error
    _ = run.datasets
    check_depths(c.adapt.depths)
    for field, depths in (("adapt.depths", c.adapt.depths), ("translate.depth", (c.translate.depth,))):
        for depth in depths:
            try:
                run.schedule(depth)
            except InputError as error:
                raise InputError(f"config.{field}, config.translate.steps: {error}") from error
        _check_moving(run, field, depths)
    _ = run.method(), run.strength("source"), run.strength("student"), run.denoiser_constants(), run.views
    if c.segmenter.as_it_is and not is_directory(c.segmenter.network):
        raise InputError(
            f"config.segmenter.as_it_is is set, and config.segmenter.network is {c.segmenter.network!r}: "
            "only the network of a directory has weights to use as they are"
        )
    for place in ("source", "judge"):
        if run.given_segmenter(place):
            run.segmenter_params(place)
    choose({"adapted": 0, "source": 0}, c.translate.guide, "translate.guide")
    sizes = {tuple(c.data.size): "data.size"}
    sizes.setdefault((run.tile.height, run.tile.width), "translate.tile")
    for seen, field in sizes.items():
        _check_size(run, seen, field)
    if c.translate.deep_every > 1:
        _check_whole(run)
    if c.denoiser.weights:
        _check_given_weights(run, c.denoiser.weights)
        if c.denoiser.start:
            raise InputError(
                f"config.denoiser.start is {c.denoiser.start!r} and config.denoiser.weights is "
                f"{c.denoiser.weights!r}, which is used as it is: set denoiser.weights to '' to train"
            )
    elif c.denoiser.start:
        _check_given_weights(run, c.denoiser.start, use="start")


def _check_shared_gradients(c: ConfigDict) -> None:
    """InputError where steps share a gradient that each of them would treat in its own way."""
    if c.gradient_every > 1 and (c.normalize or tuple(c.interval) != (0, 1)):
        raise InputError(
            f"config.translate.gradient_every is {c.gradient_every}, and a step that takes an earlier one's gradient "
            "is neither normalized anew nor in or out of an interval: set it to 1, or normalize=False and "
            "interval=(0, 1)"
        )


def _check_moving(run: Experiment, field: str, depths: Sequence[int]) -> None:
    """InputError where guidance is wanted and no step of a translation moves by it."""
    c = run.config.translate
    for depth in depths if c.guidance != "none" else ():
        schedule = run.schedule(depth)
        moved = np.asarray(run.method().reverse.push(schedule.table))[: int(schedule.count)]
        if not (moved > 0).any():
            raise InputError(
                f"config.{field}={depth} leaves one reverse step, the last, which sampler={c.sampler!r} takes without "
                "guidance: make it deeper, raise config.translate.steps, or take the sampler 'ddim' or 'dpm'"
            )


def _check_size(run: Experiment, size: tuple[int, int], field: str) -> None:
    """InputError where a network cannot see images of that size (H, W)."""
    image, step = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    try:
        jax.eval_shape(*run.denoiser_network, image, step)
        for role in ("guide", "judge", "student"):
            jax.eval_shape(*run.segmenter_outline(role), image)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"config.{field} does not suit the networks: {error}") from error


def _check_whole(run: Experiment) -> None:
    """InputError where the denoiser is to keep features of images that it sees in tiles."""
    size, tile = run.source.size, run.tile
    if size is None or size[0] > tile.height or size[1] > tile.width:
        shown = "of many sizes" if size is None else f"{size[0]}x{size[1]}"
        raise InputError(
            f"config.translate.deep_every is {run.config.translate.deep_every}, and the source's images are {shown}, "
            f"seen in tiles of {tile.height}x{tile.width}: features are kept of whole images only; set it to 1"
        )


def _check_given_weights(run: Experiment, given: str, use: str = "weights") -> None:
    """InputError where config.denoiser is not what the given weights were trained as, or on. Those that training
    starts from may be of other images."""
    c, target = run.config.denoiser, run.config.data.target.name
    path = locate(given, use)
    load_pretrained(path, run.denoiser_network[1])
    story = read_story(path)
    if use == "weights":
        _check_given_images(run.config, given, story, target)
    trained = story.get("denoiser", {})
    for name in ("prediction", "schedule", "total"):
        if trained.get(name, c[name]) != c[name]:
            raise InputError(
                f"{path} was trained with denoiser.{name} = {trained[name]!r}, config.denoiser.{name} is {c[name]!r}"
            )


def _check_given_images(config: ConfigDict, given: str, story: dict[str, Any], target: str) -> None:
    """InputError where given weights are used for other images than they were trained on."""
    if given in SHIPPED and target != "streets":
        raise InputError(
            f"config.denoiser.weights is {given!r}, which paints streets, and config.data.target is "
            f"{target!r}: set config.denoiser.weights to '' to train on your target images"
        )
    if target == "streets" and story.get("streets_version", streets.VERSION) != streets.VERSION:
        raise InputError(
            f"{locate(given)} was trained on streets version {story['streets_version']}, these are version "
            f"{streets.VERSION}: set config.denoiser.weights to '' to train anew"
        )
    if given in SHIPPED and tuple(story["size"]) != tuple(config.data.size):
        raise InputError(
            f"config.denoiser.weights is {given!r}, trained at {tuple(story['size'])}, and config.data.size is "
            f"{tuple(config.data.size)}: set config.denoiser.weights to '' to train at your size"
        )
