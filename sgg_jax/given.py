"""Networks given as directories: those that import_weights wrote or a run left, and Hugging Face's SegFormers.

    given = open_given("weights/mit_b5", "segmenter.network")
    apply, params = build(SEGMENTERS[given.network], seed, classes=19, **given.options)
    params = given.into(params, names)

Nothing here trains: weights that a directory is without stay as they were drawn.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sgg_jax.errors import InputError
from sgg_jax.models import DENOISERS, SEGMENTERS, check_options, named, outline
from sgg_jax.pretrained import SHIPPED, read_story
from sgg_jax.published.importing import WEIGHTS, write_safetensors
from sgg_jax.published.kinds import NETWORKS, complete, open_published
from sgg_jax.published.tensors import open_tensors
from sgg_jax.records import fits
from sgg_jax.types import Params

Arrays = Iterator[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Given:
    """A network in a directory, its weights unread."""

    directory: Path
    network: str  # a name of models.DENOISERS or SEGMENTERS
    options: dict[str, Any]  # its constructor's, but for `classes`, and `channels` where it has no head
    classes: int  # 0 for a denoiser, or where it has no head
    names: tuple[str, ...]  # of its classes by train id, where they are told
    arrays: Callable[[], Any]  # a context that gives (name, values) of each weight

    @property
    def files(self) -> list[Path]:
        """What decides which network it is."""
        return sorted(path for path in self.directory.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))

    def into(self, params: Params, names: Sequence[str] = (), *, whole: bool = False) -> Params:
        """Weights of the same network with these put in, as float32; the head stays as it is where these have none,
        or one of other classes. Classes of the same names in another order are reordered.

        params: arrays, or shapes alone where `whole`: then it is InputError if any weight would stay as it is.
        """
        order = class_order(self.names, names) if self.classes == len(names) else None
        heads = self._heads(len(names)) if names else {}
        found: dict[str, Any] = {}
        with self.arrays() as arrays:
            for name, array in arrays:
                if name in heads:
                    if order is None:
                        continue
                    # sub-pixel logits: the classes of one place after the other
                    groups = range(0, array.shape[heads[name]], len(order))
                    array = array.take(np.concatenate([start + order for start in groups]), axis=heads[name])
                found[name] = jnp.asarray(array, jnp.float32)
        leaves = named(params)
        for name in sorted(leaves.keys() | found.keys()):
            self._check(name, leaves, found, whole or not (name in heads or name.startswith(HEADS)))
        return jax.tree.unflatten(jax.tree.structure(params), [found.get(name, leaves[name]) for name in leaves])

    def _check(self, name: str, leaves: dict[str, Any], found: dict[str, Any], needed: bool) -> None:
        if name not in leaves:
            raise InputError(f"{self.directory} has the weight {name}, which its network is without: import it again")
        if name not in found:
            if needed:
                raise InputError(
                    f"{self.directory} is without {name}, or has it for other classes: it has to be trained first"
                )
        elif found[name].shape != leaves[name].shape:
            raise InputError(
                f"{self.directory} does not fit its network: {name} has the shape {list(found[name].shape)} there, "
                f"{list(leaves[name].shape)} here"
            )

    def _heads(self, classes: int) -> dict[str, int]:
        """Weights that have an axis of classes, and which axis it is."""
        options = {"channels": 256, **self.options} if self.network == "segformer" else self.options

        def shapes(count: int) -> dict[str, tuple[int, ...]]:
            leaves = named(outline(SEGMENTERS[self.network](**options, classes=count, rng=None))[1])
            return {name: tuple(leaf.shape) for name, leaf in leaves.items()}

        few, more = shapes(classes), shapes(classes + 1)
        return {
            name: next(axis for axis, size in enumerate(more[name]) if size != shape[axis])
            for name, shape in few.items()
            if more[name] != shape
        }


HEADS = ("head.", "aspp.")
"""Where the heads of segmenters that are published without one have their weights."""


def class_order(theirs: Sequence[str], ours: Sequence[str]) -> np.ndarray | None:
    """Indices into their classes that put them into our order; None where the names are not the same. Classes without
    names are taken to be in our order."""
    if not theirs:
        return np.arange(len(ours))
    plain = [name.casefold().replace("_", " ").replace("-", " ").strip() for name in theirs]
    wanted = [name.casefold().replace("_", " ").replace("-", " ").strip() for name in ours]
    same = sorted(plain) == sorted(wanted) and len(set(plain)) == len(plain)
    return np.array([plain.index(name) for name in wanted]) if same else None


def is_directory(name: str) -> bool:
    """Whether what a config names as a network, or as weights, is a directory and does not come with the package."""
    return bool(name) and name not in (*DENOISERS, *SEGMENTERS, *SHIPPED) and Path(name).is_dir()


def open_given(directory: str, field: str, known: Collection[str] = ()) -> Given:
    """The network in a directory; InputError, naming the field of the config and networks known by name, where there
    is none."""
    return open_named(directory, f"config.{field}", known)


def open_named(directory: str, what: str, known: Collection[str] = ()) -> Given:
    """The same where something else than a field, `what`, names the directory."""
    path = Path(directory)
    if (path / WEIGHTS).is_file():
        return _ours(path)
    if (path / "config.json").is_file():
        return _hugging_face(path)
    choices = f" (choose one of {', '.join(known)})" if known else ""
    raise InputError(
        f"{what} is {directory!r}: no network has that name{choices}, and there is no directory with "
        f"{WEIGHTS} (import_weights writes one) or with a Hugging Face SegFormer's config.json"
    )


def save_network(path: Path, params: Params, story: dict[str, Any]) -> None:
    """Writes a segmenter's weights, float32, and what it is; the file's directory can be given to another run."""
    leaves = named(params)
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    values = ((name, np.asarray(leaf)) for name, leaf in leaves.items())
    write_safetensors(path, shapes, values, {key: json.dumps(value) for key, value in story.items()})


HOW = ("dtype", "attention_kernel", "remat", "forms")
"""Options that change how a network is computed and not what: those of the run that uses it hold."""


def _ours(path: Path) -> Given:
    story = {"names": [], **read_story(path / WEIGHTS)}
    if not fits(story, {"network": str, "options": dict, "names": [str]}) or story["network"] not in NETWORKS:
        raise InputError(f"{path / WEIGHTS} does not say what network it is of: import it again")
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in story["options"].items()}
    try:
        check_options(NETWORKS[story["network"]], complete(story["network"], options))
    except ValueError as error:
        raise InputError(f"the options that {path / WEIGHTS} has make no network ({error}): import it again") from error

    @contextmanager
    def arrays() -> Iterator[Arrays]:
        with open_tensors(path / WEIGHTS) as file:
            yield ((name, file.read(name)) for name in file.tensors)

    classes = options.pop("classes", 0) if story["network"] in SEGMENTERS else 0
    options = {name: value for name, value in options.items() if name not in HOW}
    return Given(path, story["network"], options, classes, tuple(story["names"]), arrays)


def _hugging_face(path: Path) -> Given:
    @contextmanager
    def arrays() -> Iterator[Arrays]:
        with open_published("segformer", path) as published:
            yield published.weights()

    with open_published("segformer", path) as published:
        found = published.found
    options = dict(found.options)
    classes = options.pop("classes", 0)
    return Given(path, found.network, options, classes, found.names, arrays)
