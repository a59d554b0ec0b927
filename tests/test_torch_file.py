"""What torch.save writes is read as torch.load reads it; forms that it no longer writes, from bytes written here."""

import argparse
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from weight_files import (
    FORMS,
    SOUND,
    VALUES,
    call,
    group,
    legacy,
    listed,
    name,
    number,
    ordered,
    storage,
    table,
    tensor,
    text,
    zipped,
)

from sgg_jax.errors import InputError
from sgg_jax.published.tensors import open_tensors


@pytest.fixture
def opened(tmp_path):
    """Everything in a file of the given bytes, by name."""

    def read(data, **options):
        path = tmp_path / "weights"
        path.write_bytes(data)
        with open_tensors(path, **options) as file:
            found = {name: file.read(name) for name in file.tensors}
            assert file.shapes == {name: array.shape for name, array in found.items()}
            assert all(array.dtype == file.tensors[name].dtype for name, array in found.items())
        assert file.file.closed
        return found

    return read


# against torch


def torch_tensors(torch):
    base = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    dtypes = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    return OrderedDict(
        matrix=base,
        transposed=base.t(),
        slice=base[1:5:2, 2:7:3],
        scalar=torch.tensor(3.5),
        element=base[2, 3],
        empty=torch.zeros(0, 4),
        repeated=base[0].expand(4, 8),
        parameter=torch.nn.Parameter(base[:2] * 2),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        **{dtype: (base[0] * 3).to(getattr(torch, dtype)) for dtype in dtypes},
    )


def check_equal(found, wanted):
    """bfloat16 is compared by its bits: numpy has no such type of its own."""
    import torch

    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        value = value.detach().contiguous()
        assert str(value.dtype) == f"torch.{found[key].dtype}"
        bits = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
        array = found[key].view(np.int16) if value.dtype == torch.bfloat16 else found[key]
        np.testing.assert_array_equal(array, bits.numpy(), strict=True)
        assert array.flags.c_contiguous and array.flags.writeable


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_torch_saves(tmp_path, new, protocol):
    torch = pytest.importorskip("torch", reason="writes the files that are read")
    wanted = torch_tensors(torch)
    args = argparse.Namespace(lr=0.1, sizes=[1, 2])
    metrics = {
        "epoch": 3,
        "best": np.float64(0.5),
        "history": np.arange(5),
        "seen": {1, 2},
        "device": torch.device("cpu"),
    }
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    for number_, saved in enumerate(
        (
            wanted,
            {"module." + key: value for key, value in wanted.items()},
            {"state_dict": wanted, "optimizer": optimizer, "args": args, **metrics},
            {"model": {"state_dict": wanted}, "ema": None, "scheduler": {"last": 1}},
        )
    ):
        path = tmp_path / f"{number_}.pth"
        torch.save(saved, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
        with open_tensors(path) as file:
            check_equal({key: file.read(key) for key in file.tensors}, wanted)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_reads_a_network_and_nothing_but_weights(tmp_path, new):
    torch = pytest.importorskip("torch", reason="writes the files that are read")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = tmp_path / "net.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=new)
    with open_tensors(path) as file:
        check_equal({key: file.read(key) for key in file.tensors}, network.state_dict())
    torch.save(network, path, _use_new_zipfile_serialization=new)
    with pytest.raises(
        InputError, match=r"holds 'torch\.nn\.modules\.container\.Sequential'.*torch\.save\(model\.state"
    ):
        open_tensors(path)


def test_reads_unsigned_integers_by_their_own_dtype(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the files that are read")
    path = tmp_path / "net.pth"
    torch.save({"a": torch.arange(7).to(torch.uint16)[2:], "b": torch.arange(3).to(torch.uint64)}, path)
    with open_tensors(path) as file:
        np.testing.assert_array_equal(file.read("a"), np.arange(2, 7, dtype=np.uint16), strict=True)
        np.testing.assert_array_equal(file.read("b"), np.arange(3, dtype=np.uint64), strict=True)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        ("complex", "'w' has a storage|a tensor in it has a storage"),
        ("float8", "'w' has a dtype"),
        ("sparse", "_rebuild_sparse_tensor"),
        ("negated", "'w' is a conjugate or negated view"),
    ],
)
def test_refuses_tensors_of_other_kinds(tmp_path, new, kind, refusal):
    torch = pytest.importorskip("torch", reason="writes the files that are read")
    value = {
        "complex": lambda: torch.zeros(2, dtype=torch.complex64),
        "float8": lambda: torch.zeros(2).to(torch.float8_e4m3fn),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "negated": lambda: torch._neg_view(torch.ones(2)),
    }[kind]()
    path = tmp_path / "net.pth"
    torch.save({"w": value}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=refusal):
        open_tensors(path)


def test_refuses_torchscript(tmp_path):
    torch = pytest.importorskip("torch", reason="writes the files that are read")
    path = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still in use
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(InputError, match=r"as torch\.jit\.save does"):
        open_tensors(path)


# without torch


@pytest.mark.parametrize("kind", SOUND)
def test_sound_files(opened, kind):
    found = opened(SOUND[kind])
    assert found.keys() == {"w"}
    np.testing.assert_array_equal(found["w"], VALUES, strict=True)


@pytest.mark.parametrize("form", FORMS)
def test_views_share_a_storage(opened, form):
    views = {
        "transposed": (((3, 2), (1, 3), 0), VALUES.T),
        "column": (((2,), (3,), 1), VALUES[:, 1]),
        "corner": (((1, 1), (3, 1), 5), VALUES[1:, 2:]),
        "scalar": (((), (), 4), VALUES[1, 1]),
        "empty": (((0, 3), (3, 1), 6), VALUES[:0]),
        "tied": (((2, 3), (3, 1), 0), VALUES),
    }
    found = opened(FORMS[form](table(*((text(key), tensor(None, *view)) for key, (view, _) in views.items()))))
    for key, (_, wanted) in views.items():
        np.testing.assert_array_equal(found[key], wanted, strict=True)


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order_of_the_zip_form(opened, order):
    data = VALUES.astype(">f4" if order == "big" else "<f4")
    flags = np.array([0, 1, 2], np.uint8)  # 2: whatever is not zero is true
    file = zipped(
        table((text("w"), tensor()), (text("b"), tensor(storage("1", 3, "torch.BoolStorage"), (3,), (1,)))),
        {"0": data.tobytes(), "1": flags.tobytes()},
        more=[("net/byteorder", order.encode())],
    )
    np.testing.assert_array_equal(opened(file)["w"], VALUES, strict=True)
    np.testing.assert_array_equal(opened(file)["b"], [False, True, True], strict=True)
    np.testing.assert_array_equal(opened(file)["b"].view(np.uint8), [0, 1, 1])


def test_legacy_form_is_little_endian_whatever_the_machine(opened):
    """As torch's THPStorage_writeFileRaw has it: `little_endian` is stated, and read by no one."""
    for little in (b"\x88", b"\x89"):
        file = legacy(table((text("w"), tensor())), machine=table((text("little_endian"), little)))
        np.testing.assert_array_equal(opened(file)["w"], VALUES, strict=True)


def test_python_2_form(opened):
    """str as bytes, OrderedDict of a list of lists, and _rebuild_tensor: what torch 0.3 wrote under Python 2."""

    def short(value):
        return b"U" + bytes([len(value)]) + value.encode()

    held = group(short("storage"), name("torch.FloatStorage"), short("94"), short("cuda:0"), number(6), b"N") + b"Q"
    weight = call(
        "torch._utils._rebuild_tensor", held, number(0), group(number(2), number(3)), group(number(3), number(1))
    )
    file = call("collections.OrderedDict", listed(listed(short("conv1.weight"), weight)))
    found = opened(legacy(file, {"94": VALUES.tobytes()}, keys=listed(short("94"))))
    np.testing.assert_array_equal(found["conv1.weight"], VALUES, strict=True)


def test_legacy_storage_that_is_part_of_another(opened):
    part = storage(view=[group(text("7"), number(2), number(4))])
    found = opened(legacy(table((text("w"), tensor(part, (2, 2), (2, 1))))))
    np.testing.assert_array_equal(found["w"], VALUES.ravel()[2:].reshape(2, 2), strict=True)


# where the weights stand


@pytest.mark.parametrize("form", FORMS)
def test_containers(opened, form):
    weights = ordered((text("w"), tensor()))
    for file, options in (
        (table((text("epoch"), number(3)), (text("state_dict"), weights)), {}),
        (table((text("model"), table((text("state_dict"), weights)))), {}),
        (table((text("model"), table((text("lr"), number(1)))), (text("ema"), weights)), {}),
        (table((text("best"), tensor()), (text("model"), weights)), {}),
        (table((text("model"), ordered()), (text("ema"), weights)), {"part": "ema"}),
        (table((text("model"), weights), (text("ema"), weights)), {"part": "ema"}),
        (table((text("generator"), weights), (text("critic"), weights)), {"part": "generator"}),
        (table((text("w"), tensor()), (number(1), text("not a weight"))), {}),
        (weights + b"}" + text("_metadata") + ordered() + b"sb", {}),
    ):
        found = opened(FORMS[form](file), **options)
        assert found.keys() == {"w"}
        np.testing.assert_array_equal(found["w"], VALUES, strict=True)


def test_module_prefix_is_dropped_where_all_have_it(opened):
    both = table((text("module.a"), tensor()), (text("module.b.module.c"), tensor()))
    assert opened(zipped(both)).keys() == {"a", "b.module.c"}
    one = table((text("module.a"), tensor()), (text("b"), tensor()))
    assert opened(zipped(one)).keys() == {"module.a", "b"}


# reading


def test_read_names_what_is_missing(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(SOUND["zip"])
    with open_tensors(path) as file, pytest.raises(InputError, match="no tensor 'v' in it"):
        file.read("v")


def test_arrays_are_the_callers_own(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(SOUND["zip"])
    with open_tensors(path) as file:
        file.read("w")[...] = 0
        np.testing.assert_array_equal(file.read("w"), VALUES)
    assert path.read_bytes() == SOUND["zip"]


def test_large_files_stream(tmp_path):
    """200 MB, read with 25 MB a tensor at a time: the peak stays near one tensor."""
    path, count, size = tmp_path / "large.pth", 8, 25 * 2**18
    held = [storage(str(key), size) for key in range(count)]
    weights = table(*((text(f"w{key}"), tensor(held[key], (size,), (1,))) for key in range(count)))
    zeros = {str(key): bytes(4 * size) for key in range(count)}
    path.write_bytes(zipped(weights, zeros))
    del zeros
    tracemalloc.start()
    with open_tensors(path) as file:
        outline = tracemalloc.get_traced_memory()[1]
        total = sum(file.read(key).nbytes for key in file.tensors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 4 * size * count <= path.stat().st_size
    assert outline < 2**25 and peak < 1.5 * 4 * size


def test_zip64(tmp_path):
    """Entries that state their sizes in 64 bits, as archives beyond 4 GB do."""
    path = tmp_path / "w.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 10)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        path.write_bytes(zipped(table((text("w"), tensor()))))
    assert b"PK\6\6" in path.read_bytes()
    with open_tensors(path) as file:
        np.testing.assert_array_equal(file.read("w"), VALUES, strict=True)
