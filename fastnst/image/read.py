"""Reading a picture into float32 sRGB.

Whatever the source (file, stream, PIL image, array, tensor), what comes out is a `Picture`, upright, in sRGB, 0…1, or
a `StreamedPicture` of the same rows. libvips decodes, some rows at a time where the format allows it, and LittleCMS in
it converts colours at 16 bits; Pillow reads the formats that libvips does not.
"""

import contextlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from fastnst.errors import ImageError
from fastnst.image.files import MAX_PIXELS, contents, source_name
from fastnst.image.picture import (
    PART_PIXELS,
    AnyPicture,
    Picture,
    StreamedPicture,
    check_layout,
    check_pixels,
    check_size,
    from_array,
    from_planes,
    from_tensor,
    ran_out,
    to_planes,
    within_memory,
)

Source: TypeAlias = str | os.PathLike[str] | IO[bytes] | Image.Image | npt.NDArray[np.generic] | torch.Tensor

STREAMED_PIXELS = 1 << 22
"""Files of more pixels are read as a StreamedPicture where a run does not need them whole: 50 MB in float."""

_NPY_MAGIC = b"\x93NUMPY"
# The formats that libvips lacks. Pillow opens others too, which start another program (EPS) or hold no photographs.
_PILLOW_FORMATS = ("BMP", "DIB", "JPEG2000", "PPM", "PSD", "QOI", "TGA", "PCX", "SGI")
_ORIENTATION = 274  # EXIF's tag
_DTYPES = {"uchar": np.uint8, "ushort": np.uint16, "int": np.int32, "uint": np.uint32, "float": np.float32}
# Pillow's limit of pixels and Python's warning filters belong to the whole process.
_PILLOW_LOCK = threading.Lock()


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

    ICC profiles (RGB, grey, CMYK) are converted to sRGB at 16 bits, relative colorimetric with black point
    compensation; a broken profile is ignored, and CMYK without one is that of a usual press. Files keep the depth that
    they have, a PIL image the 8 bits of its mode. Floats, arrays and tensors are taken as sRGB; floats up to 1e-3
    outside 0…1 are clamped. Safe to call from several threads.

    Raises ImageError: missing, unreadable, not an image, damaged, too large for `max_pixels` or for the memory, smaller
    than 2×2, a wrong shape or dtype, a tensor or array without plain values (sparse, meta, masked …), values that are
    not finite or not in 0…1, a URL.
    """
    if isinstance(source, torch.Tensor):
        return from_tensor(source, f"{role} image (tensor)")
    if isinstance(source, np.ndarray):
        return from_array(source, f"{role} image (array)")
    return _samples(source, role, max_pixels).whole()


def open_picture(source: Source, *, role: str = "content", max_pixels: int = MAX_PIXELS) -> AnyPicture:
    """`load_image`, but of a large file or stream a StreamedPicture, whose pixels are read when they are needed.

    What is wrong with pixels is found then. A stream's bytes are kept.
    """
    if isinstance(source, torch.Tensor | np.ndarray):
        return load_image(source, role=role, max_pixels=max_pixels)
    samples = _samples(source, role, max_pixels)
    large = samples.height * samples.width > STREAMED_PIXELS and samples.name != "PIL image"
    return samples.streamed() if large else samples.whole()


@dataclass(frozen=True)
class _Samples:
    """An image whose header is read; `rows` decodes it, (h, W, C) of any depth from the top, each time it is called."""

    height: int
    width: int
    what: str
    name: str
    rows: Callable[[], Iterator[npt.NDArray[np.generic]]]

    def whole(self) -> Picture:
        planes, top = None, 0
        with within_memory(self.what, self.height, self.width):
            for rows in self._checked_rows():
                if planes is None:
                    planes = np.empty((rows.shape[2], self.height, self.width), np.float32)
                to_planes(rows, planes[:, top : top + len(rows)])
                top += len(rows)
            return from_planes(torch.from_numpy(planes), self.what, self.name)

    def streamed(self) -> StreamedPicture:
        def read() -> Iterator[Picture]:
            with within_memory(self.what, self.height, self.width):
                for rows in self._checked_rows():
                    yield from_planes(to_planes(rows), self.what, self.name)

        return StreamedPicture(self.height, self.width, self.name, read)

    def _checked_rows(self) -> Iterator[npt.NDArray[np.generic]]:
        with decoding(self.what):
            yield from self.rows()


def _samples(source: object, role: str, max_pixels: int) -> _Samples:
    if isinstance(source, Image.Image):
        what = f"{role} image (PIL image)"
        image = _from_pil(source, what, max_pixels)
        return _image_samples(lambda _: image, what, "PIL image", max_pixels)
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
        raise ImageError(
            f"{role} image is of type {type(source).__name__}; "
            "give a path, a PIL image, a NumPy array or a torch tensor"
        )
    name, what = source_name(source, role)
    held = contents(source, what)  # type: ignore[arg-type]
    if is_npy(held):
        return _npy_samples(held, what, name, max_pixels)
    return _image_samples(lambda access: open_image(held, what, access, max_pixels), what, name, max_pixels)


def _image_samples(opened: Callable[[str], Any], what: str, name: str, max_pixels: int) -> _Samples:
    """The samples of a libvips image, which `opened` gives for an access, "sequential" or "random"."""
    image = opened("sequential")
    check_pixels(image.height, image.width, what, max_pixels)
    check_size(image.height, image.width, what)
    if image.bands > 5 or image.format not in _DTYPES:
        raise ImageError(f"{what} has {image.bands} channels of {image.format}; save it as RGB of 8 or 16 bits")
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    # Only what is not turned can be decoded from the top; libvips keeps the rest in memory or, when large, on disk.
    access = "sequential" if orientation in (1, 2) else "random"
    size = (image.width, image.height) if orientation in (5, 6, 7, 8) else (image.height, image.width)

    def rows() -> Iterator[npt.NDArray[np.generic]]:
        image = _upright_srgb(opened(access))
        if (image.height, image.width) != size:
            raise ImageError(f"{what} has changed while it was used; begin anew")
        # In this thread: rows come in order, and no threads of libvips stand beside torch's.
        region = libvips().Region.new(image)
        step = max(1, PART_PIXELS // image.width)
        for top in range(0, image.height, step):
            count = min(step, image.height - top)
            data = region.fetch(0, top, image.width, count)
            yield np.frombuffer(data, _DTYPES[image.format]).reshape(count, image.width, image.bands)

    return _Samples(*size, what, name, rows)


def _upright_srgb(image: Any) -> Any:
    """The image upright, as grey or RGB in sRGB, with alpha where it has it."""
    profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else None
    integers = image.format in ("uchar", "ushort")
    if image.interpretation == "cmyk" or (integers and profile not in (None, srgb_profile())):
        image = image.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True, depth=16)
    elif image.interpretation in ("lab", "labs", "labq"):
        image = image.colourspace("rgb16")
    return image.autorot()


def open_image(held: str | bytes, what: str, access: str = "sequential", max_pixels: int = MAX_PIXELS) -> Any:
    """libvips' image of a path or a file's bytes, with its header read and its pixels not decoded.

    Formats that only Pillow reads are decoded. Raises ImageError for what is no image.
    """
    vips = libvips()
    options: dict[str, Any] = {"access": access, "fail_on": "error"}
    if _head(held)[:2] in (b"II", b"MM"):
        options["unlimited"] = True  # a strip may be the whole picture; its size is checked on the header
    try:
        if isinstance(held, bytes):
            source = vips.Source.new_from_memory(held)
        else:
            source = vips.Source.new_from_file(os.fsencode(held))
        return vips.Image.new_from_source(source, "", **options)
    except Exception as error:  # UnicodeDecodeError too, where a message has bytes of the file
        if "known format" not in str(error):
            raise ImageError(_damaged(what, error)) from error
    return _open_with_pillow(held, what, max_pixels)


def _open_with_pillow(held: str | bytes, what: str, max_pixels: int) -> Any:
    Image.init()
    formats = [name for name in _PILLOW_FORMATS if name in Image.OPEN]
    try:
        with _unguarded():
            image = Image.open(io.BytesIO(held) if isinstance(held, bytes) else held, formats=formats)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{what} is not an image of a known format, or its header is damaged; "
            "give a PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF file"
        ) from error
    except Exception as error:
        raise ImageError(_damaged(what, error)) from error
    with image:
        return _from_pil(image, what, max_pixels)


def _from_pil(image: Image.Image, what: str, max_pixels: int) -> Any:
    """libvips' image of one of PIL's, with its profile and orientation."""
    check_pixels(image.height, image.width, what, max_pixels)
    check_size(image.height, image.width, what)
    with decoding(what), within_memory(what, image.height, image.width):
        with _unguarded():
            image.load()
            orientation = _orientation(image)
        vips, profile = libvips(), image.info.get("icc_profile")
        array, interpretation = _pil_samples(image, what)
        copied = vips.Image.new_from_array(array, interpretation=interpretation).copy()
    if profile:
        copied.set_type(vips.GValue.blob_type, "icc-profile-data", profile)
    copied.set_type(vips.GValue.gint_type, "orientation", orientation)
    return copied


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(AttributeError, LookupError, OSError, OverflowError, SyntaxError, TypeError, ValueError):
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1  # damaged metadata is none


def _pil_samples(image: Image.Image, what: str) -> tuple[npt.NDArray[np.generic], str]:
    """The samples of a PIL image, (H, W) or (H, W, C), and what libvips calls their colours."""
    if image.mode == "F":
        return np.asarray(image), "b-w"
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(f"{what} is of mode I with integers beyond 0…65535; save it with 16 bits")
        grey, key = grey.astype(np.uint16), image.info.get("transparency")
        return (np.dstack([grey, (grey != key) * np.uint16(65535)]) if isinstance(key, int) else grey), "grey16"
    if image.mode == "CMYK":
        return np.asarray(image), "cmyk"
    if image.mode == "LAB":
        lab = np.asarray(image)
        return np.dstack([lab[:, :, 0] * np.float32(100 / 255), lab[:, :, 1:].astype(np.int8)]), "lab"
    grey_mode = image.mode in ("1", "L", "LA", "La")
    if image.mode not in ("YCbCr", "HSV") and image.has_transparency_data:
        image = image.convert("LA" if grey_mode else "RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if grey_mode else "RGB")
    return np.asarray(image), "b-w" if grey_mode else "srgb"


def is_npy(held: str | bytes) -> bool:
    """Whether a path leads to one of NumPy's own files, or bytes are one."""
    return _head(held) == _NPY_MAGIC


def _head(held: str | bytes) -> bytes:
    with opened(held) as file:
        return file.read(len(_NPY_MAGIC))


def opened(held: str | bytes) -> IO[bytes]:
    """A file at a path, or of bytes."""
    return io.BytesIO(held) if isinstance(held, bytes) else Path(held).open("rb")


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and dtype of the array in a `.npy` file, which is left where its samples begin. Raises ValueError."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(file))
    if read is None:
        raise ValueError("its version is none of 1.0 and 2.0")
    shape, _, dtype = read(file)
    return shape, dtype


def _npy_samples(held: str | bytes, what: str, name: str, max_pixels: int) -> _Samples:
    with decoding(what):
        with opened(held) as file:
            shape, dtype = read_npy_header(file)
        height, width = check_layout(shape, dtype, what)
        check_pixels(height, width, what, max_pixels)
        # Of a file only the pages that are looked at are in memory.
        array = np.load(held, mmap_mode="r") if isinstance(held, str) else np.load(io.BytesIO(held))
    samples = array[:, :, None] if array.ndim == 2 else array
    step = max(1, PART_PIXELS // width)

    def rows() -> Iterator[npt.NDArray[np.generic]]:
        return (samples[top : top + step] for top in range(0, height, step))

    return _Samples(height, width, what, name, rows)


@cache
def libvips() -> Any:
    """pyvips, set up: no operation is kept, what its authors call unsafe for untrusted files is blocked, and warnings
    about damaged metadata, which a user can do nothing about, go nowhere."""
    ours = "pyvips" not in sys.modules
    if ours:
        os.environ["VIPS_WARNING"] = "0"  # read as libvips starts: its own handler of warnings is to be an empty one
    import pyvips

    if ours:
        del os.environ["VIPS_WARNING"]
        pyvips._remove_log_handler()  # which prints a traceback where a file's bytes in a message are no UTF-8
    pyvips.cache_set_max(0)
    pyvips.block_untrusted_set(True)
    return pyvips


@cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB, the same bytes on every call and day."""
    return bytes(libvips().Image.profile_load("srgb"))


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """What decoders raise in the block becomes an ImageError, but for a lack of memory, which becomes a MemoryError."""
    try:
        yield
    except (ImageError, GeneratorExit):
        raise
    except Exception as error:
        if ran_out(error):
            raise MemoryError(str(error)) from error
        raise ImageError(_damaged(what, error)) from error


def _damaged(what: str, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{what} does not fit in memory; reduce it first"
    # libvips' errors have one line for each function that failed.
    lines = [line for line in getattr(error, "detail", str(error)).splitlines() if line.strip()]
    reason = lines[0].strip() if lines else type(error).__name__
    if "nsupported" in reason or "labq" in reason:  # TIFF in CIELAB of 8 bits
        return f"{what} is in a form that is not supported here ({reason}); save it as PNG, TIFF or JPEG"
    return f"{what} is damaged or truncated ({reason}); fetch or export it again"


@contextlib.contextmanager
def _unguarded() -> Iterator[None]:
    """Pillow without its own limit of pixels, and without its warnings about damaged metadata; a thread at a time."""
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
