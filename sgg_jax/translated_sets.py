"""Translating a data set into a directory: what is missing there, and a manifest of how each image was made."""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sgg_jax import hosts, stopping
from sgg_jax.data.dataset import Dataset, readable
from sgg_jax.data.exports import open_export
from sgg_jax.data.writer import DROPPED, MANIFEST, TranslationWriter, WriteBehind
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.leases import Leases
from sgg_jax.pretrained import digest
from sgg_jax.progress import Progress
from sgg_jax.records import read_lines
from sgg_jax.report.pictures import colorize, save, sheet
from sgg_jax.results import curve_rows
from sgg_jax.sampling import Method
from sgg_jax.translation import Translated, in_blocks, translate_all
from sgg_jax.types import Denoiser, Params

SHEET = "before_after.png"
LEASES = ".leases"
"""Beginning of the name of the directory in which hosts take their blocks."""
SHOWN = 8
"""Pairs of source image and translation on the sheet of a set."""


def translate_into(
    run: Experiment, directory: Path, guide: Params, depth: int, method: Method,
    indices: Sequence[int], label: str,
    guidance: str = "", start: Dataset | None = None, keep: float = 0.0, steps: int | None = None,
) -> Dataset:  # fmt: skip
    """Translates source images into `directory`, doing what is missing there; opens the result.

    indices: of the images, growing.
    start: the source as it is noised, by default what config.translate.start says of this guide.
    keep: least share of an image's known pixels in which the guide must find their label in its translation; an image
        below it is dropped, and the manifest says so.
    steps: reverse steps, by default config.translate.steps.
    """
    source, batch_size = run.source, run.config.translate.batch_size
    writer = TranslationWriter(str(directory), source.classes, job=hosts.token(), host=hosts.number())
    finished = writer.finished()
    missing = _missing(source, indices, finished, run.config.data.max_bad)
    # whole blocks: an image whose batch was cut off by a kill has its place in the same batch again; and by a number
    # that all hosts have for it, though one may see less of what is there than another
    blocks = in_blocks(indices, batch_size)
    todo = [number for number, block in enumerate(blocks) if not missing.isdisjoint(block)]
    lent = directory / f"{LEASES}{hosts.token()}"
    if hosts.leads():
        _clear(directory, but=lent)
    if missing:
        leases = Leases(lent, todo, hosts.number(), hosts.count())
        schedule, denoiser = run.schedule(depth, steps), run.denoiser()
        common = _record_of_set(run, guide, denoiser, depth, guidance or run.config.translate.guidance)
        translations = translate_all(
            denoiser,
            run.segmenter(guide),
            schedule,
            run.start(guide, depth) if start is None else start,
            ([] if number is None else blocks[number] for number in leases),
            run.knobs,
            batch_size=batch_size,
            method=method,
            mesh=run.translation_mesh,
            tile=run.tile,
            memory=run.memory,
        )
        with (
            Progress(len(indices), label, unit="image", start=len(indices) - len(missing)) as progress,
            WriteBehind(writer) as behind,
        ):
            for translated in translations:
                for done in translated:
                    if done.index not in missing:
                        continue
                    record = {**_record(source, done, int(schedule.count)), **common}
                    name = source.name(done.index)
                    if done.agreement < keep:
                        writer.drop(name, record, f"its agreement with its labels is below {keep}")
                    else:
                        behind.write(name, done.image, done.labels, record)
                behind.wait()
                leases.finish()
                here = len(indices) - sum(len(missing.intersection(blocks[number])) for number in leases.open())
                progress.advance(here - progress.done)
                stopping.check()
    unfinished = missing or not (directory / SHEET).exists()  # a kill after the last image leaves these undone
    if hosts.leads() and unfinished:
        writer.gather()
        _save_sheet(run, directory)
    hosts.together()
    if hosts.leads():
        writer.gather()  # lines of a host that was late
        _clear(directory)
    _check_manifest(directory, [source.name(index) for index in indices], run.config.data.max_bad, keep)
    return open_export(str(directory), source.size)


def _missing(source: Dataset, indices: Sequence[int], finished: Collection[str], max_bad: int) -> set[int]:
    """Indices that are to be translated. Where they are few, those that the run goes on without are not among them."""
    missing = {index for index in indices if source.name(index) not in finished}
    if len(missing) > max_bad:
        return missing
    return {index for index, _ in readable(source, sorted(missing))}


def _check_manifest(directory: Path, names: list[str], max_bad: int, keep: float) -> None:
    """InputError where images are missing, but for those that the run goes on without, or every one was dropped."""
    lines = read_lines(directory / MANIFEST, {"name": str, "agreement": int | float})
    missing = sorted(set(names) - {line["name"] for line in lines})
    if len(missing) > max_bad:
        raise InputError(
            f"{len(missing)} of {len(names)} translations are missing in {directory}, the first is {missing[0]}: run "
            "the same command again, which makes them"
        )
    if lines and all(DROPPED in line for line in lines):
        best = max(line["agreement"] for line in lines)
        raise InputError(
            f"all {len(lines)} translations agree less with their labels than config.translate.keep, which is {keep}; "
            f"the best has {best}: set it lower, in a new --workdir"
        )


def _clear(directory: Path, but: Path | None = None) -> None:
    """Removes leases, those of jobs that were killed, too; `but` stays where other hosts may have begun there."""
    for old in directory.glob(f"{LEASES}*"):
        if old != but or hosts.count() == 1:
            shutil.rmtree(old)


def _record_of_set(run: Experiment, guide: Params, denoiser: Denoiser, depth: int, guidance: str) -> dict[str, Any]:
    """What the manifest says of every image of a set."""
    return {
        "depth": depth,
        "seed": run.config.seed,
        "guidance": guidance,
        "scale": float(run.knobs.scale),
        "guide": digest(guide),
        "denoiser": digest(denoiser),
    }


def _record(source: Dataset, done: Translated, used: int) -> dict[str, Any]:
    """What the manifest says of one image; `used` rows of the schedule were used."""
    file, sha256 = source.origin(done.index)
    return {
        "image_id": source.image_id(done.index),
        "source": file,
        "source_sha256": sha256,
        "agreement": round(done.agreement, 4),
        "ratio": float(done.ratios[:used].mean()),
        "ratios": [float(f"{value:.4g}") for value in done.ratios[curve_rows(used)]],
    }


def _save_sheet(run: Experiment, directory: Path) -> None:
    """SHEET: labels, source and translation of some images, spread over the set."""
    translated, source = open_export(str(directory), run.source.size), run.source
    at = {source.name(index): index for index in range(len(source))}
    picked = np.unique(np.linspace(0, len(translated) - 1, min(SHOWN, len(translated))).round().astype(int))
    rows = []
    for index, example in readable(translated, picked.tolist()):
        for _, before in readable(source, [at[translated.name(index)]]):
            rows.append([colorize(example.known_labels(), source.classes), before.image, example.image])
    if rows:
        save(sheet(rows, ["labels", "source", "translation"], classes=source.classes), directory / SHEET)
