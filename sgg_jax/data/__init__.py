"""Data sets: one file each; the loader; the writer of translated sets. No jax."""

from sgg_jax.data.folder import FolderPair
from sgg_jax.data.prepared import Prepared
from sgg_jax.data.streets import Streets

DATASETS = {"streets": Streets, "folder": FolderPair, "tfds": Prepared}
"""config.data.<role>.name -> constructor. Streets brings its class table along; the others take one."""
