"""safetensors: against the library's own writer, and every rule of the format broken once."""

import json
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from weight_files import VALUES, entry, safetensors

from sgg_jax.errors import InputError
from sgg_jax.pretrained import SHIPPED
from sgg_jax.published.tensors import open_tensors

DATA = VALUES.tobytes()


@pytest.fixture
def opened(tmp_path):
    def read(data):
        path = tmp_path / "weights"  # the suffix says nothing
        path.write_bytes(data)
        with open_tensors(path) as file:
            return {name: file.read(name) for name in file.tensors}

    return read


def test_reads_what_the_library_writes(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "w.safetensors"
    kinds = "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()  # noqa: SIM905
    wanted = {kind: (3 * rng.standard_normal((2, 3, 4))).astype(kind) for kind in kinds if not kind.startswith("u")}
    wanted |= {kind: rng.integers(0, 200, (3, 2)).astype(kind) for kind in kinds if kind.startswith("u")}
    wanted |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((3, 0), np.float32)}
    save_file(wanted, path, metadata={"story": "x" * 1000})
    with open_tensors(path) as file:
        assert file.shapes == {name: array.shape for name, array in wanted.items()}
        for name, array in wanted.items():
            np.testing.assert_array_equal(file.read(name), array, strict=True)


def test_bfloat16(opened):
    found = opened(safetensors({"w": entry(0, 4, (2,), "BF16")}, b"\x80\x3f\x20\xc0"))["w"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), [1.0, -2.5])


def test_reads_the_denoiser_that_comes_with_the_package():
    from safetensors import safe_open

    with open_tensors(SHIPPED["streets"]) as file, safe_open(SHIPPED["streets"], "numpy") as theirs:
        assert file.tensors.keys() == set(theirs.keys())
        for name in file.tensors:
            np.testing.assert_array_equal(file.read(name), theirs.get_tensor(name), strict=True)


def test_module_prefix_is_dropped(opened):
    found = opened(safetensors({"module.w": entry(), "__metadata__": {"format": "pt"}}, DATA))
    np.testing.assert_array_equal(found["w"], VALUES, strict=True)


@pytest.mark.parametrize("start", [b"\x80", b"\x80\x02", b"PK", b"<"])
def test_a_length_that_looks_like_another_format(opened, start):
    length = int.from_bytes(start.ljust(2, b"\0"), "little")
    header = json.dumps({"w": entry()}).encode().ljust(length)
    np.testing.assert_array_equal(opened(safetensors(header, DATA))["w"], VALUES, strict=True)


def test_large_files_stream(tmp_path):
    """200 MB, and the peak near one tensor of 25 MB."""
    path, size = tmp_path / "large", 25 * 2**20
    header = {f"w{i}": entry(i * size, (i + 1) * size, (size // 4,)) for i in range(8)}
    with path.open("wb") as file:
        file.write(safetensors(header))
        file.truncate(file.tell() + 8 * size)
    tracemalloc.start()
    with open_tensors(path) as file:
        total = sum(file.read(name).nbytes for name in file.tensors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 8 * size and peak < 1.5 * size


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(safetensors({"w": entry(0, 2**20, (2**18,))}, bytes(2**20)))
    with open_tensors(path) as file:
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(InputError, match="cut short in 'w'"):
            file.read("w")


def raw(text, data=DATA):
    return safetensors(text.encode() if isinstance(text, str) else text, data)


ENTRY = json.dumps(entry())
BROKEN = {
    "longer than the file": (raw(b"{}")[:8] + b"{", "should end at byte 10"),
    "length 2^63": (b"\0\0\0\0\0\0\0\x80{}", "should end at byte 9223372036854775816"),
    "length 2^64 - 1": (b"\xff" * 8 + b"{}", "cut short"),
    "header beyond the cap": (raw("{" + " " * 2**22 + "}"), "larger than 4194304 bytes"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "not JSON"),
    "not JSON": (raw("{weights}"), "not JSON"),
    "more than JSON": (raw("{}{}"), "not JSON"),
    "list": (raw("[1, 2]"), "neither a safetensors file"),
    "deep": (raw('{"w": ' + "[" * 10**6), "not JSON"),
    "deep in an entry": (raw('{"w": ' + '{"a":' * 10**5 + "1" + "}" * 10**5 + "}"), "not JSON"),
    "huge number": (raw('{"w": ' + "9" * 10**5 + "}"), "."),
    "no tensors": (raw("{}", b""), "no tensors in it"),
    "metadata alone": (raw('{"__metadata__": {"a": "b"}}', b""), "no tensors in it"),
    "tensor twice": (raw(f'{{"w": {ENTRY}, "w": {ENTRY}}}'), "'w' stands twice"),
    "field twice": (raw('{"w": {"dtype": "F32", "dtype": "F64"}}'), "'dtype' stands twice"),
    "no entry": (raw('{"w": null}'), "entry of 'w'"),
    "field missing": (raw('{"w": {"dtype": "F32", "shape": [2, 3]}}'), "entry of 'w'"),
    "field too many": (safetensors({"w": entry(strides=[3, 1])}, DATA), "entry of 'w'"),
    "dtype of another kind": (safetensors({"w": entry(dtype=3)}, DATA), "dtype of 'w' is no text"),
    "unknown dtype": (safetensors({"w": entry(dtype="F31")}, DATA), "'w' has the dtype 'F31', which is not read"),
    "8-bit float": (safetensors({"w": entry(0, 6, dtype="F8_E4M3")}, DATA[:6]), "'w' has the dtype 'F8_E4M3'"),
    "shape of text": (safetensors({"w": entry(shape="ab")}, DATA), "'w' has a shape or offsets"),
    "negative size": (safetensors({"w": entry(shape=(-2, -3))}, DATA), "'w' has a shape or offsets"),
    "half a size": (safetensors({"w": entry(shape=(1.5, 4))}, DATA), "'w' has a shape or offsets"),
    "true as a size": (safetensors({"w": entry(shape=(6, True))}, DATA), "'w' has a shape or offsets"),
    "too many axes": (safetensors({"w": entry(shape=[1] * 100 + [6])}, DATA), "'w' has a shape or offsets"),
    "size beyond int64": (safetensors({"w": entry(shape=(2**63, 0))}, DATA), "'w' has a shape or offsets"),
    "product beyond int64": (safetensors({"w": entry(shape=(2**62, 2**62))}, DATA), "'w' has 24 bytes"),
    "empty beyond any memory": (safetensors({"w": entry(0, 0, (2**62, 2**62, 0))}), "shape of 'w' is beyond"),
    "shape too small": (safetensors({"w": entry(shape=(2, 2))}, DATA), "'w' has 24 bytes .* take 16"),
    "offsets reversed": (safetensors({"w": entry(24, 0)}, DATA), "'w' lies outside the file"),
    "negative offset": (safetensors({"w": entry(-24, 0)}, DATA), "'w' has a shape or offsets"),
    "three offsets": (safetensors({"w": {**entry(), "data_offsets": [0, 12, 24]}}, DATA), "'w' has a shape or off"),
    "beyond the file": (safetensors({"w": entry()}, DATA[:-1]), "'w' lies outside the file"),
    "bytes left over": (safetensors({"w": entry()}, DATA + b"?"), "1 bytes at its end belong to no tensor"),
    "overlap": (safetensors({"v": entry(4, 28), "w": entry()}, DATA + b"1234"), "'v' overlaps"),
    "same bytes": (safetensors({"v": entry(), "w": entry()}, DATA), "'w' overlaps"),
    "gap": (safetensors({"v": entry(), "w": entry(28, 32, (1,))}, DATA + b"12345678"), "gap of 4 bytes before 'w'"),
    "gap at the start": (safetensors({"w": entry(4, 28)}, b"1234" + DATA), "gap of 4 bytes before 'w'"),
    "control characters": (safetensors({"\x1b[2Jw": entry()}, DATA), r"'\\x1b\[2Jw' is no name"),
    "half a surrogate": (raw(f'{{"\\ud800": {ENTRY}}}'), r"'\\ud800' is no name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_a_sentence(opened, case):
    data, words = BROKEN[case]
    with pytest.raises(InputError, match=words) as refused:
        opened(data)
    assert len(str(refused.value)) < 400 and str(refused.value).isprintable()


def test_every_truncation_is_refused(opened):
    whole = safetensors({"v": entry(0, 4, (1,)), "w": entry(4, 28)}, b"1234" + DATA)
    for length in range(len(whole)):
        with pytest.raises(InputError):
            opened(whole[:length])
