"""The stages that look at data sets and need no network, hence no jax: config -> exit code."""

import functools
import json
import os
import shlex
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sgg_jax import stopping
from sgg_jax.data import DATASETS
from sgg_jax.data.checking import PASSING, check, stamps
from sgg_jax.data.dataset import Dataset
from sgg_jax.data.examining import Finding
from sgg_jax.data.preparing import Preparation
from sgg_jax.data.problems import Problem
from sgg_jax.data.public import LAYOUTS
from sgg_jax.data.streets import Streets
from sgg_jax.data.summary import Summary, summarise
from sgg_jax.errors import InputError
from sgg_jax.progress import Progress, track
from sgg_jax.records import LineLog, read_lines, write_json
from sgg_jax.report.check import contact_sheet, spread, summary_text
from sgg_jax.report.pictures import save
from sgg_jax.report.tables import text_table
from sgg_jax.roles import OPTIONAL, ROLES, choose, class_table, open_role
from sgg_jax.workdir import alone

RENDERED = 64  # examples of streets that are looked at: they are drawn, not read, all by the same code
SHOWN = 20  # errors on the screen; all are in report.json
UNOPENED = "not opened"
"""Category of a role that cannot be opened at all."""


def say(text: str) -> None:
    """Prints a text, with names of files as well as the terminal's encoding can show them."""
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def check_data(config: ConfigDict, workdir: Path) -> int:
    """Looks at every file of every role; 1 if any is in error.

    Writes check/report.json, a contact sheet check/ROLE.png of each role, and check/ROLE.jsonl, from which the same
    command goes on. InputError where the config is wrong.
    """
    _check_config(config.data)
    directory = workdir / "check"
    report: dict[str, Any] = {}
    errors: list[tuple[str, Problem]] = []
    classes: dict[str, list[str]] = {}
    for role in ROLES:
        try:
            dataset = open_role(config.data, role)
        except InputError as error:
            problem = Problem(UNOPENED, role, str(error))
            say(f"{role}: {error}\n")
            report[role] = {"set": config.data[role].name, "counts": {UNOPENED: 1}, "errors": [problem._asdict()]}
            errors.append((role, problem))
            continue
        if dataset is None:
            continue
        if dataset.labelled:  # of others a run does not look at the classes
            classes[role] = [info.name for info in dataset.classes]
        title = _title(config.data, role)
        summary = _check_role(dataset, config.data, role, directory, title)
        report[role] = {"set": title, **summary.record()}
        errors += [(role, problem) for problem in summary.errors]
    write_json(directory / "report.json", report)
    say(_conclusion(report, errors, classes, directory))
    return 1 if errors else 0


def _check_config(data: ConfigDict) -> None:
    """InputError where no data set is to blame."""
    class_table(data.classes)
    if len(tuple(data.size)) != 2:
        raise InputError(f"config.data.size is {tuple(data.size)}: give (height, width)")
    for role in ROLES:
        if data[role].name != "none" or role not in OPTIONAL:
            choose({**DATASETS, **LAYOUTS}, data[role].name, f"data.{role}.name")


def _check_role(dataset: Dataset, data: ConfigDict, role: str, directory: Path, title: str) -> Summary:
    """Examines a role's examples, says what was found and draws its contact sheet."""
    c = data[role]
    indices = range(len(dataset))
    if isinstance(dataset, Streets):
        indices = spread(indices, RENDERED)
    findings = _examine(dataset, indices, data, role, directory)
    expected = LAYOUTS[c.name].counts.get(c.public.split) if c.name in LAYOUTS and not c.public.count else None
    summary = summarise(dataset, findings, LAYOUTS.get(c.name), expected)
    say(summary_text(title, summary) + "\n")
    readable = [index for index in indices if not findings[index].category]
    picture = contact_sheet(dataset, readable, title)
    if picture is not None:
        save(picture, directory / f"{role}.png")
    else:
        (directory / f"{role}.png").unlink(missing_ok=True)
    return summary


def _examine(
    dataset: Dataset, indices: Sequence[int], data: ConfigDict, role: str, directory: Path
) -> dict[int, Finding]:
    """Index -> finding. What an earlier run found in the same files, or this one under another role, is not redone."""
    known = {}
    for path in sorted(directory.glob("*.jsonl")):
        known.update(_known(path))
    marks = dict(zip(indices, stamps(dataset, indices, _source(data[role])), strict=True))
    findings = {index: known[mark] for index, mark in marks.items() if mark in known}
    path = directory / f"{role}.jsonl"
    here = _known(path)
    with (
        Progress(len(marks), f"check {role}", "image", start=len(findings)) as progress,
        LineLog(path, step=len(dataset)) as log,
    ):
        for index, found in findings.items():
            if marks[index] not in here:
                log.append({"step": index, "stamp": marks[index], **found.record()})
        rest = [index for index in indices if index not in findings]
        for index, found in check(dataset, rest, functools.partial(open_role, data, role)):
            findings[index] = found
            log.append({"step": index, "stamp": marks[index], **found.record()})
            progress.advance()
            stopping.check()
    return findings


def _known(log: Path) -> dict[str, Finding]:
    """Stamp -> finding of the log of a role; nothing where it is no such log."""
    try:
        found = {record["stamp"]: Finding.of(record) for record in read_lines(log)}
        return {stamp: finding for stamp, finding in found.items() if finding.category not in PASSING}
    except (ValueError, KeyError, TypeError, AttributeError):
        log.unlink()
        return {}


def _title(data: ConfigDict, role: str) -> str:
    """What a role's data set is, in a line."""
    c = data[role]
    if c.name in LAYOUTS:
        layout = LAYOUTS[c.name]
        return f"{role}: {layout.title}, {c.public.split}, in {c.root or data.target.root} ({layout.licence})"
    options = c[c.name]
    where = {"folder": "images", "tfds": "directory"}.get(c.name)
    return f"{role}: {c.name}, " + (f"{options[where]}" if where else f"{options.domain} {options.split}")


def _source(c: ConfigDict) -> str:
    """What the examples of a set that has no files of its own depend on: settings and files."""
    if c.name not in ("streets", "tfds"):
        return ""
    parts = [json.dumps(c[c.name].to_dict(), sort_keys=True, default=str), str(tuple(c.size))]
    if c.name == "tfds":
        files = sorted(os.scandir(os.path.expanduser(c.tfds.directory)), key=lambda entry: entry.name)
        parts += [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return "\n".join(parts)


def _conclusion(
    report: dict[str, Any], errors: list[tuple[str, Problem]], classes: dict[str, list[str]], directory: Path
) -> str:
    """The table of all roles, the first errors, and where the rest is."""
    rows = []
    for role, entry in report.items():
        counts = sum(entry["counts"].values())
        rows.append((role, entry.get("found"), entry.get("usable"), counts, len(entry.get("notes", ()))))
    lines = [text_table(("role", "images", "usable", "errors", "notes"), rows), ""]
    for role, problem in errors[:SHOWN]:
        lines.append(f"error: {role}: {problem.category}: {problem.text}")
    if len(errors) > SHOWN:
        lines.append(f"and {len(errors) - SHOWN} more")
    first, *others = classes or [""]
    other = [role for role in others if classes[role] != classes[first]]
    if other:
        lines.append(
            f"note: {', '.join(other)} and {first} have different classes: a run needs the same in all that have labels"
        )
    number = f"{len(errors)} errors" if len(errors) != 1 else "1 error"
    lines.append(f"{number if errors else 'no errors'}; all of it in {directory / 'report.json'}, pictures beside it")
    return "\n".join(lines)


def prepare_data(config: ConfigDict, workdir: Path) -> int:
    """Packs every role's data set, brought to size and with train ids, into WORKDIR/prepared/ROLE; always 0.

    The same command goes on, or compares what is there with its sources. InputError where a set cannot be prepared.
    """
    _check_config(config.data)
    preparations = {}
    for role in ROLES:  # all are opened before the first is prepared, which may take hours
        c = config.data[role]
        if c.name == "tfds":
            say(f"{role}: is prepared already, in {c.tfds.directory}")
            continue
        dataset = open_role(config.data, role)
        if dataset is None:
            continue
        options = c.public if c.name in LAYOUTS else c[c.name]
        settings = {"name": c.name, **options.to_dict()}
        try:
            preparations[role] = Preparation(dataset, workdir / "prepared", role, settings, config.data.max_bad)
        except InputError as error:
            raise InputError(f"config.data.{role} ({c.name}): {error}") from error
    for role, preparation in preparations.items():
        if preparation.known:
            deque(track(preparation.verify(), preparation.known, f"verify {role}", "image"), maxlen=0)
        start = preparation.known
        deque(track(preparation.write(), preparation.total, f"prepare {role}", "image", start), maxlen=0)
        say(_how_to_read(role, preparation))
    return 0


def _how_to_read(role: str, preparation: Preparation) -> str:
    """What was prepared, and the settings that read it."""
    folder, field = preparation.folder.resolve(), f"--config.data.{role}"
    left = f" ({preparation.left_out} left out, listed in manifest.jsonl)" if preparation.left_out else ""
    settings = f"{field}.name=tfds {shlex.quote(f'{field}.tfds.directory={folder}')}"
    if preparation.size is None:
        settings += f" {field}.tfds.fit=native"
    text = f"{role}: {preparation.examples} examples{left} are prepared; read them with {settings}"
    if role in ("val", "test") and preparation.size is not None:
        text += f" (scores then count {preparation.size[0]} x {preparation.size[1]} pixels, not those of the files)"
    return text


DATA_STAGES: dict[str, Callable[[ConfigDict, Path], int]] = {"check_data": check_data, "prepare_data": prepare_data}


def main(stage: str, config: ConfigDict, workdir: Path) -> int:
    """The exit code of a stage: 0, or 1 if it found errors in the data. InputError where the config is wrong, or where
    another process holds the directory."""
    with alone(workdir):
        return DATA_STAGES[stage](config, workdir)
