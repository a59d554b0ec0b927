"""The data sets of a run by their role. Without jax, so that a wrong path is told before anything slow starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sgg_jax.data import DATASETS
from sgg_jax.data.dataset import ClassInfo, Dataset, Tolerant
from sgg_jax.data.exports import open_export
from sgg_jax.data.public import LAYOUTS, open_public
from sgg_jax.errors import InputError

ROLES = ("source", "target", "judge", "val", "test")
LABELLED = ("source", "judge", "val", "test")
OPTIONAL = ("judge", "val", "test")
WITHOUT_LABELS: dict[str, dict[str, Any]] = {
    "streets": {"labels": False},
    "folder": {"labels": ""},
    "tfds": {"label": ""},
}
"""Arguments of DATASETS' constructors that leave labels out."""


def choose(table: Mapping[str, Any], name: str, field: str) -> Any:
    """table[name]; InputError with the choices where there is no such name."""
    if name not in table:
        raise InputError(f"config.{field} is {name!r}: choose one of {', '.join(table)}")
    return table[name]


def check_apart(data: ConfigDict, workdir: Path) -> None:
    """InputError where the run's own pictures would be images of a data set."""
    for role in ROLES:
        folder = data[role].folder
        for field in ("images", "labels") if data[role].name == "folder" else ():
            root = Path(folder[field].partition("**")[0]).expanduser()
            if folder[field] and root.is_dir() and workdir.resolve().is_relative_to(root.resolve()):
                raise InputError(
                    f"--workdir {workdir} lies in config.data.{role}.folder.{field}, {root}, and the run's own "
                    "pictures would be read as its images: name a directory elsewhere"
                )


def open_roles(data: ConfigDict) -> dict[str, Dataset | None]:
    """The data set of every role of config.data; None where its name is "none".

    InputError, naming the field or the file, where one cannot be opened or two do not have the same classes.
    """
    if len(tuple(data.size)) != 2:
        raise InputError(f"config.data.size is {tuple(data.size)}: give (height, width)")
    found = {role: _tolerant(data, role) for role in ROLES}
    source = found["source"]
    for role, dataset in found.items():
        if source is None or dataset is None or not dataset.labelled:  # the classes of images alone are not looked at
            continue
        if [c.name for c in dataset.classes] != [c.name for c in source.classes]:
            raise InputError(
                f"config.data.{role} and config.data.source have different classes: "
                "give both the same class table in config.data.classes"
            )
    return found


def _tolerant(data: ConfigDict, role: str) -> Dataset | None:
    """The data set of a role, going on without as many bad examples as config.data.max_bad allows."""
    dataset = open_role(data, role)
    if dataset is None:
        return None
    try:
        return Tolerant(dataset, data.max_bad)
    except InputError as error:
        raise InputError(f"config.data.{role} ({data[role].name}): {error}") from error


def open_role(data: ConfigDict, role: str, target_labels: bool = False) -> Dataset | None:
    """The data set of a role as it is, bad examples included; None where its name is "none".

    Label files of the target are not looked at unless `target_labels`: where it has some they must change nothing.
    """
    c = data[role]
    if c.name == "none" and role in OPTIONAL:
        return None
    size, classes = tuple(c.size) or tuple(data.size), class_table(data.classes)
    labels = role != "target" or target_labels
    root = c.root or (data.target.root if c.name == data.target.name else "")
    try:
        if c.name == "exported":
            dataset: Dataset = open_export(root, size, **c.public.to_dict(), labels=labels)
        elif c.name in LAYOUTS:
            public = c.public.to_dict()
            dataset = open_public(LAYOUTS[c.name], root, size=size, classes=classes, labels=labels, **public)
        else:
            constructor = choose({**DATASETS, **LAYOUTS}, c.name, f"data.{role}.name")
            options = c[c.name].to_dict()
            if c.name != "streets":
                options["classes"] = classes
            if not labels:
                options |= WITHOUT_LABELS[c.name]
            dataset = constructor(size=size, **options)
    except InputError as error:
        raise InputError(f"config.data.{role} ({c.name}): {error}") from error
    if role in LABELLED and not dataset.labelled:
        raise InputError(f"config.data.{role} ({c.name}) needs labels: name its label files or a split that has some")
    return dataset


def class_table(rows: Any) -> tuple[ClassInfo, ...]:
    """config.data.classes as a table; InputError where a row is not (name, (label values,), (red, green, blue)), a
    colour is none, or two classes have one name."""
    try:
        table = tuple(ClassInfo(str(n), tuple(map(int, ids)), (int(r), int(g), int(b))) for n, ids, (r, g, b) in rows)
    except (TypeError, ValueError) as error:
        raise InputError(
            "config.data.classes must be rows of (name, (label values,), (red, green, blue)), such as "
            "('road', (7,), (128, 64, 128))"
        ) from error
    names = [info.name for info in table]
    for info in table:
        if not all(0 <= part <= 255 for part in info.color):
            raise InputError(f"config.data.classes gives {info.name!r} the colour {info.color}: each part is in 0..255")
        if not info.name or names.count(info.name) > 1:
            raise InputError(f"config.data.classes has {info.name!r} twice or for no name: every class needs its own")
    return table
