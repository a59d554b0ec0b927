"""Compiler flags: set where they help, never over the user's own, never for a version that may not know them."""

import os

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
