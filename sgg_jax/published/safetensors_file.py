"""The safetensors format: the length of a header (uint64), the header in JSON, and the tensors' bytes.

Read here rather than by the library, which maps the file (cut short meanwhile, that kills the process), has no numpy
bfloat16, and names no key where a file is broken. Source: github.com/huggingface/safetensors, README, "Format".
"""

import json
import math
import sys
from typing import Any, BinaryIO

from sgg_jax.published.placement import DTYPES, Record, Tensor, check_placement, quoted, row_major, sizes

MOST_BYTES = 2**22
"""Of a header: a tensor takes about 100, and reading JSON takes up to 25 times its size in memory."""

SAFETENSORS_DTYPES = {
    code: DTYPES[name]
    for code, name in (
        ("F64", "float64"),
        ("F32", "float32"),
        ("F16", "float16"),
        ("BF16", "bfloat16"),
        ("I64", "int64"),
        ("I32", "int32"),
        ("I16", "int16"),
        ("I8", "int8"),
        ("U64", "uint64"),
        ("U32", "uint32"),
        ("U16", "uint16"),
        ("U8", "uint8"),
        ("BOOL", "bool"),
    )
}


def safetensors_tensors(file: BinaryIO, size: int) -> dict[str, Tensor]:
    """Tensors by key; ValueError, in a sentence, on anything broken or refused."""
    file.seek(0)
    start = 8 + int.from_bytes(file.read(8), "little")
    if start > size:
        raise ValueError(f"it is cut short: its header should end at byte {start}, the file ends at {size}")
    if start - 8 > MOST_BYTES:
        raise ValueError(f"its header is larger than {MOST_BYTES} bytes")
    entries = _header(file.read(start - 8))
    tensors = {name: _tensor(name, entry, start, size) for name, entry in entries.items() if name != "__metadata__"}
    if not tensors:
        raise ValueError("there are no tensors in it")
    _check_cover(tensors, start, size)
    return tensors


def _header(text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{quoted(name)} stands twice in its header")
            found[name] = value
        return found

    try:
        header = json.loads(text.decode(), object_pairs_hook=once)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("its header is not JSON") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


def _tensor(name: str, entry: Any, start: int, size: int) -> Tensor:
    """What {"dtype": ..., "shape": [...], "data_offsets": [begin, end]} stands for; offsets count from `start`."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {quoted(name)} lacks, or has more than, dtype, shape and data_offsets")
    code, shape, place = entry["dtype"], sizes(entry["shape"]), sizes(entry["data_offsets"])
    if not isinstance(code, str):
        raise ValueError(f"the dtype of {quoted(name)} is no text")
    if code not in SAFETENSORS_DTYPES:
        raise ValueError(f"{quoted(name)} has the dtype {quoted(code)}, which is not read: save it as F32, F16 or BF16")
    if shape is None or place is None or len(place) != 2:
        raise ValueError(f"{quoted(name)} has a shape or offsets that no tensor can have")
    begin, end = place
    if begin > end or start + end > size:
        raise ValueError(f"{quoted(name)} lies outside the file, at bytes {begin} to {end} of {size - start}")
    dtype = SAFETENSORS_DTYPES[code]
    length = math.prod(shape) * dtype.itemsize
    if length != end - begin:
        raise ValueError(f"{quoted(name)} has {end - begin} bytes where its shape and dtype take {length}")
    record = Record(start + begin, length)
    tensor = Tensor(dtype, shape, row_major(shape), 0, record, sys.byteorder != "little")
    check_placement(name, tensor)
    return tensor


def _check_cover(tensors: dict[str, Tensor], start: int, size: int) -> None:
    """Tensors follow one another without gap or overlap, up to the end of the file."""
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].record.start, item[1].record.length)):
        if tensor.record.start < end:
            raise ValueError(f"{quoted(name)} overlaps another tensor")
        if tensor.record.start > end:
            raise ValueError(f"there is a gap of {tensor.record.start - end} bytes before {quoted(name)}")
        end += tensor.record.length
    if end != size:
        raise ValueError(f"{size - end} bytes at its end belong to no tensor")
