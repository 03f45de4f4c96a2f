"""Pillow's images into pictures: decoded, upright, in sRGB, at the depth that they have."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import ExifTags, Image

from fastnst.deep_colour import decode_deep, is_misread, low_bytes
from fastnst.errors import ImageError
from fastnst.icc import grey_to_srgb, to_srgb
from fastnst.image_files import damaged, exif_tag, unguarded
from fastnst.image_memory import ran_out, within_memory
from fastnst.picture import Picture, check_pixels, check_size, in_range, to_planes

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: Image.Image, what: str, name: str, max_pixels: int) -> Picture:
    """The picture of an image in any mode, whose pixels are decoded or not; `what` and `name` as for a Picture.

    Raises ImageError: damaged, too large for `max_pixels` or for the memory, of a mode that is no colour, or of values
    that are not in 0…1.
    """
    check_pixels(image.height, image.width, what, max_pixels)
    with within_memory(what, image.height, image.width):
        check_size(image.height, image.width, what)
        return decoded(image, what, max_pixels).picture(what, name)


def decoded(image: Image.Image, what: str, max_pixels: int) -> "Decoded":
    """The image, decoded but not converted. Raises ImageError as `decode` does, but lets memory run out."""
    if is_misread(image):
        raise ImageError(f"{what} has 16-bit samples in separate planes; save it with interleaved ones")
    try:
        with unguarded(max_pixels):
            low = low_bytes(image)  # first: the file may be closed when the pixels are read
            image.load()
    except Exception as error:
        if ran_out(error):
            raise
        raise ImageError(damaged(what, error)) from error
    # A GIF may grow past its header's size as its first frame is read.
    check_pixels(image.height, image.width, what, max_pixels)
    orientation = exif_tag(image, ExifTags.Base.Orientation)
    peak = _grey_peak(image)
    return Decoded(_upright(image, orientation), None if low is None else _upright(low, orientation), peak)


@dataclass(frozen=True)
class Decoded:
    """An upright image in Pillow's samples, with the less significant bytes of those of 16 bits, and the largest value
    of deep grey."""

    image: Image.Image
    low: Image.Image | None
    peak: float

    def picture(self, what: str, name: str, rows: slice | None = None) -> Picture:
        """The picture, or some rows of it. Raises ImageError as `decode` does."""
        image, low = self.image, self.low
        if rows is not None:
            box = (0, rows.start, image.width, rows.stop)
            image, low = image.crop(box), None if low is None else low.crop(box)
        try:
            if low is not None:
                planes, alpha = decode_deep(image, low)
            else:
                planes, alpha = _grey_planes(image, self.peak) if _is_deep_grey(image) else _colour_planes(image)
        except Exception as error:
            if ran_out(error):
                raise
            lines = str(error).splitlines()
            reason = lines[0] if lines else type(error).__name__
            raise ImageError(f"{what} cannot be converted from mode {image.mode} to RGB: {reason}") from error
        return Picture(in_range(planes, what), alpha, name)


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    if isinstance(orientation, int) and orientation in _TRANSPOSITIONS:
        return image.transpose(_TRANSPOSITIONS[orientation])
    return image


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _grey_planes(image: Image.Image, peak: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(1 or 3, H, W) and alpha of an image with more than 8 bits of grey."""
    samples = np.asarray(image)[:, :, None]
    if image.mode == "I" and (samples.min() < 0 or samples.max() > 65535):
        raise ValueError("its integers go beyond 0…65535; save it with 16 bits")
    planes = to_planes(samples, 1.0 if image.mode == "F" else peak)
    key = image.info.get("transparency")
    alpha = to_planes(samples != key, 1.0) if isinstance(key, int) else None
    return grey_to_srgb(planes, image.info.get("icc_profile")), alpha


def _grey_peak(image: Image.Image) -> float:
    # Pillow leaves 12-bit TIFF samples unscaled; every other source comes scaled to 16 bits.
    is_12_bit = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample) == (12,)
    return 4095.0 if is_12_bit else 65535.0


def _colour_planes(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(3, H, W) in sRGB and alpha of an image with 8 bits per channel."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode not in ("CMYK", "LAB", "YCbCr", "HSV") and image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        alpha = to_planes(np.asarray(image.getchannel("A"))[:, :, None], 255.0)
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    return to_planes(np.asarray(to_srgb(image, profile)), 255.0), alpha
