"""Reading a picture into float32 sRGB.

Whatever the source (file, stream, PIL image, array, tensor), what comes out is a `Picture`, upright, in sRGB, 0…1, or
a `StreamedPicture` of the same rows. libvips decodes, some rows at a time where the format allows it, and LittleCMS in
it converts colours at 16 bits; Pillow reads the formats that libvips does not.
"""

import io
import os
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastnst.errors import ImageError, warn
from fastnst.image.decode import (
    about,
    check_size,
    decoding,
    from_pil,
    is_npy,
    libvips,
    open_image,
    opened,
    read_npy_header,
    srgb_profile,
)
from fastnst.image.files import MAX_PIXELS, contents, source_name
from fastnst.image.picture import (
    PART_PIXELS,
    AnyPicture,
    Picture,
    StreamedPicture,
    check_layout,
    from_array,
    from_samples,
    from_tensor,
)

Source: TypeAlias = str | os.PathLike[str] | IO[bytes] | Image.Image | npt.NDArray[np.generic] | torch.Tensor

Rows: TypeAlias = Callable[[], Iterator[npt.NDArray[np.generic]]]
"""Decodes the samples, (h, W) or (h, W, C) of any depth, some rows at a time from the top, each time it is called."""

STREAMED_PIXELS = 1 << 22
"""Files of more pixels are read as a StreamedPicture where a run does not need them whole: 50 MB in float."""

_DTYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}


_SAMPLES = {"int": "32-bit integers", "uint": "32-bit integers", "short": "signed integers", "char": "signed integers"}
_SAMPLES |= {"double": "64-bit floats"}


def load_image(source: Source, *, role: str = "content", max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads `source` as a Picture.

    source: one of
      - a path to an image file, or to a `.npy` file of an array as below; of several frames or pages the first;
      - a binary stream of such a file, as `sys.stdin.buffer` or `io.BytesIO(…)`, read to its end;
      - a PIL image in any mode (its EXIF orientation and ICC profile apply as they do for a file);
      - an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, or float in 0…1;
      - a tensor (C, H, W) or (1, C, H, W) with C 1, 3 or 4, on any device: uint8, uint16, or float in 0…1.
    role: what the picture is for; it begins every message.
    max_pixels: the most pixels that are decoded from a file or PIL image, checked on the header before decoding.

    ICC profiles (RGB, grey, CMYK) are converted to sRGB at 16 bits, relative colorimetric with black point
    compensation; a broken profile is ignored, and CMYK without one is that of a usual press. Files keep their depth.
    Floats, arrays and tensors are taken as sRGB; floats up to 1e-3 outside 0…1 are clamped. Safe in several threads.

    Raises ImageError for whatever is no readable picture of 2×2 pixels or more with finite values in 0…1.
    """
    if isinstance(source, torch.Tensor):
        return from_tensor(source, f"{role} image (tensor)")
    if isinstance(source, np.ndarray):
        return from_array(source, f"{role} image (array)")
    what, picture = _opened(source, role, max_pixels)
    with decoding(what, picture.height, picture.width):
        return picture.whole()


def open_picture(source: Source, *, role: str = "content", max_pixels: int = MAX_PIXELS) -> AnyPicture:
    """`load_image`, but of a large file or stream a StreamedPicture, whose pixels are read when they are needed.

    What is wrong with pixels is found then. A stream's bytes are kept.
    """
    if isinstance(source, torch.Tensor | np.ndarray):
        return load_image(source, role=role, max_pixels=max_pixels)
    what, picture = _opened(source, role, max_pixels)
    if picture.height * picture.width > STREAMED_PIXELS and not isinstance(source, Image.Image):
        return picture
    with decoding(what, picture.height, picture.width):
        return picture.whole()


def _opened(source: object, role: str, max_pixels: int) -> tuple[str, StreamedPicture]:
    """The name of the image in messages, and the picture, whose header alone is read."""
    if isinstance(source, Image.Image):
        what, name = f"{role} image (PIL image)", "PIL image"
        decoded, held = from_pil(source, what, max_pixels), None
        height, width, rows = _image_rows(lambda _: decoded, what, max_pixels)
        frames, tags = about(source)
    elif isinstance(source, str | os.PathLike) or hasattr(source, "read"):
        name, what = source_name(source, role)
        held = contents(source, what)
        if is_npy(held):
            height, width, rows = _npy_rows(held, what, max_pixels)
            frames, tags = 1, {}
        else:
            height, width, rows = _image_rows(
                lambda access: open_image(held, what, access, max_pixels), what, max_pixels
            )
            frames, tags = about(held)
    else:
        raise ImageError(
            f"{role} image is of type {type(source).__name__}; "
            "give a path, a PIL image, a NumPy array or a torch tensor"
        )

    if frames > 1:
        warn(
            f"{what} has {frames} frames or pages, and fastnst uses the first; save the one that you want as a "
            "picture of its own",
        )

    def read() -> Iterator[Picture]:
        with decoding(what, height, width, held):
            for samples in rows():
                yield from_samples(samples, what, name)

    return what, StreamedPicture(height, width, name, read, tags)


def _image_rows(opened: Callable[[str], Any], what: str, max_pixels: int) -> tuple[int, int, Rows]:
    """The rows of a libvips image, which `opened` gives for an access, "sequential" or "random"."""
    image = opened("sequential")
    check_size(image.height, image.width, what, max_pixels)
    if image.bands > 5 or image.format not in _DTYPES:
        samples = _SAMPLES.get(image.format, image.format)
        raise ImageError(f"{what} has {image.bands} channels of {samples}; save it as RGB with 8 or 16 bits")
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    # Only what is not turned can be decoded from the top; libvips keeps the rest in memory or, when large, on disk.
    access = "sequential" if orientation in (1, 2) else "random"
    height, width = (image.width, image.height) if orientation in (5, 6, 7, 8) else (image.height, image.width)

    def rows() -> Iterator[npt.NDArray[np.generic]]:
        image = _upright_srgb(opened(access))
        if (image.height, image.width) != (height, width):
            raise ImageError(f"{what} changed while fastnst used it; start over")
        # In this thread: rows come in order, and no threads of libvips stand beside torch's.
        region = libvips().Region.new(image)
        step = max(1, PART_PIXELS // width)
        for top in range(0, height, step):
            count = min(step, height - top)
            data = region.fetch(0, top, width, count)
            yield np.frombuffer(data, _DTYPES[image.format]).reshape(count, width, image.bands)

    return height, width, rows


def _upright_srgb(image: Any) -> Any:
    """The image upright, as grey or RGB in sRGB, with alpha where it has it."""
    profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else None
    integers = image.format in ("uchar", "ushort")
    if image.interpretation == "cmyk" or (integers and profile not in (None, srgb_profile())):
        image = image.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True, depth=16)
    elif image.interpretation in ("lab", "labs", "labq"):
        image = image.colourspace("rgb16")
    return image.autorot()


def _npy_rows(held: str | bytes, what: str, max_pixels: int) -> tuple[int, int, Rows]:
    with decoding(what):
        with opened(held) as file:
            shape, dtype = read_npy_header(file)
        height, width = check_layout(shape, dtype, what)
        check_size(height, width, what, max_pixels)
        # Of a file only the pages that are looked at are in memory.
        array = np.load(held, mmap_mode="r") if isinstance(held, str) else np.load(io.BytesIO(held))
    step = max(1, PART_PIXELS // width)
    return height, width, lambda: (array[top : top + step] for top in range(0, height, step))
