"""Files of weights written by hand, byte by byte: sound ones without torch, and whatever no library would write."""

import io
import json
import struct
import zipfile

import numpy as np

PROTO, STOP = b"\x80\x02", b"."
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950a86a20f9469cfc6c
VERSION = b"\x80\x02M\xe9\x03."  # 1001
KINDS = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage", "bool": "BoolStorage"}


# opcodes of a pickle


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def name(full):
    module, last = full.rsplit(".", 1)
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def group(*items):
    return b"(" + b"".join(items) + b"t"


def call(full, *arguments):
    return name(full) + group(*arguments) + b"R"


def listed(*items):
    return b"](" + b"".join(items) + b"e"


def table(*pairs, empty=b"}"):
    return empty + b"(" + b"".join(key + value for key, value in pairs) + b"u"


def ordered(*pairs):
    return table(*pairs, empty=name("collections.OrderedDict") + b")R")


def storage(key="0", count=6, kind="torch.FloatStorage", view=None):
    more = () if view is None else view
    return group(text("storage"), name(kind), text(key), text("cpu"), number(count), *more) + b"Q"


def tensor(held=None, shape=(2, 3), strides=(3, 1), offset=0, *, rebuild="torch._utils._rebuild_tensor_v2", more=()):
    held = storage() if held is None else held
    places = [number(offset), group(*map(number, shape)), group(*map(number, strides))]
    return call(rebuild, held, *places, b"\x89", ordered(), *more)


def pickled(value):
    return PROTO + value + STOP


# files


def zipped(value, storages=None, *, root="net", more=(), **changes):
    """The zip form: a pickle's opcodes, bytes by storage key, further records; `changes` to the records' ZipInfo."""
    storages = {"0": VALUES.tobytes()} if storages is None else storages
    records = [(f"{root}/data.pkl", pickled(value)), *((f"{root}/data/{key}", data) for key, data in storages.items())]
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for record, data in [*records, *more]:
            info = zipfile.ZipInfo(record)
            for field, change in changes.items():
                setattr(info, field, change)
            archive.writestr(info, data)
    return written.getvalue()


def legacy(value, storages=None, *, keys=None, itemsizes=None, machine=b"}"):
    """The legacy form: as above; `itemsizes` by storage key, where values do not take 4 bytes."""
    storages = {"0": VALUES.tobytes()} if storages is None else storages
    keys = listed(*map(text, storages)) if keys is None else keys
    sizes = dict.fromkeys(storages, 4) | (itemsizes or {})
    raw = [struct.pack("<q", len(data) // sizes[key]) + data for key, data in storages.items()]
    return MAGIC + VERSION + pickled(machine) + pickled(value) + pickled(keys) + b"".join(raw)


def safetensors(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(begin=0, end=24, shape=(2, 3), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


FORMS = {"zip": zipped, "legacy": legacy}
"""What writes a pickled value as a file of each form of torch.save."""
VALUES = np.arange(6, dtype="<f4").reshape(2, 3) + 0.5
SOUND = {
    "zip": zipped(table((text("w"), tensor()))),
    "legacy": legacy(table((text("w"), tensor()))),
    "safetensors": safetensors({"w": entry()}, VALUES.tobytes()),
}
"""One small file of each kind, that holds VALUES as "w"."""
