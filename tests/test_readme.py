"""What the README shows works: its variant, its commands, its files."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from toys import labels, mixing_segmenter, point

from sgg_jax.guidance import VARIANTS, alternate
from sgg_jax.types import VOID

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_variant_of_the_readme_runs():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert 10 <= len(code.split("def ", 1)[1].splitlines()) <= 20
    names: dict = {}
    exec(code, names)
    focal = names["focal_scene"]
    where = point(mixing_segmenter(), labels())
    known = where.labels != VOID
    target = jnp.where(known, where.labels, 0)[..., None]

    def log_p(image):
        return jnp.take_along_axis(jax.nn.log_softmax(where.segmenter(image)), target, -1)[..., 0]

    weight = jnp.where(known, (1 - jnp.exp(log_p(where.x))) ** 2, 0)
    wanted = jax.vjp(log_p, where.x)[1](weight)[0]
    np.testing.assert_allclose(focal(where), wanted, rtol=1e-3, atol=1e-5)
    assert np.isfinite(alternate(focal, VARIANTS["lcg"])(where)).all()


def test_files_and_commands_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    for path in re.findall(r"\]\(([^)h][^)]*)\)", README) + re.findall(r"`((?:configs|docs|tests)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path


def test_the_layout_of_the_readme_is_the_layout():
    block = re.search(r"## The code\n\n```\n(.*?)```", README, re.DOTALL).group(1)
    for name in re.findall(r"(\w+\.py)", block.split("sgg_jax/")[1]):
        assert (ROOT / "sgg_jax" / name).exists(), name
