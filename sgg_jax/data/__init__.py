"""Data sets: one file each; the loader; the writer of translated sets. No jax."""

from collections.abc import Callable
from typing import Any

from sgg_jax.data.folder import open_folders
from sgg_jax.data.prepared import Prepared
from sgg_jax.data.streets import Streets

DATASETS: dict[str, Callable[..., Any]] = {"streets": Streets, "folder": open_folders, "tfds": Prepared}
"""config.data.<role>.name -> constructor, besides public.LAYOUTS. Streets brings its classes, the others take them."""
