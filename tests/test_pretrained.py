"""Weights in a file: what is read is what was written, or a sentence says why not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgg_jax.errors import InputError
from sgg_jax.pretrained import SHIPPED, load_pretrained, locate, read_story, save_weights

STORY = {"command": "python main.py x", "steps": 3, "denoiser": {"widths": [4, 8]}}


def tree():
    rng = np.random.default_rng(0)
    return {
        "down": {0: {"kernel": jnp.asarray(rng.standard_normal((3, 3, 2, 4)), jnp.float32)}, 10: {"bias": jnp.ones(3)}},
        "out": jnp.asarray(rng.standard_normal(5), jnp.float32),
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "new" / "weights.safetensors"
    save_weights(path, tree(), STORY)
    return path


def test_weights_come_back_in_half_precision_with_their_story(file):
    found = load_pretrained(file, jax.tree.map(jnp.zeros_like, tree()))
    assert jax.tree.structure(found) == jax.tree.structure(tree())
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(tree()), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, np.asarray(two, np.float16).astype(np.float32))
    assert read_story(file) == STORY
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing else is left there


def test_a_header_can_be_read_without_this_program(file):
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["down.0.kernel"]["dtype"] == "F16"
    assert json.loads(header["__metadata__"]["steps"]) == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.update(out=jnp.zeros(6)), r"for out the file has \[5\], the network \[6\]"),
        (lambda t: t.pop("out"), "for out the file has .*the network no such weight"),
        (lambda t: t.update(more=jnp.zeros(1)), "for more the file has no such weight"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(file, change, sentence):
    like = tree()
    change(like)
    with pytest.raises(InputError, match=sentence):
        load_pretrained(file, like)


@pytest.mark.parametrize("keep", [0, 7, 40, -3])
def test_a_damaged_file_is_refused(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    for read in (read_story, lambda path: load_pretrained(path, tree())):
        with pytest.raises(InputError, match="safetensors"):
            read(file)


def test_a_file_is_found_by_name_or_path(file):
    assert locate(str(file)) == file
    assert locate("streets") == SHIPPED["streets"]
    with pytest.raises(InputError, match="'' to train from scratch"):
        locate("streats")
