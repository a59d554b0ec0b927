"""Whether a network's constructor takes what is given for its options, told before it is called."""

import inspect
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin

import jax.numpy as jnp

EMPTY = ("attention", "forms")
"""Options that may be empty lists; those of `attention` count from 0."""


def check_options(network: type[Any], options: Mapping[str, Any]) -> None:
    """ValueError naming the first option that is missing, unknown, or not as the constructor's signature has it.

    A whole number is at least 1, or its default where that is less.
    """
    taken = dict(inspect.signature(network.__init__).parameters)
    del taken["self"], taken["rng"]
    for name in options:
        if name not in taken:
            raise ValueError(f"{name} is none of its options: they are {', '.join(taken)}")
    for name, parameter in taken.items():
        kind, default = parameter.annotation, parameter.default
        if name not in options:
            if default is parameter.empty:
                raise ValueError(f"{name} is missing")
            continue
        least = 0 if name in EMPTY else min(1, default) if isinstance(default, int) else 1
        value = options[name]
        if not _takes(kind, value, least) or (value in ((), []) and name not in EMPTY):
            raise ValueError(f"{name} is {value!r}: give {_words(kind, least)}")
        if name == "dtype" and not _floating(value):
            raise ValueError(f"dtype is {value!r}: give float32, bfloat16, or another type of floating-point numbers")


def _takes(kind: Any, value: Any, least: int) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(_takes(get_args(kind)[0], item, least) for item in value)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
    return isinstance(value, Real if kind is float else kind)


def _words(kind: Any, least: int) -> str:
    if get_origin(kind) is tuple:
        return f"a list, each of it {_words(get_args(kind)[0], least)}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return {int: f"a whole number of at least {least}", float: "a number", bool: "True or False"}.get(kind, "a name")


def _floating(name: str) -> bool:
    try:
        return bool(jnp.issubdtype(name, jnp.floating))
    except TypeError:
        return False
