"""Compiler flags: set where they help, never over the user's own, never for a version that may not know them."""

import os
import subprocess
import sys

import pytest

from sgg_jax import compiler


@pytest.mark.parametrize(
    ("release", "wanted"),
    [
        ("0.10.2", compiler.CPU_FLAGS),
        ("0.12.0.1", compiler.CPU_FLAGS),
        ("0.9.9", None),
        ("0.13.0", None),
        ("1.0", None),
        ("dev", None),
    ],
)
def test_only_versions_that_know_the_flag(monkeypatch, release, wanted):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(compiler, "version", lambda name: release)
    compiler.set_cpu_flags()
    assert os.environ.get("XLA_FLAGS") == wanted


def test_the_users_flags_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    compiler.set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"


@pytest.mark.parametrize(
    ("platform", "release", "flags", "kept"),
    [("cpu", "0.10.2", None, True), ("gpu", "0.10.2", None, False), ("cpu", "0.13.0", None, False)]
    + [("cpu", "0.12.0", "--xla_x=1", True), ("cpu", "0.12.0", "--xla_disable_hlo_passes=dce", False)],
)
def test_barriers_are_kept_on_cpus_alone_and_the_users_choice_of_passes_stays(
    monkeypatch, platform, release, flags, kept
):
    monkeypatch.setattr(compiler, "version", lambda name: release)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if flags:
        monkeypatch.setenv("XLA_FLAGS", flags)
    assert bool(compiler.network_options(platform)) == kept


def test_what_was_compiled_is_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(compiler.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler.keep_compiled()
    kept = tmp_path / "sgg_jax" / "compiled" / compiler.machine()
    assert kept.is_dir()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(kept)


def test_the_users_cache_directory_stays_and_an_impossible_one_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    compiler.keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compiler.sys, "platform", "linux")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiler.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_cache_is_trimmed_by_last_use(tmp_path):
    for age, name in enumerate(("new", "old", "oldest")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    compiler.trim(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 3
    compiler.trim(tmp_path, 150)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_second_process_takes_what_the_first_one_compiled(tmp_path):
    code = "import sgg_jax, jax, jax.numpy as jnp; print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((9, 9)))[0, 0])"
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_LOG_COMPILES": "1",
    }  # fmt: skip
    del environment["JAX_COMPILATION_CACHE_DIR"]
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    hits = ["Persistent compilation cache hit for 'jit__lambda'" in run.stderr for run in runs]
    assert hits == [False, True], runs[1].stderr
