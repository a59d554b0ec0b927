"""The stages that need no run: published weights in, weights out, and what a network is made of.

    python main.py import_weights --kind segformer --file segformer.b5.1024x1024.city.160k.pth --out weights/b5
    python main.py export_weights --network runs/gta5/student --out exported
    python main.py describe --network segformer-b5 --size 512,1024

Each has its own flags; none reads a config.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sgg_jax.errors import InputError
from sgg_jax.given import open_named
from sgg_jax.models import DENOISERS, Apply, flops, make, named, outline
from sgg_jax.progress import Progress
from sgg_jax.published.exporting import export_weights
from sgg_jax.published.importing import import_weights
from sgg_jax.published.kinds import KINDS, NETWORKS, PUBLISHED, complete
from sgg_jax.report.tables import text_table

SHOWN = 12  # names of weights on the screen


def _import(arguments: argparse.Namespace) -> None:
    with Progress(0, f"import {arguments.file.name}", unit="weight") as progress:
        found = import_weights(arguments.kind, arguments.file, arguments.out, progress.advance, arguments.preset)
    options = ", ".join(f"{name} {value}" for name, value in found["options"].items())
    print(
        f"{found['network']} in {arguments.out}: {options}\n"
        f"{sum(map(len, found['mapped'].values()))} tensors became {sum(len(k.split()) for k in found['mapped'])} "
        f"weights; {_listed('not used', found['unused'])}; {_listed('to be trained', found['missing'])}\n"
        f"{arguments.out / 'import.json'} has them all; use it as config.denoiser.weights, config.segmenter.network, "
        "config.segmenter.judge or config.student.network"
    )


def _listed(title: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{title}: {', '.join(names[:SHOWN]) + more if names else 'none'}"


def _export(arguments: argparse.Namespace) -> None:
    given = open_named(str(arguments.network), "--network")
    options = {**given.options, **({"classes": given.classes} if given.classes else {})}
    with given.arrays() as arrays:
        weights = dict(arrays)
    names = given.names or tuple(f"class {number}" for number in range(given.classes))
    shapes = {name: array.shape for name, array in weights.items()}
    path = export_weights(given.network, options, names, shapes, weights.__getitem__, arguments.out)
    print(f"{given.network} in {path}")


def _describe(arguments: argparse.Namespace) -> None:
    name = arguments.network
    if name in PUBLISHED:
        network, options = PUBLISHED[name]
    else:
        given = open_named(name, "--network", PUBLISHED)
        network, options = given.network, given.options
        if given.classes:
            options = {**options, "classes": given.classes}
    try:
        apply, params = outline(make(NETWORKS[network], None, **complete(network, options)))
    except ValueError as error:
        raise InputError(f"--network {name} does not describe a network: {error}") from error
    print(described(f"{name} ({network})", apply, params, arguments.size, network in DENOISERS))


def described(title: str, apply: Apply, params: Any, size: tuple[int, int], denoiser: bool) -> str:
    """A network's layers, parameters, and FLOPs of one image [H,W] (2 for a multiplication and an addition).

    params: shapes are enough. InputError where the network does not take that size.
    """
    rows: dict[str, list[Any]] = {}
    for name, leaf in named(params).items():
        layer, _, weight = name.rpartition(".")
        row = rows.setdefault(layer, [layer or "-", [], 0])
        row[1].append(f"{weight} {'x'.join(map(str, leaf.shape))}")
        row[2] += int(np.prod(leaf.shape))
    table = text_table(["layer", "weights", "parameters"], [[a, ", ".join(b), f"{c:,}"] for a, b, c in rows.values()])
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    inputs = (image, jax.ShapeDtypeStruct((1,), jnp.int32)) if denoiser else (image,)
    try:
        cost = flops(apply, params, *inputs)
    except ValueError as error:
        raise InputError(f"--size {size[0]},{size[1]} does not suit the network: {error}") from error
    total = sum(row[2] for row in rows.values())
    return (
        f"{table}\n\n{title}: {len(rows)} layers, {total:,} parameters ({total / 1e6:.1f}M), "
        f"{cost / 1e12:.3f} TFLOP a forward pass of one image of {size[0]}x{size[1]}"
    )


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.split(","))
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give H,W in pixels, as 512,1024") from None
    return height, width


def _parser(stage: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog=f"main.py {stage}", allow_abbrev=False)
    if stage == "import_weights":
        found.add_argument("--kind", required=True, choices=KINDS, help="whose names and layout the file has")
        found.add_argument("--file", required=True, type=Path, help=".pt, .pth, .safetensors, or a SegFormer directory")
        found.add_argument("--out", required=True, type=Path, help="directory to write")
        found.add_argument(
            "--preset", default="", help="published configuration, for what leaves no trace in a file: adaptsegnet, ..."
        )
    elif stage == "export_weights":
        found.add_argument("--network", required=True, type=Path, help="directory of a network: imported, or of a run")
        found.add_argument("--out", required=True, type=Path, help="directory to write")
    else:
        names = ", ".join(PUBLISHED)
        found.add_argument("--network", required=True, help=f"a directory, or one of {names}")
        found.add_argument("--size", type=_size, default=(256, 256), metavar="H,W", help="of the image")
    return found


NETWORK_STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "import_weights": _import,
    "export_weights": _export,
    "describe": _describe,
}


def main(stage: str, arguments: Sequence[str]) -> int:
    """Runs one of NETWORK_STAGES with its own flags; the exit code."""
    NETWORK_STAGES[stage](_parser(stage).parse_args(list(arguments)))
    return 0
