"""Networks in the names and layouts of those who published them, for PyTorch.

SegFormer with its own head becomes a directory that transformers opens; any other, a state dict in safetensors.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sgg_jax.errors import InputError
from sgg_jax.published import adm, deeplab, mit, segformer
from sgg_jax.published.importing import write_safetensors
from sgg_jax.published.links import Link, Shapes, their_shapes
from sgg_jax.records import write_json

EXPORTED = "model.safetensors"


def links_of(network: str, options: Mapping[str, Any]) -> list[Link]:
    """The table by which a network is exported; InputError for one that nobody published."""
    if network == "segformer" and options.get("head", "mlp") == "mlp":
        return segformer.links(**options)
    tables: dict[str, Callable[..., list[Link]]] = {"adm": adm.links, "deeplab": deeplab.links, "segformer": mit.links}
    if network not in tables:
        raise InputError(f"a network {network!r} has no published form: {', '.join(tables)} have one")
    return tables[network](**options)


def export_weights(
    network: str,
    options: Mapping[str, Any],
    names: tuple[str, ...],
    shapes: Shapes,
    read: Callable[[str], np.ndarray],
    out: Path,
) -> Path:
    """Writes out/model.safetensors, and for SegFormer's head "mlp" what transformers needs beside it.

    options: the constructor's, `classes` included; names: of the classes; read: a weight by its dotted name.
    """
    links = links_of(network, options)
    if missing := sorted({name for link in links for name in link.ours} - shapes.keys()):
        raise InputError(f"{missing[0]} is not among the weights: only a whole network can be exported")

    def values() -> Iterator[tuple[str, np.ndarray]]:
        for link in links:
            yield from zip(link.theirs, link.write(tuple(read(name) for name in link.ours)), strict=True)

    write_safetensors(out / EXPORTED, their_shapes(links, shapes), values(), {"format": "pt"})
    if network == "segformer" and options.get("head", "mlp") == "mlp":
        write_json(out / "config.json", segformer.config_json(options, names))
        write_json(out / "preprocessor_config.json", segformer.preprocessor_json(options))
    return out / EXPORTED
