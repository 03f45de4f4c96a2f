"""Reading a picture into float32 sRGB.

Whatever the source (file, stream, PIL image, array, tensor), what comes out is one thing: a `Picture`, upright, in
sRGB, 0…1.
"""

import io
import os
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastnst.arrays import from_array, from_tensor
from fastnst.decoding import decode
from fastnst.errors import ImageError
from fastnst.icc import srgb_profile
from fastnst.image_files import exif_tag, image_of, open_image, open_source
from fastnst.npy_files import is_npy, load_npy
from fastnst.options.options import MAX_PIXELS
from fastnst.picture import MIN_SIDE, Picture, check_size, flattened
from fastnst.resizing import check_fits, fitted_size, resize, resize_picture
from fastnst.streamed_picture import AnyPicture, AtSizes, StreamedPicture, at_size, opaque, opened

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "AnyPicture",
    "AtSizes",
    "Picture",
    "Source",
    "StreamedPicture",
    "at_size",
    "check_fits",
    "exif_tag",
    "fitted_size",
    "flattened",
    "load_image",
    "opaque",
    "open_image",
    "open_picture",
    "resize",
    "resize_picture",
    "srgb_profile",
]

Source: TypeAlias = str | os.PathLike[str] | IO[bytes] | Image.Image | npt.NDArray[np.generic] | torch.Tensor


def load_image(source: Source, *, role: str = "content", max_pixels: int = MAX_PIXELS) -> Picture:
    """Read `source` as a Picture.

    source: one of
      - a path to an image file, or to a `.npy` file of an array as below; of several frames or pages the first;
      - a binary stream of such a file, as `sys.stdin.buffer` or `io.BytesIO(…)`, read to its end;
      - a PIL image in any mode (its EXIF orientation and ICC profile apply as they do for a file);
      - an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, or float in 0…1;
      - a tensor (C, H, W) or (1, C, H, W) with C 1, 3 or 4, on any device: uint8, uint16, or float in 0…1.
    role: what the picture is for; it begins every message.
    max_pixels: the most pixels that are decoded from a file or PIL image, checked on the header before decoding.

    ICC profiles (RGB, grey, CMYK) are converted to sRGB, relative colorimetric with black point compensation; a broken
    profile is ignored. 16-bit PNG and TIFF and float grey keep their precision. These come in 8 bits, as Pillow decodes
    them: 16-bit colour in other formats, in a PIL image that is decoded already, in CMYK, with premultiplied alpha or
    separate planes, or under a profile of tables (not of three curves and a matrix).
    Arrays and tensors are taken as sRGB; floats up to 1e-3 outside 0…1 are clamped.

    Safe to call from several threads; decoding itself is done by one at a time.

    Raises ImageError: missing, unreadable, not an image, damaged, too large for `max_pixels` or for the memory, smaller
    than 2×2, a wrong shape or dtype, a tensor or array without plain values (sparse, meta, masked …), values that are
    not finite or not in 0…1, a URL.
    """
    if isinstance(source, Image.Image):
        what = f"{role} image (PIL image)"
        check_size(source.height, source.width, what)
        return decode(source, what, "PIL image", max_pixels)
    if isinstance(source, torch.Tensor):
        return from_tensor(source, f"{role} image (tensor)")
    if isinstance(source, np.ndarray):
        return from_array(source, f"{role} image (array)")
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        return _from_bytes(source, f"{role} image {name!r}", name, max_pixels)
    if hasattr(source, "read"):
        name = source.name if isinstance(getattr(source, "name", None), str) else "stream"
        return _from_bytes(source, f"{role} image ({name})", name, max_pixels)
    raise ImageError(
        f"{role} image is of type {type(source).__name__}; give a path, a PIL image, a NumPy array or a torch tensor"
    )


def open_picture(source: Source, *, role: str = "content", max_pixels: int = MAX_PIXELS) -> AnyPicture:
    """`load_image`, but of a large file or stream a StreamedPicture, whose pixels are read when they are needed.

    What is wrong with pixels is found then. A stream's bytes are kept.
    """
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        return opened(source, f"{role} image {name!r}", name, max_pixels) or load_image(
            source, role=role, max_pixels=max_pixels
        )
    if not isinstance(source, Image.Image | torch.Tensor | np.ndarray) and hasattr(source, "read"):
        name = source.name if isinstance(getattr(source, "name", None), str) else "stream"
        what = f"{role} image ({name})"
        with open_source(source, what) as file:
            data = file.read()
        return opened(data, what, name, max_pixels) or _from_bytes(io.BytesIO(data), what, name, max_pixels)
    return load_image(source, role=role, max_pixels=max_pixels)


def _from_bytes(source: str | os.PathLike[str] | IO[bytes], what: str, name: str, max_pixels: int) -> Picture:
    with open_source(source, what) as file:
        if is_npy(file):
            return load_npy(file, what, name, max_pixels)
        with image_of(file, what) as image:
            return decode(image, what, name, max_pixels)
