"""Pictures in NumPy's own files, `.npy`: floats as they are, and after them how they were made.

A `.npy` file may hold one array after another, of which `numpy.load` of a path gives the first. The picture is the
first, (H, W, 3 or 4); the parameters are the second, the bytes of their JSON.
"""

import math
import os
import tokenize
from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from fastnst.arrays import check_layout, from_array
from fastnst.errors import ImageError
from fastnst.image_files import damaged
from fastnst.image_memory import within_memory
from fastnst.picture import Picture, check_pixels
from fastnst.row_writers import Samples

_MAGIC = b"\x93NUMPY"


def is_npy(file: IO[bytes]) -> bool:
    """Whether the file, at whose beginning it is left, is one of NumPy's."""
    file.seek(0)
    found = file.read(len(_MAGIC)) == _MAGIC
    file.seek(0)
    return found


def load_npy(file: IO[bytes], what: str, name: str, max_pixels: int) -> Picture:
    """The picture in a `.npy` file; nothing in it is executed. Raises ImageError as `load_image` does."""
    try:
        shape, dtype = _header(file)
        height, width = check_layout(shape, dtype, what)
        check_pixels(height, width, what, max_pixels)
        with within_memory(what, height, width):
            file.seek(0)
            return from_array(np.load(file, allow_pickle=False), what, name)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(damaged(what, error)) from error


def npy_size(file: IO[bytes], what: str) -> tuple[int, int] | None:
    """(height, width) of the picture in a `.npy` file whose rows follow each other; None where they do not."""
    try:
        shape, dtype, by_columns = _layout(file)
    except Exception:  # noqa: BLE001 - whoever reads it whole says what is wrong
        return None
    return None if by_columns or dtype.hasobject else check_layout(shape, dtype, what)


def check_npy(file: IO[bytes]) -> None:
    """Raises ValueError where the file ends before its samples do."""
    shape, dtype, _ = _layout(file)
    start = file.tell()
    if file.seek(0, os.SEEK_END) - start < math.prod(shape) * dtype.itemsize:
        raise ValueError("the file ends before its samples do")


def npy_rows(file: IO[bytes], pixels: int) -> Iterator[npt.NDArray[np.generic]]:
    """Its rows from the top, (h, W) or (h, W, C), about `pixels` pixels each time. Raises ValueError if some lack."""
    shape, dtype, _ = _layout(file)
    height, width = shape[:2]
    row = int(np.prod(shape[1:], dtype=np.int64))
    step = max(1, pixels // width)
    for top in range(0, height, step):
        count = min(step, height - top)
        data = file.read(count * row * dtype.itemsize)
        yield np.frombuffer(data, dtype, count * row).reshape(count, *shape[1:])


def read_npy_text(file: IO[bytes]) -> str | None:
    """The text after the picture in a `.npy` file; None where there is none."""
    try:
        shape, dtype = _header(file)
        file.seek(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, os.SEEK_CUR)
        text = np.load(file, allow_pickle=False)
        return bytes(text).decode() if text.dtype == np.uint8 and text.ndim == 1 else None
    except (ValueError, TypeError, OSError, EOFError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError):
        return None


def write_npy(file: IO[bytes], samples: Samples, text: str | None) -> None:
    """Writes float32 (H, W, C) as the rows come and, if given, `text` after it."""
    shape = (samples.height, samples.width, samples.channels)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for rows in samples.rows:
        file.write(rows.astype("<f4", copy=False).data)
    if text is not None:
        np.save(file, np.frombuffer(text.encode(), np.uint8))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    shape, dtype, _ = _layout(file)
    return shape, dtype


def _layout(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic], bool]:
    """Shape, dtype, and whether columns come before rows; the file is left where the samples begin."""
    file.seek(0)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(file))
    if read is None:
        raise ValueError("its version is none of 1.0 and 2.0")
    shape, by_columns, dtype = read(file)
    return shape, dtype, by_columns
