"""PNG and TIFF with 16 bits a channel, which Pillow cannot write: samples are encoded here, the rest is Pillow's."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags
from PIL.PngImagePlugin import PngInfo, putchunk
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_BAND = 64  # rows; also those of a TIFF strip
# zlib's: beyond it, noise-like 16-bit samples take several times as long for 1 % less.
_LEVEL = 4
# TIFF 6.0 and the Adobe supplement; unassociated alpha leaves the colours as they are.
_DEFLATE, _HORIZONTAL_DIFFERENCES, _RGB, _UNASSOCIATED = 8, 2, 2, 2
_ICC_PROFILE, _SAMPLE_FORMAT, _EXTRA_SAMPLES = 34675, 339, 338


def write_png(file: IO[bytes], samples: npt.NDArray[np.uint16], text: PngInfo, profile: bytes) -> None:
    """Writes (H, W, 3 or 4) as a PNG (ISO/IEC 15948), every row filtered by the differences to the row above."""
    height, width, channels = samples.shape
    file.write(b"\x89PNG\r\n\x1a\n")
    putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0))
    putchunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    for kind, data, *_ in text.chunks:
        putchunk(file, kind, data)
    compressor = zlib.compressobj(_LEVEL)
    for rows in _filtered(samples):
        if data := compressor.compress(rows):
            putchunk(file, b"IDAT", data)
    putchunk(file, b"IDAT", compressor.flush())
    putchunk(file, b"IEND", b"")


def _filtered(samples: npt.NDArray[np.uint16]) -> Iterator[bytes]:
    """The bytes of bands of rows, each row after the number of its filter: 2, "up"."""
    height, width, channels = samples.shape
    above = np.zeros((1, width * channels * 2), np.uint8)
    for top in range(0, height, _BAND):
        rows = samples[top : top + _BAND].astype(">u2").view(np.uint8).reshape(-1, width * channels * 2)
        filtered = np.full((len(rows), rows.shape[1] + 1), 2, np.uint8)
        np.subtract(rows, np.concatenate([above, rows[:-1]]), out=filtered[:, 1:])
        above = rows[-1:]
        yield filtered.tobytes()


def write_tiff(
    file: IO[bytes], samples: npt.NDArray[np.uint16], tags: Mapping[int, str | bytes], profile: bytes
) -> None:
    """Writes (H, W, 3 or 4) as a TIFF (6.0): little-endian strips, deflated after horizontal differences."""
    height, width, channels = samples.shape
    strips = [zlib.compress(_differences(samples[top : top + _BAND]), _LEVEL) for top in range(0, height, _BAND)]
    directory = ImageFileDirectory_v2()
    directory[ExifTags.Base.ImageWidth] = width
    directory[ExifTags.Base.ImageLength] = height
    directory[ExifTags.Base.BitsPerSample] = (16,) * channels
    directory[ExifTags.Base.Compression] = _DEFLATE
    directory[ExifTags.Base.PhotometricInterpretation] = _RGB
    directory[ExifTags.Base.SamplesPerPixel] = channels
    directory[ExifTags.Base.RowsPerStrip] = _BAND
    directory[ExifTags.Base.PlanarConfiguration] = 1
    directory[ExifTags.Base.Predictor] = _HORIZONTAL_DIFFERENCES
    directory[_SAMPLE_FORMAT] = (1,) * channels
    if channels == 4:
        directory[_EXTRA_SAMPLES] = _UNASSOCIATED
    directory[_ICC_PROFILE] = profile
    for tag, value in tags.items():
        directory[tag] = value
    directory[ExifTags.Base.StripByteCounts] = tuple(map(len, strips))
    # Pillow adds the place where its directory ends.
    directory[ExifTags.Base.StripOffsets] = tuple(np.cumsum([0, *map(len, strips[:-1])]).tolist())
    directory.save(file)
    for strip in strips:
        file.write(strip)


def _differences(rows: npt.NDArray[np.uint16]) -> bytes:
    """Each sample less that of the pixel to its left, modulo 2¹⁶."""
    differences = rows.astype("<u2")
    differences[:, 1:] -= rows[:, :-1]
    return differences.tobytes()
