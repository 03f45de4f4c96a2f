"""The directory of a TIFF or BigTIFF file (TIFF 6.0, and Adobe's and Aware's notes): its tags, read and written."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

# Bytes of a number of each type, and how `struct` calls it.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
ASCII, SHORT, LONG, UNDEFINED, LONG8 = 2, 3, 4, 7, 16
# More is no directory, and more bytes no tag of a picture's layout.
_MOST_TAGS, _MOST_BYTES = 4096, 1 << 28

Entry = tuple[int, bytes]
"""A tag's type and its value's bytes, in the file's byte order."""


@dataclass(frozen=True)
class Directory:
    """The tags of a picture; `order` is "<" or ">"."""

    order: str
    entries: Mapping[int, Entry]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The whole numbers of a tag; none where it is absent or of another kind."""
        kind, data = self.entries.get(tag, (0, b""))
        return numbers_in(self.order, kind, data) if kind in _WHOLE else ()

    def number(self, tag: int, otherwise: int) -> int:
        """The first of them."""
        return next(iter(self.numbers(tag)), otherwise)


def entry(order: str, kind: int, *values: int) -> Entry:
    """A tag's entry of whole numbers."""
    return kind, struct.pack(f"{order}{len(values)}{_WHOLE[kind]}", *values)


def numbers_in(order: str, kind: int, data: bytes) -> tuple[int, ...]:
    """The whole numbers of a tag's data; `order` is "<" or ">", `kind` the tag's type."""
    return struct.unpack(f"{order}{len(data) // _SIZES[kind]}{_WHOLE[kind]}", data)


def read_directory(file: IO[bytes]) -> Directory:
    """The first directory of a file. Raises ValueError or struct.error where it is none or damaged."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise ValueError("neither byte order")
    (version,) = struct.unpack_from(f"{order}H", head, 2)
    if version not in (42, 43):
        raise ValueError(f"version {version} of TIFF is unknown")
    big = version == 43
    (start,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", head, 8 if big else 4)
    file.seek(start)
    (count,) = struct.unpack(f"{order}Q" if big else f"{order}H", file.read(8 if big else 2))
    if count > _MOST_TAGS:
        raise ValueError(f"{count} tags")
    length, shape = (20, f"{order}HHQ") if big else (12, f"{order}HHI")
    table = file.read(count * length)
    entries = {}
    for index in range(count):
        tag, kind, number = struct.unpack_from(shape, table, index * length)
        if kind in _SIZES:
            size, inline = number * _SIZES[kind], 8 if big else 4
            place = index * length + (12 if big else 8)
            if size > _MOST_BYTES:
                raise ValueError(f"tag {tag} has {size} bytes")
            if size > inline:
                (offset,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", table, place)
                file.seek(offset)
                entries[tag] = (kind, file.read(size))
            else:
                entries[tag] = (kind, table[place : place + size])
            if len(entries[tag][1]) < size:
                raise ValueError(f"tag {tag} is cut short")
    return Directory(order, entries)


def head_bytes(order: str, start: int, *, big: bool) -> bytes:
    """The beginning of a file whose directory is at `start`: 16 bytes of a BigTIFF, else 8."""
    mark = b"II" if order == "<" else b"MM"
    return mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, start) if big else struct.pack(f"{order}HI", 42, start))


def directory_bytes(directory: Directory, start: int, *, big: bool) -> bytes:
    """The directory as it stands at `start` in the file, what its tags point to behind it; the last of the file.

    Its length does not depend on the numbers in it. Raises struct.error where a TIFF's 4 GiB are exceeded.
    """
    order, inline = directory.order, 8 if big else 4
    number = "Q" if big else "I"
    table = struct.pack(f"{order}{'Q' if big else 'H'}", len(directory.entries))
    behind = start + len(table) + len(directory.entries) * (20 if big else 12) + inline
    values = b""
    for tag, (kind, data) in sorted(directory.entries.items()):
        table += struct.pack(f"{order}HH{number}", tag, kind, len(data) // _SIZES[kind])
        if len(data) <= inline:
            table += data.ljust(inline, b"\0")
        else:
            table += struct.pack(f"{order}{number}", behind + len(values))
            values += data + bytes(-len(data) % 8)
    return table + bytes(inline) + values
