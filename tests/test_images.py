"""Every kind of source becomes the same upright float32 sRGB; everything else is an ImageError of one line."""

import itertools
import os
import re
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngImageFile

from fastnst import arrays, decoding
from fastnst import picture as picture_module
from fastnst.errors import ImageError, OptionError
from fastnst.images import (
    Picture,
    check_fits,
    fitted_size,
    flattened,
    load_image,
    open_image,
    resize,
    resize_picture,
    srgb_profile,
)


def noise(height: int = 5, width: int = 7, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def planes(array: np.ndarray, peak: float = 255) -> torch.Tensor:
    """(H, W[, C]) as (C, H, W) float32."""
    return torch.from_numpy((np.atleast_3d(array).transpose(2, 0, 1) / peak).astype(np.float32))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def icc_profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC 2.4 profile with `tags` and no more than it must have besides."""
    name = b"test"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + b"\0" + bytes(78)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(*D50), **tags}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    device = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, device, space, connection)
    header += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + xyz(*D50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


D50 = (0.9642, 1.0, 0.8249)


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def power_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def grey_profile(gamma: float) -> bytes:
    return icc_profile(b"GRAY", {b"kTRC": power_curve(gamma)})


def cmyk_profile() -> bytes:
    """A press with three inks of one grey: L* = 100 (1 − k) (1 − (c + m + y) / 3), linear between corners."""
    corners = itertools.product((0, 1), repeat=4)
    grid = bytes(v for c, m, y, k in corners for v in (round(255 * (1 - k) * (1 - (c + m + y) / 3)), 128, 128))
    identity = b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + bytes(range(256)) * 4 + grid + bytes(range(256)) * 3
    return icc_profile(b"CMYK", {b"A2B0": lut}, b"Lab ")


# Adobe RGB (1998), adapted to D50 by Bradford.
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB_TO_XYZ_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


def adobe_rgb_profile() -> bytes:
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*column) for column in ADOBE_RGB.T), strict=True))
    return icc_profile(b"RGB ", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), power_curve(2.19921875)))


def encoded_srgb(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def adobe_rgb_to_srgb(values: np.ndarray) -> np.ndarray:
    """(…, 3) in 0…1, from the definitions of both spaces."""
    xyz = (values**2.19921875) @ ADOBE_RGB.T
    return encoded_srgb(xyz @ np.linalg.inv(SRGB_TO_XYZ_D50).T)


def refused(source: object, *patterns: str, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for pattern in patterns:
        assert re.search(pattern, message), message
    return message


def test_every_source_gives_the_same_picture(tmp_path: Path) -> None:
    array = noise()
    path = saved(Image.fromarray(array), tmp_path / "a.png")
    sources = {
        "str": str(path),
        "path": path,
        "pil": Image.fromarray(array),
        "array": array,
        "strided": np.asfortranarray(array),
        "float32": array.astype(np.float32) / np.float32(255),
        "float64": array / 255,
        "tensor": planes(array),
        "batch": planes(array)[None],
        "uint8": torch.from_numpy(array.copy()).permute(2, 0, 1),
    }
    pictures = {kind: load_image(source) for kind, source in sources.items()}
    for kind, picture in pictures.items():
        assert picture.rgb.dtype == torch.float32, kind
        assert picture.rgb.is_contiguous(), kind
        assert picture.alpha is None, kind
        assert torch.equal(picture.rgb, planes(array)), kind
    assert len({picture.sha256 for picture in pictures.values()}) == 1
    assert pictures["path"].name == pictures["str"].name == str(path)
    assert (pictures["pil"].name, pictures["array"].name, pictures["tensor"].name) == ("PIL image", "array", "tensor")
    assert (pictures["pil"].height, pictures["pil"].width) == (5, 7)


def test_picture_shares_no_memory_with_its_source() -> None:
    array, tensor = noise().astype(np.float32) / 255, torch.rand(3, 4, 4)
    pictures = [load_image(array), load_image(tensor)]
    before = [picture.rgb.clone() for picture in pictures]
    array[:] = 0
    tensor.zero_()
    for picture, rgb in zip(pictures, before, strict=True):
        assert torch.equal(picture.rgb, rgb)


def test_sha256_sees_pixels_shape_and_alpha() -> None:
    grey = torch.full((1, 4, 6), 0.5)
    digests = {
        load_image(grey).sha256,
        load_image(grey.reshape(1, 6, 4)).sha256,
        load_image(grey * 0.99).sha256,
        load_image(grey.expand(4, 4, 6)).sha256,
    }
    assert len(digests) == 4


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64, ">u2", ">f4"])
def test_arrays(channels: int, dtype: str) -> None:
    if np.dtype(dtype).kind == "f":
        array, peak = (noise(channels=channels) / 255).astype(dtype), 1
    else:
        array = noise(channels=channels, dtype=np.dtype(dtype).newbyteorder("=").type).astype(dtype)
        peak = np.iinfo(dtype).max
    picture = load_image(array)
    expected = planes(array.astype(np.float64), peak)
    assert torch.equal(picture.rgb, expected[:3].expand(3, -1, -1))
    if channels == 4:
        assert picture.alpha is not None
        assert torch.equal(picture.alpha, expected[3:])
    else:
        assert picture.alpha is None


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_tensors(channels: int, dtype: torch.dtype) -> None:
    values = planes(noise(channels=4))[:channels]
    peak = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    tensor = (values * peak).to(dtype)
    picture = load_image(tensor.requires_grad_(dtype.is_floating_point))
    expected = tensor.detach().float() / peak
    assert torch.equal(picture.rgb, expected[:3].expand(3, -1, -1))
    assert not picture.rgb.requires_grad
    assert (picture.alpha is not None) == (channels == 4)


def test_floats_a_little_outside_are_clamped() -> None:
    picture = load_image(torch.tensor([-9e-4, 0.5, 1 + 9e-4, 1]).reshape(1, 2, 2))
    assert picture.rgb[0].flatten().tolist() == [0, 0.5, 1, 1]


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


def test_16_bit_orientation_and_transparent_grey(tmp_path: Path) -> None:
    grey = noise(channels=1, dtype=np.uint16)
    image = Image.fromarray(grey)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    path = saved(image, tmp_path / "a.png", exif=exif, transparency=int(grey[0, 0]))
    picture = load_image(path)
    assert torch.equal(picture.rgb, planes(grey[::-1, ::-1], 65535).expand(3, -1, -1))
    assert picture.alpha is not None
    assert picture.alpha[0, -1, -1] == 0
    assert picture.alpha.sum() == 5 * 7 - 1


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


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA", "RGBX", "YCbCr", "HSV", "CMYK"])
def test_other_modes_follow_pillows_conversion(mode: str) -> None:
    source = Image.fromarray(noise(channels=4))
    image = {
        "La": lambda: source.convert("LA").convert("La"),
        "PA": lambda: source.convert("RGB").convert("P").convert("PA"),
        "RGBa": lambda: source.convert("RGBa"),
    }.get(mode, lambda: source.convert("RGB").convert(mode))()
    through = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(mode)
    expected = image.convert(through) if through else image
    assert torch.equal(load_image(image).rgb, planes(np.asarray(expected.convert("RGB"))))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    colours = Image.new("RGB", (16, 16), (200, 60, 20))
    picture = load_image(saved(colours.convert("CMYK"), tmp_path / "a.jpg", quality=100))
    assert torch.allclose(picture.rgb.mean((1, 2)) * 255, torch.tensor([200.0, 60, 20]), atol=2)


def test_lab(tmp_path: Path) -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = to_lab.apply(Image.new("RGB", (4, 4), (200, 60, 20)))
    lab.info.clear()
    picture = load_image(saved(lab, tmp_path / "a.tif"))
    assert torch.allclose(picture.rgb.mean((1, 2)) * 255, torch.tensor([200.0, 60, 20]), atol=4)


@pytest.mark.parametrize("extension", ["gif", "png", "webp", "tif"])
def test_first_frame_of_several(tmp_path: Path, extension: str) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if extension == "webp" else {}
    path = saved(red, tmp_path / f"a.{extension}", save_all=True, append_images=[blue], **options)
    assert load_image(path).rgb[:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, extension: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = (255, 0, 0)
    upright[8:, 16:] = (0, 0, 255)
    # How the camera stores what the orientation turns upright again (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(extension, {})
    path = saved(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / f"a.{extension}", exif=exif, **options)
    picture = load_image(path)
    assert picture.rgb.is_contiguous()
    assert torch.allclose(picture.rgb, planes(upright), atol=3 / 255)
    with Image.open(path) as image:
        assert torch.equal(load_image(image).rgb, picture.rgb)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\xff"]
)
def test_damaged_exif_is_ignored(tmp_path: Path, exif: bytes) -> None:
    for extension in ("jpg", "png", "webp"):
        path = saved(Image.fromarray(noise()), tmp_path / f"a.{extension}", exif=exif)
        assert load_image(path).rgb.shape == (3, 5, 7)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_meaningless_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(Image.fromarray(noise()), tmp_path / "a.png", exif=exif)
    assert torch.equal(load_image(path).rgb, planes(noise()))


def test_rgb_profile_becomes_srgb(tmp_path: Path) -> None:
    array = (noise(32, 32) // 4 + 96).astype(np.uint8)  # muted, so inside both gamuts
    path = saved(Image.fromarray(array), tmp_path / "a.png", icc_profile=adobe_rgb_profile())
    expected = adobe_rgb_to_srgb(array / 255)
    rgb = load_image(path).rgb.permute(1, 2, 0).numpy()
    assert np.abs(rgb - expected).max() <= 1.5 / 255
    assert np.abs(rgb - array / 255).max() > 5 / 255


def test_profile_and_alpha(tmp_path: Path) -> None:
    array = noise(channels=4)
    options = {"icc_profile": adobe_rgb_profile()}
    with_alpha = load_image(saved(Image.fromarray(array), tmp_path / "a.png", **options))
    opaque = load_image(saved(Image.fromarray(np.ascontiguousarray(array[:, :, :3])), tmp_path / "b.png", **options))
    assert with_alpha.alpha is not None
    assert torch.equal(with_alpha.rgb, opaque.rgb)
    assert torch.equal(with_alpha.alpha, planes(array)[3:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_profile_becomes_srgb(tmp_path: Path, dtype: type) -> None:
    peak = np.iinfo(dtype).max
    grey = np.linspace(0, peak, 2000).reshape(40, 50).astype(dtype)
    path = saved(Image.fromarray(grey), tmp_path / "a.tif", icc_profile=grey_profile(1.0))
    rgb = load_image(path).rgb
    bright = grey > peak / 16  # a linear grey in 8 bits is coarse in the shadows
    error = np.abs(rgb.numpy() - encoded_srgb(grey / peak))[:, bright]
    assert error.max() <= 2 / 255
    if dtype == np.uint16:
        assert rgb.unique().numel() > 1000


@pytest.mark.parametrize("inks", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 128), (0, 0, 0, 255)])
def test_cmyk_profile_becomes_srgb(tmp_path: Path, inks: tuple[int, int, int, int]) -> None:
    path = saved(Image.new("CMYK", (4, 4), inks), tmp_path / "a.tif", icc_profile=cmyk_profile())
    cyan, magenta, yellow, black = (ink / 255 for ink in inks)
    lightness = 100 * (1 - black) * (1 - (cyan + magenta + yellow) / 3)
    luminance = ((lightness + 16) / 116) ** 3 if lightness > 8 else lightness / 903.3
    assert np.abs(load_image(path).rgb.numpy() - encoded_srgb(np.array(luminance))).max() <= 2 / 255


def test_cmyk_with_an_rgb_profile_falls_back(tmp_path: Path) -> None:
    image = Image.new("CMYK", (4, 4), (0, 200, 200, 30))
    plain = load_image(saved(image, tmp_path / "a.tif")).rgb
    assert torch.equal(load_image(saved(image, tmp_path / "b.tif", icc_profile=adobe_rgb_profile())).rgb, plain)


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    array = noise(64, 64)
    for profile in (srgb_profile(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        rgb = load_image(saved(Image.fromarray(array), tmp_path / "a.png", icc_profile=profile)).rgb
        assert (rgb - planes(array)).abs().max() <= (0 if profile == srgb_profile() else 1.5 / 255)


@pytest.mark.parametrize(
    "profile", [b"not a profile", srgb_profile()[:200], grey_profile(1.8), b"\0" * 128, adobe_rgb_profile()[:140]]
)
def test_broken_or_foreign_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    path = saved(Image.fromarray(noise()), tmp_path / "a.png", icc_profile=profile)
    assert torch.equal(load_image(path).rgb, planes(noise()))


def test_grey_image_with_rgb_profile(tmp_path: Path) -> None:
    grey = noise(channels=1)
    profile = {"icc_profile": adobe_rgb_profile()}
    one = load_image(saved(Image.fromarray(grey), tmp_path / "a.tif", **profile))
    three = load_image(saved(Image.fromarray(grey).convert("RGB"), tmp_path / "b.tif", **profile))
    assert torch.equal(one.rgb, three.rgb)


def test_refused_paths(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "style image '.*none.png' does not exist; check the path", role="style")
    refused(tmp_path, "is a directory")
    refused(saved(Image.fromarray(noise()), tmp_path / "a.png") / "b.png", "does not exist")
    refused(str(tmp_path / ("x" * 300)), "could not be opened", "name too long")
    refused("a\0b.png", "not a valid path")
    refused("", "does not exist")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "is an empty file")
    (tmp_path / "text.jpg").write_text("This is not an image, whatever its name says.\n" * 100)
    refused(tmp_path / "text.jpg", "is not an image", "give a PNG, JPEG")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "not a regular file")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(noise()), tmp_path / "a.png")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root may read what chmod forbids
    refused(path, "may not be read", "permissions")


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://example.org", "ftp://x/y.png", "file:///a.png"])
def test_urls_are_refused(url: str) -> None:
    refused(url, "is a URL", "save it and give the file's path")
    refused(Path(url), "is a URL")


def test_postscript_starts_no_interpreter(tmp_path: Path) -> None:
    refused(saved(Image.fromarray(noise()), tmp_path / "a.eps"), "not an image of a known format")


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp", "gif", "bmp", "jp2"])
def test_truncated_files(tmp_path: Path, extension: str) -> None:
    path = saved(Image.fromarray(noise(64, 64)), tmp_path / f"a.{extension}")
    whole = path.read_bytes()
    for kept in (len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:kept])
        refused(path, "damaged")


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_too_small(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    said = rf"is {width}×{height} pixels; it must be at least 2×2"
    refused(saved(Image.new("RGB", size), tmp_path / "a.png"), said)
    refused(Image.new("RGB", size), said)
    refused(np.zeros((height, width, 3), np.uint8), said)
    refused(torch.zeros(3, height, width), said)


def test_empty_images() -> None:
    refused(Image.new("RGB", (0, 4)), "0×4 pixels")
    refused(np.zeros((0, 4, 3), np.uint8), "4×0 pixels")
    refused(torch.zeros(3, 0, 0), "0×0 pixels")


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
    ],
)
def test_refused_objects(source: object, said: str) -> None:
    refused(source, "^content image", said)


def test_one_bad_value_among_many() -> None:
    image = torch.rand(3, 50, 50)
    image[1, 20, 30] = float("nan")
    refused(image, "NaN")


def test_closed_pil_image(tmp_path: Path) -> None:
    with Image.open(saved(Image.fromarray(noise()), tmp_path / "a.png")) as image:
        pass
    refused(image, r"content image \(PIL image\)")


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(60_000, 60_000))
    refused(path, "60000×60000 = 3600000000 pixels", "limit of 200000000 pixels; reduce it, or raise --max-pixels")


def test_limit_is_exact_and_pillows_own_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(noise()), tmp_path / "a.png")
    refused(path, "7×5 = 35 pixels", "limit of 34", max_pixels=34)
    with Image.open(path) as image:
        refused(image, "limit of 34", max_pixels=34)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert load_image(path, max_pixels=35).rgb.shape == (3, 5, 7)
    assert Image.MAX_IMAGE_PIXELS == 1


def test_size_between_pillows_limit_and_ours(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_claiming(13_900, 13_900))  # Pillow refuses more than 178956970 pixels
    with open_image(path, role="content") as image:
        assert image.size == (13_900, 13_900)
    refused(path, "damaged or truncated")


OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] data. DefaultCPUAllocator: can't allocate memory: you tried to"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    OSError("out of memory when reading image file"),
]


@pytest.mark.parametrize("failure", OUT_OF_MEMORY, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("place", ["load", "convert", "to_planes", "in_range", "from_planes"])
def test_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, failure: Exception) -> None:
    image = Image.fromarray(noise(channels=4))
    path = saved(image, tmp_path / "a.png")

    def fails(*_: object, **__: object) -> None:
        raise failure

    said = r"does not fit in memory \(7×5 pixels\); reduce it first$"
    if place in ("load", "convert"):
        monkeypatch.setattr(PngImageFile, place, fails)
    else:
        of_range = (picture_module, decoding)
        for module in {"to_planes": (arrays, decoding), "from_planes": (arrays,), "in_range": of_range}[place]:
            monkeypatch.setattr(module, place, fails)
        refused(noise(), r"^content image \(array\) " + said)
    if place != "from_planes":
        refused(path, said)
    if place in ("in_range", "from_planes"):
        refused(torch.rand(3, 5, 7), r"^content image \(tensor\) " + said)


def test_a_name_is_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "out of memory.png"
    path.write_bytes(png_claiming(20, 20))
    refused(path, "damaged or truncated")


def test_threads_leave_pillows_limit_as_it_was(tmp_path: Path) -> None:
    path = saved(Image.fromarray(noise(64, 64)), tmp_path / "a.png")
    before, failures = Image.MAX_IMAGE_PIXELS, []

    def read() -> None:
        for _ in range(20):
            try:
                load_image(path)
                load_image(path, max_pixels=9)
            except ImageError:
                continue
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert before == Image.MAX_IMAGE_PIXELS


def test_check_fits() -> None:
    check_fits(16, 16, 16)
    with pytest.raises(ImageError) as caught:
        check_fits(1, 16, 2, scale=16, layers=("conv2_1", "conv1_1"))
    assert str(caught.value) == (
        "content image would be 16×1 pixels at scale 16, but each side must be at least 2 for the layers "
        "conv2_1, conv1_1; use a larger size, a less narrow picture or shallower layers"
    )
    with pytest.raises(ImageError, match=r"style image would be 20×15 pixels, but .* 16 for the layer c;"):
        check_fits(15, 20, 16, role="style", layers=["c"])
    with pytest.raises(ImageError, match="each side must be at least 16; use a larger size"):
        check_fits(20, 15, 16)


@pytest.mark.parametrize(
    ("height", "width", "long_edge", "expected"),
    [
        (600, 800, 512, (384, 512)),
        (800, 600, 512, (512, 384)),
        (100, 100, 7, (7, 7)),
        (1, 1000, 10, (1, 10)),
        (3, 2, 3, (3, 2)),
        (4, 1, 2, (2, 1)),
        (10, 4, 1, (1, 1)),
        (2, 3, 3000, (2000, 3000)),
    ],
)
def test_fitted_size(height: int, width: int, long_edge: int, expected: tuple[int, int]) -> None:
    assert fitted_size(height, width, long_edge) == expected


@given(st.integers(1, 50_000), st.integers(1, 50_000), st.integers(1, 50_000))
def test_fitted_size_keeps_the_aspect(height: int, width: int, long_edge: int) -> None:
    fitted = fitted_size(height, width, long_edge)
    assert max(fitted) == long_edge
    for side, source in zip(fitted, (height, width), strict=True):
        assert abs(side - source * long_edge / max(height, width)) <= (0.5 if side > 1 else 1)


def test_bad_sizes() -> None:
    rgb = torch.rand(3, 8, 8)
    for arguments in ({}, {"long_edge": 4, "size": (4, 4)}, {"long_edge": 0}, {"size": (0, 4)}, {"long_edge": -5}):
        with pytest.raises(OptionError):
            resize(rgb, **arguments)


def test_resize_matches_pillows_filter() -> None:
    array = np.random.default_rng(1).random((60, 80), np.float32)
    for size in ((23, 31), (120, 160)):
        expected = np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.BICUBIC)).clip(0, 1)
        resized = resize(torch.from_numpy(array).expand(3, -1, -1), size=size)
        assert np.abs(resized.numpy() - expected).max() < 1e-4


def test_resize_keeps_range_constants_and_mean() -> None:
    step = torch.zeros(3, 40, 40)
    step[:, :, 20:] = 1
    for long_edge in (13, 97):
        resized = resize(step, long_edge)
        assert resized.shape == (3, long_edge, long_edge)
        assert 0 <= float(resized.min()) <= float(resized.max()) <= 1
    assert torch.allclose(resize(torch.full((3, 50, 30), 0.3), 17), torch.tensor(0.3), atol=1e-6)
    checkerboard = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(3, -1, -1)
    assert (resize(checkerboard, 16) - 0.5).abs().max() < 0.02


def test_resize_accepts_batches_and_returns_the_same_size_unchanged() -> None:
    batch = torch.rand(2, 3, 12, 10)
    assert torch.equal(resize(batch, size=(6, 5))[1], resize(batch[1], size=(6, 5)))
    assert resize(batch, long_edge=12) is batch


def test_hidden_colour_does_not_bleed() -> None:
    rgb = torch.zeros(3, 32, 32)
    rgb[0, :, :17] = 1  # visible red, hidden black
    alpha = torch.zeros(1, 32, 32)
    alpha[:, :, :17] = 1
    resized = resize_picture(Picture(rgb, alpha, "test"), 12)
    assert resized.alpha is not None
    assert resized.alpha.shape == (1, 12, 12)
    visible = resized.alpha[0] > 1 / 255
    assert resized.rgb[0][visible].min() > 0.999
    assert resize(rgb, 12)[0][visible].min() < 0.9
    assert resized.name == "test"


def test_resize_picture_without_transparency() -> None:
    rgb = torch.rand(3, 20, 30)
    opaque = resize_picture(Picture(rgb, torch.ones(1, 20, 30), "test"), size=(9, 9))
    plain = resize_picture(Picture(rgb, None, "test"), size=(9, 9))
    assert torch.equal(opaque.rgb, plain.rgb)
    assert plain.alpha is None


def test_flattened_shows_the_mean_of_the_visible_colours() -> None:
    rgb = torch.rand(3, 6, 6)
    alpha = torch.zeros(1, 6, 6)
    alpha[:, :2], alpha[:, 2:3] = 1, 0.25
    flat = flattened(Picture(rgb, alpha, "test"))
    assert (flat.alpha, flat.name, flat.rgb.dtype) == (None, "test", torch.float32)
    mean = (rgb[:, :2].sum((1, 2)) + 0.25 * rgb[:, 2].sum(1)) / (12 + 0.25 * 6)
    assert torch.equal(flat.rgb[:, :2], rgb[:, :2])
    assert torch.allclose(flat.rgb[:, 2], 0.25 * rgb[:, 2] + 0.75 * mean[:, None])
    assert torch.allclose(flat.rgb[:, 3:], mean[:, None, None].expand(3, 3, 6))
    assert 0 <= float(flat.rgb.min()) <= float(flat.rgb.max()) <= 1


def test_flattened_does_not_know_the_hidden_colour() -> None:
    rgb = torch.rand(3, 6, 6)
    alpha = torch.ones(1, 6, 6)
    alpha[:, 3:] = 0
    other = torch.where(alpha > 0, rgb, 1 - rgb)
    assert torch.equal(flattened(Picture(rgb, alpha, "a")).rgb, flattened(Picture(other, alpha, "b")).rgb)


def test_flattened_of_what_is_opaque_or_invisible() -> None:
    rgb = torch.rand(3, 6, 6)
    plain = Picture(rgb, None, "test")
    assert flattened(plain) is plain
    opaque = flattened(Picture(rgb, torch.ones(1, 6, 6), "test"))
    assert opaque.alpha is None
    assert torch.equal(opaque.rgb, rgb)
    with pytest.raises(ImageError, match="image 'test' is transparent everywhere and shows no colour; give another"):
        flattened(Picture(rgb, torch.zeros(1, 6, 6), "test"))
