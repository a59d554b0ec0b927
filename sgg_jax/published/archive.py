"""Where the records of a zip archive lie, for archives of uncompressed records, as torch.save writes them.

`zipfile` would do, but for hostile files: its objects take ten times the bytes of the directory, and it raises many
kinds of errors. Nothing is extracted here; records are read where they lie.
"""

import struct
import zlib
from typing import BinaryIO

from sgg_jax.published.placement import Record, quoted

MOST_ENTRIES, MOST_BYTES = 50_000, 2**24
"""Of the directory of an archive: far more than any network's."""
BLOCK = 2**20  # bytes at once

END, END64, LOCATOR64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
ENTRY, LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the 64-bit field"


def zip_records(file: BinaryIO, size: int) -> dict[str, Record]:
    """Records by name, in the directory's order; ValueError, in a sentence, on anything broken."""
    entries, length, start = _directory(file, size)
    if entries > MOST_ENTRIES or length > MOST_BYTES:
        raise ValueError(f"its directory of {entries} entries and {length} bytes is no network's")
    if start + length > size:
        raise ValueError("the archive is cut short: its directory lies beyond its end")
    directory = _read(file, start, length)
    records: dict[str, Record] = {}
    position = 0
    for _ in range(entries):
        name, header, crc, stored, position = _entry(directory, position)
        if name in records:
            raise ValueError(f"{quoted(name)} stands twice in the archive")
        records[name] = Record(_start(file, name, header, stored, start), stored, crc)
    return records


def check_crc(file: BinaryIO, name: str, record: Record) -> None:
    """ValueError, naming `name`, where the bytes of a record are not those its CRC was made of."""
    file.seek(record.start)
    crc, left = 0, record.length
    while left:
        block = file.read(min(left, BLOCK))
        if not block:
            raise ValueError(f"it is cut short in {quoted(name)}")
        crc, left = zlib.crc32(block, crc), left - len(block)
    if crc != record.crc:
        raise ValueError(f"{quoted(name)} is damaged: its CRC is wrong; fetch the file again")


def read_record(file: BinaryIO, name: str, record: Record, most: int) -> bytes:
    """A record of at most `most` bytes, its CRC checked."""
    if record.length > most:
        raise ValueError(f"{quoted(name)} has {record.length} bytes, more than {most}")
    check_crc(file, name, record)
    return _read(file, record.start, record.length)


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    found = file.read(length)
    if len(found) < length:
        raise ValueError("the archive is cut short")
    return found


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Number of entries, length and start of the directory, out of the record that ends an archive."""
    tail = max(size - END.size - FULL16, 0)  # a comment of up to FULL16 bytes may follow
    last = _read(file, tail, size - tail)
    at = last.rfind(b"PK\5\6", 0, len(last) - END.size + 4)
    if at < 0:
        raise ValueError("the archive is cut short: its directory is missing")
    _, _, _, _, entries, length, start, _ = END.unpack_from(last, at)
    if entries == FULL16 or FULL32 in (length, start):
        if tail + at < LOCATOR64.size:
            raise ValueError("its 64-bit directory is missing")
        signature, _, where, _ = LOCATOR64.unpack(_read(file, tail + at - LOCATOR64.size, LOCATOR64.size))
        if signature != b"PK\6\7" or where > size - END64.size:
            raise ValueError("its 64-bit directory is missing")
        signature, _, _, _, _, _, _, entries, length, start = END64.unpack(_read(file, where, END64.size))
        if signature != b"PK\6\6":
            raise ValueError("its 64-bit directory is missing")
    return entries, length, start


def _entry(directory: bytes, position: int) -> tuple[str, int, int, int, int]:
    """Name, place of the local header, CRC, length, and where the next entry starts."""
    if len(directory) - position < ENTRY.size:
        raise ValueError("its directory is cut short")
    found = ENTRY.unpack_from(directory, position)
    signature, flags, method, crc, packed, length = (found[index] for index in (0, 3, 4, 7, 8, 9))
    name_size, extra_size, comment_size, header = (found[index] for index in (10, 11, 12, 16))
    after = position + ENTRY.size + name_size
    end = after + extra_size + comment_size
    if signature != b"PK\1\2" or end > len(directory):
        raise ValueError("its directory is broken")
    name = directory[position + ENTRY.size : after].decode()
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise ValueError(f"{quoted(name)} is no name that torch.save gives a record")
    if flags & 1:
        raise ValueError(f"{quoted(name)} is encrypted")
    length, packed, header = _wide(directory[after : after + extra_size], length, packed, header)
    if method or packed != length:
        raise ValueError(
            f"{quoted(name)} is compressed, as torch.jit.save does, not torch.save: save the weights alone, "
            "torch.save(model.state_dict(), file)"
        )
    return name, header, crc, length, end


def _wide(extra: bytes, *fields: int) -> list[int]:
    """The fields, those that are FULL32 from the extra block 1, which holds just them as 64-bit numbers."""
    block, position = b"", 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            block = extra[position + 4 : position + 4 + length]
        position += 4 + length
    wide = []
    for field in fields:
        if field == FULL32:
            if len(block) < 8:
                raise ValueError("its directory lacks a 64-bit size")
            field, block = int.from_bytes(block[:8], "little"), block[8:]
        wide.append(field)
    return wide


def _start(file: BinaryIO, name: str, header: int, length: int, end: int) -> int:
    """Where a record's bytes start, behind its local header; they must end before the directory starts."""
    if header + LOCAL.size > end:
        raise ValueError(f"{quoted(name)} lies outside the archive")
    found = LOCAL.unpack(_read(file, header, LOCAL.size))
    signature, name_size, extra_size = found[0], found[9], found[10]
    start = header + LOCAL.size + name_size + extra_size
    if signature != b"PK\3\4" or start + length > end:
        raise ValueError(f"{quoted(name)} lies outside the archive")
    if _read(file, header + LOCAL.size, name_size) != name.encode():
        raise ValueError(f"{quoted(name)} has another name where it lies")
    return start
