"""Progressive translation learning (Peng et al. 2023): from shallow to deep translations, the guide adapting with them.

A guide trained on the source misleads deep translations. Shallow ones stay near the source, deeper ones come nearer
the target: a path of intermediate domains. For depths d_1 < ... < d_R, round r translates the source to depth d_r
guided by g_{r-1} and fine-tunes g_{r-1} on the translations and their labels to get g_r.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from sgg_jax.data.dataset import Dataset
from sgg_jax.errors import InputError
from sgg_jax.types import Params

TranslateRound = Callable[[Path, Params, int], Dataset]
"""(directory, guide's weights, depth) -> the translated set; finds what is finished there and does the rest."""
FineTune = Callable[[Path, Params, Dataset, int], Params]
"""(directory, weights to start from, translated set, number of the round) -> new weights; resumes likewise."""


def adapt(
    directory: Path, guide: Params, depths: Sequence[int], translate: TranslateRound, fine_tune: FineTune
) -> Params:
    """Runs all rounds under `directory`/round1, round2, ... and returns the last guide's weights.

    Both callables resume, so a run that is killed and started again repeats at most the step it was in.
    Raises InputError unless the depths grow.
    """
    check_depths(depths)
    for number, depth in enumerate(depths, 1):
        place = directory / f"round{number}"
        translated = translate(place / "translated", guide, depth)
        guide = fine_tune(place, guide, translated, number)
    return guide


def check_depths(depths: Sequence[int]) -> None:
    """InputError unless there is a depth and every one is larger than the one before."""
    if not depths or any(b <= a for a, b in zip(depths, depths[1:], strict=False)):
        raise InputError(f"adapt.depths is {tuple(depths)}: give at least one depth, each larger than the one before")
