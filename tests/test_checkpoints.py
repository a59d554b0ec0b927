"""Checkpoints: what is read is what was written, or a sentence says why not."""

import gc
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sgg_jax.checkpoints import SEAL, Checkpoints, load_weights, newest
from sgg_jax.devices import copies, replicate
from sgg_jax.errors import InputError
from sgg_jax.records import read_json


def tree(seed):
    rng = np.random.default_rng(seed)
    return {
        "conv": {"kernel": jnp.asarray(rng.standard_normal((3, 3, 2, 4)), "float32"), "bias": jnp.arange(4.0) + seed},
        "norm": {"scale": jnp.asarray(rng.standard_normal(7), "bfloat16"), "count": jnp.int32(seed)},
        "codes": jnp.asarray(rng.integers(0, 256, (5,)), "uint8"),
    }


def blank(like):
    return jax.tree.map(jnp.zeros_like, like)


def assert_equal(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def saved(directory, *steps, keep=2):
    """Checkpoints of `steps`: the weights are tree(step), the state is (tree(step + 100), step)."""
    with Checkpoints(directory, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, {"params": tree(step + 100), "step": jnp.int32(step)}, tree(step))
    return directory


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("saved") / "checkpoints", 5)


@pytest.fixture
def checkpoint(template, tmp_path):
    """A copy to damage, with step 5."""
    return shutil.copytree(template, tmp_path / "checkpoints")


@pytest.fixture
def abandoned_reads(monkeypatch):
    """Orbax leaves the other arrays' reads to themselves when one fails: their late complaints are not ours."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield
    time.sleep(0.2)
    gc.collect()


def test_round_trip_of_both_items(checkpoint):
    assert_equal(load_weights(checkpoint, blank(tree(0))), tree(5))
    with Checkpoints(checkpoint) as checkpoints:
        state = checkpoints.restore("state", {"params": blank(tree(0)), "step": jnp.int32(0)})
    assert_equal(state, {"params": tree(105), "step": jnp.int32(5)})


@pytest.mark.parametrize("devices", ["one_device", "four_devices"])
def test_what_is_saved_are_copies_that_outlive_a_donation(tmp_path, devices, request):
    """The next training step overwrites the state while its checkpoint is still being written."""
    mesh = request.getfixturevalue(devices)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        weights = replicate(jnp.zeros(1_000_000), mesh)
        copied = copies({"x": weights}, mesh)
        assert len(copied["x"].devices()) == 1
        checkpoints.save(1, copied, copied)
        for _ in range(3):
            weights = add(weights)
    assert not copied["x"].is_deleted() and not np.asarray(copied["x"]).any()
    assert not np.asarray(load_weights(tmp_path / "c", {"x": jnp.ones(1_000_000)})["x"]).any()


def test_the_newest_wins_and_the_oldest_go(tmp_path):
    directory = saved(tmp_path / "checkpoints", 5, 9, 10, keep=2)
    assert_equal(load_weights(directory, blank(tree(0))), tree(10))
    assert sorted(entry.name for entry in directory.iterdir()) == ["10", "9"]
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.latest() == 10


def test_an_unfinished_checkpoint_does_not_count(checkpoint):
    for name in ("8.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp-1234"):
        (checkpoint / name / "weights").mkdir(parents=True)
    with Checkpoints(checkpoint) as checkpoints:
        assert checkpoints.latest() == 5
    assert_equal(load_weights(checkpoint, blank(tree(0))), tree(5))


def test_no_checkpoint_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="missing: run the stage that trains it first"):
        load_weights(tmp_path / "missing", tree(0))
    assert not (tmp_path / "missing").exists()  # looking leaves nothing behind
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: run the stage that trains it first"):
        load_weights(tmp_path / "empty", tree(0))


def other(kind):
    like = tree(0)
    match kind:
        case "shape":
            like["conv"]["kernel"] = jnp.zeros((3, 3, 2, 5))
        case "smaller":
            like["conv"]["kernel"] = jnp.zeros((3, 3, 1, 4))
        case "more keys":
            like["conv"]["extra"] = jnp.zeros(3)
        case "fewer keys":
            del like["conv"]["bias"]
        case "other keys":
            like["conv2"] = like.pop("conv")
        case "rank":
            like["codes"] = jnp.zeros((5, 1), "uint8")
    return like


@pytest.mark.parametrize("kind", ["shape", "smaller", "more keys", "fewer keys", "other keys", "rank"])
def test_weights_of_another_network_are_refused(template, kind):
    with pytest.raises(InputError) as caught:
        load_weights(template, other(kind))
    assert str(template) in str(caught.value) and "--workdir" in str(caught.value)


@pytest.mark.parametrize("damage", ["deleted", "emptied", "halved", "overwritten"])
def test_damage_is_a_sentence_or_harmless(checkpoint, abandoned_reads, tmp_path, damage):
    """Every file that the weights could need, in turn. Whatever can be read despite it is right."""
    refused = 0
    files = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    files = [file for file in files if "state" not in file.parts]
    assert len(files) > 5
    for file in files:
        copy = shutil.copytree(checkpoint, tmp_path / "copy")
        content = (copy / file).read_bytes()
        match damage:
            case "deleted":
                (copy / file).unlink()
            case "emptied":
                (copy / file).write_bytes(b"")
            case "halved":
                (copy / file).write_bytes(content[: len(content) // 2])
            case "overwritten":
                (copy / file).write_bytes(b"\x93{" * (len(content) // 2))
        try:
            found = load_weights(copy, blank(tree(0)))
        except InputError as error:
            refused += 1
            assert str(copy) in str(error), file
        else:
            assert_equal(found, tree(5))
        shutil.rmtree(copy)
    assert refused > 0


PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}
"""Where in a file, as a share of its length."""


def flip(path, share):
    content = bytearray(path.read_bytes())
    content[round(share * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: max(0, round(share * len(content)) - 2)])  # a last newline alone says nothing


DAMAGES = {"flipped": flip, "cut": cut, "deleted": lambda path, _: path.unlink()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Steps 5 and 10."""
    return saved(tmp_path_factory.mktemp("pair") / "checkpoints", 5, 10)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("place", PLACES)
def test_after_damage_to_any_file_the_checkpoint_before_counts(pair, tmp_path, capsys, damage, place):
    files = sorted(path.relative_to(pair) for path in (pair / "10").rglob("*") if path.is_file())
    assert len(files) > 15 and Path("10/seal.json") in files
    copy = shutil.copytree(pair, tmp_path / "copy")
    for file in files:
        content = (copy / file).read_bytes()
        if not content and damage != "deleted":
            continue
        DAMAGES[damage](copy / file, PLACES[place])
        assert newest(copy) == 5, file
        assert f"passing over the checkpoint {copy / '10'}: " in capsys.readouterr().err
        (copy / file).write_bytes(content)
    assert newest(copy) == 10 and capsys.readouterr().err == ""


def test_a_damaged_checkpoint_is_set_aside_and_its_step_written_again(pair, tmp_path, capsys):
    copy = shutil.copytree(pair, tmp_path / "copy")
    flip(copy / "10" / "weights" / "manifest.ocdbt", 0.5)
    assert_equal(load_weights(copy, blank(tree(0))), tree(5))
    assert (copy / "10").exists()  # reading moves nothing
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.latest() == 5
        assert_equal(checkpoints.restore("weights", blank(tree(0))), tree(5))
        checkpoints.save(10, {"step": jnp.int32(10)}, tree(11))
    assert "weights/manifest.ocdbt was changed after it was written" in capsys.readouterr().err
    assert_equal(load_weights(copy, blank(tree(0))), tree(11))
    assert sorted(path.name for path in copy.iterdir()) == ["10", "10.damaged", "5"]


def test_a_checkpoint_that_was_not_sealed_does_not_count_beside_one_that_was(pair, tmp_path, capsys):
    copy = shutil.copytree(pair, tmp_path / "copy")
    (copy / "10" / SEAL).unlink()
    assert newest(copy) == 5
    assert "10: it was not sealed: its run was killed before" in capsys.readouterr().err


def test_no_whole_checkpoint_is_a_sentence(checkpoint):
    flip(checkpoint / "5" / "_CHECKPOINT_METADATA", 0.5)
    with pytest.raises(InputError, match="no whole checkpoint in .*: run the stage that trains it first"):
        load_weights(checkpoint, tree(0))


def test_a_checkpoint_from_before_there_were_seals_loads(tmp_path, capsys):
    """Written by this package at db27db0."""
    golden = shutil.copytree(Path(__file__).parent / "golden" / "checkpoints", tmp_path / "checkpoints")
    assert_equal(load_weights(golden, blank(tree(0))), tree(5))
    assert "is sealed: taking 5 unverified" in capsys.readouterr().err
    with Checkpoints(golden) as checkpoints:
        state = checkpoints.restore("state", blank({"params": tree(0), "step": jnp.int32(0)}))
    assert int(state["step"]) == 5
    assert_equal(state["params"], tree(105))


def test_a_seal_tells_what_it_was_given(tmp_path):
    with Checkpoints(tmp_path, about={"config": {"seed": 3}}) as checkpoints:
        checkpoints.save(1, tree(0), tree(1))
    assert read_json(tmp_path / "1" / SEAL)["config"] == {"seed": 3}


def test_training_that_goes_on_with_other_images_is_told(tmp_path, capsys):
    about = {"data": {"images": 12, "names_sha256": "a"}}
    with Checkpoints(tmp_path, about=about) as checkpoints:
        checkpoints.save(1, tree(0), tree(1))
    for same in (about, {"data": {"images": 12, "names_sha256": "a"}, "code": "newer"}, None):
        with Checkpoints(tmp_path, about=same):
            assert capsys.readouterr().err == ""
    with Checkpoints(tmp_path, about={"data": {"images": 14, "names_sha256": "b"}}) as checkpoints:
        assert f"{tmp_path / '1'} was trained on other images (12 then, 14 now)" in capsys.readouterr().err
        assert checkpoints.latest() == 1


def test_a_checkpoint_of_four_devices_is_read_on_one(tmp_path, four_devices):
    """As on a laptop after training on a larger machine: another process, which has one device."""
    spread = replicate(tree(5), four_devices)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, spread, spread)
    code = (
        "import sys, jax, numpy as np\n"
        "from pathlib import Path\n"
        "from sgg_jax.checkpoints import load_weights\n"
        "from test_checkpoints import tree\n"
        "assert jax.device_count() == 1\n"
        "found = load_weights(Path(sys.argv[1]), tree(0))\n"
        "jax.tree.map(np.testing.assert_array_equal, found, tree(5))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "checkpoints")], check=True, env=environment)
