"""Pictures that ask for far more memory or time than they are worth, made by a script; and a reader that tells."""

import io
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from icc_samples import icc_profile, power_curve, xyz
from PIL import Image

SECONDS = 5.0
_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 16: 8}


def allowed_bytes(data: bytes, pixels: int) -> int:
    """The most memory that a reader may take for a file of so many pixels."""
    return 4 * len(data) + 20 * pixels + 150_000_000


def tiff(entries: list[tuple[int, int, int, int | bytes]], body: bytes = b"", *, big: bool = False) -> bytes:
    """A TIFF of one folder: entries (tag, type, count, value or offset), then `body`, at 8 + 2 + 12 n + 4."""
    entries = sorted(entries, key=lambda entry: entry[0])
    if big:
        head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries))
        rows = [struct.pack("<HHQQ", tag, kind, count, value) for tag, kind, count, value in entries]
        return head + b"".join(rows) + bytes(8) + body
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4) + body


def picture(width: int, height: int, offset: int, length: int, **changed: int) -> list[tuple[int, int, int, int]]:
    """The entries of a grey TIFF of one strip."""
    facts = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: offset, 277: 1, 278: height, 279: length}
    facts |= {int(tag[1:]): value for tag, value in changed.items()}
    return [(tag, 4, 1, value) for tag, value in facts.items()]


def overlapping_tags(size: int = 4_000_000, count: int = 500, *, kind: int = 1) -> bytes:
    """Each tag's values are the whole file."""
    tags = [(40_000 + tag, kind, size // _TYPES[kind], 0) for tag in range(count)]
    return tiff([*picture(64, 64, 0, 4096), *tags], bytes(size))


def overlapping_known_tags(size: int = 4_000_000) -> bytes:
    """The same with tags that libtiff knows, of many values each."""
    known = [270, 271, 272, 305, 306, 315, 316, 269, 285, 333, 337, 33432, 700, 33723, 34377, 34675, 34665]
    return tiff([*picture(64, 64, 0, 4096), *((tag, 2, size, 16) for tag in known)], bytes(size))


def overlapping_strips(width: int = 7000, height: int = 7000, size: int = 400_000) -> bytes:
    """Each row's strip is the whole file."""
    entries = [entry for entry in picture(width, height, 0, 0, t278=1) if entry[0] not in (273, 279)]
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    tables = struct.pack(f"<{height}I", *[start] * height) + struct.pack(f"<{height}I", *[size] * height)
    entries += [(273, 4, height, start), (279, 4, height, start + 4 * height)]
    return tiff(entries, tables + bytes(size))


def long_strip_table(count: int = 100_000_000) -> bytes:
    entries = [entry for entry in picture(64, 64, 0, 0, t278=1) if entry[0] not in (273, 279)]
    return tiff([*entries, (273, 4, count, 200), (279, 4, count, 200)], bytes(1000))


def deflated_strip(width: int, height: int, bits: int, samples: int, *, real: bool = False) -> bytes:
    """All of the picture is one strip of zeros."""
    pressed = zlib.compressobj(9)
    row = bytes(width * samples * bits // 8)
    data = b"".join(pressed.compress(row) for _ in range(height)) + pressed.flush()
    facts = {"t258": bits, "t259": 8, "t277": samples, "t262": 2 if samples > 1 else 1, "t339": 3 if real else 1}
    start = 8 + 2 + 12 * 10 + 4
    tables = struct.pack(f"<{2 * samples}H", *[bits] * samples, *[3 if real else 1] * samples)
    entries = picture(width, height, start + len(tables), len(data), **facts)
    if samples > 1:
        table = {258: start, 339: start + 2 * samples}
        entries = [(tag, 3, samples, table[tag]) if tag in table else (tag, *rest) for tag, *rest in entries]
    return tiff(entries, tables + data)


def tile_of(side: int) -> bytes:
    """A picture of 64×64 pixels in one tile of `side`², deflated."""
    data = compressed_zeros(side * side)
    entries = [entry for entry in picture(64, 64, 0, 0, t259=8) if entry[0] not in (273, 278, 279)]
    offset = 8 + 2 + 12 * (len(entries) + 4) + 4
    tiles = [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, offset), (325, 4, 1, len(data))]
    return tiff([*entries, *tiles], data)


def many_folders(count: int = 200_000) -> bytes:
    """A TIFF of so many pages of nothing."""
    first = tiff(picture(64, 64, 8, 4096), bytes(4096))
    data = bytearray(first)
    struct.pack_into("<I", data, 8 + 2 + 12 * 9, len(data))
    rows = b"".join(struct.pack("<HHII", *entry) for entry in picture(64, 64, 8, 4096)[:1])
    for _ in range(count):
        data += struct.pack("<H", 1) + rows + struct.pack("<I", len(data) + 18)
    return bytes(data)


def icc_overlapping(size: int = 2_000_000, tags: int = 90, *, kind: bytes = b"mluc") -> bytes:
    """A profile each of whose tags is the rest of it."""
    filler = (
        kind
        + bytes(4)
        + (struct.pack(">II", size // 12 - 2, 12) if kind == b"mluc" else struct.pack(">I", size // 2 - 8))
    )
    filler = filler.ljust(size, b"\x01")
    profile = bytearray(
        icc_profile(
            b"RGB ",
            {
                b"rXYZ": xyz(0.4, 0.2, 0.0),
                b"gXYZ": xyz(0.4, 0.7, 0.1),
                b"bXYZ": xyz(0.1, 0.1, 0.7),
                b"rTRC": power_curve(2.2),
                b"gTRC": power_curve(2.2),
                b"bTRC": power_curve(2.2),
            },
        )
    )
    held = struct.unpack(">I", profile[128:132])[0]
    table = profile[132 : 132 + 12 * held]
    shifted = b"".join(
        table[12 * i : 12 * i + 4]
        + struct.pack(
            ">II",
            struct.unpack(">I", table[12 * i + 4 : 12 * i + 8])[0] + 12 * tags,
            struct.unpack(">I", table[12 * i + 8 : 12 * i + 12])[0],
        )
        for i in range(held)
    )
    start = len(profile) + 12 * tags
    extra = b"".join(struct.pack(">4sII", b"x%03d" % tag, start, size) for tag in range(tags))
    whole = (
        bytes(profile[:128])
        + struct.pack(">I", held + tags)
        + shifted
        + extra
        + bytes(profile[132 + 12 * held :])
        + filler
    )
    return struct.pack(">I", len(whole)) + whole[4:]


def icc_curves(size: int = 2_000_000) -> bytes:
    """A profile whose curves are one of a million values, in each of its colours."""
    curve = b"curv\0\0\0\0" + struct.pack(">I", size // 2) + bytes(size)
    return icc_profile(
        b"RGB ",
        {
            b"rXYZ": xyz(0.4, 0.2, 0.0),
            b"gXYZ": xyz(0.4, 0.7, 0.1),
            b"bXYZ": xyz(0.1, 0.1, 0.7),
            b"rTRC": curve,
            b"gTRC": curve,
            b"bTRC": curve,
        },
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2, data: bytes | None = None) -> bytes:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if data is None:
        pressed = zlib.compressobj(9)
        row = bytes(1 + (width * channels * bits + 7) // 8)
        data = b"".join(pressed.compress(row) for _ in range(height)) + pressed.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@cache
def compressed_zeros(size: int) -> bytes:
    pressed = zlib.compressobj(9)
    return b"".join(pressed.compress(bytes(1 << 20)) for _ in range(size >> 20)) + pressed.flush()


def encoded(kind: str, width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind, **options)
    return file.getvalue()


def progressive(width: int, height: int, scans: int) -> bytes:
    """A JPEG with its last scan many times over."""
    data = encoded("JPEG", width, height, progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def jpeg_profile(profile: bytes) -> bytes:
    return encoded("JPEG", 64, 64, icc_profile=profile)


def gif(width: int, height: int, frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b";"


def npy(shape: str, dtype: str = "|u1", rest: int = 100) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(rest)


BOMBS: dict[str, tuple[Callable[[], bytes], int]] = {
    "tiff tags": (overlapping_tags, 64 * 64),
    "tiff tags of numbers": (lambda: overlapping_tags(kind=4), 64 * 64),
    "tiff tags of doubles": (lambda: overlapping_tags(count=200, kind=12), 64 * 64),
    "tiff known tags": (overlapping_known_tags, 64 * 64),
    "tiff strips": (overlapping_strips, 7000 * 7000),
    "tiff strips of little": (lambda: overlapping_strips(200, 50_000, 400_000), 200 * 50_000),
    "tiff strip table": (long_strip_table, 64 * 64),
    "tiff strip, grey": (lambda: deflated_strip(7000, 7000, 8, 1), 7000 * 7000),
    "tiff strip, RGB 16": (lambda: deflated_strip(4000, 4000, 16, 3), 4000 * 4000),
    "tiff strip, float": (lambda: deflated_strip(4000, 4000, 32, 3, real=True), 4000 * 4000),
    "tiff tile": (lambda: tile_of(16_384), 64 * 64),
    "tiff pages": (many_folders, 64 * 64),
    "icc tags, png": (lambda: png(64, 64, chunk(b"iCCP", b"a\0\0" + zlib.compress(icc_overlapping(), 9))), 64 * 64),
    "icc tags, jpeg": (lambda: jpeg_profile(icc_overlapping()), 64 * 64),
    "icc texts": (lambda: jpeg_profile(icc_overlapping(kind=b"text")), 64 * 64),
    "icc curves": (lambda: jpeg_profile(icc_curves()), 64 * 64),
    "icc curve tags": (lambda: jpeg_profile(icc_overlapping(kind=b"curv")), 64 * 64),
    "png profile": (lambda: png(64, 64, chunk(b"iCCP", b"a\0\0" + compressed_zeros(1 << 28))), 64 * 64),
    "png text": (lambda: png(64, 64, chunk(b"zTXt", b"a\0\0" + compressed_zeros(1 << 28))), 64 * 64),
    "png texts": (lambda: png(64, 64, *[chunk(b"zTXt", b"a\0\0" + compressed_zeros(8 << 20))] * 400), 64 * 64),
    "png international text": (
        lambda: png(64, 64, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + compressed_zeros(1 << 28))),
        64 * 64,
    ),
    "png small chunks": (lambda: png(64, 64, chunk(b"tEXt", b"a\0b") * 300_000), 64 * 64),
    "png width": (lambda: png(2**31 - 1, 1, data=b""), 0),
    "png pixels": (lambda: png(7000, 7000, bits=1, colour=0), 7000 * 7000),
    "png header": (lambda: png(50_000, 50_000, data=b""), 0),
    "png row": (lambda: png(20_000_000, 2), 2 * 20_000_000),
    "jpeg scans": (lambda: progressive(2000, 2000, 3000), 2000 * 2000),
    "jpeg header": (lambda: encoded("JPEG", 64, 64).replace(b"\0\x40\0\x40", b"\xff\xff\xff\xff", 1), 0),
    "gif frames": (lambda: gif(2000, 2000, 200_000), 2000 * 2000),
    "gif canvas": (lambda: gif(65_535, 65_535, 1), 0),
    "webp": (lambda: encoded("WEBP", 5000, 5000, lossless=True), 5000 * 5000),
    "jp2": (lambda: encoded("JPEG2000", 4000, 4000), 4000 * 4000),
    "bmp": (lambda: encoded("BMP", 64, 64)[:18] + struct.pack("<ii", 60_000, 60_000) + encoded("BMP", 64, 64)[26:], 0),
    "npy header": (lambda: npy("(100000, 100000, 3)"), 0),
    "npy shape": (lambda: npy("(" * 5000 + ")" * 5000), 0),
    "npy pixels": (lambda: npy("(7000, 7000, 3)", rest=0), 7000 * 7000),
}


def measured(data: bytes, room: int) -> tuple[str, int, float]:
    """The answer of a process to a file that it reads from memory under a limit, the memory that it took in bytes, and
    the seconds.

    The process is forked: only what it takes itself counts. `room` is above what it begins with.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        import resource

        os.close(read)
        said = "killed"
        began, before = time.perf_counter(), status("VmRSS")
        try:
            limit = status("VmSize") + room
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            said = answer(data)
        except BaseException as error:  # noqa: BLE001 - the parent is told
            said = f"{type(error).__name__}: {error}"
        taken, seconds = status("VmHWM") - before, time.perf_counter() - began
        os.write(write, f"{taken} {seconds} {said}".encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        told = file.read().decode(errors="replace")
    os.waitpid(child, 0)
    taken, seconds, said = told.split(" ", 2) if told else ("0", "0", "killed")
    return said, int(taken), float(seconds)


def answer(data: bytes) -> str:
    from fastnst.errors import ImageError
    from fastnst.image.read import load_image

    try:
        load_image(io.BytesIO(data), max_pixels=50_000_000)
    except ImageError as error:
        return f"refused: {error}"
    return "read"


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def told(names: list[str]) -> Iterator[str]:
    """A line for each bomb that is not as it must be, and with -v for the others too."""
    from fastnst.image.decode import srgb_profile

    srgb_profile()
    answer(b"no picture")  # what is imported late
    for name in names:
        make, pixels = BOMBS[name]
        data = make()
        most = allowed_bytes(data, pixels)
        said, taken, seconds = measured(data, 2 * most + 1_000_000_000)
        plain = said == "read" or (said.startswith("refused: ") and "\n" not in said)
        good = plain and taken <= most and seconds <= SECONDS
        facts = f"{name}: {len(data)} bytes, {taken / 1e6:.0f} of {most / 1e6:.0f} MB, {seconds:.2f} s, {said[:160]}"
        yield ("" if good else "BAD ") + facts


if __name__ == "__main__":
    for line in told(sys.argv[1:] or list(BOMBS)):
        print(line, flush=True)
