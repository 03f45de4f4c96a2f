"""PNG, TIFF and BigTIFF with 8 or 16 bits a channel, written some rows at a time. Pillow writes neither so."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags
from PIL.PngImagePlugin import PngInfo, putchunk

from fastnst.tiff_directory import (
    ASCII,
    LONG,
    LONG8,
    SHORT,
    UNDEFINED,
    Directory,
    Entry,
    directory_bytes,
    entry,
    head_bytes,
)

# zlib's: beyond it, noise-like 16-bit samples take several times as long for 1 % less.
_LEVEL = 4
# TIFF 6.0 and the Adobe supplement; unassociated alpha leaves the colours as they are.
_DEFLATE, _HORIZONTAL_DIFFERENCES, _RGB, _UNASSOCIATED = 8, 2, 2, 2
_ICC_PROFILE, _SAMPLE_FORMAT, _EXTRA_SAMPLES, _STRIP_ROWS = 34675, 339, 338, 278
_STRIP_OFFSETS, _STRIP_BYTES, _PREDICTOR = 273, 279, 317
# What a TIFF cannot hold, and room for its directory and for samples that deflate makes longer.
_LARGEST_TIFF, _ROOM = 1 << 32, 1.01

_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Samples:
    """A picture of `height` × `width` pixels of RGB or RGBA as arrays of rows, (h, width, channels) each, from the top.

    `depth` is the bits of a sample. All arrays but the last have the same number of rows.
    """

    height: int
    width: int
    channels: int
    depth: int
    rows: Iterable[npt.NDArray[Any]]


def write_png(file: IO[bytes], samples: Samples, text: PngInfo, profile: bytes) -> None:
    """Writes a PNG (ISO/IEC 15948) as the rows come. The file need not be seekable."""
    file.write(b"\x89PNG\r\n\x1a\n")
    colour = 2 if samples.channels == 3 else 6
    header = struct.pack(">IIBBBBB", samples.width, samples.height, samples.depth, colour, 0, 0, 0)
    putchunk(file, b"IHDR", header)
    putchunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    for kind, data, *_ in text.chunks:
        putchunk(file, kind, data)
    compressor = zlib.compressobj(_LEVEL)
    for rows in _filtered(samples):
        if data := compressor.compress(rows):
            putchunk(file, b"IDAT", data)
    putchunk(file, b"IDAT", compressor.flush())
    putchunk(file, b"IEND", b"")


def _filtered(samples: Samples) -> Iterator[bytes]:
    """The bytes of the rows, each row after the number of its filter."""
    pixel = samples.channels * samples.depth // 8
    above = np.zeros((1, samples.width * pixel), np.uint8)
    for array in samples.rows:
        rows = array.astype(">u2" if samples.depth == 16 else np.uint8, copy=False)
        plain = np.ascontiguousarray(rows).view(np.uint8).reshape(len(array), -1)
        before = np.concatenate([above, plain[:-1]])
        # Of 16 bits the lower half is noise, which no filter makes smaller.
        yield (_up(plain, before) if samples.depth == 16 else _adaptive(plain, before, pixel)).tobytes()
        above = plain[-1:]


def _up(rows: _Bytes, above: _Bytes) -> _Bytes:
    filtered = np.full((len(rows), rows.shape[1] + 1), 2, np.uint8)
    np.subtract(rows, above, out=filtered[:, 1:])
    return filtered


def _adaptive(rows: _Bytes, above: _Bytes, pixel: int) -> _Bytes:
    """Each row under the filter that leaves the least sum of absolute differences, as the standard suggests (12.7)."""
    left, corner = (np.pad(x[:, :-pixel], ((0, 0), (pixel, 0))) for x in (rows, above))
    best = np.full((len(rows), rows.shape[1] + 1), 1, np.uint8)
    least = np.full(len(rows), np.iinfo(np.int64).max)
    mean = ((left.astype(np.uint16) + above) >> 1).astype(np.uint8)
    for number, guess in ((1, left), (2, above), (3, mean), (4, _paeth(left, above, corner))):
        filtered = rows - guess
        cost = np.minimum(filtered, -filtered).sum(axis=1, dtype=np.int64)
        better = cost < least
        best[better, 0] = number
        best[better, 1:] = filtered[better]
        least = np.minimum(cost, least)
    return best


def _paeth(left: _Bytes, above: _Bytes, corner: _Bytes) -> _Bytes:
    """The neighbour that is nearest to left + above − corner."""
    a, b, c = (x.astype(np.int16) for x in (left, above, corner))
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    by_above = (to_above <= to_corner) & (to_above < to_left)
    by_left = (to_left <= to_above) & (to_left <= to_corner)
    return np.where(by_left, left, np.where(by_above, above, corner)).astype(np.uint8)


def write_tiff(
    file: IO[bytes],
    samples: Samples,
    tags: Mapping[int, str | bytes | int],
    profile: bytes,
    *,
    big: bool | None = None,
) -> None:
    """Writes a TIFF (6.0), or a BigTIFF where it may come near to 4 GiB, to a seekable file as the rows come:
    little-endian strips, deflated after horizontal differences, and the directory behind them."""
    raw = samples.height * samples.width * samples.channels * samples.depth // 8
    if big is None:
        texts = sum(len(value) for value in tags.values() if not isinstance(value, int))
        big = _ROOM * raw + len(profile) + texts + 16 * samples.height + (1 << 20) > _LARGEST_TIFF
    file.write(head_bytes("<", 0, big=big))
    offsets, sizes, strip_rows = [], [], 0
    for rows in samples.rows:
        strip = zlib.compress(_differences(rows), _LEVEL)
        offsets.append(file.tell())
        sizes.append(len(strip))
        file.write(strip)
        strip_rows = max(strip_rows, len(rows))
    # Directories begin at even places.
    file.write(bytes(file.tell() % 2))
    start = file.tell()
    entries = _entries(samples, tags, profile, strip_rows)
    kind = LONG8 if big else LONG
    entries[_STRIP_OFFSETS], entries[_STRIP_BYTES] = entry("<", kind, *offsets), entry("<", kind, *sizes)
    file.write(directory_bytes(Directory("<", entries), start, big=big))
    file.seek(0)
    file.write(head_bytes("<", start, big=big))
    file.seek(0, 2)


def _entries(
    samples: Samples, tags: Mapping[int, str | bytes | int], profile: bytes, strip_rows: int
) -> dict[int, Entry]:
    known = ExifTags.Base
    numbers = {
        known.ImageWidth: (LONG, samples.width),
        known.ImageLength: (LONG, samples.height),
        known.BitsPerSample: (SHORT, *[samples.depth] * samples.channels),
        known.Compression: (SHORT, _DEFLATE),
        known.PhotometricInterpretation: (SHORT, _RGB),
        known.SamplesPerPixel: (SHORT, samples.channels),
        _STRIP_ROWS: (LONG, strip_rows),
        known.PlanarConfiguration: (SHORT, 1),
        _PREDICTOR: (SHORT, _HORIZONTAL_DIFFERENCES),
        _SAMPLE_FORMAT: (SHORT, *[1] * samples.channels),
    }
    if samples.channels == 4:
        numbers[_EXTRA_SAMPLES] = (SHORT, _UNASSOCIATED)
    found = {int(tag): entry("<", *values) for tag, values in numbers.items()}
    for tag, value in tags.items():
        text = value.encode() if isinstance(value, str) else value
        found[tag] = entry("<", SHORT, text) if isinstance(text, int) else (ASCII, text + b"\0")
    found[_ICC_PROFILE] = (UNDEFINED, profile)
    return found


def _differences(rows: npt.NDArray[Any]) -> bytes:
    """Each sample less that of the pixel to its left, modulo 2⁸ or 2¹⁶."""
    differences = rows.astype(f"<u{rows.itemsize}")
    differences[:, 1:] -= rows[:, :-1]
    return differences.tobytes()
