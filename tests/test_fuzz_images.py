"""Damaged pictures: each is read as one, or refused in one line; nothing else is raised, and nothing hangs."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from bombs import tiff
from fuzzing import damaged, fuzz, soon
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from fastnst.errors import ImageError
from fastnst.image import read
from fastnst.image.decode import srgb_profile
from fastnst.image.read import load_image, open_picture
from fastnst.image.write import save_image

KINDS = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "deflate": "TIFF", "cmyk": "JPEG", "alpha": "PNG"}
MODES = {"cmyk": "CMYK", "alpha": "RGBA", "gif": "P"}
DEEP = np.random.default_rng(1).integers(0, 65535, (20, 24, 3), dtype=np.uint16)


def encoded(name: str) -> bytes:
    file = io.BytesIO()
    if name in ("deep png", "deep tif"):
        planes = torch.from_numpy(DEEP.astype(np.float32) / 65535).permute(2, 0, 1)
        save_image(file, planes, format="png" if name == "deep png" else "tiff", bit_depth=16, parameters={"a": 1})
    elif name == "npy":
        np.save(file, DEEP)
    elif name == "float npy":
        np.save(file, (DEEP / 65535).astype(np.float16))
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        options: dict[str, object] = {"icc_profile": srgb_profile(), "exif": exif}
        if name == "deflate":
            options["compression"] = "tiff_adobe_deflate"
        picture = Image.fromarray((DEEP // 257).astype(np.uint8)).convert(MODES.get(name, "RGB"))
        picture.save(file, KINDS.get(name, name), **options)
    return file.getvalue()


NAMES = ["png", "jpg", "webp", "tif", "deflate", "cmyk", "alpha", "gif", "bmp", "jp2", "ppm", "avif"]
NAMES += ["deep png", "deep tif", "npy", "float npy"]
SEEDS = {name: encoded(name) for name in NAMES}


def read_or_refuse(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        with soon():
            picture = load_image(path, max_pixels=1_000_000)
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert picture.rgb.dtype == torch.float32
        assert 0 <= float(picture.rgb.min()) <= float(picture.rgb.max()) <= 1


@fuzz(800)
@given(data=st.sampled_from(NAMES).flatmap(lambda name: damaged(SEEDS[name])))
def test_damaged_pictures(tmp_path: Path, data: bytes) -> None:
    read_or_refuse(tmp_path / "fuzz", data)


NUMBERS = st.integers(0, 40) | st.sampled_from([255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1])
SMALL = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 16, 32, 64])
CHUNKS = ["PLTE", "tRNS", "iCCP", "gAMA", "sRGB", "eXIf", "iTXt", "zTXt", "acTL", "IDAT", "pHYs", "IHDR", "cICP"]
# Width, height, bits, compression, photometric, strips, samples, rows, lengths, planar, predictor, tiles, kinds …
TAGS = [256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 34675]


def chunk(name: str, data: bytes) -> bytes:
    body = name.encode() + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


@st.composite
def built(draw: st.DrawFn) -> bytes:
    """A file of a format with the right checksums, tables and lengths, whose facts are drawn."""
    width, height = draw(st.tuples(NUMBERS, NUMBERS) | st.tuples(st.integers(1, 9), st.integers(1, 9)))
    bits, samples, rest = draw(SMALL), draw(SMALL), draw(st.binary(max_size=300))
    kind = draw(st.sampled_from(["png", "tiff", "tiff", "npy", "ppm", "bmp"]))
    if kind == "png":
        facts = struct.pack(">IIBBBBB", width, height, bits, draw(SMALL), 0, 0, draw(st.integers(0, 2)))
        names = draw(st.lists(st.sampled_from(CHUNKS), max_size=4))
        parts = [draw(st.binary(max_size=40) | st.just(b"a\0\0" + zlib.compress(rest))) for _ in names]
        between = b"".join(map(chunk, names, parts))
        pixels = chunk("IDAT", zlib.compress(bytes(draw(st.integers(0, 2000)))))
        return b"\x89PNG\r\n\x1a\n" + chunk("IHDR", facts) + between + pixels + chunk("IEND", b"")
    if kind == "tiff":
        held = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 300, 277: samples, 278: height, 279: 300}
        held |= draw(st.dictionaries(st.sampled_from(TAGS), NUMBERS, max_size=4))
        types = {tag: draw(st.sampled_from([3, 4])) for tag in held}
        counts = {tag: draw(st.just(1) | SMALL | NUMBERS) if draw(st.integers(0, 5)) == 0 else 1 for tag in held}
        entries = [(tag, types[tag], counts[tag], value) for tag, value in held.items()]
        return tiff(entries, rest + bytes(300))
    if kind == "npy":
        kind_of = draw(st.sampled_from(["<f4", "|u1", ">u2", "<f2", "<f8", "|O", "<c8", "|V9", "<i8", "|b1"]))
        shape = draw(st.sampled_from([(height, width, 3), (height, width), (height,), (height, width, samples), ()]))
        text = f"{{'descr': {kind_of!r}, 'fortran_order': {draw(st.booleans())}, 'shape': {shape}, }}"
        head = text.encode().ljust(117) + b"\n"
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + rest
    if kind == "ppm":
        return f"P{draw(st.integers(1, 7))} {width} {height} {draw(NUMBERS)}\n".encode() + rest
    head = struct.pack("<IIIHHIIIIII", 40, width, height, 1, bits, draw(SMALL), 0, 0, 0, draw(NUMBERS), 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rest), 0, 0, draw(st.just(54) | NUMBERS)) + head + rest


@fuzz(500)
@given(data=built())
def test_pictures_of_any_facts(tmp_path: Path, data: bytes) -> None:
    read_or_refuse(tmp_path / "fuzz", data)


BY_ROWS = st.sampled_from(["png", "alpha", "tif", "deflate", "deep png", "deep tif", "npy"])


@fuzz(300)
@given(data=BY_ROWS.flatmap(lambda name: damaged(SEEDS[name])))
def test_damaged_pictures_by_rows(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "STREAMED_PIXELS", 1)
        patch.setattr(read, "PART_PIXELS", 100)
        try:
            with soon():
                parts = list(open_picture(io.BytesIO(data), max_pixels=1_000_000).parts())
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert all(part.rgb.dtype == torch.float32 for part in parts)


@fuzz(300)
@given(
    prefix=st.sampled_from([b"", *(data[:16] for data in SEEDS.values()), b"P5 ", b"8BPS", b"qoif", b"\x93NUMPY\1\0"]),
    rest=st.binary(max_size=400),
)
def test_random_bytes(tmp_path: Path, prefix: bytes, rest: bytes) -> None:
    read_or_refuse(tmp_path / "fuzz", prefix + rest)
