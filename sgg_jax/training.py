"""One training loop for every network: a recipe of optimization.py, EMA weights, exact resume."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from sgg_jax import hosts, stopping
from sgg_jax.accumulation import groups_of, mean_of_groups
from sgg_jax.augmentation import Strength, augment
from sgg_jax.checkpoints import Checkpoints
from sgg_jax.compiler import network_options
from sgg_jax.data.loader import Waiting, prefetch
from sgg_jax.devices import check_batch, copies, keep_spread, platform, replicate, shard_part, split_mesh, spread
from sgg_jax.errors import InputError
from sgg_jax.losses import denoising_loss, mean, segmentation_sums
from sgg_jax.optimization import Recipe, Rule, learning_rates, optimizer
from sgg_jax.progress import Progress
from sgg_jax.records import LineLog, whole
from sgg_jax.types import Array, Batch, Params, to_float

Objective = Callable[[Params, Any, Batch, Array], tuple[Array, Array]]
"""(params, constants, batch, keys [B]) -> (sum of losses [], weight of that sum []), whose quotient is the loss.

Sums and weights of parts of a batch add up to those of the batch; the weight does not depend on the params, and what is
random for an image hangs on its key alone. Constants are operands: other values do not recompile.
"""


@partial(jax.tree_util.register_dataclass, data_fields=["params", "ema", "optimizer", "step"], meta_fields=[])
@dataclass(frozen=True)
class TrainState:
    params: Params
    ema: Params  # exponential moving average of params: the weights that are used
    optimizer: Any
    step: Array  # int32 [], steps done


@cache
def denoiser_objective(apply: Callable[..., Array], flip: bool) -> Objective:
    """The denoising loss on target images; constants are the NoiseSchedule and the weight of its rows [K].

    flip: mirror images with probability 1/2.
    """

    def objective(params: Params, constants: Any, batch: Batch, keys: Array) -> tuple[Array, Array]:
        schedule, weights = constants
        flip_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        image = to_float(batch["image"])
        mirrored = flip & jax.vmap(jax.random.bernoulli)(flip_keys)
        image = jnp.where(mirrored[:, None, None, None], image[:, :, ::-1], image)
        loss = denoising_loss(partial(apply, params), schedule, image, keys, weights)
        return len(image) * loss, jnp.float32(len(image))

    return objective


@cache
def segmenter_objective(apply: Callable[..., Array], strength: Strength | None) -> Objective:
    """Class-weighted cross-entropy on augmented images; constants are the class weights [C]. None: no augmentation."""

    def objective(params: Params, class_weights: Array, batch: Batch, keys: Array) -> tuple[Array, Array]:
        image, labels = to_float(batch["image"]), batch["labels"].astype(jnp.int32)
        if strength is not None:
            image, labels = augment(keys, image, labels, strength)
        return segmentation_sums(apply(params, image), labels, class_weights)

    return objective


def class_weights(histogram: np.ndarray, power: float) -> np.ndarray:
    """frequency^-power, scaled to mean 1 over the pixels. [C] -> [C] float32.

    No class counts as rarer than 1 pixel in 10,000: one that the histogram missed still has a weight.
    """
    frequency = histogram / max(histogram.sum(), 1)
    weights = np.maximum(frequency, 1e-4) ** -power
    mean = (weights * frequency).sum() if histogram.any() else weights.mean()
    return (weights / mean).astype(np.float32)


def init_state(params: Params, recipe: Recipe) -> TrainState:
    """A fresh state. Arrays are copied: training donates its state, and EMA must not alias the parameters."""
    return TrainState(
        params=jax.tree.map(jnp.array, params),
        ema=jax.tree.map(jnp.array, params),
        optimizer=optimizer(recipe.rule).init(params),
        step=jnp.int32(0),
    )


def keys_of(seed: Array, step: Array, count: int) -> Array:
    """Of each image of that step's batch: fold_in(fold_in(key(seed), step), place). [count]"""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))


@cache
def make_step(objective: Objective, rule: Rule, mesh: Mesh, groups: int) -> Callable[..., Any]:
    """The step (state, constants, batch, seed, learning_rate) -> (state, {"loss", "grad_norm"}).

    Cached, and everything that differs between runs of one network is an operand: one compile serves them all.
    The state is donated. Randomness is by `keys_of`. One compiled program, or for more `groups` than one a few
    (accumulation.py).
    """
    transform = optimizer(rule)

    def whole(params: Params, constants: Any, batch: Batch, keys: Array) -> tuple[Array, Params]:
        return jax.value_and_grad(lambda params: mean(*objective(params, constants, batch, keys)))(params)

    def sums(params: Params, constants: Any, batch: Batch, keys: Array) -> tuple[tuple[Array, Params], Array]:
        (total, weight), gradient = jax.value_and_grad(objective, has_aux=True)(params, constants, batch, keys)
        return (total, gradient), weight

    def updated(state: TrainState, loss: Array, gradient: Params, learning_rate: Array) -> Any:
        updates, optimizer_state = transform.update(gradient, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p + learning_rate * u, state.params, updates)
        decay = jnp.minimum(rule.ema, (1.0 + state.step) / (10.0 + state.step))
        average = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient)}
        return keep_spread(TrainState(params, average, optimizer_state, state.step + 1), mesh), metrics

    def step_of(keys: Callable[..., Any], found: Callable[..., Any], update: Callable[..., Any]) -> Callable[..., Any]:
        def step(state: TrainState, constants: Any, batch: Batch, seed: Array, learning_rate: Array) -> Any:
            drawn = keys(seed, state.step, len(batch["image"]))
            return update(state, *found(state.params, constants, batch, drawn), learning_rate)

        return step

    if groups == 1:
        options = network_options(platform(mesh))
        return jax.jit(step_of(keys_of, whole, updated), donate_argnums=0, compiler_options=options)
    keys, update = jax.jit(keys_of, static_argnums=2), jax.jit(updated, donate_argnums=0)
    return step_of(keys, mean_of_groups(sums, groups, mesh), update)


@hosts.needed()
def fit(
    directory: Path,
    objective: Objective,
    params: Params,
    constants: Any,
    batches: Callable[[int], Any],
    recipe: Recipe,
    *,
    seed: int,
    mesh: Mesh,
    label: str,
    about: dict[str, Any] | None = None,
) -> Params:
    """Trains to `recipe.steps` from the newest checkpoint under directory/checkpoints, else from `params`.

    Writes checkpoints, which tell what they are `about`, and metrics.jsonl (step, loss, grad_norm, learning_rate,
    seconds, and the share of them that was spent waiting for data) into `directory`; returns the EMA weights. A run
    that is killed and started again ends with the same weights as one that is not; one that is asked to stop saves
    first. Raises InputError where loss or gradient is not finite, naming the step and its images; the batch is kept as
    a file, and the last checkpoint before it stays.

    Where the mesh spans hosts, all of them call this alike, and host 0 writes.
    """
    check_batch(recipe.batch_size, mesh, f"batch_size of {label}")
    hosts.check_alike(f"settings, code or images for {label}", about)
    mesh = split_mesh(mesh, recipe.weight_shards)
    train_step = make_step(objective, recipe.rule, mesh, groups_of(recipe, mesh))
    rates = learning_rates(recipe)
    with Checkpoints(directory / "checkpoints", about=about) as checkpoints:
        state = init_state(params, recipe)
        if checkpoints.latest() is not None:
            state = checkpoints.restore("state", state)
        start = int(state.step)
        state, constants = spread(state, mesh), replicate(constants, mesh)
        pending, stops = None, hosts.Stops(mesh)

        def ready(step: int) -> Any:  # in the thread that reads ahead: on the devices before it is asked for
            batch = batches(step)
            return shard_part({name: batch[name] for name in ("image", "labels") if name in batch}, mesh)

        feed = Waiting(prefetch(ready, range(start, recipe.steps)))
        with (
            LineLog(directory / "metrics.jsonl", start) if hosts.leads() else nullcontext() as log,
            Progress(recipe.steps, label, unit="step", start=start) as progress,
        ):
            records = _Records(directory, label, batches, log, progress, feed)
            for step, batch in feed:
                state, metrics = train_step(state, constants, batch, seed, rates[step])
                done = step + 1
                last = done == recipe.steps
                if pending is not None:  # the step before this one: reading it never starves the device
                    records.add(*pending)
                pending = (done, metrics, float(rates[step]))
                stop = stops()
                if last or stop or done % recipe.save_every == 0:
                    records.add(*pending)
                    pending = None
                    checkpoints.save(done, *copies((state, state.ema), mesh))
                if stop:
                    raise stopping.Stopped
    return jax.tree.map(jnp.asarray, copies(state.ema, mesh))


class _Records:
    """Writes down what each step gave, and stops the run where that, and so the new weights, are not finite."""

    def __init__(
        self,
        directory: Path,
        label: str,
        batches: Callable[[int], Any],
        log: LineLog | None,  # of host 0
        progress: Progress,
        feed: Waiting,
    ):
        self.directory, self.label, self.batches = directory, label, batches
        self.log, self.progress, self.feed = log, progress, feed
        self.began = time.monotonic()

    def add(self, step: int, metrics: dict[str, Array], rate: float) -> None:
        loss, grad_norm = float(metrics["loss"]), float(metrics["grad_norm"])
        for name, value in (("loss", loss), ("gradient", grad_norm)):
            if not np.isfinite(value):
                raise InputError(
                    f"the {name} of {self.label} is {value} at step {step}, {self._kept(step)}: lower its "
                    "learning_rate (the checkpoints before this step are whole) and start a new --workdir"
                )
        seconds = time.monotonic() - self.began
        wait = min(self.feed.seconds / max(seconds, 1e-9), 1.0)
        values = {"step": step, "loss": loss, "grad_norm": grad_norm, "learning_rate": rate}
        if self.log is not None:
            self.log.append({**values, "seconds": round(seconds, 3), "data_wait": round(wait, 4)})
        self.progress.advance(note=f"loss {loss:.3f}, data wait {wait:.0%}")

    def _kept(self, step: int) -> str:
        """Keeps the batch of a step as a file; tells where, and which images are in it."""
        batch: dict[str, Any] = {name: np.asarray(array) for name, array in self.batches(step - 1).items()}
        part = f"_host_{hosts.number()}" if hosts.count() > 1 else ""  # each host has its own images
        path = self.directory / f"batch_of_step_{step}{part}.npz"
        with whole(path) as file:
            np.savez(file, **batch)
        images = ", ".join(map(str, batch.get("image_id", [])))
        return f"on the images of ids {images} (the batch is in {path})"
