"""Image files and streams, opened for reading: found, allowed, their header read, their pixels not yet."""

import contextlib
import io
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, UnidentifiedImageError

from fastnst.errors import ImageError
from fastnst.options.options import MAX_PIXELS
from fastnst.quiet import quietened

# Pillow can also open formats that start another program (EPS) or that no photograph comes in; they stay closed.
_FORMATS = (
    *("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "AVIF", "JPEG2000"),
    *("MPO", "PPM", "PSD", "QOI", "TGA", "PCX", "SGI"),
)
# The largest picture, with 16 bits and alpha, is 1.6 GB; what is longer is no picture, or never ends.
_MAX_STREAM_BYTES = 2**31
# Pillow's size limit belongs to the whole process: one thread at a time may set it aside.
_PILLOW_LOCK = threading.Lock()


@contextlib.contextmanager
def open_source(source: str | os.PathLike[str] | IO[bytes], what: str) -> Iterator[IO[bytes]]:
    """The bytes of a file at a path, or of a binary stream, seekable; a file is closed on leaving.

    what: the image, as messages call it. Raises ImageError: a URL, no readable regular file at the path, a stream that
    is text, fails or has more than 2 GiB.
    """
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name) and not os.path.lexists(name):
            raise ImageError(f"{what} is a URL; fastnst does not download images: save it and give the file's path")
        with _open_file(name, what) as file:
            yield file
    else:
        yield io.BytesIO(_all_of(source, what))


@contextlib.contextmanager
def open_image(path: str | os.PathLike[str], *, role: str) -> Iterator[Image.Image]:
    """The file's image with its header read and its pixels not yet decoded; closed on leaving.

    Raises ImageError if there is no readable image file at `path`.
    """
    what = f"{role} image {os.fsdecode(path)!r}"
    with open_source(path, what) as file, image_of(file, what) as image:
        yield image


@contextlib.contextmanager
def image_of(file: IO[bytes], what: str) -> Iterator[Image.Image]:
    """The image in `file` with its header read and its pixels not yet decoded; closed on leaving, `file` is not."""
    try:
        with unguarded(None):
            Image.init()
            image: Image.Image = Image.open(file, formats=[known for known in _FORMATS if known in Image.OPEN])
    except UnidentifiedImageError as error:
        empty = file.seek(0, os.SEEK_END) == 0
        problem = "is an empty file" if empty else "is not an image of a known format, or its header is damaged"
        raise ImageError(f"{what} {problem}; give a PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF file") from error
    except Exception as error:
        raise ImageError(damaged(what, error)) from error
    with image:
        yield image


def exif_tag(image: Image.Image, tag: ExifTags.Base) -> object:
    """The value of one of the image's main EXIF or TIFF tags; None where it is absent or the metadata damaged."""
    with unguarded(MAX_PIXELS):
        try:
            return image.getexif().get(tag)
        except (AttributeError, LookupError, OSError, OverflowError, SyntaxError, TypeError, ValueError):
            return None


@contextlib.contextmanager
def unguarded(max_pixels: int | None) -> Iterator[None]:
    """Pillow with our size limit for its own, and without its warnings about damaged metadata."""
    with _PILLOW_LOCK, quietened("PIL"):
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def damaged(what: str, error: Exception) -> str:
    """What to say of an image whose decoder raised `error`."""
    if isinstance(error, MemoryError):
        return f"{what} does not fit in memory; reduce it first"
    lines = str(error).splitlines()
    return f"{what} is damaged or truncated ({lines[0] if lines else type(error).__name__}); fetch or export it again"


def _open_file(name: str, what: str) -> IO[bytes]:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 - Path("") would be the current directory
        if stat.S_ISDIR(mode):
            raise ImageError(f"{what} is a directory; give an image file")
        if not stat.S_ISREG(mode):
            raise ImageError(f"{what} is not a regular file; give an image file")
        return Path(name).open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"{what} does not exist; check the path") from error
    except PermissionError as error:
        raise ImageError(f"{what} may not be read by this user; check its permissions") from error
    except OSError as error:
        raise ImageError(f"{what} could not be opened ({error.strerror}); check the path") from error
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(f"{what} is not a valid path ({error}); check the path") from error


def _all_of(stream: IO[bytes], what: str) -> bytes:
    try:
        data = stream.read(_MAX_STREAM_BYTES + 1)
    except (OSError, ValueError, AttributeError) as error:  # closed, or not open for reading
        raise ImageError(f"{what} could not be read ({error}); give a stream that is open for reading") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{what} gives {type(data).__name__}, not bytes; open it in binary mode, as open(path, 'rb')")
    if len(data) > _MAX_STREAM_BYTES:
        raise ImageError(f"{what} has more than {_MAX_STREAM_BYTES} bytes; give a smaller picture")
    return data
