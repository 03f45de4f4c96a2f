"""Colour with 16 bits a channel in PNG and TIFF, of which Pillow itself keeps 8.

Pillow's decoders undo the compression and the filters at full depth, and only then keep one byte of each sample: the
more significant one of big-endian samples under the raw mode `RGB;16B`, of little-endian ones under `RGB;16L`. So the
other raw mode gives the other byte, and a second pass of the same decoder the rest of the sample.
"""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image

from fastnst.icc import grey_to_srgb, is_matrix_profile, matrix_to_srgb, srgb_profile
from fastnst.picture import to_planes

_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
# Grey with alpha comes as RGBA; its four bytes are those of a pixel of 8-bit RGBA.
_GREY_ALPHA = "LA;16B"


def low_bytes(image: Image.Image) -> Image.Image | None:
    """The less significant bytes of the samples of `image`, whose pixels are not decoded yet; `decode_deep` takes them.

    None where Pillow's own 8 bits are all that can be had: no 16-bit colour, premultiplied alpha, separate planes,
    several frames, or a profile that only LittleCMS can compute. Raises what Pillow's decoders do.
    """
    raw = None if _has_separate_planes(image) else _raw_mode(image)
    file = getattr(image, "fp", None)
    if raw is None or file is None or (image.format == "PNG" and getattr(image, "is_animated", False)):
        return None
    profile = image.info.get("icc_profile")
    if raw != _GREY_ALPHA and profile and profile != srgb_profile() and not is_matrix_profile(profile):
        return None
    position, frame = file.tell(), image.tell()
    file.seek(0)
    twin: Any = Image.open(file, formats=[image.format] if image.format else None)
    twin.seek(frame)
    other = "RGBA" if raw == _GREY_ALPHA else raw[:-1] + _OTHER_ORDER[raw[-1]]
    twin.tile = [
        tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:])) for tile in twin.tile
    ]
    twin.load()
    file.seek(position)
    twin.info[_GREY_ALPHA] = raw == _GREY_ALPHA
    return twin  # type: ignore[no-any-return]


def decode_deep(image: Image.Image, low: Image.Image) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(3, H, W) in sRGB, or (1, H, W) where the file is grey, and alpha, of a decoded image and its `low_bytes`."""
    profile = image.info.get("icc_profile")
    high, rest = np.asarray(image), np.asarray(low)
    if image.mode == "RGBA" and low.info.get(_GREY_ALPHA):
        samples = _joined(rest[:, :, ::2], rest[:, :, 1::2])
        return grey_to_srgb(to_planes(samples[:, :, :1], 65535.0), profile), to_planes(samples[:, :, 1:], 65535.0)
    samples = _joined(high, rest)
    key = image.info.get("transparency")
    alpha = None
    if samples.shape[2] == 4:
        alpha = to_planes(samples[:, :, 3:], 65535.0)
    elif isinstance(key, tuple) and len(key) == 3:
        alpha = to_planes((samples != np.array(key, np.uint16)).any(axis=2, keepdims=True), 1.0)
    if profile and profile != srgb_profile():
        return to_planes(matrix_to_srgb(samples[:, :, :3], profile), 1.0), alpha
    return to_planes(samples[:, :, :3], 65535.0), alpha


def is_misread(image: Image.Image) -> bool:
    """Whether Pillow would take 16-bit samples for 8-bit ones: a TIFF of separate planes without compression."""
    depths = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, ())
    return _has_separate_planes(image) and max(depths, default=8) > 8 and _codecs(image) == {"raw"}


def _codecs(image: Image.Image) -> set[str]:
    return {tile.codec_name for tile in getattr(image, "tile", ())}


def _has_separate_planes(image: Image.Image) -> bool:
    return bool(getattr(image, "tag_v2", {}).get(ExifTags.Base.PlanarConfiguration) == 2)


def _joined(high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    samples = high.astype(np.uint16)
    samples <<= 8
    samples |= low
    return samples


def _raw_mode(image: Image.Image) -> str | None:
    """The raw mode of all tiles, if it is one of 16-bit colour in a format that is known here."""
    if image.format not in ("PNG", "TIFF"):
        return None
    modes = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in getattr(image, "tile", ())}
    mode = modes.pop() if len(modes) == 1 else None
    if mode == _GREY_ALPHA:
        return mode
    return mode if mode in [f"{kind};16{order}" for kind in ("RGB", "RGBX", "RGBA") for order in "BLN"] else None
