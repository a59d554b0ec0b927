"""A config's networks: by name, as config.<section> describes them, or as a directory of weights does."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sgg_jax.errors import InputError
from sgg_jax.given import Given, open_given
from sgg_jax.models import DENOISERS, SEGMENTERS, Apply, build, make, outline
from sgg_jax.roles import choose
from sgg_jax.types import Params

TABLES = {"denoiser": DENOISERS, "segmenter": SEGMENTERS}
"""Networks that a section of the config can name."""


def describe_network(
    config: ConfigDict, section: str, name: str, field: str
) -> tuple[str, dict[str, Any], Given | None]:
    """A network's name in TABLES, its options, and the directory that both are from where `name` is one.

    What a directory does not say (precision, a head that it is without) is as the config describes networks of that
    name. field: of the config, for sentences. InputError where there is no such network.
    """
    table = TABLES[section]
    given = None if name in table else open_given(name, field, table)
    kind = given.network if given else name
    choose(table, kind, field)
    return kind, {**config[section][kind].to_dict(), **(given.options if given else {})}, given


def outline_network(config: ConfigDict, section: str, name: str, field: str, classes: int = 0) -> tuple[Apply, Params]:
    """(apply, shapes of its weights): what make_network makes, without drawing or reading a weight."""
    kind, options, _ = describe_network(config, section, name, field)
    try:
        return outline(make(TABLES[section][kind], None, **options, **({"classes": classes} if classes else {})))
    except ValueError as error:
        raise InputError(f"config.{section}.{kind} does not describe a network: {error}") from error


def make_network(
    config: ConfigDict, section: str, name: str, field: str, seed: int, names: Sequence[str] = ()
) -> tuple[Apply, Params]:
    """(apply, weights that training starts from): fresh ones of that seed, with those of a directory put in.

    names: of a segmenter's classes. InputError where options or weights do not fit together.
    """
    kind, options, given = describe_network(config, section, name, field)
    classes = {"classes": len(names)} if section == "segmenter" else {}
    try:
        apply, params = build(TABLES[section][kind], seed, **options, **classes)
    except ValueError as error:
        raise InputError(f"config.{section}.{kind} does not describe a network: {error}") from error
    return apply, given.into(params, names) if given else params
