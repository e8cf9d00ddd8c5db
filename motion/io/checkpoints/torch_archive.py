"""The zip archive of a torch checkpoint, held to the one form that no two readers can read differently.

Zip readers look for the directory in different places and believe different fields. Here entries must follow one
another from the first byte, the one directory must follow the last entry, and its end must be the end of the file: then
what is checked is what torch reads. Format: PKWARE's APPNOTE 6.3; torch writes entries unpacked, with zip64 ends.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError
from ..files.kind import shown
from ..files.safetensors import AGAIN, MAX_TENSORS

MAX_PICKLE = 16 * 2**20
MAX_DIRECTORY = 64 * 2**20
NEED = "a .pth or .pt file with weights, as torch writes it, is needed"
SMALL = ("version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
MAX_SMALL = 100
_END, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL")
_END64, _ENTRY = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 field"
_LOCKED, _DESCRIBED = 1, 8  # flags of an entry
_DESCRIPTORS = (0, 12, 16, 20, 24)  # bytes that may follow an entry's data: its sum and sizes once more


class Damaged(ValueError):
    """The archive is not laid out as it has to be."""


@dataclass(frozen=True)
class Entry:
    """One file of the archive. place: of its local header."""

    name: str
    place: int
    size: int
    sum: int
    is_plain: bool  # neither packed nor locked
    is_described: bool  # its sizes stand once more behind its data


@dataclass(frozen=True)
class Archive:
    """What an archive holds, once it is the only thing that it can hold. storages: bytes of `data/KEY`, by key."""

    pickle: bytes
    storages: dict[str, int]


def read_archive(path: Path) -> Archive:
    """The pickle of a torch checkpoint and the sizes of its storages. Raises CheckpointError."""
    try:
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            start, entries = _directory(handle, size)
            prefix = _check_entries(path, entries, size)
            starts = _data_starts(handle, entries, start)
            named = {entry.name.removeprefix(prefix): entry for entry in entries}
            return Archive(_pickle(handle, named["data.pkl"], starts), _storages(named))
    except Damaged as error:
        raise CheckpointError(f"{path}: the archive is cut or damaged ({error}; {size} bytes here); {AGAIN}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {NEED}") from error


def _storages(named: dict[str, Entry]) -> dict[str, int]:
    return {name.removeprefix("data/"): entry.size for name, entry in named.items() if name.startswith("data/")}


def _directory(handle, size: int) -> tuple[int, list[Entry]]:
    """Where the directory begins, and what it lists."""
    end = _unpacked(_END, handle, size - _END.size, b"PK\5\6", "no end of an archive at the end of the file")
    after, (disk, first_disk, here, count, length, start, comment) = size - _END.size, end
    locator = _at(handle, after - _LOCATOR.size, _LOCATOR.size)
    if locator[:4] == b"PK\6\7":
        after = after - _LOCATOR.size - _END64.size
        if struct.unpack("<LQL", locator[4:]) != (0, after, 1):
            raise Damaged("its second end is not where both ends say")
        found = _unpacked(_END64, handle, after, b"PK\6\6", "its second end is missing")
        if found[0] != _END64.size - 12 or found[3:5] != (0, 0):
            raise Damaged("its second end is malformed")
        wide = found[5:]
        full = (_FULL16, _FULL16, _FULL32, _FULL32)
        if any(short not in (long, most) for short, long, most in zip((here, count, length, start), wide, full)):
            raise Damaged("its two ends name two directories")
        here, count, length, start = wide
    if (disk, first_disk, comment) != (0, 0, 0) or here != count:
        raise Damaged("it has a comment or several parts")
    if start + length != after or length > MAX_DIRECTORY:
        raise Damaged("its directory does not lie before its end")
    return start, _listed(_at(handle, start, length), count)


def _listed(directory: bytes, count: int) -> list[Entry]:
    """Entries of the directory, which they fill to the last byte."""
    entries, at = [], 0
    while at < len(directory) and len(entries) <= 2 * MAX_TENSORS:
        if directory[at : at + 4] != b"PK\1\2" or at + _ENTRY.size > len(directory):
            raise Damaged("its directory is malformed")
        values = _ENTRY.unpack_from(directory, at)
        flags, packing, crc, packed, size, name, extra, comment, disk = *values[3:5], *values[7:14]
        place, body = values[16], at + _ENTRY.size
        at = body + name + extra + comment
        if at > len(directory) or comment or disk not in (0, _FULL16):
            raise Damaged("an entry of its directory is malformed")
        size, packed, place = _wide(directory[body + name : at], size, packed, place)
        is_plain = packing == 0 and not flags & _LOCKED
        if is_plain and size != packed:
            raise Damaged("an entry's size is given twice")
        text = _text(directory[body : body + name])
        entries.append(Entry(text, place, size, crc, is_plain, bool(flags & _DESCRIBED)))
    if len(entries) != count:
        raise Damaged(f"its directory has other than the {count} entries of its end")
    return entries


def _wide(extra: bytes, *values: int) -> list[int]:
    """Size, packed size and place, from the one zip64 field where they are too large for their own."""
    fields, at = [], 0
    while at < len(extra):
        kind, length = struct.unpack_from("<2H", extra, at) if at + 4 <= len(extra) else (0, _FULL16)
        if at + 4 + length > len(extra):
            raise Damaged("an entry's further fields are malformed")
        fields += [extra[at + 4 : at + 4 + length]] if kind == 1 else []
        at += 4 + length
    missing = values.count(_FULL32)
    if len(fields) > 1 or (missing and not fields) or (fields and len(fields[0]) < 8 * missing):
        raise Damaged("an entry's size is given twice or not at all")
    wide = iter(struct.unpack_from(f"<{missing}Q", fields[0]) if missing else ())
    return [next(wide) if value == _FULL32 else value for value in values]


def _check_entries(path: Path, entries: list[Entry], size: int) -> str:
    """Refuse what torch would not write; the folder that all entries lie in, which is the first one's for torch."""
    names = [entry.name for entry in entries]
    pickles = [entry for entry in entries if entry.name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(f"{path}: a TorchScript program, which holds code; {NEED}")
    if not all(entry.is_plain for entry in entries):
        raise CheckpointError(f"{path}: entries are compressed or locked, which torch never writes; {NEED}")
    if sum(entry.size for entry in entries) > size:
        raise CheckpointError(f"{path}: its entries would unpack to more than its {size} bytes; {AGAIN}")
    if len({name.lower() for name in names}) != len(names):
        raise CheckpointError(f"{path}: {len(names)} entries, some under one name; {NEED}")
    if len(pickles) != 1 or pickles[0].size > MAX_PICKLE:
        problem = f"a pickle of {pickles[0].size} bytes" if len(pickles) == 1 else f"{len(pickles)} data.pkl"
        raise CheckpointError(f"{path}: {problem} in the archive; one of at most {MAX_PICKLE} bytes is needed; {NEED}")
    prefix = names[0].partition("/")[0] + "/"
    if pickles[0].name != f"{prefix}data.pkl" or not all(name.startswith(prefix) for name in names):
        raise CheckpointError(f"{path}: its entries lie in several folders, which torch never writes; {NEED}")
    large = [e.name for e in entries if e.name.removeprefix(prefix) in SMALL and e.size > MAX_SMALL]
    if large:
        raise CheckpointError(f"{path}: {shown(large[0])} has more than {MAX_SMALL} bytes; {NEED}")
    return prefix


def _data_starts(handle, entries: list[Entry], directory: int) -> dict[str, int]:
    """Where the data of each entry begins. From the first byte to the directory, nothing lies between the entries."""
    starts, expected = {}, (0,)
    for entry in sorted(entries, key=lambda entry: entry.place):
        if entry.place not in expected:
            raise Damaged(f"bytes that belong to no entry before {shown(entry.name)}")
        header = _unpacked(_LOCAL, handle, entry.place, b"PK\3\4", f"no header before {shown(entry.name)}")
        name, extra = header[-2:]
        start = entry.place + _LOCAL.size + name + extra
        if _text(_at(handle, entry.place + _LOCAL.size, name)) != entry.name:
            raise Damaged(f"{shown(entry.name)} has another name in the directory")
        starts[entry.name], end = start, start + entry.size
        expected = [end + length for length in (_DESCRIPTORS if entry.is_described else (0,))]
    if directory not in expected:
        raise Damaged("bytes that belong to no entry before the directory")
    return starts


def _pickle(handle, entry: Entry, starts: dict[str, int]) -> bytes:
    data = _at(handle, starts[entry.name], entry.size)
    if zlib.crc32(data) != entry.sum:
        raise Damaged("its pickle has another sum than the directory says")
    return data


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged("a name is no UTF-8") from error


def _at(handle, place: int, count: int) -> bytes:
    """Exactly these bytes."""
    if place < 0:
        raise Damaged("it is too short")
    handle.seek(place)
    data = handle.read(count)
    if len(data) != count:
        raise Damaged("it ends too early")
    return data


def _unpacked(form: struct.Struct, handle, place: int, mark: bytes, problem: str) -> tuple:
    """Values of a record without its mark, which must be there."""
    values = form.unpack(_at(handle, place, form.size))
    if values[0] != mark:
        raise Damaged(problem)
    return values[1:]
