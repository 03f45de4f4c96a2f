"""A file that is no picture, or too large, is an ImageError of one line; nothing of Pillow's is left changed."""

import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_samples import noise, refused, saved
from PIL import Image

from fastnst.image import picture as picture_module
from fastnst.image import read
from fastnst.image.decode import libvips, open_image
from fastnst.image.read import load_image


def test_refused_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "none.png", "style image '.*none.png' does not exist; check the path", role="style")
    refused(tmp_path, "is a directory")
    path = saved(Image.fromarray(noise()), tmp_path / "a.png")
    refused(path / "b.png", "does not exist")
    refused(str(tmp_path / ("x" * 300)), "could not be opened", "name too long")
    refused("a\0b.png", "not a valid path")
    refused("", "does not exist")
    for url in ("https://example.org/a.png", "ftp://x/y.png", "file:///a.png", Path("http://example.org")):
        refused(url, "is a URL", "save it and give the file's path")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "is an empty file")
    (tmp_path / "text.jpg").write_text("This is not an image, whatever its name says.\n" * 100)
    refused(tmp_path / "text.jpg", "is not an image", "give a PNG, JPEG")
    # PostScript starts no interpreter.
    refused(saved(Image.fromarray(noise()), tmp_path / "a.eps"), "not an image of a known format")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        refused(tmp_path / "pipe.png", "not a regular file")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root may read what chmod forbids
    refused(path, "may not be read", "permissions")


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1), (0, 4), (4, 0)])
def test_too_small(size: tuple[int, int]) -> None:
    width, height = size
    said = rf"is {width}×{height} pixels"
    refused(Image.new("RGB", size), said)
    refused(np.zeros((height, width, 3), np.uint8), said)
    refused(torch.zeros(3, height, width), said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\).*transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "shape"),
        (np.zeros(8), "shape"),
        (np.zeros((8, 8, 3), np.int64), "dtype int64; give uint8, uint16, or float"),
        (np.zeros((8, 8, 3), bool), "dtype bool"),
        (np.zeros((8, 8, 3), complex), "dtype complex128"),
        (np.full((8, 8, 3), None), "dtype object"),
        (np.full((8, 8, 3), 200.0), "values from 200 to 200.*divide them by 255"),
        (np.full((8, 8), -0.5), "values from -0.5.*scale or clip"),
        (np.full((8, 8), np.nan), "NaN"),
        (np.full((8, 8), np.inf, np.float16), "infinite"),
        (np.full((8, 8), 1e300), "infinite"),
        (torch.zeros(8, 8, 3), r"shape \(8, 8, 3\).*permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 8, 8), r"shape \(2, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "dtype torch.int32"),
        (np.array(["a"] * 9).reshape(3, 3), "dtype <U1"),
        (np.zeros((8, 8), [("r", "u1")]), "dtype"),
        (np.zeros((8, 8), "datetime64[s]"), "dtype datetime64"),
        (np.ma.masked_less(np.ones((8, 8)), 2), r"masked array.*filled\(\)"),
        (torch.zeros(3, 8, 8, device="meta"), "torch.float32 on meta; give a dense tensor that holds its values"),
        (torch.zeros(3, 8, 8).to_sparse(), "torch.sparse_coo, torch.float32 on cpu; give a dense tensor"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), "dtype torch.complex64"),
        (torch.empty(3, 8, 8, dtype=torch.float4_e2m1fn_x2), "torch.float4_e2m1fn_x2, has no values that can be read"),
        (torch.full((3, 8, 8), 2.0), "values from 2"),
        (torch.full((3, 8, 8), float("nan")), "NaN"),
        (b"a.png", "type bytes"),
        (None, "type NoneType; give a path"),
        ([[0.5]], "type list"),
        (torch.rand(3, 50, 50).index_fill(2, torch.tensor(7), torch.nan), "NaN"),
    ],
)
def test_refused_objects(source: object, said: str) -> None:
    refused(source, "^content image", said)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "out of memory.png"
    path.write_bytes(png_claiming(60_000, 60_000))
    refused(path, "60000×60000 = 3600000000 pixels", "limit of 200000000 pixels; reduce it, or raise --max-pixels")
    path.write_bytes(png_claiming(13_900, 13_900))  # Pillow refuses more than 178956970 pixels
    image = open_image(str(path), "content image")
    assert (image.width, image.height) == (13_900, 13_900)
    # Its name is not taken for lack of memory.
    refused(path, "damaged or truncated")


def test_limit_is_exact_and_pillows_own_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(noise()), tmp_path / "a.png")
    refused(path, "7×5 = 35 pixels", "limit of 34", max_pixels=34)
    with Image.open(path) as image:
        refused(image, "limit of 34", max_pixels=34)
    refused(image, r"content image \(PIL image\)")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert load_image(path, max_pixels=35).rgb.shape == (3, 5, 7)
    assert Image.MAX_IMAGE_PIXELS == 1


OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] data. DefaultCPUAllocator: can't allocate memory: you tried to"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    OSError("out of memory when reading image file"),
]


@pytest.mark.parametrize("failure", OUT_OF_MEMORY, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("place", ["from_samples", "from_planes", "_upright_srgb"])
def test_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, failure: Exception) -> None:
    path = saved(Image.fromarray(noise(channels=4)), tmp_path / "a.png")

    def fails(*_: object, **__: object) -> None:
        raise failure

    for module in (read, picture_module):
        monkeypatch.setattr(module, place, fails, raising=False)
    said = r"does not fit in memory \(7×5 pixels\); reduce it first$"
    refused(path, said)
    if place != "_upright_srgb":
        refused(noise(), r"^content image \(array\) " + said)
    if place == "from_planes":
        refused(torch.rand(3, 5, 7), r"^content image \(tensor\) " + said)


def test_threads_leave_pillows_limit_as_it_was(tmp_path: Path) -> None:
    path, before = saved(Image.fromarray(noise(64, 64)), tmp_path / "a.png"), Image.MAX_IMAGE_PIXELS

    def read(_: int) -> None:
        for _ in range(20):
            load_image(path)
            refused(path, "limit of 9", max_pixels=9)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp", "gif", "bmp", "jp2"])
def test_truncated_files_are_refused_and_libvips_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], extension: str
) -> None:
    exif = {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"} if extension in ("png", "jpg", "webp") else {}
    options = {"icc_profile": b"no profile"} if extension in ("png", "jpg", "webp", "tif") else {}
    path = saved(Image.fromarray(noise(64, 64)), tmp_path / f"a.{extension}", **exif, **options)
    load_image(path)
    whole = path.read_bytes()
    for kept in (len(whole) // 2, len(whole) - 300, len(whole) - 200):
        path.write_bytes(whole[:kept])
        refused(path, r"damaged or truncated \((?!Vips)")
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_not_trusted_reaches_no_rare_reader(tmp_path: Path) -> None:
    """libvips has readers that its authors call unsafe for files from strangers, here the one for its own format."""
    pyvips = libvips()
    rare = pyvips.Image.black(8, 8).copy(interpretation="b-w")
    pyvips.block_untrusted_set(False)
    try:
        rare.write_to_file(str(tmp_path / "a.v"))
    finally:
        pyvips.block_untrusted_set(True)
    (tmp_path / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>")
    for name in ("a.v", "a.svg"):
        refused(tmp_path / name, r"is not an image of a known format|is an? .* which fastnst cannot read")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of a process's memory")
def test_a_bomb_is_bounded_in_memory(tmp_path: Path) -> None:
    """A whole picture of a hundred bytes: read by rows, it takes the memory of some rows."""
    pyvips = libvips()
    path = tmp_path / "bomb.png"
    pyvips.Image.black(12_000, 12_000, bands=3).copy(interpretation="srgb").pngsave(str(path))
    script = f"""
import resource
from fastnst.image.read import load_image, open_picture
load_image(__import__("numpy").zeros((4, 4, 3), "u1"))
picture = open_picture({str(path)!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(part.height for part in picture.parts()) == 12_000
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
"""
    subprocess.run([sys.executable, "-c", script], check=True)
