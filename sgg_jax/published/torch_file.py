"""What torch.save wrote, without torch: the zip form (since 1.6) and the legacy form before it.

Zip: `<root>/data.pkl`, `<root>/byteorder`, and a record `<root>/data/<key>` for each storage. Legacy: pickles of a
magic number, a version, the machine, the object and the storages' keys, one after the other; then, for each key, the
number of values (int64) and the values, little-endian on every machine. Source: torch/serialization.py.
"""

import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from sgg_jax.published.archive import read_record, zip_records
from sgg_jax.published.pickles import MOST_BYTES, Call, Name, Persistent, Table, read_pickle
from sgg_jax.published.placement import DTYPES, Record, Tensor, check_placement, quoted, sizes

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the legacy form
ALONE = "save the weights alone, torch.save(model.state_dict(), file)"

STORAGES = {
    f"torch.{name}Storage": DTYPES[dtype]
    for name, dtype in (
        ("Double", "float64"),
        ("Float", "float32"),
        ("Half", "float16"),
        ("BFloat16", "bfloat16"),
        ("Long", "int64"),
        ("Int", "int32"),
        ("Short", "int16"),
        ("Char", "int8"),
        ("Byte", "uint8"),
        ("Bool", "bool"),
    )
} | {"torch.storage.UntypedStorage": DTYPES["uint8"]}
TORCH_DTYPES = {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
UNREAD = ("ComplexFloatStorage", "ComplexDoubleStorage", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128")
REBUILD = "torch._utils._rebuild_"
NAMES = {
    *STORAGES,
    *TORCH_DTYPES,
    *(f"torch.{name}" for name in UNREAD),  # so that the refusal can name the tensor
    *(REBUILD + name for name in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")),
    "collections.OrderedDict",
}

CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "network",
    "net",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "ema",
    "params",
    "weights",
)
"""Keys under which checkpoints keep the weights, beside epochs, optimizers and arguments."""


class Storage(NamedTuple):
    """What a tensor says of its storage."""

    dtype: np.dtype[Any]
    key: str
    values: int
    view: tuple[int, ...] | None  # first value and count, of an old storage that was part of another


def zip_tensors(file: BinaryIO, size: int, part: str = "") -> dict[str, Tensor]:
    """Tensors by key; ValueError, in a sentence, on anything broken or refused. For `part`, see `state_dict`."""
    records = zip_records(file, size)
    roots = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise ValueError(f"it is a zip archive with {len(roots)} records data.pkl in it where torch.save writes one")
    records = {name.removeprefix(f"{roots[0]}/"): record for name, record in records.items()}
    if "constants.pkl" in records:
        raise ValueError(f"it is a TorchScript program: load it with torch.jit.load and {ALONE}")
    order = read_record(file, "byteorder", records["byteorder"], 8) if "byteorder" in records else b"little"
    if order not in (b"little", b"big"):
        raise ValueError("its byteorder is neither little nor big")
    found = read_pickle(read_record(file, "data.pkl", records["data.pkl"], MOST_BYTES), 0, NAMES)
    storages = {name.removeprefix("data/"): record for name, record in records.items() if name.startswith("data/")}
    return _tensors(state_dict(found.value, part), storages, swapped=order.decode() != sys.byteorder)


def legacy_tensors(file: BinaryIO, size: int, part: str = "") -> dict[str, Tensor]:
    """As `zip_tensors`, for the legacy form."""
    file.seek(0)
    head = file.read(MOST_BYTES)
    end = 0
    for wanted in (MAGIC, VERSION, None):  # the machine's byte order and sizes, last, change nothing
        stated = read_pickle(head, end, ())
        end = stated.end
        if wanted is not None and not (type(stated.value) is int and stated.value == wanted):
            raise ValueError(f"it is a pickle, but none that torch.save wrote: {ALONE}")
    found = read_pickle(head, end, NAMES)
    keys = read_pickle(head, found.end, ())
    itemsizes: dict[str, int] = {}
    for reference in found.persistent:
        storage = _storage("a tensor in it", reference)
        itemsizes.setdefault(storage.key, storage.dtype.itemsize)
    return _tensors(
        state_dict(found.value, part),
        _legacy_storages(file, size, keys.end, keys.value, itemsizes),
        swapped=sys.byteorder != "little",
    )


def _legacy_storages(
    file: BinaryIO, size: int, start: int, keys: Any, itemsizes: Mapping[str, int]
) -> dict[str, Record]:
    if type(keys) is not list or not all(isinstance(key, str) and key in itemsizes for key in keys):
        raise ValueError("its list of storages does not fit its tensors")
    storages: dict[str, Record] = {}
    for key in keys:
        file.seek(start)
        count = file.read(8)
        length = int.from_bytes(count, "little", signed=True) * itemsizes[key]
        if len(count) < 8 or length < 0 or start + 8 + length > size:
            raise ValueError(f"it is cut short in storage {quoted(key)}")
        if key in storages:
            raise ValueError(f"storage {quoted(key)} stands twice in it")
        storages[key] = Record(start + 8, length)
        start += 8 + length
    return storages


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Call) and value.name.startswith(REBUILD)


def _entries(table: Table) -> dict[str, Any]:
    """Entries under keys of text; ValueError where one stands twice, or a tensor has another key."""
    found: dict[str, Any] = {}
    for key, value in table:
        if not isinstance(key, str):
            if _is_tensor(value):
                raise ValueError(f"one of its tensors has a key of type {type(key).__name__}, not text")
        elif key in found:
            raise ValueError(f"{quoted(key)} stands twice in it")
        else:
            found[key] = value
    return found


def _inside(entries: Mapping[str, Any]) -> list[str]:
    """Containers that hold tensors, or a further container."""

    def holds(table: Table) -> bool:
        return any(_is_tensor(value) or (key in CONTAINERS and isinstance(value, Table)) for key, value in table)

    return [name for name in CONTAINERS if isinstance(entries.get(name), Table) and holds(entries[name])]


def state_dict(value: Any, part: str = "") -> dict[str, Call]:
    """Tensors by key: those of `value`, or of the one container inside it that holds some, or of its entry `part`."""
    if not isinstance(value, Table):
        raise ValueError(f"it holds no dict of tensors: {ALONE}")
    entries = _entries(value)
    if part and not isinstance(entries.get(part), Table):
        raise ValueError(f"it has no part {quoted(part)}")
    inside = [part] if part else _inside(entries)
    for _ in range(4):  # containers in containers: lightning in DataParallel and the like
        if not inside:
            break
        if len(inside) > 1:
            raise ValueError(f"it holds several sets of weights, {' and '.join(inside)}: {ALONE}")
        entries = _entries(entries[inside[0]])
        inside = _inside(entries)
    tensors = {key: value for key, value in entries.items() if _is_tensor(value)}
    if not tensors:
        raise ValueError(
            f"there are no tensors in it, but {', '.join(quoted(key) for key in [*entries][:5]) or 'nothing'}"
        )
    return tensors


def _tensors(calls: Mapping[str, Call], storages: Mapping[str, Record], *, swapped: bool) -> dict[str, Tensor]:
    return {name: _tensor(name, call, storages, swapped=swapped) for name, call in calls.items()}


def _tensor(name: str, call: Any, storages: Mapping[str, Record], *, swapped: bool) -> Tensor:
    """What `_rebuild_tensor*(storage, offset, shape, strides, ...)` stands for, Parameters unwrapped."""
    while isinstance(call, Call) and call.name.startswith(f"{REBUILD}parameter"):
        call = call.arguments[0] if call.arguments else None
    if not (isinstance(call, Call) and call.name.startswith(f"{REBUILD}tensor") and len(call.arguments) >= 4):
        raise ValueError(f"{quoted(name)} is no tensor that torch.save wrote")
    storage, offset, shape, strides = call.arguments[0], *map(sizes, ((call.arguments[1],), *call.arguments[2:4]))
    if offset is None or shape is None or strides is None or len(shape) != len(strides):
        raise ValueError(f"{quoted(name)} has a shape, strides or an offset that no tensor can have")
    found, rest = _storage(quoted(name), storage), call.arguments[6:]  # between them requires_grad and hooks
    dtype = found.dtype
    if call.name.endswith("_v3"):
        dtype, rest = _dtype(name, rest[0] if rest else None), rest[1:]
    if any(rest):
        raise ValueError(f"{quoted(name)} is a conjugate or negated view: save its .clone()")
    tensor = Tensor(dtype, shape, strides, offset[0], _record(name, found, storages), swapped)
    check_placement(name, tensor)
    return tensor


def _record(name: str, storage: Storage, storages: Mapping[str, Record]) -> Record:
    if storage.key not in storages:
        raise ValueError(f"storage {quoted(storage.key)} of {quoted(name)} is missing")
    record, itemsize = storages[storage.key], storage.dtype.itemsize
    if record.length != storage.values * itemsize:
        raise ValueError(
            f"{quoted(name)} has {record.length} bytes where its storage takes {storage.values * itemsize}"
        )
    if storage.view is None:
        return record
    first, count = storage.view
    if first + count > storage.values:
        raise ValueError(f"the storage of {quoted(name)} reaches out of the one it is a part of")
    return Record(record.start + first * itemsize, count * itemsize)


def _storage(subject: str, reference: Any) -> Storage:
    """What the reference ("storage", type, key, device, count[, None or (key, first, count) of a part]) says."""
    stated = reference.id if isinstance(reference, Persistent) else None
    if not (isinstance(stated, tuple) and len(stated) in (5, 6) and stated[0] == "storage"):
        raise ValueError(f"{subject} does not refer to a storage")
    kind, key, _, count = stated[1:5]
    if not (isinstance(kind, Name) and kind.name in STORAGES):
        raise ValueError(f"{subject} has a storage of a type that is not read: save it as float32")
    part = stated[5] if len(stated) == 6 else None
    view = None if part is None else sizes(part[1:]) if isinstance(part, tuple) and len(part) == 3 else ()
    if not isinstance(key, str) or sizes((count,)) is None or (view is not None and len(view) != 2):
        raise ValueError(f"{subject} refers to a storage that cannot be")
    return Storage(STORAGES[kind.name], key, count, view)


def _dtype(name: str, stated: Any) -> np.dtype[Any]:
    if not (isinstance(stated, Name) and stated.name in TORCH_DTYPES):
        raise ValueError(f"{quoted(name)} has a dtype that is not read: save it as float32")
    return TORCH_DTYPES[stated.name]
