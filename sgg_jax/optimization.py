"""How a network is trained: optimiser, learning rates, and what each is for the parts of a network."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, muon

from sgg_jax.errors import InputError
from sgg_jax.types import Params

OPTIMIZERS = ("adamw", "sgd", "muon")
SCHEDULES = ("cosine", "poly")
MOMENTUM = 0.9


class Rule(NamedTuple):
    """What one training step does with a gradient; a compiled step is made for each. Fields as in Recipe."""

    optimizer: str
    weight_decay: float
    decay_all: bool
    b2: float
    clip: float
    ema: float
    rates: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Recipe:
    """The fields of a `training` section of the config. InputError where one of them means nothing."""

    steps: int
    batch_size: int
    learning_rate: float  # peak
    warmup: int  # steps of linear warm-up
    weight_decay: float
    clip: float  # largest global norm of the gradient; 0 for any
    ema: float  # decay of the weight average, reached after a ramp (1 + t) / (10 + t)
    save_every: int  # steps between checkpoints
    # "adamw" (Loshchilov & Hutter 2019), "sgd" with momentum 0.9 and decay in the gradient, or "muon" (Jordan et al.
    # 2024; steps as long as AdamW's, Liu et al. 2025), which takes AdamW for biases and norms
    optimizer: str
    schedule: str  # "cosine" to 0, or "poly": (1 - t / steps)^power
    power: float
    b2: float  # decay of Adam's second moment
    decay_all: bool  # decay biases and norms, too
    rates: tuple[tuple[str, float], ...]  # (start of weights' dotted names, factor of the learning rate); first match
    weight_shards: int  # parts that weights, moments and averages are split into, on as many devices each
    groups: int  # of a batch's images, 2^n, whose gradients are added in one order; see accumulation.groups_of

    def __post_init__(self) -> None:
        for field, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, field) not in known:
                raise InputError(f"training.{field} is {getattr(self, field)!r}: choose one of {', '.join(known)}")
        if self.groups < 1 or self.groups.bit_count() > 1:
            raise InputError(f"training.groups is {self.groups}: it must be a power of two (1, 2, 4, ...)")
        for row in self.rates:
            if not isinstance(row, tuple | list) or len(row) != 2 or not isinstance(row[0], str) or not row[1] >= 0:
                raise InputError(f"training.rates has {row!r}: give (start of names, factor of at least 0)")

    @property
    def rule(self) -> Rule:
        rates = tuple((str(prefix), float(factor)) for prefix, factor in self.rates)
        return Rule(self.optimizer, self.weight_decay, self.decay_all, self.b2, self.clip, self.ema, rates)


def optimizer(rule: Rule) -> optax.GradientTransformation:
    """The update for a learning rate of 1."""
    decay = optax.add_decayed_weights(rule.weight_decay, mask=None if rule.decay_all else kernels)
    clip = (optax.clip_by_global_norm(rule.clip),) if rule.clip else ()
    scales = optax.stateless(lambda updates, _: scaled(updates, rule.rates))
    if rule.optimizer == "muon":
        return optax.chain(*clip, _muon(rule), scales)
    # as PyTorch's: AdamW decays beside Adam's direction, SGD in the gradient that momentum gathers
    step = {
        "adamw": (optax.scale_by_adam(b1=MOMENTUM, b2=rule.b2), decay),
        "sgd": (decay, optax.trace(MOMENTUM)),
    }[rule.optimizer]
    return optax.chain(*clip, *step, scales, optax.scale(-1.0))


def _muon(rule: Rule) -> optax.GradientTransformation:
    def sides(params: Params) -> Params:
        """A kernel [..., in, out] as a matrix: what is multiplied, and what comes out."""
        return jax.tree.map(
            lambda leaf, is_kernel: MuonDimensionNumbers(range(leaf.ndim - 1), leaf.ndim - 1) if is_kernel else None,
            params, kernels(params),
        )  # fmt: skip

    return muon(
        1.0, weight_decay=rule.weight_decay, adam_weight_decay=rule.weight_decay * rule.decay_all, adam_b1=MOMENTUM,
        adam_b2=rule.b2, consistent_rms=0.2, muon_weight_dimension_numbers=sides,
    )  # fmt: skip


def dotted(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def kernels(params: Params) -> Params:
    """True for weights that are multiplied with features, False for biases and the scales of norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: dotted(path).split(".")[-1] not in ("bias", "scale"), params
    )


def scaled(updates: Params, rates: tuple[tuple[str, float], ...]) -> Params:
    """Updates times the factor of the first of `rates` with which their names start."""

    def factor(name: str) -> float:
        return next((factor for prefix, factor in rates if name.startswith(prefix)), 1.0)

    return jax.tree_util.tree_map_with_path(lambda path, update: factor(dotted(path)) * update, updates)


def learning_rates(recipe: Recipe) -> np.ndarray:
    """Learning rate of every step. [steps] float32.

    cosine: linear warm-up, then cosine decay, 0 one step after the end. poly: lr (1 - t / steps)^power, in the warm-up
    times (t + 1) / warmup, as MMSegmentation multiplies the two.
    """
    warmup = min(recipe.warmup, recipe.steps - 1)
    if recipe.schedule == "poly":
        step = np.arange(recipe.steps)
        decay = (1 - step / recipe.steps) ** recipe.power
        return (recipe.learning_rate * decay * np.minimum(1, (step + 1) / max(warmup, 1))).astype(np.float32)
    schedule = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, warmup, recipe.steps + 1)
    return np.asarray(jax.vmap(schedule)(jax.numpy.arange(1, recipe.steps + 1)), np.float32)
