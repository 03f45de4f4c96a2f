"""Formats, modes, depths, palettes, frames and orientations, as they are read."""

import io
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_samples import noise, planes, refused, saved
from PIL import ExifTags, Image, ImageCms

from fastnst.errors import FastnstWarning
from fastnst.image.decode import libvips
from fastnst.image.read import load_image


@pytest.mark.parametrize("extension", ["png", "tif", "bmp", "gif", "ppm", "webp", "tga", "qoi", "pcx"])
def test_lossless_formats(tmp_path: Path, extension: str) -> None:
    array = noise() // 64 * 64
    options = {"webp": {"lossless": True}, "gif": {}}.get(extension, {})
    path = saved(Image.fromarray(array), tmp_path / f"a.{extension}", **options)
    assert torch.equal(load_image(path).rgb, planes(array))


def test_grey_modes(tmp_path: Path) -> None:
    grey = noise(channels=1)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("LA"), Image.fromarray(grey).convert("P")):
        assert torch.equal(load_image(image).rgb, planes(grey).expand(3, -1, -1)), image.mode
    bilevel = Image.fromarray(grey).convert("1")
    expected = torch.from_numpy(np.asarray(bilevel).astype(np.float32)).expand(3, -1, -1)
    assert torch.equal(load_image(saved(bilevel, tmp_path / "a.png")).rgb, expected)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_16_bit_modes_keep_their_precision(mode: str) -> None:
    grey = noise(channels=1, dtype=np.uint16)
    raw = {"I": "<i4", "I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (7, 5), grey.astype(raw).tobytes())
    assert torch.equal(load_image(image).rgb, planes(grey, 65535).expand(3, -1, -1))


@pytest.mark.parametrize("extension", ["png", "tif", "pgm", "jp2"])
def test_16_bit_files_keep_their_precision(tmp_path: Path, extension: str) -> None:
    grey = noise(64, 64, channels=1, dtype=np.uint16)
    path = saved(Image.fromarray(grey), tmp_path / f"a.{extension}")
    assert torch.equal(load_image(path).rgb, planes(grey, 65535).expand(3, -1, -1))
    if extension == "png":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 3
        picture = load_image(saved(Image.fromarray(grey), path, exif=exif, transparency=int(grey[0, 0])))
        assert torch.equal(picture.rgb, planes(grey[::-1, ::-1], 65535).expand(3, -1, -1))
        assert picture.alpha is not None
        assert torch.equal(picture.alpha[0] == 0, torch.from_numpy(grey[::-1, ::-1] == grey[0, 0]))


def test_float_image(tmp_path: Path) -> None:
    grey = noise(channels=1).astype(np.float32) / np.float32(255)
    path = saved(Image.fromarray(grey), tmp_path / "a.tif")
    assert torch.equal(load_image(path).rgb, torch.from_numpy(grey).expand(3, -1, -1))
    refused(Image.fromarray(grey * 100), r"values from .* to 97.2549; they must be in 0…1: divide them by 255")
    refused(Image.fromarray(grey * np.nan), "NaN")


def test_32_bit_integers_are_refused() -> None:
    refused(Image.fromarray(np.full((4, 4), 70000, np.int32)), "mode I", "0…65535", "save it with 16 bits")


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 2))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 2, 1, 0])
    expected = planes(np.asarray(image.convert("RGB")))
    path = saved(image, tmp_path / "bytes.png", transparency=bytes([0, 128, 255]))
    picture = load_image(path)
    assert torch.equal(picture.rgb, expected)
    assert picture.alpha is not None
    assert (picture.alpha * 255).flatten().tolist() == [0, 128, 255, 255, 128, 0]
    for extension in ("png", "gif"):
        picture = load_image(saved(image, tmp_path / f"index.{extension}", transparency=1))
        assert picture.alpha is not None
        assert picture.alpha.flatten().tolist() == [1, 0, 1, 1, 0, 1]
    assert load_image(saved(image, tmp_path / "opaque.png")).alpha is None


def test_colour_key_transparency(tmp_path: Path) -> None:
    array = noise()
    picture = load_image(saved(Image.fromarray(array), tmp_path / "a.png", transparency=tuple(map(int, array[1, 2]))))
    assert picture.alpha is not None
    assert picture.alpha[0, 1, 2] == 0
    grey = noise(channels=1)
    picture = load_image(saved(Image.fromarray(grey), tmp_path / "b.png", transparency=int(grey[0, 0])))
    assert picture.alpha is not None
    assert torch.equal(picture.alpha[0] == 0, torch.from_numpy(grey == grey[0, 0]))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_alpha_and_hidden_colour_are_kept(tmp_path: Path, mode: str, extension: str) -> None:
    image = Image.fromarray(noise(channels=4)).convert(mode)
    image.putalpha(Image.fromarray(noise(channels=1) // 128 * 255))
    options = {"lossless": True, "exact": True} if extension == "webp" else {}
    picture = load_image(saved(image, tmp_path / f"a.{extension}", **options))
    rgba = planes(np.asarray(image.convert("RGBA")))
    assert picture.alpha is not None
    assert torch.equal(picture.rgb, rgba[:3])
    assert torch.equal(picture.alpha, rgba[3:])


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA", "RGBX", "YCbCr", "HSV"])
def test_other_modes_follow_pillows_conversion(mode: str) -> None:
    steps = {"La": ("LA", "La"), "PA": ("RGB", "P", "PA"), "RGBa": ("RGBa",)}.get(mode, ("RGB", mode))
    image = reduce(Image.Image.convert, steps, Image.fromarray(noise(channels=4)))
    through = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(mode)
    expected = image.convert(through) if through else image
    assert torch.equal(load_image(image).rgb, planes(np.asarray(expected.convert("RGB"))))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    """Without a profile the inks are those of a usual press: paper white, black nearly black, cyan no pure one."""
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32, 3], inks[:, 32:, 0] = 255, 255
    image = Image.fromarray(inks, "CMYK")
    for source in (image, saved(image, tmp_path / "a.jpg", quality=100)):
        paper, black, cyan = (part.mean((1, 2)) for part in torch.split(load_image(source).rgb, 16, dim=2))
        assert paper.min() > 0.97
        assert black.max() < 0.2
        assert cyan[0] < 0.2 < 0.5 < cyan[1] < cyan[2]


def test_lab(tmp_path: Path) -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = to_lab.apply(Image.new("RGB", (4, 4), (200, 60, 20)))
    lab.info.clear()
    picture = load_image(lab)
    assert torch.allclose(picture.rgb.mean((1, 2)) * 255, torch.tensor([200.0, 60, 20]), atol=4)
    refused(saved(lab, tmp_path / "a.tif"), "in a form that fastnst does not support", "save it as PNG, TIFF or JPEG")


@pytest.mark.parametrize("extension", ["gif", "png", "webp", "tif"])
def test_first_frame_of_several(tmp_path: Path, extension: str) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if extension == "webp" else {}
    path = saved(red, tmp_path / f"a.{extension}", save_all=True, append_images=[blue], **options)
    with Image.open(path) as opened:
        for source in (path, io.BytesIO(Path(path).read_bytes()), opened):
            with pytest.warns(FastnstWarning, match="has 2 frames or pages, and fastnst uses the first"):
                assert load_image(source).rgb[:, 0, 0].tolist() == [1, 0, 0]
        if extension != "png":
            opened.seek(1)
            assert load_image(opened).rgb[:, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, extension: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = (255, 0, 0)
    upright[8:, 16:] = (0, 0, 255)
    # How the camera stores what the orientation turns upright again (EXIF 2.3, tag 0x0112): mirrored, turned, or both.
    mirrored, turns = {1: (0, 0), 2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 1), 7: (1, 3), 8: (0, 3)}[
        orientation
    ]
    stored = np.rot90(upright[:, ::-1] if mirrored else upright, turns)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(extension, {})
    path = saved(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / f"a.{extension}", exif=exif, **options)
    picture = load_image(path)
    assert picture.rgb.is_contiguous()
    assert torch.allclose(picture.rgb, planes(upright), atol=3 / 255)
    with Image.open(path) as image:
        assert torch.equal(load_image(image).rgb, picture.rgb)


MEANINGLESS = [0, 9, 65535]
DAMAGED = [b"Exif\0\0", b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\xff"]


@pytest.mark.parametrize("given", [*MEANINGLESS, *DAMAGED])
def test_an_orientation_that_says_nothing_is_ignored(tmp_path: Path, given: int | bytes) -> None:
    exif: Image.Exif | bytes = Image.Exif() if isinstance(given, int) else given
    if isinstance(exif, Image.Exif):
        exif[ExifTags.Base.Orientation] = given
    for extension in ("jpg", "png", "webp"):
        path = saved(Image.fromarray(noise()), tmp_path / f"a.{extension}", exif=exif)
        assert load_image(path).rgb.shape == (3, 5, 7)
        assert extension != "png" or torch.equal(load_image(path).rgb, planes(noise()))


UNREAD = {
    "a HEIC picture": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a JPEG XL picture": b"\xff\x0a\xfa\x1f",
    "a camera's raw file": b"II*\0\x10\0\0\0CR\2\0",
    "an OpenEXR picture": b"\x76\x2f\x31\x01\2\0\0\0",
    "a Radiance HDR picture": b"#?RADIANCE\n",
    "a PDF document": b"%PDF-1.7\n",
    "an SVG drawing": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    "an icon": b"\0\0\1\0\1\0",
    "a video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
    "a web page": b"<!DOCTYPE html><html>",
    "an archive": b"PK\3\4",
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_format_that_is_not_read_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(UNREAD[name] + bytes(2000))
    refused(path, f"is {name}, which fastnst cannot read; convert it to PNG or JPEG")
    refused(io.BytesIO(path.read_bytes()), f"is {name}, which fastnst cannot read")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("uint", "has 3 channels of 32-bit integers; save it as RGB with 8 or 16 bits"),
        ("int", "has 3 channels of 32-bit integers"),
        ("short", "has 3 channels of signed integers"),
        ("double", "is a TIFF of 64-bit floats, which fastnst cannot read; convert it to PNG or JPEG"),
    ],
)
def test_an_intact_tiff_of_other_samples_is_no_damaged_one(kind: str, said: str, tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).random((6, 5, 3)).astype(np.float32)
    libvips().Image.new_from_array(rgb * (1 if kind == "double" else 100)).cast(kind).tiffsave(str(tmp_path / "a.tif"))
    refused(tmp_path / "a.tif", said)
