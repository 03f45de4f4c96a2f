"""Files become libvips' images, whose header is read and whose pixels wait; nothing here needs torch."""

import contextlib
import io
import os
import re
import struct
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from fastnst.errors import ImageError
from fastnst.image.files import GIVE_A_PICTURE, MAX_PIXELS

MIN_SIDE = 2
MAX_SIDE = 1_000_000
"""A picture is read by whole rows, each of which is held several times over."""

# What begins files of formats that hold pictures and are not read, and files that people take for pictures.
_UNREAD = (
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (rb"....ftyp(hei[cxms]|hev[cxms])", "a HEIC picture"),
    (rb"....ftypcrx |II\*\0\x10\0\0\0CR|FUJIFILMCCD-RAW|IIU\0|IIRO", "a camera's raw file"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (rb"#\?R(ADIANCE|GBE)", "a Radiance HDR picture"),
    (rb"%PDF", "a PDF document"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<svg", "an SVG drawing"),
    (rb"\0\0[\x01\x02]\0", "an icon"),
    (rb"....ftyp(?!avi|mif|msf)|\x1a\x45\xdf\xa3|RIFF....AVI ", "a video"),
    (rb"(?i)\s*<(!doctype\s+)?html", "a web page"),
    (rb"PK\x03\x04", "an archive"),
)
_SAMPLES = {1: "unsigned integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}

_NPY_MAGIC = b"\x93NUMPY"
# The formats that libvips lacks. Pillow opens others too, which start another program (EPS) or hold no photographs.
_PILLOW_FORMATS = ("BMP", "DIB", "JPEG2000", "PPM", "PSD", "QOI", "TGA", "PCX", "SGI")
# Files of these are looked through for more than one picture.
_SEVERAL = ("GIF", "TIFF", "WEBP", "PNG", "AVIF")
_ORIENTATION = 274  # EXIF's tag
CREDITS = {"artist": 315, "copyright": 33432}
"""EXIF's tags of a picture's maker."""
MOST_DPI = 65536
_LONGEST_CREDIT = 1000
_ACROSS, _UNIT = 282, 296  # EXIF's tags of the resolution
_INCHES = {2: 1, 3: 2.54}  # by what the unit says
# Bytes of a TIFF's values by their type; the others have 8.
_TIFF_VALUES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 13: 4}
_MOST_TIFF_ENTRIES = 4096
_BITS, _SAMPLE_FORMAT, _DNG_VERSION = 258, 339, 50706  # TIFF's
# Pillow's limit of pixels and Python's warning filters belong to the whole process.
_PILLOW_LOCK = threading.Lock()


def open_image(held: str | bytes, what: str, access: str = "sequential", max_pixels: int = MAX_PIXELS) -> Any:
    """libvips' image of a path or a file's bytes, with its header read and its pixels not decoded.

    Formats that only Pillow reads are decoded. Raises ImageError for what is no image.
    """
    vips = libvips()
    options: dict[str, Any] = {"access": access, "fail_on": "error"}
    if _head(held)[:2] in (b"II", b"MM"):
        options["unlimited"] = True  # a strip may be the whole picture; its size is checked on the header
        with decoding(what), opened(held) as file:
            _check_tiff(file, what)
    source = vips.Source
    with decoding(what, 0, 0, held):
        try:
            source = (
                source.new_from_memory(held) if isinstance(held, bytes) else source.new_from_file(os.fsencode(held))
            )
            image = vips.Image.new_from_source(source, "", **options)
            if access == "sequential" and _head(held, 12)[8:11] in (b"hei", b"hev"):
                vips.Image.new_from_source(source, "", access="random").getpoint(0, 0)  # is its codec there?
            return image
        except vips.Error as error:
            if "known format" not in str(error):
                raise
        Image.init()
        formats = [name for name in _PILLOW_FORMATS if name in Image.OPEN]
        with _unguarded():
            image = Image.open(io.BytesIO(held) if isinstance(held, bytes) else held, formats=formats)
    with image:
        return from_pil(image, what, max_pixels)


def from_pil(image: Image.Image, what: str, max_pixels: int) -> Any:
    """libvips' image of one of PIL's, with its profile and orientation."""
    check_size(image.height, image.width, what, max_pixels)
    with decoding(what, image.height, image.width):
        with _unguarded():
            image.load()
            orientation = 1
            damaged = (AttributeError, LookupError, OSError, OverflowError, SyntaxError, TypeError, ValueError)
            with contextlib.suppress(*damaged):  # damaged metadata is none
                orientation = int(image.getexif().get(_ORIENTATION, 1))
        vips, profile = libvips(), image.info.get("icc_profile")
        array, interpretation = _pil_samples(image, what)
        copied = vips.Image.new_from_array(array, interpretation=interpretation).copy()
    if profile:
        copied.set_type(vips.GValue.blob_type, "icc-profile-data", profile)
    copied.set_type(vips.GValue.gint_type, "orientation", orientation)
    return copied


def _pil_samples(image: Image.Image, what: str) -> tuple[npt.NDArray[np.generic], str]:
    """The samples of a PIL image, (H, W) or (H, W, C), and what libvips calls their colours."""
    if image.mode == "F":
        return np.asarray(image), "b-w"
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(f"{what} has integers beyond 0…65535 (mode I); save it with 16 bits")
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


def about(source: Image.Image | str | bytes) -> tuple[int, dict[str, Any]]:
    """The frames or pages of a picture or a file, and the tags of its first: the `artist` and the `copyright` of its
    EXIF, and its `dpi`, pixels an inch. What is missing, or so damaged that it cannot be told, is left out.

    A PIL image at another frame than its first was moved there by its owner. The second picture of a phone's MPO is a
    map of depth or gain.
    """
    frames, tags = 1, dict[str, Any]()
    with contextlib.suppress(Exception), _unguarded():
        own = isinstance(source, Image.Image)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with contextlib.nullcontext(file) if isinstance(file, Image.Image) else Image.open(file) as image:
            with contextlib.suppress(Exception):
                tags = _tags(image)
            has_several = (image.format != "MPO" and image.tell() == 0) if own else image.format in _SEVERAL
            frames = int(getattr(image, "n_frames", 1)) if has_several else 1
    return frames, tags


def _tags(image: Image.Image) -> dict[str, Any]:
    exif, dpi = Image.Image.getexif(image), image.info.get("dpi")  # PNG's own would decode the picture first
    tags: dict[str, Any] = {}
    for name, tag in CREDITS.items():
        text = str(exif.get(tag, "")).strip("\0 ")[:_LONGEST_CREDIT]
        with contextlib.suppress(UnicodeError):  # EXIF is ASCII; programs write UTF-8, and Pillow reads Latin-1
            text = text.encode("latin-1").decode()
        tags |= {name: text} if text else {}
    with contextlib.suppress(ArithmeticError, LookupError, TypeError, ValueError):  # damaged, or there is none
        across = round(float(dpi[0] if dpi else exif[_ACROSS] * _INCHES[exif.get(_UNIT, 2)]), 2)
        tags |= {"dpi": across} if 1 < across < MOST_DPI else {}
    return tags


def is_npy(held: str | bytes) -> bool:
    """True where a path leads to one of NumPy's own files, or bytes are one."""
    return _head(held) == _NPY_MAGIC


def _head(held: str | bytes, count: int = len(_NPY_MAGIC)) -> bytes:
    with opened(held) as file:
        return file.read(count)


def unread_format(held: str | bytes) -> str | None:
    """The name of a file's format where it is known and not read; None for others."""
    head = _head(held, 512)
    for pattern, name in _UNREAD:
        if re.match(pattern, head, re.DOTALL):
            return name
    if head[:2] not in (b"II", b"MM"):
        return None
    with contextlib.suppress(Exception), opened(held) as file:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        if _DNG_VERSION in tags:
            return "a camera's raw file"
        bits, kind = max(tags.get(_BITS, (1,))), max(tags.get(_SAMPLE_FORMAT, (1,)))
        if bits > 16 or kind != 1:
            return f"a TIFF of {bits}-bit {_SAMPLES.get(kind, 'samples')}"
    return None


def _check_tiff(file: IO[bytes], what: str) -> None:
    """Raises ImageError where the values of a TIFF's first folder, all of which are read, are more than the file is:
    they overlap. What is no TIFF is left to libvips."""
    head = file.read(16)
    order, is_big = "<" if head[:1] == b"I" else ">", head[2:4] in (b"\x2b\0", b"\0\x2b")
    start, count, entry = ("Q", "Q", "HHQQ") if is_big else ("I", "H", "HHII")
    try:
        (offset,) = struct.unpack_from(order + start, head, 8 if is_big else 4)
        length = file.seek(0, os.SEEK_END)
        file.seek(min(offset, length))
        (entries,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
        size = struct.calcsize(order + entry)
        rows = file.read(size * min(entries, _MOST_TIFF_ENTRIES))
    except struct.error:
        return
    kinds = struct.iter_unpack(order + entry, rows[: len(rows) // size * size])
    claimed = sum(_TIFF_VALUES.get(kind, 8) * values for _, kind, values, _ in kinds)
    if entries > _MOST_TIFF_ENTRIES or claimed > length:
        raise ImageError(f"{what} is damaged (its tags claim more than the file holds); fetch or export it again")


def opened(held: str | bytes) -> IO[bytes]:
    return io.BytesIO(held) if isinstance(held, bytes) else Path(held).open("rb")


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and dtype of the array in a `.npy` file, which is left where its samples begin. Raises ValueError."""
    first = np.lib.format.read_magic(file) == (1, 0)
    shape, _, dtype = (np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0)(file)
    return shape, dtype


def libvips() -> Any:
    """pyvips, set up: no operation is kept, what its authors call unsafe for untrusted files is blocked, and warnings
    about damaged metadata, which a user can do nothing about, go nowhere."""
    with _STARTING:
        return _started()


_STARTING = threading.Lock()


@cache
def _started() -> Any:
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
def decoding(what: str, height: int = 0, width: int = 0, held: str | bytes | None = None) -> Iterator[None]:
    """Makes an ImageError of what is raised in the block, while an image of that size is decoded; where it is a file
    that is `held`, of a format that is not read, it names that."""
    try:
        yield
    except (ImageError, GeneratorExit):
        raise
    except Exception as error:
        if ran_out(error):
            size = f" ({width}×{height} pixels)" if width else ""
            raise ImageError(f"{what} does not fit in memory{size}; reduce it first") from error
        if held is not None and (unread := unread_format(held)) is not None:
            raise ImageError(f"{what} is {unread}, which fastnst cannot read; convert it to PNG or JPEG") from error
        if isinstance(error, UnidentifiedImageError):
            raise ImageError(
                f"{what} is not an image of a known format, or its header is damaged; {GIVE_A_PICTURE}"
            ) from error
        raise ImageError(_damaged(what, error)) from error


def ran_out(error: Exception) -> bool:
    """True where `error` says that memory ran out: NumPy's MemoryError, torch's RuntimeError, Pillow's OSError."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "can't allocate memory" in said or "out of memory" in said


def _damaged(what: str, error: Exception) -> str:
    # libvips' errors have one line for each function that failed.
    lines = [line.strip() for line in getattr(error, "detail", str(error)).splitlines() if line.strip()]
    # They begin with its own name, such as "VipsJpeg: " or "pngload: ".
    reason = re.sub(r"^\w+: ", "", lines[0]) if lines else type(error).__name__
    if "nsupported" in reason or "labq" in reason:  # TIFF in CIELAB of 8 bits
        return f"{what} is in a form that fastnst does not support ({reason}); save it as PNG, TIFF or JPEG"
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


def check_size(height: int, width: int, what: str, max_pixels: int | None = None) -> None:
    """Raises ImageError, which begins with `what`, for a side of less than `MIN_SIDE`; of a file, for more than its
    `max_pixels`, and for a side of more than `MAX_SIDE`."""
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            f"{what} is {width}×{height} = {width * height} pixels, more than the limit of {max_pixels} pixels; "
            "reduce it, or raise --max-pixels (max_pixels=…)"
        )
    if max_pixels is not None and max(height, width) > MAX_SIDE:
        raise ImageError(f"{what} is {width}×{height} pixels; a side may have at most {MAX_SIDE}; crop it first")
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{what} is {width}×{height} pixels; it must be at least {MIN_SIDE}×{MIN_SIDE}")
