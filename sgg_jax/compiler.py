"""Compiler defaults that must be set before jax is first used."""

import os
from importlib.metadata import PackageNotFoundError, version

# Versions of jaxlib that were seen to know the flag; an unknown flag would abort the process.
KNOWN = ((0, 10), (0, 13))
# XLA:CPU sends float32 convolutions through YNNPACK fusions whose weight gradients are 4-7 times slower (measured on
# jaxlib 0.10.2 and 0.12.0); the empty list switches those fusions off.
CPU_FLAGS = "--xla_cpu_experimental_ynn_fusion_type="


def set_cpu_flags() -> None:
    """Sets XLA_FLAGS where the user has not, and only for versions of jaxlib that know the flag."""
    if "XLA_FLAGS" in os.environ:
        return
    try:
        release = tuple(int(part) for part in version("jaxlib").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return
    if KNOWN[0] <= release < KNOWN[1]:
        os.environ["XLA_FLAGS"] = CPU_FLAGS
