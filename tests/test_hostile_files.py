"""Files made to do harm, or broken on their way: each is refused in one sentence, quickly, in little memory."""

import os
import pickle
import tarfile
import warnings
from pathlib import Path

import pytest
from weight_files import (
    FORMS,
    MAGIC,
    PROTO,
    SOUND,
    VALUES,
    VERSION,
    call,
    group,
    legacy,
    listed,
    name,
    number,
    pickled,
    storage,
    table,
    tensor,
    text,
    zipped,
)

from sgg_jax.errors import InputError
from sgg_jax.published.tensors import open_tensors

WEIGHTS = table((text("w"), tensor()))


def one(weight):
    """A dict of the one tensor "w"."""
    return table((text("w"), weight))


def run(full, *arguments):
    """A sound dict with a call of something beside the tensor."""
    return table((text("w"), tensor()), (text("x"), call(full, *map(text, arguments))))


def referring(*items):
    return one(tensor(group(*items) + b"Q"))


SHELL = name("os.system") + group(text("touch pwned")) + b"R"
PICKLES = {  # opcodes of the object, and words of the refusal
    # what would run
    "os.system": (run("os.system", "touch pwned"), r"'os\.system'"),
    "posix.system": (run("posix.system", "touch pwned"), r"'posix\.system'"),
    "eval": (run("builtins.eval", "open('pwned', 'w')"), r"'builtins\.eval'"),
    "exec of Python 2": (run("__builtin__.execfile", "x.py"), r"'__builtin__\.execfile'"),
    "getattr": (run("builtins.getattr", "a", "b"), r"'builtins\.getattr'"),
    "subprocess": (run("subprocess.Popen", "id"), r"'subprocess\.Popen'"),
    "torch.load": (run("torch.load", "x.pth"), r"'torch\.load'"),
    "numpy.load": (run("numpy.load", "x.npy"), r"'numpy\.load'"),
    "an attribute of an allowed module": (run("torch._utils._import_dotted_name", "os"), r"_import_dotted_name'"),
    "allowed name, dotted on": (run("collections.OrderedDict.fromkeys", "a"), r"OrderedDict\.fromkeys'"),
    "in the place of the dict": (SHELL, r"'os\.system'"),
    "in a key": (table((SHELL, tensor())), r"'os\.system'"),
    "in a shape": (one(call("torch._utils._rebuild_tensor_v2", storage(), number(0), SHELL, SHELL)), r"'os\.system'"),
    "in a persistent id": (one(tensor(SHELL + b"Q")), r"'os\.system'"),
    "given to an inert object": (table((text("x"), call("argparse.Namespace", SHELL))), r"'os\.system'"),
    "in attributes": (WEIGHTS + b"}" + text("x") + SHELL + b"sb", r"'os\.system'"),
    "dropped from the stack": (SHELL + b"0" + WEIGHTS, r"'os\.system'"),
    "INST": (b"(" + text("id") + b"ios\nsystem\n", r"'os\.system'"),
    "OBJ": (b"(" + name("os.system") + text("id") + b"o", r"'os\.system'"),
    "NEWOBJ": (name("os.system") + group(text("id")) + b"\x81", r"'os\.system'"),
    "STACK_GLOBAL": (text("os") + text("system") + b"\x93", r"'os\.system'"),
    "STACK_GLOBAL of numbers": (number(1) + number(2) + b"\x93", "names a global by what is no text"),
    "extension registry": (b"\x82\x01", r"opcode b'\\x82'"),
    "text persistent id": (b"Pstorage\n", "opcode b'P'"),
    "out-of-band buffer": (b"\x97", r"opcode b'\\x97'"),
    "call of a number": (number(3) + b")R", "calls what is no function"),
    "call of a tensor": (tensor() + b")R", "calls what is no function"),
    "arguments that are no tuple": (name("torch.FloatStorage") + b"]R", "calls what is no function"),
    "attributes of a tensor": (one(tensor() + b"}b"), "changes an object after it was made"),
    "item of a tensor": (one(tensor() + number(0) + number(1) + b"s"), "sets an item of what is no dict"),
    "appended to a tensor": (one(tensor() + number(0) + b"a"), "appends to what is no list"),
    # what is no state dict
    "a list": (listed(tensor()), "no dict of tensors"),
    "a tensor": (tensor(), "no dict of tensors"),
    "a number": (number(3), "no dict of tensors"),
    "empty dict": (b"}", "no tensors in it, but nothing"),
    "no tensors": (table((text("epoch"), number(3))), "no tensors in it, but 'epoch'"),
    "keys of numbers": (table((number(0), tensor())), "key of type int"),
    "keys of tuples": (table((b")", tensor())), "key of type tuple"),
    "key twice": (table((text("w"), tensor()), (text("w"), tensor())), "'w' stands twice"),
    "two roots": (table((text("model"), WEIGHTS), (text("ema"), WEIGHTS)), "several sets of weights, model and ema"),
    "containers in a circle": (b"}q\x07" + text("model") + b"h\x07s", "no tensors in it, but 'model'"),
    "a key that draws": (table((text("\x1b[2J\n"), tensor())), r"'\\x1b\[2J\\n' is no name"),
    "a very long key": (table((text("k" * 10**5), tensor(shape=(9, 9)))), r"'k{77}\.\.\.'"),
    # tensors that cannot be
    "offset outside": (one(tensor(offset=1)), "'w' needs 7 values where the file holds 6"),
    "offset far outside": (one(tensor(offset=2**62)), "'w' needs"),
    "strides outside": (one(tensor(strides=(6, 1))), "'w' needs 9 values"),
    "shape outside": (one(tensor(shape=(3, 3))), "'w' needs 9 values"),
    "negative offset": (one(tensor(offset=-1)), "'w' has a shape, strides or an offset"),
    "negative size": (one(tensor(shape=(-2, 3))), "'w' has a shape, strides or an offset"),
    "negative strides": (one(tensor(strides=(-3, 1))), "'w' has a shape, strides or an offset"),
    "sizes beyond int64": (one(tensor(shape=(2**64, 3))), "'w' has a shape, strides or an offset"),
    "sizes of 600 digits": (one(tensor(None, (2**2000, 3))), "'w' has a shape, strides or an offset"),
    "shape times strides beyond int64": (
        one(tensor(shape=(2**62, 2**62), strides=(2**62, 1))),
        "shape of 'w' is beyond",
    ),
    "empty, beyond any memory": (one(tensor(shape=(0, 2**62, 2**62))), "'w' has a shape, strides or an offset"),
    "empty and large": (one(tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1))), "shape of 'w' is beyond"),
    "much of one value": (one(tensor(shape=(2**40,), strides=(0,))), "'w' spreads 6 values over 1099511627776"),
    "more strides than sizes": (one(tensor(strides=(3, 1, 1))), "'w' has a shape, strides or an offset"),
    "too many axes": (one(tensor(shape=(1,) * 99, strides=(1,) * 99)), "'w' has a shape, strides or an offset"),
    "sizes of text": (
        one(call("torch._utils._rebuild_tensor", storage(), number(0), text("ab"), text("ab"))),
        "'w' has",
    ),
    "no arguments": (one(call("torch._utils._rebuild_tensor_v2")), "'w' is no tensor|list of storages"),
    "Parameter of nothing": (one(call("torch._utils._rebuild_parameter")), "'w' is no tensor|list of storages"),
    "Parameter of a number": (
        one(call("torch._utils._rebuild_parameter", number(3))),
        "'w' is no tensor|list of storages",
    ),
    "dtype of no kind": (one(tensor(rebuild="torch._utils._rebuild_tensor_v3", more=[number(1)])), "'w' has a dtype"),
    "no dtype": (one(tensor(rebuild="torch._utils._rebuild_tensor_v3")), "'w' has a dtype"),
    # storages that cannot be
    "reference of junk": (referring(number(1)), "'w' does not refer|a tensor in it does not refer"),
    "reference that is no tuple": (one(tensor(text("storage") + b"Q")), "does not refer to a storage"),
    "no reference": (one(tensor(number(1))), "'w' does not refer to a storage|list of storages"),
    "reference to a module": (referring(*map(text, ("module", "a", "b", "c", "d"))), "does not refer to a storage"),
    "type of text": (referring(*map(text, ("storage", "f4", "0", "cpu")), number(6)), "type that is not read"),
    "type of another kind": (one(tensor(storage(kind="torch.float32"))), "type that is not read"),
    "unknown type": (one(tensor(storage(kind="torch.QUInt4x2Storage"))), r"'torch\.QUInt4x2Storage'"),
    "key of a number": (
        referring(text("storage"), name("torch.FloatStorage"), number(0), text("cpu"), number(6)),
        "refers to a storage that cannot be",
    ),
    "negative count": (one(tensor(storage(count=-6))), "refers to a storage that cannot be"),
    "storage too short": (one(tensor(storage(count=7))), "'w' has 24 bytes where its storage takes 28"),
    "storage of another dtype": (one(tensor(storage(kind="torch.DoubleStorage", count=6))), "'w' has 24|cut short in"),
    "storage missing": (one(tensor(storage("7"))), "storage '7' of 'w' is missing|list of storages does not fit"),
    "storage by a path": (one(tensor(storage("../0"))), r"storage '\.\./0' of 'w' is missing|list of storages"),
    "part outside": (one(tensor(storage(view=[group(text("7"), number(4), number(4))]))), "reaches out"),
    "part of junk": (one(tensor(storage(view=[number(1)]))), "refers to a storage that cannot be"),
    # broken pickles
    "memo not stored": (b"h\x07", "recalls what it never stored"),
    "far memo not stored": (b"j\xff\xff\xff\xff", "recalls what it never stored"),
    "no mark": (b"t", "lacks a mark"),
    "empty stack": (b"0", "empty stack"),
    "nothing at all": (b"", "empty stack"),
    "key without a value": (b"}(" + text("w") + b"u", "key without a value"),
    "text longer than the file": (b"X\xff\xff\xff\xff", "cut short"),
    "bytes of 2^63": (b"\x8e" + b"\xff" * 8, "cut short"),
    "bytearray of 2^62": (b"\x96" + b"\0" * 7 + b"\x40", "cut short"),
    "text that is not UTF-8": (b"X\1\0\0\0\xff", "utf-8"),
    "global without an end": (b"cos\nsystem", "cut short"),
    "pairs of numbers": (call("collections.OrderedDict", listed(number(1))), "are no pairs"),
    "pairs of three": (call("collections.OrderedDict", listed(listed(b"N", b"N", b"N"))), "are no pairs"),
}


def edited(data, old, new, count=1):
    assert old in data and len(old) == len(new)
    return data.replace(old, new, count) if count > 0 else new.join(data.rsplit(old, -count))


def entries(*names, value=WEIGHTS):
    """Records beside those of a sound file."""
    return zipped(value, more=[(name, b"more") for name in names])


def in_directory(offset, change, data=SOUND["zip"]):
    """The last entry of an archive's directory, changed at a byte."""
    at = data.rfind(b"PK\1\2") + offset
    return data[:at] + change + data[at + len(change) :]


def at_end(offset, change, data=SOUND["zip"]):
    at = data.rfind(b"PK\5\6") + offset
    return data[:at] + change + data[at + len(change) :]


def twice():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return entries("net/data/0")


SOUND_ZIP, VALUE_BYTES = SOUND["zip"], VALUES.tobytes()
ARCHIVES = {  # bytes of the file, and words of the refusal
    "compressed": (zipped(WEIGHTS, compress_type=8), "'net/data.pkl' is compressed"),
    "encrypted": (in_directory(8, b"\1\0"), "'net/data/0' is encrypted"),
    "bad CRC of values": (edited(SOUND_ZIP, VALUE_BYTES, VALUE_BYTES[::-1]), "'w' is damaged: its CRC is wrong"),
    "bad CRC of the pickle": (edited(SOUND_ZIP, text("w"), text("v")), "'data.pkl' is damaged"),
    "record twice": (twice(), "'net/data/0' stands twice in the archive"),
    "path upwards": (entries("net/../../etc/passwd"), "is no name that torch.save gives"),
    "path from the root": (entries("/etc/passwd"), "is no name that torch.save gives"),
    "path of Windows": (entries("net\\x"), "is no name that torch.save gives"),
    "root upwards": (zipped(WEIGHTS, root=".."), "is no name that torch.save gives"),
    "two pickles": (entries("other/data.pkl"), "2 records data.pkl"),
    "no pickle": (edited(SOUND_ZIP, b"data.pkl", b"beta.pkl", 2), "0 records data.pkl"),
    "pickle too deep": (zipped(WEIGHTS, root="a/b"), "0 records data.pkl"),
    "values missing": (zipped(WEIGHTS, {}), "storage '0' of 'w' is missing"),
    "values too short": (zipped(WEIGHTS, {"0": VALUE_BYTES[:-4]}), "'w' has 20 bytes where its storage takes 24"),
    "TorchScript": (entries("net/constants.pkl"), "TorchScript program"),
    "byte order of no kind": (entries("net/byteorder"), "byteorder is neither"),
    "byte order of any length": (
        zipped(WEIGHTS, more=[("net/byteorder", b"little" * 99)]),
        "'byteorder' has 594 bytes",
    ),
    "large pickle": (zipped(text("x" * 2**24)), "'data.pkl' has 16777\\d+ bytes"),
    "huge claimed size": (in_directory(20, b"\xfe\xff\xff\xff" * 2), "'net/data/0' lies outside the archive"),
    "64-bit size missing": (in_directory(20, b"\xff\xff\xff\xff" * 2), "lacks a 64-bit size"),
    "header outside": (in_directory(42, b"\xfe\xff\xff\xff"), "'net/data/0' lies outside the archive"),
    "header elsewhere": (in_directory(42, b"\1\0\0\0"), "'net/data/0' lies outside the archive"),
    "header of another": (in_directory(42, b"\0\0\0\0"), "'net/data/0' (lies outside|has another name)"),
    "name longer than the directory": (in_directory(28, b"\xff\xff"), "directory is broken"),
    "name that is not UTF-8": (in_directory(46, b"\xff"), "utf-8"),
    "no directory": (SOUND_ZIP[: SOUND_ZIP.index(b"PK\5\6")], "its directory is missing"),
    "directory outside": (at_end(16, b"\xf0\xff\xff\xff"), "its directory lies beyond its end"),
    "directory elsewhere": (at_end(16, b"\0\0\0\0"), "directory is broken"),
    "64-bit directory missing": (at_end(16, b"\xff\xff\xff\xff"), "64-bit directory is missing"),
    "more entries than there are": (at_end(10, b"\3\0"), "directory is cut short"),
    "too many entries": (at_end(10, b"\xfe\xff"), "no network's"),
    "too large a directory": (at_end(12, b"\0\0\0\x70"), "no network's"),
    "an empty archive": (b"PK\5\6" + bytes(18), "neither a safetensors file"),
}
FILES = {
    "nothing": (b"", "it is empty"),
    "text": (b"conv1.weight 0.5 0.25\n" * 9, "neither a safetensors file"),
    "zeros": (bytes(1000), "neither a safetensors file"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "it is a web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
    "plain pickle": (pickle.dumps({"w": [1.0]}), "a pickle, but none that torch.save wrote"),
    "pickle of protocol 0": (b"cos\nsystem\n(S'id'\ntR.", "neither a safetensors file"),
    "pickle that runs": (pickled(SHELL), r"'os\.system'"),
    "pickle of the highest protocol": (b"\x80\xff.", "empty stack"),
    "another magic number": (PROTO + number(3) + b"." + VERSION + pickled(b"}"), "none that torch.save wrote"),
    "another version": (MAGIC + pickled(number(1002)) + pickled(b"}"), "none that torch.save wrote"),
    "machine that runs": (legacy(WEIGHTS, machine=SHELL), r"'os\.system'"),
    "keys that run": (legacy(WEIGHTS, keys=SHELL), r"'os\.system'"),
    "keys of numbers": (legacy(WEIGHTS, keys=listed(number(0))), "list of storages does not fit"),
    "keys of no list": (legacy(WEIGHTS, keys=text("0")), "list of storages does not fit"),
    "key twice": (legacy(WEIGHTS, keys=listed(text("0"), text("0"))) + legacy(WEIGHTS)[-32:], "'0' stands twice"),
    "no keys": (legacy(WEIGHTS, keys=b"]"), "storage '0' of 'w' is missing"),
    "values of a negative count": (
        edited(legacy(WEIGHTS), b"\6" + bytes(7), b"\xff" * 8, -1),
        "cut short in storage '0'",
    ),
    "values of a huge count": (
        edited(legacy(WEIGHTS), b"\6" + bytes(7), b"\xff" * 7 + b"\x7f", -1),
        "cut short in storage",
    ),
    "values too short": (legacy(WEIGHTS)[:-1], "cut short in storage '0'"),
    "values of another count": (
        legacy(WEIGHTS, {"0": VALUE_BYTES[:-4]}),
        "'w' has 20 bytes where its storage takes 24",
    ),
}


def refused(path, words):
    with pytest.raises(InputError, match=words) as found, open_tensors(path) as file:
        for key in file.tensors:
            file.read(key)
    said = str(found.value)
    assert said.startswith(str(path)) and said.isprintable() and len(said) < 500 + len(str(path))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickles(tmp_path, case, form):
    opcodes, words = PICKLES[case]
    path = tmp_path / "w.pth"
    path.write_bytes(FORMS[form](opcodes))
    refused(path, words)


@pytest.mark.parametrize("case", ARCHIVES)
def test_hostile_archives(tmp_path, case):
    path = tmp_path / "w.pth"
    path.write_bytes(ARCHIVES[case][0])
    refused(path, ARCHIVES[case][1])


@pytest.mark.parametrize("case", FILES)
def test_other_files(tmp_path, case):
    path = tmp_path / "w.pth"
    path.write_bytes(FILES[case][0])
    refused(path, FILES[case][1])


@pytest.mark.parametrize("kind", SOUND)
def test_every_truncation(tmp_path, kind):
    path = tmp_path / "w.pth"
    for length in range(len(SOUND[kind])):
        path.write_bytes(SOUND[kind][:length])
        refused(path, ".")


def test_tar_form(tmp_path):
    path, member = tmp_path / "w.pth", tmp_path / "pickle"
    member.write_bytes(pickled(WEIGHTS))
    with tarfile.open(path, "w") as archive:
        archive.add(member, "pickle")
    refused(path, "tar archive")


def test_what_is_no_file(tmp_path):
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none.pth", "is no file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is no file")  # and does not wait for someone to write


def test_file_without_permission(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "w.pth"
    path.write_bytes(SOUND["zip"])
    monkeypatch.setattr(Path, "open", denied)
    refused(path, "cannot be opened: Permission denied")


def test_parts(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(zipped(table((text("model"), WEIGHTS), (text("epoch"), number(3)))))
    for part in ("ema", "epoch"):
        with pytest.raises(InputError, match=f"it has no part '{part}'"):
            open_tensors(path, part)
