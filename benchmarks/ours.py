"""sgg_jax's side of benchmarks/speed.py: the work that both sides share, and a call of every row."""

from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from sgg_jax.compiler import network_options, set_cpu_flags

set_cpu_flags()  # before jax is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.tree_util import Partial  # noqa: E402

from benchmarks.harness import Call  # noqa: E402
from benchmarks.work import FINE_TUNING, TRAINING, TRANSLATIONS, Network, Work  # noqa: E402
from configs import default  # noqa: E402
from sgg_jax import guidance  # noqa: E402
from sgg_jax.accumulation import groups_of  # noqa: E402
from sgg_jax.calibration import thinned  # noqa: E402
from sgg_jax.costs import gradients  # noqa: E402
from sgg_jax.devices import platform, replicate, shard  # noqa: E402
from sgg_jax.experiment import Experiment  # noqa: E402
from sgg_jax.models import flops, named  # noqa: E402
from sgg_jax.schedule import NoiseSchedule  # noqa: E402
from sgg_jax.training import init_state, make_step, segmenter_objective  # noqa: E402
from sgg_jax.translation import trace, translate  # noqa: E402
from sgg_jax.types import Params, to_float  # noqa: E402

SAME: dict[str, Any] = {
    "translate.start": "image",
    "translate.sampler": "ddpm",
    "translate.spacing": "even",
    "translate.interval": (0.0, 1.0),
    "translate.look": "denoised",
    "translate.lcg_every": 2,
    "translate.gradient_every": 1,
    "translate.deep_every": 1,
    "translate.blur": 0.0,
    "translate.chroma": 1.0,
    "translate.normalize": False,
    "denoiser.training.groups": 2,
    "segmenter.training.groups": 2,
}
"""Settings of the maths that both sides compute, whatever the defaults become."""
TINY: dict[str, Any] = {
    "data.size": (16, 32),
    "denoiser.weights": "",
    "denoiser.unet.widths": (32,),
    "denoiser.unet.blocks": 1,
    "denoiser.unet.attention": (),
    "segmenter.encoder_decoder.widths": (16, 32),
    "segmenter.encoder_decoder.blocks": 1,
    "translate.steps": 3,
    "translate.batch_size": 4,
    "translate.microbatch": 4,
}


def lively(params: Params, seed: int) -> Params:
    """Random weights of normal gain in every place: no layer is silent, no gradient vanishes."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.Array) -> jax.Array:
        noise = rng.standard_normal(leaf.shape)
        kind = path[-1].key
        scaled = noise / np.prod(leaf.shape[:-1]) ** 0.5 if kind == "kernel" else 0.1 * noise + (kind == "scale")
        return jnp.asarray(scaled, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, params)


class Ours:
    """An experiment's networks and functions on its first source images.

    changes: of configs/default.py and SAME. classes: present in every image, in stripes; 0 for the images' own.
    """

    def __init__(self, changes: dict[str, Any], classes: int = 0):
        config = default.get_config()
        config.update_from_flattened_dict({**SAME, **changes})
        self.changes, self.config = changes, config
        self.run = Experiment(config, Path("unused"))  # nothing is written
        self.mesh = self.run.translation_mesh  # one device, as PyTorch's side has
        size = config.translate.batch_size
        few = [self.run.source[index] for index in range(size)]
        self.image = np.stack([example.image for example in few])
        self.labels = np.stack([example.known_labels() for example in few]).astype(np.uint8)
        if classes:
            width = self.labels.shape[2]
            self.labels[:] = np.arange(width) * classes // width
        self.ids = np.arange(size, dtype=np.int32)
        apply, params = self.run.denoiser_network
        given = bool(config.denoiser.weights)
        self.denoiser = self.run.denoiser() if given else Partial(apply, lively(params, 1))
        apply, params = self.run.segmenter_network()
        self.segmenter = Partial(apply, lively(params, 2))
        self.class_weights = np.ones(len(self.run.names), np.float32)
        self.knobs = self.run.knobs  # made here, not where a function is traced

    # the work -------------------------------------------------------------------------------------------------------

    def work(self) -> Work:
        c, recipes = self.config, {section: self.run.recipe(section) for section in ("denoiser", "segmenter")}
        return Work(
            changes=self.changes,
            image=self.image,
            labels=self.labels,
            denoiser=Network(_options(c.denoiser.unet), _numpy(self.denoiser)),
            segmenter=Network(
                {**_options(c.segmenter.encoder_decoder), "classes": len(self.run.names)}, _numpy(self.segmenter)
            ),
            prediction=c.denoiser.prediction,
            alpha_bars=np.cumprod(1 - self.run.betas),
            level_weights=np.asarray(self.run.denoiser_constants()[1]),
            class_weights=self.class_weights,
            chain=columns(self.schedule),
            step=columns(self.one_step),
            round=columns(self.round_schedule),
            translate={
                name: c.translate[name]
                for name in ("guidance", "look", "lcg_every", "scale", "fill", "limit", "clip_ratio")
            },
            rules={
                section: {name: getattr(recipe, name) for name in ("weight_decay", "b2", "clip", "ema")}
                for section, recipe in recipes.items()
            },
            learning_rates={section: recipe.learning_rate for section, recipe in recipes.items()},
        )

    @cached_property
    def schedule(self) -> NoiseSchedule:
        return self.run.schedule(self.config.translate.depth)

    @cached_property
    def one_step(self) -> NoiseSchedule:
        """Of the translation's first reverse step alone. (The last one takes no gradient.)"""
        return thinned(self.schedule, 1)

    @cached_property
    def round_schedule(self) -> NoiseSchedule:
        return self.run.schedule(self.config.adapt.depths[-1])

    # what is computed -----------------------------------------------------------------------------------------------

    def point(self, denoiser: Partial, segmenter: Partial, x: jax.Array, labels: jax.Array) -> guidance.Point:
        """A place in the chain, its last step, at which a bare gradient is taken at x [B,H,W,3]."""
        one = self.schedule.row(0)
        pairs = guidance.present_pairs(labels, len(self.run.names), self.config.translate.microbatch)
        given = dict(
            seen=x, x=x, eps=jnp.zeros_like(x), row=one, push=one.variance, turn=one.index, labels=labels, pairs=pairs
        )
        given |= dict(fill=self.knobs.fill, denoiser=denoiser, segmenter=segmenter)
        return guidance.Point(**given)

    def translation(self, variant: str, schedule: NoiseSchedule) -> Callable[[], tuple[jax.Array, ...]]:
        """Translates the batch: translations, ratios and agreement."""
        method, mesh = self.run.method(variant), self.mesh
        *networks, knobs = replicate((self.denoiser, self.segmenter, schedule, self.knobs), mesh)

        def call() -> tuple[jax.Array, ...]:
            data = shard((self.image, self.labels, self.ids), mesh)
            return jax.block_until_ready(translate(*networks, *data, knobs, method=method, mesh=mesh))

        return call

    def translated_unrounded(self, variant: str, schedule: NoiseSchedule) -> np.ndarray:
        """The very same before it is rounded to pixels. [B,H,W,3]"""
        networks, method = (self.denoiser, self.segmenter), self.run.method(variant)
        return trace(*networks, schedule, self.image, self.labels, self.ids, self.knobs, method=method)[1]

    def trainer(self, section: str) -> "Trainer":
        return Trainer(self, section)

    def call(self, name: str) -> Call:
        """A call of work.CALLS on the batch."""
        if name in TRANSLATIONS:
            return self.translation(TRANSLATIONS[name], self.one_step)
        if name == "whole translation":
            return self.translation("", self.schedule)
        if name == "PTL round":
            return self.round()
        if name in TRAINING:
            return self.trainer(name.split()[0]).step
        deepest = jnp.full(1, self.schedule.row(self.schedule.count - 1).step)
        functions: dict[str, Callable[..., jax.Array]] = {
            "denoiser forward": lambda denoiser, segmenter, x, labels: denoiser(x, deepest),
            "segmenter forward": lambda denoiser, segmenter, x, labels: segmenter(x),
            "segmenter input gradient": lambda *given: guidance.global_scene(self.point(*given)),
            "LCG gradient": lambda *given: guidance.local_class(self.point(*given)),
        }
        return self.compiled(functions[name])

    def compiled(self, function: Callable[..., jax.Array]) -> Callable[[], jax.Array]:
        """function(denoiser, segmenter, x, labels) of the batch, compiled as a translation is."""
        run = jax.jit(function, compiler_options=network_options(platform(self.mesh)))
        x, labels = to_float(jnp.asarray(self.image)), jnp.asarray(self.labels, jnp.int32)
        return lambda: jax.block_until_ready(run(self.denoiser, self.segmenter, x, labels))

    def round(self) -> Call:
        """Translates the batch, and takes some steps of fine-tuning on it."""
        translation, trainer = self.translation("", self.round_schedule), self.trainer("segmenter")

        def call() -> None:
            image = np.asarray(translation()[0])
            for _ in range(FINE_TUNING):
                trainer.step(image)

        return call

    def flops(self) -> dict[str, float]:
        """FLOPs of a call as XLA counts them before it optimises; of a translation, of its networks' passes."""
        x, step = to_float(jnp.asarray(self.image)), jnp.full(1, 0, jnp.int32)
        pairs = self.point(self.denoiser, self.segmenter, x, jnp.asarray(self.labels, jnp.int32)).pairs
        some = x[: min(len(x), pairs.image.shape[1])]  # an LCG microbatch costs as many images as it has pairs

        def one(segmenter: Partial, x: jax.Array, labels: jax.Array) -> jax.Array:
            return jax.grad(lambda x: guidance.log_likelihood(segmenter(x), labels))(x)

        gradient = flops(one, self.segmenter, some, jnp.zeros(some.shape[:3], jnp.int32)) / len(some)
        denoiser, segmenter = flops(called, self.denoiser, x, step), flops(called, self.segmenter, x)
        gsg, lcg = gradient * len(x), gradient * int(pairs.count) * pairs.image.shape[1]
        steps, (globally, locally) = int(self.schedule.count), gradients(self.config, self.schedule)
        trained = {f"{section} training step": self.trainer(section).flops() for section in ("denoiser", "segmenter")}
        whole = steps * denoiser + locally * lcg + globally * gsg + segmenter
        found = {"denoiser forward": denoiser, "segmenter forward": segmenter, **trained}
        found |= {"segmenter input gradient": gsg, "LCG gradient": lcg, "whole translation": whole}
        return found | dict(zip(TRANSLATIONS, (denoiser + gsg + segmenter, denoiser + lcg + segmenter), strict=True))


class Trainer:
    """A training state, on the batch; `step` takes one step and waits for it. Segmenters see bare images."""

    def __init__(self, ours: Ours, section: str):
        self.image, self.labels, self.mesh = ours.image, ours.labels, ours.mesh
        recipe = ours.run.recipe(section)
        self.rate, self.seed = np.float32(recipe.learning_rate), 0
        if section == "denoiser":
            self.objective, constants = ours.run.denoiser_objective(), ours.run.denoiser_constants()
            network = ours.denoiser
        else:
            network = ours.segmenter
            self.objective, constants = segmenter_objective(network.func, None), jnp.asarray(ours.class_weights)
        state = init_state(network.args[0], recipe)
        self.state, self.constants = replicate((state, constants), self.mesh)
        self.run_step = make_step(self.objective, recipe.rule, self.mesh, groups_of(recipe, self.mesh))

    def batch(self, image: np.ndarray | None = None) -> dict[str, jax.Array]:
        return shard({"image": self.image if image is None else image, "labels": self.labels}, self.mesh)

    def step(self, image: np.ndarray | None = None) -> dict[str, jax.Array]:
        self.state, metrics = self.run_step(self.state, self.constants, self.batch(image), self.seed, self.rate)
        return jax.block_until_ready(metrics)

    def flops(self) -> float:
        """Of the loss and its gradient; the optimiser's are few beside."""
        gradient = jax.value_and_grad(self.objective, has_aux=True)
        keys = jax.random.split(jax.random.key(self.seed), len(self.image))
        return flops(gradient, self.state.params, self.constants, self.batch(), keys)


def called(network: Partial, *inputs: jax.Array) -> jax.Array:
    return network(*inputs)


def _options(section: Any) -> dict[str, Any]:
    return {name: value for name, value in section.to_dict().items() if name != "dtype"}


def _numpy(network: Partial) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in named(network.args[0]).items()}


def columns(schedule: NoiseSchedule) -> dict[str, list[float]]:
    """The rows in use, column by column."""
    count = int(schedule.count)
    return {
        field.name: np.asarray(getattr(schedule.table, field.name))[:count].tolist() for field in fields(schedule.table)
    }
