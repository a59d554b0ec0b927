"""Reverse steps and the chain of them: x_n -> image, with guidance.

A reverse step is `(row, x, eps, gradient, noise, limit, before) -> (x_{k-1}, x0-hat)`, all [B,H,W,3] but the row and
the limit, where `gradient` is lambda * grad log p(labels | image), `limit` bounds |x0-hat|, and `before` is what the
step before this one returned second, zeros at first.

Few steps: `dpm_solver` is of second order in the denoiser; gradients and the denoiser's deep features may serve several
steps (`Method`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sgg_jax.guidance import Guidance, Pairs, Point, noise_ratio
from sgg_jax.schedule import NoiseSchedule, Step, posterior_mean, predict_image
from sgg_jax.types import Array, Denoiser, Labels, NoisyImage, Segmenter

ReverseStep = Callable[[Step, NoisyImage, Array, Array, Array, Array, Array], tuple[NoisyImage, Array]]


@dataclass(frozen=True)
class Sampler:
    """A reverse step that is called as such, and by how much of the gradient it moves x_{k-1}."""

    step: ReverseStep
    push: Callable[[Step], Array]  # [] float32

    def __call__(
        self, row: Step, x: NoisyImage, eps: Array, gradient: Array, noise: Array, limit: Array, before: Array
    ) -> tuple[NoisyImage, Array]:
        return self.step(row, x, eps, gradient, noise, limit, before)


class Knobs(NamedTuple):
    """Numbers of a translation that are data to jit: sweeping them does not recompile."""

    scale: Any = 1.0  # lambda: guidance scale
    fill: Any = 0.0  # what hides other classes from LCG, in [-1,1]
    limit: Any = 1.0  # bound on |x0-hat|; infinity for none
    seed: Any = 0  # of all noise


class Method(NamedTuple):
    """The functions and shapes of a translation: static to jit."""

    guidance: Guidance
    reverse: Sampler
    microbatch: int  # (image, class) pairs that LCG's segmenter sees at once
    gradient_every: int = 1  # steps that share a gradient, the first one's
    deep_every: int = 1  # steps that share the denoiser's features below its first resolution, the first one's


class Given(NamedTuple):
    """What stays the same all along a chain."""

    denoiser: Denoiser
    segmenter: Segmenter
    schedule: NoiseSchedule
    labels: Labels  # [B,H,W]
    pairs: Pairs  # present (image, class) pairs of the labels
    keys: Array  # [B], of the images' noise
    knobs: Knobs


class State(NamedTuple):
    """Where a chain stands, and what a step leaves to the next."""

    x: NoisyImage  # [B,H,W,3], x_k
    before: Array  # [B,H,W,3], what the reverse step before returned second
    gradient: Array  # [B,H,W,3], as taken last, before lambda
    deep: Any  # the denoiser's deep features as taken last; () where every step has its own


def _ancestral(
    row: Step, x: NoisyImage, eps: Array, gradient: Array, noise: Array, limit: Array, before: Array
) -> tuple[NoisyImage, Array]:
    """The paper's step: x_{k-1} ~ N(mu + Sigma * gradient, Sigma), mu and Sigma of DDPM Eq. 7 at x0-hat."""
    image = jnp.clip(predict_image(row, x, eps), -limit, limit)
    mean = posterior_mean(row, image, x) + row.variance * gradient
    return mean + jnp.sqrt(row.variance) * noise, image


ancestral = Sampler(_ancestral, lambda row: row.variance)


@cache
def ddim(eta: float) -> Sampler:
    """DDIM (Song et al. 2021, Eq. 12 and 16); eta = 0 is deterministic, eta = 1 without guidance is `ancestral`.

    Guidance enters through the noise estimate (Dhariwal & Nichol 2021, Alg. 2). At eta = 1 it moves the mean by
    beta / sqrt(1 - beta) * gradient, which is the ancestral Sigma * gradient up to the choice of Sigma.
    """

    def direction(row: Step) -> Array:
        return jnp.sqrt(jnp.maximum(row.noise_scale_prev**2 - eta**2 * row.variance, 0.0))

    def step(
        row: Step, x: NoisyImage, eps: Array, gradient: Array, noise: Array, limit: Array, before: Array
    ) -> tuple[NoisyImage, Array]:
        guided = eps - row.noise_scale * gradient
        image = jnp.clip(predict_image(row, x, guided), -limit, limit)
        implied = (x - row.image_scale * image) * (1 / row.noise_scale)
        drawn = eta * jnp.sqrt(row.variance) * noise
        return row.image_scale_prev * image + direction(row) * implied + drawn, image

    def push(row: Step) -> Array:
        return row.noise_scale * (row.image_scale_prev * row.noise_scale / row.image_scale - direction(row))

    return Sampler(step, push)


def _dpm_solver(
    row: Step, x: NoisyImage, eps: Array, gradient: Array, noise: Array, limit: Array, before: Array
) -> tuple[NoisyImage, Array]:
    """DPM-Solver++(2M) (Lu et al. 2022, Alg. 2) for the denoiser, an Euler step for the guidance; deterministic.

    The two are split (Wizadwongsa & Suwajanakorn 2023): what is extrapolated from step to step is the unguided x0-hat,
    since gradients change too fast for it, and the gradient moves x as far as one DDIM step moves it.
    """
    image = jnp.clip(predict_image(row, x, eps), -limit, limit)
    shrink = row.noise_scale_prev / row.noise_scale
    slope = image + row.extrapolation * (image - before)
    moved = ddim(0.0).push(row) * gradient
    return shrink * x + (row.image_scale_prev - shrink * row.image_scale) * slope + moved, image


dpm_solver = Sampler(_dpm_solver, ddim(0.0).push)


SAMPLERS: dict[str, Callable[[float], Sampler]] = {
    "ddpm": lambda eta: ancestral,
    "ddim": ddim,
    "dpm": lambda eta: dpm_solver,
}
"""By name in config.translate.sampler, from config.translate.eta."""


def step_noise(keys: Array, number: Array | int, shape: tuple[int, ...]) -> Array:
    """Standard normal noise of one step, image by image: fold_in(image's key, number). [B] keys -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), shape))(keys)


def chain(method: Method, given: Given, x: NoisyImage, wanted: Array | bool = True) -> tuple[NoisyImage, Array]:
    """Runs the schedule's `count` reverse steps from x_n [B,H,W,3]. Returns the image and the guidance-to-noise ratios.

    wanted: bool []; if it is not, no step is taken.
    Ratios: [B,K] float32, guidance.noise_ratio of lambda * gradient by row of the schedule; 0 in unused rows.
    """
    schedule = given.schedule

    def body(done: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, ratios = carry
        state, ratio = advance(method, given, done, state)
        return state, ratios.at[:, schedule.count - 1 - done].set(ratio)

    ratios = jnp.zeros((x.shape[0], len(schedule)), jnp.float32)
    state, ratios = jax.lax.fori_loop(0, jnp.where(wanted, schedule.count, 0), body, (start(method, given, x), ratios))
    return state.x, ratios


def start(method: Method, given: Given, x: NoisyImage) -> State:
    """Where a chain begins: at x_n."""
    none = jnp.zeros_like(x)
    deep: Any = ()
    if method.deep_every > 1:
        shape = jax.eval_shape(_with_deep(given.denoiser), x, jnp.zeros(1, jnp.int32))[1]
        deep = jnp.zeros(shape.shape, shape.dtype)
    return State(x, none, none, deep)


def advance(method: Method, given: Given, done: Array, state: State) -> tuple[State, Array]:
    """One reverse step, after `done` of them (int32 []); and its guidance-to-noise ratio [B]."""
    x, row, knobs = state.x, given.schedule.row(given.schedule.count - 1 - done), given.knobs
    push = method.reverse.push(row)
    eps, deep = _predict(method, given.denoiser, done, row, state)

    def guide() -> Array:
        turn = (given.schedule.count - 1) // method.gradient_every - done // method.gradient_every
        fill = jnp.float32(knobs.fill)
        networks = given.denoiser, given.segmenter
        return method.guidance(Point(x, x, eps, row, push, turn, given.labels, given.pairs, fill, *networks))

    if method.gradient_every == 1:
        gradient = guide()
    else:
        gradient = jax.lax.cond(done % method.gradient_every == 0, guide, lambda: state.gradient)
    scaled = jnp.float32(knobs.scale) * gradient
    noise = step_noise(given.keys, row.step + 1, x.shape[1:])  # number 0 is the forward draw
    x, before = method.reverse(row, x, eps, scaled, noise, jnp.float32(knobs.limit), state.before)
    return State(x, before, gradient, deep), noise_ratio(push, scaled)


def _predict(method: Method, denoiser: Any, done: Array, row: Step, state: State) -> tuple[Array, Any]:
    """eps at x, and the deep features for the next step: fresh ones every so many steps (DeepCache, Ma et al. 2024).

    All images are at one step, so its embedding is computed for one and not for each.
    """
    x, step = state.x, row.step[None]
    if method.deep_every == 1:
        return denoiser(x, step), state.deep
    return jax.lax.cond(
        done % method.deep_every == 0,
        lambda: _with_deep(denoiser)(x, step),
        lambda: (denoiser.func.on_deep(*denoiser.args, x, step, state.deep), state.deep),
    )


def _with_deep(denoiser: Any) -> Any:
    return Partial(denoiser.func.with_deep, *denoiser.args)
