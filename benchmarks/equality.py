"""That both sides compute the same: largest differences by largest values, before anything is timed.

Ours and PyTorch's are given the same weights, images, levels and noise, float32. What ours finds is computed once
(`Answers`), and every kind of PyTorch is held against it.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.harness import difference
from benchmarks.ours import Ours
from benchmarks.peers.calls import Peer
from benchmarks.peers.guidance import global_scene
from benchmarks.peers.networks import load
from sgg_jax.models import named
from sgg_jax.optimization import MOMENTUM
from sgg_jax.sampling import step_noise
from sgg_jax.training import keys_of
from sgg_jax.types import image_keys

PARTS = ("denoiser forward", "segmenter forward", "segmenter input gradient", "LCG gradient", "whole translation")
TRAINED = ("denoiser", "segmenter")
LIMITS = {
    "denoiser forward": 1e-5,
    "segmenter forward": 1e-5,
    "segmenter input gradient": 1e-4,
    "LCG gradient": 1e-4,
    "whole translation": 1e-3,
    "denoiser training step: loss": 1e-5,
    "denoiser training step: weights": 1e-3,
    "denoiser training step: average": 1e-3,
    "segmenter training step: loss": 1e-5,
    "segmenter training step: weights": 1e-3,
    "segmenter training step: average": 1e-3,
}
"""What rounding may do. A translation is a chain of many passes, each on what the one before has rounded; of weights
the changes are compared, see `_moved`."""
SEED, STEPS = 0, 2  # of training


@dataclass(frozen=True)
class Trained:
    """What STEPS training steps do; weights by dotted name."""

    batches: list[tuple[np.ndarray, ...]]  # what each step drew: (image, level, noise), of segmenters (image,)
    metrics: list[dict[str, float]]  # loss and gradient norm of each step
    before: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    average: dict[str, np.ndarray]
    sure: dict[str, np.ndarray]  # where all gradients were more than rounding


@dataclass(frozen=True)
class Answers:
    """What ours finds on its batch, [B,H,W,C] each, and the noise of its translation."""

    found: dict[str, np.ndarray]
    noise: dict[int, np.ndarray]
    trained: dict[str, Trained]


def answers(ours: Ours, parts: Collection[str] = PARTS, trained: Collection[str] = TRAINED) -> Answers:
    """parts: of PARTS, and trained: of which networks training steps are among the answers."""
    keys = image_keys(ours.run.knobs.seed, jnp.asarray(ours.ids))
    steps = np.asarray(ours.schedule.table.step)[: int(ours.schedule.count)]

    def found(name: str) -> Any:
        return ours.translated_unrounded("", ours.schedule) if name == "whole translation" else ours.call(name)()

    draw = jax.jit(step_noise, static_argnums=2)
    noise = {int(number): np.array(draw(keys, number, ours.image.shape[1:])) for number in (0, *(steps + 1))}
    steps_of = {section: _trained(ours, section) for section in trained}
    return Answers({name: np.asarray(found(name)) for name in parts}, noise, steps_of)


def _trained(ours: Ours, section: str) -> Trained:
    """Some training steps of ours."""
    trainer, batches, metrics = ours.trainer(section), [], []
    before = _copied(trainer.state.params)
    sure = {name: np.ones(leaf.shape, bool) for name, leaf in before.items()}
    moment: dict[str, np.ndarray] = {name: np.zeros_like(leaf) for name, leaf in before.items()}
    for number in range(STEPS):
        keys = keys_of(SEED, number, len(ours.image))
        batches.append(denoising_batch(ours, keys) if section == "denoiser" else (ours.image,))
        metrics.append({name: float(value) for name, value in trainer.step().items()})
        last, moment = moment, _copied(optax.tree_utils.tree_get(trainer.state.optimizer, "mu"))
        slopes = {name: np.abs(leaf - MOMENTUM * last[name]) for name, leaf in moment.items()}
        largest = max(leaf.max() for leaf in slopes.values())
        for name, leaf in slopes.items():
            sure[name] &= leaf > 1e-4 * largest
    return Trained(batches, metrics, before, _copied(trainer.state.params), _copied(trainer.state.ema), sure)


def denoising_batch(ours: Ours, keys: jax.Array) -> tuple[np.ndarray, ...]:
    """Images, levels and noise as training.denoiser_objective and losses.denoising_loss draw them from the images'
    keys."""

    def drawn(key: jax.Array) -> tuple[jax.Array, ...]:
        flip, key = jax.random.split(key)
        step_key, noise_key = jax.random.split(key)
        level = jax.random.randint(step_key, (), 0, len(ours.run.betas))
        return jax.random.bernoulli(flip), level, jax.random.normal(noise_key, ours.image.shape[1:])

    mirrored, level, noise = map(np.array, jax.vmap(drawn)(keys))
    mirrored &= ours.config.denoiser.flip
    return np.where(mirrored[:, None, None, None], ours.image[:, :, ::-1], ours.image), level, noise


def check(wanted: Answers, peer: Peer) -> dict[str, float]:
    """The differences; AssertionError, naming the first, where one is more than rounding."""
    found = differences(wanted, peer)
    for name, limit in LIMITS.items():
        if name in found and not found[name] <= limit:
            raise AssertionError(f"{peer.kind}: {name} differs by {found[name]:.2g} of the largest value")
    return found


def differences(wanted: Answers, peer: Peer) -> dict[str, float]:
    """Of all answers, by name as in LIMITS. (a) looks at images one by one, as it does where it is timed."""
    image, labels, networks = peer.float_image(), peer.labels, peer.networks
    parts = [slice(i, i + 1) for i in range(len(image))] if peer.kind == "a" else [slice(None)]
    step = torch.tensor([peer.work.chain["step"][-1]])
    noise = {number: _channels_first(peer, drawn) for number, drawn in wanted.noise.items()}
    functions: dict[str, Callable[[slice], torch.Tensor]] = {
        "denoiser forward": lambda part: networks.denoiser(image[part], step),
        "segmenter forward": lambda part: networks.segmenter(image[part]),
        "segmenter input gradient": lambda part: global_scene(networks.likelihood, image[part], labels[part]),
        "LCG gradient": lambda part: peer.local_class(image[part], labels[part]),
        "whole translation": lambda part: peer.translated(
            peer.work.chain, peer.settings, part, lambda number: noise[number][part]
        ),
    }
    found = {}
    for name, answer in wanted.found.items():
        with torch.no_grad():
            whole = torch.cat([functions[name](part) for part in parts]).permute(0, 2, 3, 1).numpy()
        found[name] = difference(whole, answer)
    for section, trained in wanted.trained.items():
        for what, value in _training(trained, peer, section).items():
            found[f"{section} training step: {what}"] = value
    return found


def _training(wanted: Trained, peer: Peer, section: str) -> dict[str, float]:
    """Differences in loss, gradient norm, and the changes of weights and of their average."""
    trainer, losses, norms = peer.trainer(section), [], []
    for batch, metrics in zip(wanted.batches, wanted.metrics, strict=True):
        given: tuple[Any, ...] = (peer.float_image(batch[0]), peer.labels)
        if section == "denoiser":
            given = given[0], torch.from_numpy(batch[1]).long(), _channels_first(peer, batch[2])
        loss, norm = trainer.step(peer.work.learning_rates[section], *given)
        losses.append(difference(loss, metrics["loss"]))
        norms.append(difference(norm, metrics["grad_norm"]))
    moved = {
        "weights": _moved(wanted, peer, section, trainer.weights, wanted.weights),
        "average": _moved(wanted, peer, section, trainer.average, wanted.average),
    }
    return {"loss": max(losses), "norm": max(norms), **moved}


def _moved(wanted: Trained, peer: Peer, section: str, theirs: list[torch.Tensor], ours: dict[str, np.ndarray]) -> float:
    """Root of the squared differences of two changes of weights, by that of ours, where gradients are sure.

    Adam's step has the gradient's sign and not its size: a weight whose gradient is 0 but for rounding (the bias of
    attention's keys) moves anywhere.
    """

    def arranged(weights: dict[str, np.ndarray]) -> np.ndarray:
        """Ours in the places of PyTorch's."""
        network = peer.denoiser_network() if section == "denoiser" else peer.segmenter_network()
        load(getattr(network, "network", network), weights)
        return _flat(network.parameters())

    start, end, mask = arranged(wanted.before), arranged(ours), arranged(wanted.sure) > 0
    return float(np.linalg.norm((_flat(theirs) - end)[mask]) / np.linalg.norm((end - start)[mask]))


def _flat(tensors: Any) -> np.ndarray:
    return np.concatenate([tensor.detach().numpy().reshape(-1) for tensor in tensors]).astype(np.float64)


def _copied(tree: Any) -> dict[str, np.ndarray]:
    return {name: np.array(leaf) for name, leaf in named(tree).items()}


def _channels_first(peer: Peer, array: np.ndarray) -> torch.Tensor:
    """[B,H,W,C] -> [B,C,H,W] in the peer's memory format."""
    return peer.placed(torch.from_numpy(array).permute(0, 3, 1, 2))
