"""config -> objects. Below main.py a config is read here, in roles.py (data sets) and by the stages; nowhere deeper."""

import hashlib
import io
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from ml_collections import ConfigDict

from sgg_jax import devices, guidance, hosts, sampling, schedule
from sgg_jax.augmentation import NONE, Strength
from sgg_jax.baselines import grey
from sgg_jax.checkpoints import load_weights
from sgg_jax.collage import Donors, collage
from sgg_jax.data.crops import Crop, RareClasses
from sgg_jax.data.dataset import Dataset, Painted, readable
from sgg_jax.data.fit import fitted
from sgg_jax.data.loader import Batches, class_pixels, label_histogram
from sgg_jax.errors import InputError
from sgg_jax.evaluation import sure_predictions
from sgg_jax.given import is_directory, open_given
from sgg_jax.models import Apply
from sgg_jax.networks import describe_network, make_network, outline_network
from sgg_jax.optimization import Recipe
from sgg_jax.parameterization import PREDICTIONS, WEIGHTINGS, FromNoise
from sgg_jax.prediction import Views
from sgg_jax.pretrained import load_pretrained, locate
from sgg_jax.progress import Progress, track
from sgg_jax.records import write_bytes
from sgg_jax.roles import choose, open_roles
from sgg_jax.sampling import Knobs, Method
from sgg_jax.tiling import Tile, tile_of, tiled
from sgg_jax.training import Objective, class_weights, denoiser_objective, segmenter_objective
from sgg_jax.types import Array, Denoiser, Params, Segmenter
from sgg_jax.workdir import Stages, commit

STREAMS = ("denoiser", "source", "judge", "adapt", "student", "collage")
"""What has a seed of its own."""
STARTS = ("image", "grey", "collage")
"""What is noised: the source image, its brightness alone, or its regions in the target's pixels."""


def role_of(place: str) -> str:
    """What a segmenter in that directory of a run is: "guide", "judge" or "student"."""
    return {"source": "guide", "adapt": "guide", "judge": "judge"}.get(place.split("/")[0], "student")


class Experiment:
    """One run: its config, its directory, and everything made from them, each on first use."""

    def __init__(self, config: ConfigDict, workdir: Path, command: str = "", shared: Path | None = None):
        """command: what was typed, for the record; shared: the directory that holds denoiser and judge, by default
        the run's own."""
        self.config = config
        self.workdir = workdir
        self.command = command
        self.shared = shared or workdir
        self.stages = Stages(workdir)
        self._outlines: dict[str, tuple[Apply, Params]] = {}  # of segmenters, by what the config names them

    def with_seed(self, seed: int) -> "Experiment":
        """The same run from another seed, in a directory below this one's, with this one's data, denoiser and judge."""
        if seed == self.config.seed:
            return self
        config = self.config.copy_and_resolve_references()
        config.seed = seed
        other = Experiment(config, self.workdir / "seeds" / str(seed), self.command, self.shared)
        other.datasets = self.datasets
        return other

    def about(self, dataset: Dataset) -> dict[str, Any]:
        """What the checkpoints of a training on that data set tell of their run: config, code, and the data's names."""
        names = "\n".join(dataset.name(index) for index in range(len(dataset))).encode("utf-8", "surrogateescape")
        return {
            "config": self.config.to_dict(),
            "code": {"version": version("sgg_jax"), "commit": commit()},
            "data": {"images": len(dataset), "names_sha256": hashlib.sha256(names).hexdigest()},
        }

    # data ------------------------------------------------------------------------------------------------------------

    @cached_property
    def datasets(self) -> dict[str, Dataset | None]:
        """The data set of each role; None where its name is "none"."""
        return open_roles(self.config.data)

    @cached_property
    def source(self) -> Dataset:
        """The labelled source images."""
        dataset = self.datasets["source"]
        assert dataset is not None
        return dataset

    @cached_property
    def target(self) -> Dataset:
        """The target images; their labels, if any, are not looked at."""
        dataset = self.datasets["target"]
        assert dataset is not None
        return dataset

    def start(self, guide: Params, depth: int) -> Dataset:
        """The source as translations to that depth start from it, before noise.

        guide: weights of what places a collage's pixels. Every depth draws its own donors, so that each round of PTL
        shows the guide other target images.
        """
        name = self.config.translate.start
        if name == "grey":
            return Painted(self.source, lambda example, image_id: grey(example.image))
        if name == "collage":
            given, seed = self._donors(guide), self.seed("collage")
            return Painted(
                self.source,
                lambda example, image_id: collage(
                    example.image, example.known_labels(), given, (seed, depth, image_id)
                ),
            )
        return self.source

    def _donors(self, guide: Params) -> Donors:
        """The first target images, and what the guide sees in them."""
        c, size = self.config.translate, self.target.size or tuple(self.config.data.size)
        size = max(size[0], self.tile.height), max(size[1], self.tile.width)
        first = readable(self.target, range(min(c.donors, len(self.target))))
        found = [fitted(example.image, size, "crop") for _, example in first]
        if not found:
            raise InputError(
                f"none of the first {c.donors} target images, which a collage takes its pixels from, can be used: "
                "mend them, or raise config.translate.donors"
            )
        images = np.stack(found)
        todo = track(images, len(images), "what the guide sees in the target", unit="image")
        seen = sure_predictions(
            tiled(self.segmenter(guide), self.tile), todo, c.donor_confidence, c.batch_size, self.mesh
        )
        return Donors.of(images, np.stack(list(seen)), len(self.names))

    @property
    def names(self) -> list[str]:
        """Class names by train id."""
        return [info.name for info in self.source.classes]

    def class_weights(self, dataset: Dataset) -> np.ndarray:
        """Loss weight of each class for training on this data set. [C] float32."""
        return class_weights(label_histogram(dataset), self.config.segmenter.class_balance)

    def batches(self, dataset: Dataset, batch_size: int, seed: int, directory: Path | None = None) -> Batches:
        """Training batches of a data set as config.data.crop says, this host's part of them.

        directory: where pixels of each class are counted once for a set, if its images are drawn by rare classes.
        """
        c, rare = self.config.data, None
        if dataset.labelled and c.crop.rare and directory is not None:
            rare = RareClasses(self._class_pixels(dataset, directory / "class_pixels.npy"), c.crop.rare)
        crop = Crop(tuple(c.size), tuple(c.crop.scale), c.crop.most)
        if not dataset.labelled:  # a denoiser paints at the scale it was trained at
            crop = Crop(tuple(c.size))
        part = hosts.number(), hosts.count()
        return Batches(dataset, batch_size, seed, crop=crop, rare=rare, workers=c.workers, part=part)

    def _class_pixels(self, dataset: Dataset, path: Path) -> np.ndarray:
        """[n,C] pixels of each class in each image, from the file if it is of this set."""
        shape = (len(dataset), len(dataset.classes))
        with suppress(OSError, ValueError, EOFError):  # none yet, or a damaged one
            found: np.ndarray = np.load(path)
            if found.shape == shape:
                return found
        with Progress(len(dataset), "count pixels of classes", unit="image") as progress:
            found = class_pixels(dataset, self.config.data.workers, progress.advance)
        buffer = io.BytesIO()
        np.save(buffer, found)
        write_bytes(path, buffer.getvalue())
        return found

    # networks --------------------------------------------------------------------------------------------------------

    @cached_property
    def mesh(self) -> Mesh:
        """This host's devices: what scores."""
        return devices.local_mesh()

    @cached_property
    def everywhere(self) -> Mesh:
        """All hosts' devices: what trains."""
        return devices.data_mesh()

    @cached_property
    def translation_mesh(self) -> Mesh:
        """This host's devices, one where they are a CPU's: what translates."""
        return devices.translation_mesh()

    @cached_property
    def denoiser_network(self) -> tuple[FromNoise, Params]:
        """(apply, weights that training starts from); apply gives the predicted noise whatever the network gives."""
        c = self.config.denoiser
        name = c.weights if is_directory(c.weights) else c.network
        apply, params = make_network(self.config, "denoiser", name, "denoiser.network", self.seed("denoiser"))
        return choose(PREDICTIONS, c.prediction, "denoiser.prediction")(apply, c.schedule, c.total), params

    def denoiser_story(self) -> dict[str, Any]:
        """What the denoiser is, as open_given reads it."""
        c = self.config.denoiser
        kind, options, _ = describe_network(self.config, "denoiser", c.network, "denoiser.network")
        return {"network": kind, "options": options}

    def segmenter_network(self, role: str = "guide", stream: str = "source") -> tuple[Apply, Params]:
        """(apply, weights of that stream that training starts from); apply is the same for all of a role.

        role: "guide" (the first, and PTL's), "judge" or "student"; all are config.segmenter.network where no other is
        given for them.
        """
        return make_network(self.config, "segmenter", *self._named_for(role), self.seed(stream), self.names)

    def segmenter_outline(self, role: str = "guide") -> tuple[Apply, Params]:
        """(apply, shapes of the weights) of a role's segmenter; the same for roles that share a network."""
        name, field = self._named_for(role)
        if name not in self._outlines:
            self._outlines[name] = outline_network(self.config, "segmenter", name, field, len(self.names))
        return self._outlines[name]

    def _named_for(self, role: str) -> tuple[str, str]:
        """What the config names as a role's segmenter, and the field that does."""
        c = self.config
        return {
            "guide": (c.segmenter.network, "segmenter.network"),
            "judge": (c.segmenter.judge or c.segmenter.network, "segmenter.judge"),
            "student": (c.student.network or c.segmenter.network, "student.network"),
        }[role]

    def segmenter_story(self, role: str) -> dict[str, Any]:
        """What a segmenter of a role is, as open_given reads it."""
        kind, options, _ = describe_network(self.config, "segmenter", *self._named_for(role))
        return {"network": kind, "options": {**options, "classes": len(self.names)}, "names": self.names}

    def denoiser(self) -> Denoiser:
        """The given or trained denoiser (EMA weights)."""
        apply, params = self.denoiser_network
        given = self.config.denoiser.weights
        if given:
            return Partial(apply, load_pretrained(locate(given), params))
        return Partial(apply, load_weights(self.shared / "denoiser" / "checkpoints", params))

    def given_segmenter(self, place: str) -> str:
        """The directory of the network that is used as it is in the place of one that is trained; "" for none."""
        c = self.config.segmenter
        return {"judge": c.judge, "source": c.network if c.as_it_is else ""}.get(place, "")

    @property
    def judged(self) -> bool:
        """Whether there is a judge, given or to be trained."""
        return bool(self.config.segmenter.judge) or self.datasets["judge"] is not None

    def segmenter_params(self, place: str) -> Params:
        """Weights of a finished segmenter, by its directory below the run's."""
        shapes, given = self.segmenter_outline(role_of(place))[1], self.given_segmenter(place)
        if given:
            return open_given(given, "segmenter").into(shapes, self.names, whole=True)
        root = self.shared if place == "judge" else self.workdir
        return load_weights(root / place / "checkpoints", shapes)

    def segmenter_at(self, place: str) -> Segmenter:
        """A finished segmenter, by its directory below the run's."""
        return self.segmenter(self.segmenter_params(place), role_of(place))

    def segmenter(self, params: Params, role: str = "guide") -> Segmenter:
        return Partial(self.segmenter_outline(role)[0], params)

    # training --------------------------------------------------------------------------------------------------------

    def seed(self, stream: str, number: int = 0) -> int:
        """Seed of one network's weights, batches and augmentation; streams of any two runs differ.

        number: of trainings of one stream after each other, such as PTL's rounds, which are to see other batches.
        """
        entropy = (self.config.seed, STREAMS.index(stream), *((number,) if number else ()))
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

    def strength(self, stream: str) -> Strength | None:
        """Augmentation of the segmenters of that stream; None for none. The first guide's is at least config.guide."""
        c = self.config
        common = Strength(**c.segmenter.augmentation.to_dict()) if c.segmenter.augment else None
        if stream != "source" or not any(c.guide.values()):
            return common
        common = common or NONE
        return common._replace(**{name: max(getattr(common, name), least) for name, least in c.guide.items()})

    def segmenter_objective(self, strength: Strength | None, role: str = "guide") -> Objective:
        return segmenter_objective(self.segmenter_outline(role)[0], strength)

    def denoiser_objective(self) -> Objective:
        return denoiser_objective(self.denoiser_network[0], self.config.denoiser.flip)

    def denoiser_constants(self) -> tuple[schedule.NoiseSchedule, Array]:
        """What the denoiser's objective takes: the whole process, and the weight of its levels in the loss [N]."""
        weigh = choose(WEIGHTINGS, self.config.denoiser.weighting, "denoiser.weighting")
        weights = weigh(np.cumprod(1 - self.betas))
        return schedule.noise_schedule(self.betas), jnp.asarray(weights, jnp.float32)

    def recipe(self, section: str) -> Recipe:
        """Recipe of config.<section>.training."""
        try:
            return Recipe(**self.config[section].training.to_dict())
        except InputError as error:
            raise InputError(f"config.{section}.{error}") from error

    @property
    def views(self) -> Views:
        """What networks see of an image when they are scored."""
        c = self.config.evaluate
        return Views(tuple(self.config.data.size) if c.sliding else None, c.overlap, c.flip)

    # translation -----------------------------------------------------------------------------------------------------

    @cached_property
    def betas(self) -> np.ndarray:
        section = self.config.denoiser
        betas: np.ndarray = choose(schedule.BETAS, section.schedule, "denoiser.schedule")(section.total)
        return betas

    def schedule(self, depth: int, steps: int | None = None) -> schedule.NoiseSchedule:
        """Reverse steps of a translation of that depth, as config.translate says; steps: another number of them."""
        c = self.config.translate
        choose(schedule.SPACINGS, c.spacing, "translate.spacing")
        steps = (c.steps if steps is None else steps) or self.config.denoiser.total
        return schedule.respace(self.betas, depth, steps, c.spacing)

    @property
    def sdedit_steps(self) -> int:
        """Reverse steps of unguided SDEdit in a comparison."""
        return self.config.compare.sdedit_steps or self.config.translate.steps

    def method(self, variant: str = "") -> Method:
        """The configured sampler with the configured guidance, or with another variant of it."""
        c = self.config.translate
        variants = guidance.VARIANTS | {"sgg": guidance.semantic_gradients(c.lcg_every)}
        guide = choose(variants, variant or c.guidance, "translate.guidance")
        guide = choose(guidance.LOOKS, c.look, "translate.look")(guidance.where_it_moves(guide))
        if c.blur:
            guide = guidance.blurred(guide, c.blur)
        if c.chroma != 1.0:
            guide = guidance.muted(guide, c.chroma)
        if c.normalize:
            guide = guidance.normalized(guide)
        if c.clip_ratio:
            guide = guidance.clipped(guide, c.clip_ratio)
        low, high = c.interval
        if (low, high) != (0.0, 1.0):
            total = self.config.denoiser.total
            guide = guidance.interval(guide, round(low * total), round(high * total))
        if (variant or c.guidance) == "none":
            guide = guidance.unguided
        sampler = choose(sampling.SAMPLERS, c.sampler, "translate.sampler")(c.eta)
        return Method(guide, sampler, c.microbatch, c.gradient_every, c.deep_every)

    @property
    def memory(self) -> float:
        """Bytes of a device that translations may take."""
        return float(self.config.translate.memory) * 2**30 or devices.device_memory(self.translation_mesh)

    @property
    def tile(self) -> Tile:
        """What networks see at once of an image that is translated."""
        c = self.config.translate
        return tile_of(tuple(c.tile) or tuple(self.config.data.size), c.overlap)

    @cached_property
    def knobs(self) -> Knobs:
        c = self.config.translate
        return Knobs(jnp.float32(c.scale), jnp.float32(c.fill), jnp.float32(c.limit), jnp.int32(self.config.seed))
