"""Colour profiles (ICC.1): sRGB's own, and pictures in other spaces brought to sRGB.

8-bit samples go through LittleCMS, as Pillow has it. Deeper ones do not fit through that, so the profiles that
photographs have (three curves and a matrix, as Adobe RGB, Display P3 and ProPhoto) are computed here.
"""

import contextlib
import io
import struct
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms

_BAND = 64  # rows; the temporaries are larger than the result
_D50 = (0.9642, 1.0, 0.8249)
_BRIGHTEST_BLACK = 0.184  # L* = 50, as LittleCMS has it
_Array = npt.NDArray[np.float64]


@cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB, the same bytes on every call and day."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # The header's creation time would make equal pictures differ as files.
    profile[24:36] = b"".join(part.to_bytes(2, "big") for part in (2000, 1, 1, 0, 0, 0))
    return bytes(profile)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An L, RGB, CMYK or LAB image as RGB in sRGB, relative colorimetric with black point compensation.

    A profile that is broken or of another kind of colour is ignored.
    """
    if image.mode == "LAB":
        return _transformed(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile and profile != srgb_profile():
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = opened.profile.xcolor_space.strip()
            if space == "RGB" and image.mode in ("RGB", "L"):
                return _transformed(image.convert("RGB"), opened)
            if (space, image.mode) in (("GRAY", "L"), ("CMYK", "CMYK")):
                return _transformed(image, opened)
    return image.convert("RGB")


def _transformed(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    transform = ImageCms.buildTransform(
        profile,
        ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
        image.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return transform.apply(image)


def grey_to_srgb(grey: torch.Tensor, profile: bytes | None) -> torch.Tensor:
    """(1, H, W) of grey, float32 in 0…1, as sRGB: (3, H, W), or `grey` itself where the profile changes nothing.

    The profile's curve is taken at the 256 steps that LittleCMS is asked for, and is linear between them.
    """
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    curve = np.asarray(to_srgb(ramp, profile))
    if np.array_equal(curve, np.asarray(ramp.convert("RGB"))):
        return grey
    return _through_curve(grey, torch.from_numpy(curve[0].T / np.float32(255)))


def _through_curve(grey: torch.Tensor, curve: torch.Tensor) -> torch.Tensor:
    """(1, H, W) in 0…1 to (3, H, W) by linear interpolation in `curve`, (3, N)."""
    steps = curve.shape[1] - 1
    colours = torch.empty(3, *grey.shape[1:], dtype=torch.float32)
    for top in range(0, grey.shape[1], _BAND):
        rows = slice(top, top + _BAND)
        position = grey[0, rows].clamp(0, 1) * steps
        below = position.floor().clamp_(max=steps - 1)
        weight = position - below
        index = below.to(torch.int32)
        for target, channel in zip(colours, curve, strict=True):
            target[rows] = torch.lerp(channel[index], channel[index + 1], weight)
    return colours


def is_matrix_profile(profile: bytes) -> bool:
    """Whether `matrix_to_srgb` can compute `profile`: RGB by three curves and a matrix."""
    return _shaper(profile) is not None


def matrix_to_srgb(samples: npt.NDArray[np.uint16], profile: bytes) -> npt.NDArray[np.float32]:
    """(H, W, 3) of 16 bits under a matrix profile as sRGB: (H, W, 3) float32 in 0…1.

    `sRGB = encode(clip(M_sRGB⁻¹ · (M · curve(sample) − y·D50) / (1 − y)))` with the profile's curves and its matrix M
    to XYZ under D50: relative colorimetric, and y, the luminance of the profile's black, becomes 0.

    Raises ValueError where `is_matrix_profile` is false.
    """
    shaper, srgb = _shaper(profile), _shaper(srgb_profile())
    if shaper is None or srgb is None:
        raise ValueError("the profile is none of three curves and a matrix")
    curves = [curve.astype(np.float32) for curve in shaper[0]]
    black = min(float(shaper[1][1] @ [curve[0] for curve in shaper[0]]), _BRIGHTEST_BLACK)
    from_xyz = np.linalg.inv(srgb[1]) / (1 - black)
    matrix, offset = (from_xyz @ shaper[1]).astype(np.float32), (from_xyz @ _D50 * black).astype(np.float32)
    colours = np.empty(samples.shape, np.float32)
    for top in range(0, len(samples), _BAND):
        rows = samples[top : top + _BAND]
        linear = np.stack([curve[rows[:, :, channel]] for channel, curve in enumerate(curves)], axis=2)
        colours[top : top + _BAND] = _encoded((linear @ matrix.T - offset).clip(0, 1))
    return colours


def _encoded(linear: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """sRGB's transfer function (IEC 61966-2-1), 0…1."""
    bright = np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)
    return np.where(linear <= 0.0031308, np.float32(12.92) * linear, bright)


def _shaper(profile: bytes) -> tuple[list[_Array], _Array] | None:
    """The three curves, each at all 65536 values of a sample, and the matrix (3, 3) from linear RGB to XYZ."""
    with contextlib.suppress(LookupError, ValueError, struct.error, OverflowError):
        tags = _tags(profile)
        if profile[16:20] != b"RGB " or profile[20:24] != b"XYZ " or b"A2B0" in tags or b"A2B1" in tags:
            return None
        columns = [_fixed(tags[colour + b"XYZ"][8:20]) for colour in (b"r", b"g", b"b")]
        curves = [_curve(tags[colour + b"TRC"]) for colour in (b"r", b"g", b"b")]
        matrix = np.array(columns).T
        if np.isfinite(np.stack(curves)).all() and abs(np.linalg.det(matrix)) > 1e-6:
            return curves, matrix
    return None


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > 200:
        raise ValueError("more tags than a profile has")
    entries = (struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(count))
    return {name: profile[start : start + size] for name, start, size in entries}


def _fixed(data: bytes) -> list[float]:
    """The s15Fixed16 numbers in `data`."""
    return [value / 65536 for (value,) in struct.iter_unpack(">i", data)]


def _curve(tag: bytes) -> _Array:
    """A `curv` or `para` tag (ICC.1:2010, 10.5 and 10.15) at the 65536 values of a 16-bit sample."""
    x = np.linspace(0.0, 1.0, 65536)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        table = np.array(struct.unpack_from(f">{count}H", tag, 12), np.float64) if count <= 65536 else np.empty(0)
        if count <= 1:
            return np.power(x, table[0] / 256 if count else 1.0)
        return np.asarray(np.interp(x * (count - 1), np.arange(count), table / 65535), np.float64)
    (kind,) = struct.unpack_from(">H", tag, 8)
    g, a, b, c, d, e, f = _parameters(kind, _fixed(tag[12 : 12 + 4 * _PARAMETERS[kind]]))
    with np.errstate(invalid="ignore", divide="ignore"):
        values: _Array = np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f).clip(0, 1)
    return values


_PARAMETERS = (1, 3, 4, 5, 7)


def _parameters(kind: int, given: list[float]) -> tuple[float, ...]:
    """g, a, b, c, d, e, f of `(a·x + b)^g + e` where `x ≥ d`, else `c·x + f`, of a parametric curve's five kinds."""
    if kind == 0:
        return given[0], 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    g, a, b, *rest = given
    if kind in (1, 2):
        level = rest[0] if rest else 0.0
        return g, a, b, 0.0, -b / a, level, level
    c, d, *rest = rest
    e, f = rest or (0.0, 0.0)
    return g, a, b, c, d, e, f
