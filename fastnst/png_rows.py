"""A PNG some rows at a time, each group as a small PNG of its own, which Pillow decodes.

A row's filter may refer to the row above it (ISO/IEC 15948, 9). So Pillow first undoes the filters of a group, after
the last row of the group before, as bytes: of 8-bit pixels that are as long as the file's, whatever those mean.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# By the bytes of a pixel, what has as many: depth and colour type; with 16 bits, Pillow's raw modes for either byte.
_ALIKE = {1: (8, 0, ()), 2: (8, 4, ()), 3: (8, 2, ()), 4: (8, 6, ())}
_DEEP = {6: (16, 2, ("RGB;16B", "RGB;16L")), 8: (16, 6, ("RGBA;16B", "RGBA;16L"))}
# What says how samples are to be understood.
_KEPT = (b"PLTE", b"tRNS", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP")
_PIECE = 1 << 18
_MOST_BYTES = 1 << 28

_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PngLayout:
    """A PNG's header, the chunks that count (type and data), and where its data are: (offset, size) of each IDAT."""

    width: int
    height: int
    depth: int
    colour: int
    kept: tuple[tuple[bytes, bytes], ...] = ()
    data: tuple[tuple[int, int], ...] = ()

    @property
    def row_bytes(self) -> int:
        return -(-self.width * self.depth * _CHANNELS[self.colour] // 8)

    @property
    def pixel_bytes(self) -> int:
        """What the filters take for a pixel: at least one byte."""
        return max(1, self.depth * _CHANNELS[self.colour] // 8)

    def file(self, rows: _Bytes) -> bytes:
        """A PNG of this kind of rows of bytes, each after the number of its filter; not compressed."""
        header = struct.pack(">IIBBBBB", self.width, len(rows), self.depth, self.colour, 0, 0, 0)
        chunks = [(b"IHDR", header), *self.kept, (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b"")]
        return _SIGNATURE + b"".join(
            struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )


def png_layout(file: IO[bytes]) -> PngLayout | None:
    """That of a PNG whose rows follow each other. None where they do not (interlaced), where there are several
    pictures, where metadata may say how to turn it, and where chunks are not as they should be."""
    file.seek(0)
    if file.read(8) != _SIGNATURE:
        return None
    header: tuple[int, ...] = (0,) * 7
    kept, data = [], []
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        place = file.tell()
        if kind == b"IHDR" and size == 13:
            header = struct.unpack(">IIBBBBB", file.read(13))
        elif kind == b"IDAT":
            data.append((place, size))
        elif kind in (b"eXIf", b"acTL") or (kind in (b"iTXt", b"zTXt", b"tEXt") and _may_turn(file.read(30))):
            return None
        elif kind in _KEPT:
            if size > _MOST_BYTES:
                return None
            kept.append((kind, file.read(size)))
        elif kind == b"IEND":
            break
        file.seek(place + size + 4)
    width, height, depth, colour, *methods = header
    if not data or colour not in _CHANNELS or any(methods) or not (width and height):
        return None
    return PngLayout(width, height, depth, colour, tuple(kept), tuple(data))


def _may_turn(text: bytes) -> bool:
    return text.startswith((b"XML:com.adobe.xmp", b"Raw profile type"))


def check_png(file: IO[bytes], layout: PngLayout) -> None:
    """Raises ValueError where the data are cut short or not those of their checksums; nothing is decompressed."""
    for place, size in layout.data:
        file.seek(place - 4)
        checksum, left = zlib.crc32(file.read(4)), size
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:
                raise ValueError("the file ends before its data do")
            checksum, left = zlib.crc32(piece, checksum), left - len(piece)
        if file.read(4) != struct.pack(">I", checksum):
            raise ValueError(f"the {size} bytes of data at byte {place} are not those of their checksum")


def png_rows(file: IO[bytes], layout: PngLayout, rows: int) -> Iterator[bytes]:
    """Small PNG files of the rows from the top, of at most `rows` each.

    Raises ValueError, OSError or zlib.error where the data are damaged or too short.
    """
    size = layout.row_bytes + 1
    above = np.zeros((1, size), np.uint8)
    filtered, done = bytearray(), 0
    for piece in _inflated(file, layout):
        filtered += piece
        while (ready := min(len(filtered) // size, rows)) == rows or (ready and ready >= layout.height - done):
            count = min(ready, layout.height - done)
            if not count:
                return
            group = np.frombuffer(bytes(filtered[: count * size]), np.uint8).reshape(count, size)
            del filtered[: count * size]
            plain = _unfiltered(layout, np.concatenate([above, group]))[1:]
            above = plain[-1:]
            done += count
            yield layout.file(plain)
    if done < layout.height:
        raise ValueError("its data end before its rows do")


def _inflated(file: IO[bytes], layout: PngLayout) -> Iterator[bytes]:
    stream = zlib.decompressobj()
    for place, size in layout.data:
        for start in range(0, size, _PIECE):
            file.seek(place + start)
            compressed = file.read(min(_PIECE, size - start))
            while compressed and not stream.eof:
                yield stream.decompress(compressed, _PIECE)
                compressed = stream.unconsumed_tail
    yield stream.flush()


def _unfiltered(layout: PngLayout, rows: _Bytes) -> _Bytes:
    """Rows of bytes after their filters' numbers, with the filters undone: each after the number 0."""
    if rows[:, 0].max() > 4:
        raise ValueError("a row has an unknown filter")
    depth, colour, raw_modes = {**_ALIKE, **_DEEP}[layout.pixel_bytes]
    alike = PngLayout(layout.row_bytes // layout.pixel_bytes, len(rows), depth, colour)
    file = alike.file(rows)
    plain = np.zeros_like(rows)
    # Of 16 bits Pillow keeps one byte, and the raw mode says which.
    for index, raw_mode in enumerate(raw_modes or [None]):
        image: Any = Image.open(io.BytesIO(file), formats=["PNG"])
        if raw_mode is not None:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        samples = np.asarray(image).reshape(len(rows), -1)
        plain[:, 1 + index :: len(raw_modes) or 1] = samples
    return plain
