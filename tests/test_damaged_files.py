"""Bombs, and thousands of damaged files: bounded memory, an InputError or sound arrays, and nothing else ever happens.

Both run in a process of their own, whose memory is limited and whose every act is watched.
"""

import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from weight_files import (
    SOUND,
    call,
    entry,
    group,
    legacy,
    listed,
    name,
    number,
    ordered,
    pickled,
    safetensors,
    storage,
    table,
    tensor,
    text,
    zipped,
)

from sgg_jax.errors import InputError
from sgg_jax.published.pickles import MOST_BYTES, MOST_OPCODES
from sgg_jax.published.tensors import open_tensors

ROOT = Path(__file__).resolve().parents[1]
MANY = MOST_OPCODES - 1000
REBUILD = "torch._utils._rebuild_tensor"
SPARE = 400 * 2**20
"""Bytes that reading may take beyond what the process takes before."""


def long_number(size):
    return b"\x8b" + struct.pack("<I", size) + b"\x7f" * size


def bombs():
    """Files that grow, or take long, when they are read the plain way; by name."""
    some, weight = MANY // 4, text("w")
    laughs = b")" + b"2\x86" * 100  # a pair of the pair before, a hundred times
    recalled = group(*[b"h\x01"] * 9)
    parameters = name("torch._utils._rebuild_parameter") + b"q\x01" + b"h\x01" * some + tensor() + b"\x85R" * (some + 1)
    ordered_dict = name("collections.OrderedDict") + b"q\x02"
    opcodes = {
        "marks": b"(" * MANY,
        "lists": b"]" * MANY,
        "dicts": b"}" * MANY,
        "memo": b"N" + b"".join(b"r" + struct.pack("<I", index * 4000) for index in range(MANY)),
        "far memo": b"Nr\xff\xff\xff\xff" * 1000,
        "too many opcodes": b"N0" * MOST_OPCODES,
        "deep lists": b"]" * (MANY // 2) + b"a" * (MANY // 2 - 1),
        "deep tuples": b")" + b"\x85" * MANY,
        "deep dicts": (b"}" + weight) * some + b"N" + b"s" * some,
        "deep Parameters": table((weight, parameters)),
        "deep view": table((weight, tensor(more=[b")" + b"\x85" * some]))),
        "laughs": table((weight, laughs)),
        "laughs for a shape": table((weight, call(REBUILD, storage(), number(0), laughs, laughs))),
        "laughs for a key": table((laughs, tensor())),
        "one list many times": listed(*[listed(b"N", b"N")] * 1000)
        + b"q\x01"
        + ordered_dict
        + b"h\x02h\x01\x85R" * some,
        "long shape": long_number(2**22)
        + b"q\x01"
        + table((weight, call(REBUILD, storage(), b"J\0\0\0\0", *[recalled] * 2))),
        "long storage": long_number(2**22) + b"q\x01" + table((weight, call(REBUILD, b"h\x01", *[recalled] * 3))),
        "many keys": table(*((text(str(index)), b"N") for index in range(some))),
        "many containers": b"}q\x01" + (b"h\x01" + text("model") + b"h\x01s") * (some // 2),
    }
    return {name: zipped(value) for name, value in opcodes.items()} | {
        "lists after values": legacy(table((weight, tensor())), keys=b"]" * MANY),
        "many entries": zipped(b"}", {str(key): b"" for key in range(20_000)}),
        "a pickle of the largest size": legacy(b"X" + struct.pack("<I", MOST_BYTES) + b"x" * MOST_BYTES),
        "JSON lists": safetensors(b'{"w": [' + b"[]," * 1_300_000 + b"[]]}"),
        "JSON dicts": safetensors(b'{"w": [' + b"{}," * 1_300_000 + b"{}]}"),
        "JSON depth": safetensors(b'{"w": ' + b"[" * 4_000_000),
        "JSON keys": safetensors(b"{" + b",".join(b'"%d":1' % index for index in range(300_000)) + b"}"),
    }


def limit_memory():
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read_bombs(folder):
    """Writes, then reads each bomb; says on stdout how it ended and how long it took."""
    for file_name, data in bombs().items():
        (Path(folder) / file_name).write_bytes(data)
    limit_memory()
    for path in sorted(Path(folder).iterdir()):
        start = time.process_time()
        try:
            open_tensors(path).file.close()
            ended = "read"
        except InputError:
            ended = "refused"
        print(f"{time.process_time() - start:.2f} {ended} {path.name}")


def in_a_process(function, *arguments):
    code = f"import test_damaged_files as t; t.{function}(*{arguments!r})"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout.splitlines()


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by means of Linux")


@linux
def test_bombs(tmp_path):
    lines = [line.split(" ", 2) for line in in_a_process("read_bombs", str(tmp_path))]
    assert {case for _, _, case in lines} == set(bombs())
    for seconds, ended, case in lines:
        assert float(seconds) < 20, case
        assert ended == ("read" if case == "deep Parameters" else "refused"), case  # its weights are sound


# damage

CHECKPOINT = table(
    (text("epoch"), number(3)),
    (
        text("state_dict"),
        ordered(
            (text("module.a"), tensor()),
            (
                text("module.b"),
                call("torch._utils._rebuild_parameter", tensor(None, (3, 2), (1, 3)), b"\x88", ordered()),
            ),
            (text("module.c"), tensor(storage("1", 2, "torch.LongStorage"), (), (), 1)),
        ),
    ),
)
STORED = {"0": np.arange(6, dtype="<f4").tobytes(), "1": np.arange(2, dtype="<i8").tobytes()}
OPCODES = bytes(ord(opcode.code) for opcode in pickletools.opcodes)
EXTREMES = (b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x7f", b"\x80")


def damaged(rng, data):
    """The bytes after one to three accidents."""
    for _ in range(rng.integers(1, 4)):
        at, other = (int(place) for place in rng.integers(0, max(len(data), 1), 2))
        some = data[other : other + int(rng.integers(1, 40))]
        change = int(rng.integers(0, 7))
        if change == 0:
            data = data[:at] + bytes([data[at] ^ 1 << int(rng.integers(0, 8))] if data else []) + data[at + 1 :]
        elif change == 1:
            data = data[:at] + bytes([OPCODES[rng.integers(len(OPCODES))]]) + data[at + 1 :]
        elif change == 2:
            data = data[:at] + some + data[at:]
        elif change == 3:
            data = data[:at] + some + data[at + len(some) :]
        elif change == 4:
            data = data[:at] + data[at + len(some) :]
        elif change == 5:
            extreme = EXTREMES[rng.integers(len(EXTREMES))]
            data = data[:at] + extreme + data[at + len(extreme) :]
        elif rng.integers(4) == 0:
            data = data[:at]
    return data


def damaged_file(rng, kind):
    """A sound file with accidents; of a zip, half of them in the pickle, behind a CRC that fits."""
    if kind == "zip pickle":
        return zipped(damaged(rng, CHECKPOINT), STORED)
    if kind == "legacy pickle":
        return legacy(damaged(rng, CHECKPOINT), STORED, itemsizes={"1": 8})
    header = {"a": entry(), "b": entry(24, 32, (4,), "F16"), "__metadata__": {"format": "pt"}}
    sound = {
        "zip": lambda: zipped(CHECKPOINT, STORED),
        "legacy": lambda: legacy(CHECKPOINT, STORED, itemsizes={"1": 8}),
        "safetensors": lambda: safetensors(header, bytes(range(32))),
    }[kind]()
    return damaged(rng, sound)


COUNT = 800  # of each kind
KINDS = ("zip", "zip pickle", "legacy", "legacy pickle", "safetensors")


def watch():
    """From now on, whatever Python reports that it does, but for opening a file to read it, is written down."""
    seen, armed = [], [False]

    def hook(event, arguments):
        if armed[0] and not (event == "open" and arguments[1] in ("r", "rb")):
            seen.append(f"{event}{arguments!r:.200}")

    sys.addaudithook(hook)
    return seen, armed


def read_damaged(path, count):
    """Reads `count` damaged files of each kind; says on stdout how many could be read, and what else was done."""
    seen, armed = watch()
    path = Path(path)
    path.write_bytes(SOUND["zip"])
    open_tensors(path).file.close()  # whatever is imported late is imported now
    limit_memory()
    for kind in KINDS:
        read = 0
        for seed in range(count):
            path.write_bytes(damaged_file(np.random.default_rng((seed, KINDS.index(kind))), kind))
            armed[0] = True
            try:
                with open_tensors(path) as file:
                    arrays = {name: file.read(name) for name in file.tensors}
                    assert arrays and {name: array.shape for name, array in arrays.items()} == file.shapes
                    assert all(array.dtype == file.tensors[name].dtype for name, array in arrays.items())
                read += 1
            except InputError as error:
                assert str(error).isprintable() and len(str(error)) < 600, error
            finally:
                armed[0] = False
        print(read, kind)
    print(seen)


@linux
def test_damage(tmp_path):
    *lines, seen = in_a_process("read_damaged", str(tmp_path / "w"), COUNT)
    assert seen == "[]"
    read = {kind: int(count) for count, kind in (line.split(" ", 1) for line in lines)}
    assert set(read) == set(KINDS)
    assert all(0 < count < COUNT for count in read.values()), read  # some damage is harmless, and most is found


@linux
def test_the_watch_sees(tmp_path):
    """That nothing was seen says something: pickle.load of a hostile file is seen."""
    path = tmp_path / "hostile"
    path.write_bytes(pickled(call("os.system", text("true"))))
    seen = " ".join(in_a_process("load_watched", str(path)))
    assert "pickle.find_class" in seen and "os.system" in seen


def load_watched(path):
    seen, armed = watch()
    armed[0] = True
    with open(path, "rb") as file:
        pickle.load(file)
    armed[0] = False
    print(seen)
