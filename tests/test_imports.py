"""Imports run one way, and every library stays in its room."""

import ast
import socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module may import those that stand before it, folders included. models/ and data/ import nothing but errors.
ORDER = [
    "errors",
    "stopping",
    "compiler",
    "memory",
    "data",
    "roles",
    "ranges",
    "models",
    "records",
    "workdir",
    "progress",
    "published",
    "report",
    "data_stages",
    "types",
    "schedule",
    "parameterization",
    "losses",
    "augmentation",
    "devices",
    "leases",
    "hosts",
    "guidance",
    "sampling",
    "tiling",
    "translation",
    "prediction",
    "evaluation",
    "checkpoints",
    "optimization",
    "accumulation",
    "training",
    "pretrained",
    "given",
    "networks",
    "network_stages",
    "ptl",
    "baselines",
    "collage",
    "distances",
    "experiment",
    "checks",
    "results",
    "calibration",
    "costs",
    "planning",
    "sheets",
    "summary_page",
    "translated_sets",
    "stages",
    "methods",
    "comparison",
    "pipeline",
]
LIBRARIES = {  # where a library may be imported: modules or folders of sgg_jax, and files beside it
    "flax": {"models"},
    "tensorflow_datasets": {"data"},
    "orbax": {"checkpoints"},
    "safetensors": {"pretrained"},
    "optax": {"optimization", "training"},
    "ml_collections": {
        "configs",
        "main",
        "roles",
        "ranges",
        "networks",
        "data_stages",
        "experiment",
        "checks",
        "costs",
        "pipeline",
    },
    "matplotlib": {"report"},
    "scipy": {"collage"},
    "tqdm": {"progress"},
}
WITHOUT_JAX = {
    "errors",
    "stopping",
    "compiler",
    "data",
    "report",
    "records",
    "progress",
    "ptl",
    "workdir",
    "roles",
    "ranges",
    "data_stages",
    "baselines",
    "collage",
    "distances",
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def room(path: Path) -> str:
    """Module or folder of sgg_jax, or the file or folder beside it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "sgg_jax" else parts[0]


def sources() -> list[Path]:
    files = [*ROOT.glob("sgg_jax/**/*.py"), *ROOT.glob("configs/*.py"), ROOT / "main.py"]
    return [path for path in files if path != ROOT / "sgg_jax" / "__init__.py"]


def test_tests_reach_no_network():
    with socket.socket() as found, pytest.raises(RuntimeError, match="tried to reach"):
        found.connect(("127.0.0.1", 9))


def test_every_module_has_its_place():
    assert {room(path) for path in ROOT.glob("sgg_jax/**/*.py")} - {"__init__"} == set(ORDER)


def test_imports_run_one_way():
    for path in ROOT.glob("sgg_jax/**/*.py"):
        here = room(path)
        if here == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "sgg_jax" or len(parts) < 2 or parts[1] == here:
                continue
            assert ORDER.index(parts[1]) < ORDER.index(here), f"{path}: {name} comes later than {here}"
            if here in ("data", "models"):
                assert parts[1] == "errors", f"{path}: {here}/ imports nothing of the rest"


def test_libraries_stay_in_their_rooms():
    for path in sources():
        for name in imports(path):
            library = name.split(".")[0]
            if library in LIBRARIES:
                assert room(path) in LIBRARIES[library], f"{path} imports {library}"
            if library in ("jax", "jaxlib") and room(path) in WITHOUT_JAX:
                raise AssertionError(f"{path} imports jax")
            assert library != "utils"
