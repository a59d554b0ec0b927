"""The command line: every mistake gets one sentence and exit code 2, without waiting for jax."""

import subprocess
import sys
from pathlib import Path

import pytest
from lookalikes import gta5

from sgg_jax import devices
from sgg_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_help_names_every_stage():
    from main import NETWORK_STAGES, STAGES
    from sgg_jax import data_stages, network_stages, pipeline

    found = run("--help")
    assert found.returncode == 0
    assert all(stage in found.stdout for stage in STAGES)
    assert set(STAGES) == {"run", "plan", "export_streets", *pipeline.STAGES, *data_stages.DATA_STAGES}
    assert set(NETWORK_STAGES) == set(network_stages.NETWORK_STAGES)
    assert all(stage in found.stdout for stage in NETWORK_STAGES)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["run", "--workdir", "x"], "the following arguments are required: --config"),
        (["run", "--config", "configs/no.py", "--workdir", "x"], "configs/no.py: there is no such file"),
        (["run", "--config", "README.md", "--workdir", "x"], "README.md"),
        (
            ["run", "--config", "configs/quick.py:fats", "--workdir", "x"],
            "configs/quick.py:fats: choose one of the presets paper, balanced, fast",
        ),
        (["run", "--config", "configs/quick.py", "--workdir", "x", "--config.translate.dpeth=3"], "translate.dpeth"),
        (["run", "--config", "configs/quick.py", "--workdir", "x", "--config.translate.depth=deep"], "deep"),
        (["run", "--config", "configs/quick.py", "--workdir", "x", "again"], "do not know what to do with again"),
        (["run", "--config", "configs/quick.py", "--workdir", "main.py"], "main.py is a file"),
        (["run", "--config", "configs/quick.py", "--workdir", ""], "--workdir: it is empty; name a directory"),
        (
            ["check_data", "--config", "configs/quick.py", "--workdir", "x", "--config.data.max_bad=-1"],
            "config.data.max_bad is -1: it must be at least 0",
        ),
        (["run", "--config", "configs/folders.py", "--workdir", "x"], "config.data.source"),
        (
            ["run", "--config", "configs/folders.py", "--workdir", "x", "--config.data.source.folder.images=/no/where"],
            "/no/where",
        ),
    ],
)
def test_mistakes_get_a_sentence(arguments, sentence):
    found = run(*arguments)
    assert found.returncode == 2
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr
    assert len(found.stderr.strip().splitlines()) <= 2
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["import_weights", "--kind", "adm", "--file", "README.md", "--out", "x"],
            "README.md cannot be read",
        ),
        (["import_weights", "--kind", "adm", "--file", "no.pt", "--out", "x"], "no.pt is no file"),
        (["import_weights", "--kind", "mit", "--file", "tests", "--out", "x"], "a folder, not a file of weights"),
        (["import_weights", "--kind", "segformer", "--file", "tests", "--out", "x"], "config.json is missing"),
        (["import_weights", "--kind", "vgg", "--file", "README.md", "--out", "x"], "invalid choice: 'vgg'"),
        (["export_weights", "--network", "tests", "--out", "x"], "no network has that name"),
        (["describe", "--network", "segformer-b9"], "segformer-b9"),
        (["describe", "--network", "segformer-b0", "--size", "wide"], "'wide' is no size: give H,W"),
        (["describe", "--network", "segformer-b0", "--size", "4,4"], "--size 4,4 does not suit the network"),
    ],
)
def test_mistakes_about_networks_get_a_sentence(arguments, sentence):
    found = run(*arguments)
    assert found.returncode == 2
    assert sentence in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr
    assert not (ROOT / "x").exists()


def test_mistakes_do_not_wait_for_jax():
    check = (
        "import sys, main\n"
        "from sgg_jax.errors import InputError\n"
        "try: main.load_config('configs/quick.py', ['--config.sed=3'])\n"
        "except InputError as error: print(error)\n"
        "print('jax' in sys.modules, 'flax' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sed" in found.stdout.splitlines()[0]
    assert found.stdout.splitlines()[-1] == "False False"


def test_fields_are_set_from_the_command_line():
    from main import load_config

    config = load_config("configs/quick.py", ["--config.translate.depth=123", "--config.data.size=(16, 32)"])
    assert config.translate.depth == 123
    assert tuple(config.data.size) == (16, 32)
    assert config.translate.steps == 8  # the rest is the file's
    twice = ["--config.seed=1", "--config.data.size=(8, 8)", "--config.data.size=(16, 32)", "--config.seed=2"]
    config = load_config("configs/quick.py", twice)  # the last one counts, of tuples, too
    assert config.seed == 2 and tuple(config.data.size) == (16, 32)
    apart = ["--config.seed", "1", "--config.data.size", "(8, 8)", "--config.data.size=(16, 32)", "--config.seed", "-2"]
    config = load_config("configs/quick.py", apart)
    assert config.seed == -2 and tuple(config.data.size) == (16, 32)


def test_devices_stand_host_by_host(monkeypatch):
    """As hosts have their parts of a batch; a TPU's wires go from host to host and back."""
    there = devices.jax.devices()
    monkeypatch.setattr(devices.jax, "devices", lambda: [there[i] for i in (2, 0, 3, 1)])
    assert list(devices.data_mesh().devices) == there


def test_pretended_devices_of_a_cpu_do_not_translate():
    """Their first images would come out wrong; see translation_mesh."""
    assert devices.local_mesh().size == 4
    assert list(devices.translation_mesh().devices) == devices.jax.local_devices()[:1]


def test_a_device_that_is_not_there_is_told(monkeypatch):
    def missing():
        raise AssertionError  # what jax does then

    monkeypatch.setattr(devices.jax, "devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(InputError, match="jax finds no device to compute on, and JAX_PLATFORMS is 'cuda'"):
        devices.check_there()


def test_every_config_loads():
    from main import load_config

    for path in set((ROOT / "configs").glob("*.py")) - {ROOT / "configs" / "presets.py"}:
        assert load_config(str(path), []).seed == 0


def test_a_preset_sets_fields_and_flags_count_over_it():
    from configs.presets import PRESETS
    from main import load_config

    assert list(PRESETS) == ["paper", "balanced", "fast"]
    assert len({frozenset(fields) for fields in PRESETS.values()}) == 1  # none leaves what another one sets
    plain = load_config("configs/quick.py", [])
    for name, fields in PRESETS.items():
        config = load_config(f"configs/quick.py:{name}", ["--config.translate.eta=0.25"])
        assert config.translate.eta == 0.25
        assert {field: config.translate[field] for field in fields} == fields
        assert config.translate.depth == plain.translate.depth
    assert load_config("configs/quick.py:fast", ["--config.translate.steps=7"]).translate.steps == 7


def test_a_bad_example_is_told_once(tmp_path):
    """Sets are opened before jax is imported, and not again by the run."""
    root = gta5(tmp_path / "gta5", 3)
    (root / "labels" / "00002.png").unlink()
    fields = {"source.name": "gta5", "source.root": root, "target.name": "folder", "max_bad": 1}
    fields |= {"target.folder.images": root / "images"} | {f"{role}.name": "none" for role in ("judge", "val", "test")}
    data = [f"--config.data.{field}={value}" for field, value in fields.items()]
    found = run("report", "--config", "configs/quick.py", "--workdir", str(tmp_path / "run"), *data)
    assert found.returncode == 2, found.stderr
    assert found.stderr.count("left out: ") == 1
