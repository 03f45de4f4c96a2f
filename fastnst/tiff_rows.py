"""A TIFF or BigTIFF some rows at a time: groups of its strips, or rows of its tiles, each as a small TIFF of its own.

So Pillow and libtiff decode them, with every compression, depth and colour space that they know.
"""

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import IO

from PIL import ExifTags

from fastnst.tiff_directory import LONG, Directory, directory_bytes, entry, head_bytes, read_directory

_Tag = ExifTags.Base
_STRIPS, _STRIP_BYTES, _STRIP_ROWS = 273, 279, 278
_TILES, _TILE_BYTES, _TILE_WIDTH, _TILE_HEIGHT = 324, 325, 322, 323
_PLANES, _UNCOMPRESSED, _OLD_JPEG, _YCBCR = 284, 1, 6, 6
# What says how samples are to be understood: sizes, depths, compression with its tables, colours, profile.
_KEPT = (256, 258, 259, 262, 263, 266, 277, 284, 292, 293, 317, 320, 322, 323, 332, 333, 334, 336, 338, 339, 340, 341)
_KEPT_TOO = (347, 529, 530, 531, 532, 34675)


@dataclass(frozen=True)
class _Piece:
    """Rows that can be decoded by themselves: how many, and where the bytes of their strip or tiles lie."""

    rows: int
    places: tuple[tuple[int, int], ...]


def tiff_rows(file: IO[bytes], pixels: int, most: int) -> Iterator[bytes] | None:
    """Small TIFF files of the first page's rows, from the top, of about `pixels` pixels each, but at most `most`.

    None where its rows cannot be decoded by themselves: separate planes, larger compressed strips or tiles, JPEG of the
    old kind, or tags that are not as they should be.
    """
    try:
        directory = read_directory(file)
    except (ValueError, ArithmeticError, OSError, LookupError, struct.error):
        return None
    pieces = _pieces(directory, pixels, most)
    if pieces is None:
        return None
    return _files(file, directory, pieces, max(1, pixels // directory.number(_Tag.ImageWidth, 1)))


def check_tiff(file: IO[bytes], pixels: int, most: int) -> None:
    """Raises ValueError where `tiff_rows` would find that the file ends before its pixels do."""
    try:
        pieces = _pieces(read_directory(file), pixels, most)
    except (ValueError, ArithmeticError, OSError, LookupError, struct.error):
        return
    length = file.seek(0, os.SEEK_END)
    if any(offset + size > length for piece in pieces or () for offset, size in piece.places):
        raise ValueError("the file ends before its pixels do")


def _pieces(directory: Directory, pixels: int, most: int) -> list[_Piece] | None:
    width, height = directory.number(_Tag.ImageWidth, 0), directory.number(_Tag.ImageLength, 0)
    separate = directory.number(_PLANES, 1) != 1 and directory.number(_Tag.SamplesPerPixel, 1) > 1
    if not (width and height) or separate or directory.number(_Tag.Compression, 1) == _OLD_JPEG:
        return None
    pieces = _tile_rows(directory, width, height) or _strips(directory, width, height, pixels)
    if pieces is None or max(piece.rows for piece in pieces) * width > most:
        return None
    return pieces


def _strips(directory: Directory, width: int, height: int, pixels: int) -> list[_Piece] | None:
    offsets, sizes = directory.numbers(_STRIPS), directory.numbers(_STRIP_BYTES)
    rows = min(directory.number(_STRIP_ROWS, height), height)
    if rows < 1 or len(offsets) != -(-height // rows) or len(sizes) != len(offsets):
        return None
    places = zip(offsets, sizes, strict=True)
    pieces = [_Piece(min(rows, height - rows * index), (place,)) for index, place in enumerate(places)]
    plain = directory.number(_Tag.Compression, 1) == _UNCOMPRESSED
    if not plain or directory.number(_Tag.PhotometricInterpretation, 0) == _YCBCR:
        return pieces
    # Uncompressed rows can be taken one by one.
    depths = directory.numbers(_Tag.BitsPerSample) or (1,)
    bits = sum(depths) if len(depths) > 1 else depths[0] * directory.number(_Tag.SamplesPerPixel, 1)
    row, step = -(-bits * width // 8), max(1, pixels // width)
    cut = []
    for piece in pieces:
        ((offset, size),) = piece.places
        if size < row * piece.rows:
            return None
        for top in range(0, piece.rows, step):
            count = min(step, piece.rows - top)
            cut.append(_Piece(count, ((offset + row * top, row * count),)))
    return cut


def _tile_rows(directory: Directory, width: int, height: int) -> list[_Piece] | None:
    offsets, sizes = directory.numbers(_TILES), directory.numbers(_TILE_BYTES)
    across, down = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
    if not offsets or not across or not down:
        return None
    columns, rows = -(-width // across), -(-height // down)
    if len(offsets) != columns * rows or len(sizes) != len(offsets):
        return None
    places = list(zip(offsets, sizes, strict=True))
    return [
        _Piece(min(down, height - down * index), tuple(places[columns * index : columns * (index + 1)]))
        for index in range(rows)
    ]


def _files(file: IO[bytes], directory: Directory, pieces: list[_Piece], rows: int) -> Iterator[bytes]:
    group: list[_Piece] = []
    for index, piece in enumerate(pieces):
        group.append(piece)
        following = pieces[index + 1] if index + 1 < len(pieces) else None
        count = sum(one.rows for one in group)
        # All strips or tiles of a file but the last have the same rows.
        if following is None or piece.rows != group[0].rows or count + following.rows > rows:
            yield _small_file(file, directory, group)
            group = []


def _small_file(file: IO[bytes], directory: Directory, group: list[_Piece]) -> bytes:
    order = directory.order
    places = [place for piece in group for place in piece.places]
    offsets, counts = (_TILES, _TILE_BYTES) if _TILES in directory.entries else (_STRIPS, _STRIP_BYTES)
    sizes = [size for _, size in places]
    entries = {tag: directory.entries[tag] for tag in (*_KEPT, *_KEPT_TOO) if tag in directory.entries}
    entries[_Tag.ImageLength] = entry(order, LONG, sum(piece.rows for piece in group))
    entries[counts] = entry(order, LONG, *sizes)
    entries[offsets] = entry(order, LONG, *[0 for _ in sizes])
    if offsets == _STRIPS:
        entries[_STRIP_ROWS] = entry(order, LONG, group[0].rows)
    head = 8
    start = head + len(directory_bytes(Directory(order, entries), head, big=False))
    starts = list(accumulate(sizes, initial=start))[:-1]
    entries[offsets] = entry(order, LONG, *starts)
    small = io.BytesIO()
    small.write(head_bytes(order, head, big=False))
    small.write(directory_bytes(Directory(order, entries), head, big=False))
    for offset, size in places:
        file.seek(offset)
        data = file.read(size)
        if len(data) < size:
            raise OSError("the file ends before its pixels do")
        small.write(data)
    return small.getvalue()
