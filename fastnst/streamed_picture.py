"""A picture that is read a few rows at a time, each time it is looked at: its samples never lie in memory as floats.

PNG, TIFF, BigTIFF and `.npy` files are decoded some rows at a time; what cannot be (JPEG and others, interlaced PNG, a
TIFF of one compressed strip, what has to be turned) is decoded whole, at 1 to 8 bytes a pixel while it is read.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, TypeAlias

import torch
from PIL import ExifTags, Image

from fastnst.arrays import from_rows
from fastnst.decoding import Decoded, decoded
from fastnst.errors import ImageError
from fastnst.image_files import damaged, exif_tag, image_of, open_source
from fastnst.image_memory import ran_out, within_memory
from fastnst.npy_files import check_npy, is_npy, npy_rows, npy_size
from fastnst.picture import (
    PART_PIXELS,
    Digest,
    Picture,
    check_pixels,
    check_size,
    flattened,
    mean_colour,
    over,
)
from fastnst.png_rows import check_png, png_layout, png_rows
from fastnst.resizing import resize_picture, weighted_colours
from fastnst.row_resampling import RowResampler
from fastnst.tiff_rows import check_tiff, tiff_rows

STREAMED_PIXELS = 1 << 22
"""Files of more pixels are read as a StreamedPicture where a run does not need them whole: 50 MB in float."""
# Strips or tiles of more rows than this are not decoded by themselves.
WHOLE_PIXELS = 1 << 25
# EXIF's orientations that make rows of columns.
_TURNED = (5, 6, 7, 8)


class StreamedPicture:
    """A picture as rows that `read` gives, from the top, each time it is called; see `open_picture`.

    `height`, `width` and `name` are those of a Picture. Raises what `read` does wherever it is looked at.
    """

    def __init__(self, height: int, width: int, name: str, read: Callable[[], Iterator[Picture]]) -> None:
        self.height, self.width, self.name = height, width, name
        self._read = read
        self._sha256: str | None = None

    @property
    def sha256(self) -> str:
        """As a Picture's; known once it has been looked at to its end."""
        if self._sha256 is None:
            for _ in self.parts():
                pass
        return str(self._sha256)

    def parts(self) -> Iterator[Picture]:
        """Its rows from the top, some at a time. Raises ImageError where they are others than the last time."""
        digest = Digest(self.height, self.width)
        for part in self._read():
            digest.add(part)
            yield part
        if self._sha256 not in (None, digest.hexdigest()):
            raise ImageError(f"image {self.name!r} has changed while it was used; begin anew")
        self._sha256 = digest.hexdigest()

    def mapped(self, change: Callable[[Picture], Picture]) -> "StreamedPicture":
        """The picture whose rows are what `change` makes of the rows of this one."""
        return StreamedPicture(self.height, self.width, self.name, lambda: map(change, self.parts()))


AnyPicture: TypeAlias = Picture | StreamedPicture


def changed(picture: AnyPicture, colours: Callable[[Picture], torch.Tensor]) -> AnyPicture:
    """The picture with the `colours` that are made of it, (3, h, W) of h rows; name and alpha stay."""
    if isinstance(picture, StreamedPicture):
        return picture.mapped(lambda part: Picture(colours(part), part.alpha, part.name))
    return Picture(colours(picture), picture.alpha, picture.name)


def opaque(picture: AnyPicture) -> AnyPicture:
    """`flattened`, of either kind. Raises ImageError if the picture is transparent everywhere."""
    if isinstance(picture, Picture):
        return flattened(picture)
    parts = picture.parts()
    if next(parts).alpha is None:
        return picture
    shown, colours = 0.0, torch.zeros((3, 1, 1), dtype=torch.float64)
    for part in picture.parts():
        if part.alpha is not None:
            shown += float(part.alpha.sum(dtype=torch.float64))
            colours += (part.rgb * part.alpha).sum(dim=(1, 2), keepdim=True, dtype=torch.float64)
    mean = mean_colour(colours, shown, picture.name)
    return picture.mapped(lambda part: over(part, mean))


class AtSizes:
    """A picture at each of some sizes, (height, width), as `resize_picture` makes it.

    A StreamedPicture is read once, now, and what it gives is kept until it is dropped.
    """

    def __init__(self, picture: AnyPicture, sizes: Sequence[tuple[int, int]]) -> None:
        self._picture = picture
        self._kept: dict[tuple[int, int], Picture] = {}
        if isinstance(picture, StreamedPicture):
            self._kept.update(zip(sizes, resized(picture, sizes), strict=True))

    def at(self, size: tuple[int, int]) -> Picture:
        if isinstance(self._picture, Picture):
            return resize_picture(self._picture, size=size)
        if size not in self._kept:
            self._kept[size] = resized(self._picture, [size])[0]
        return self._kept[size]

    def drop(self, size: tuple[int, int]) -> None:
        self._kept.pop(size, None)


def at_size(picture: AnyPicture, size: tuple[int, int]) -> Picture:
    """The picture at one size."""
    return AtSizes(picture, [size]).at(size)


def resized(picture: StreamedPicture, sizes: Sequence[tuple[int, int]]) -> list[Picture]:
    """The picture at each of `sizes` (height, width), as `resize_picture` makes it up to rounding; it is read once."""
    height, width = picture.height, picture.width
    samplers = [RowResampler(height, width, size) for size in sizes]
    colours = [torch.empty((3, *size), dtype=torch.float32) for size in sizes]
    alphas: list[torch.Tensor | None] = [None] * len(sizes)
    for part in picture.parts():
        opaque = part.alpha is None
        layers = part.rgb
        if part.alpha is not None:
            layers = torch.cat([part.rgb, part.rgb * part.alpha, part.alpha])
        for index, (sampler, size) in enumerate(zip(samplers, sizes, strict=True)):
            for top, rows in sampler.push(layers):
                place = slice(top, top + rows.shape[1])
                if opaque:
                    colours[index][:, place] = rows.clamp(0, 1)
                    continue
                plain, weighted, alpha = torch.split(rows.clamp(0, 1), [3, 3, 1])
                kept = alphas[index]
                if kept is None:
                    kept = alphas[index] = torch.empty((1, *size), dtype=torch.float32)
                kept[:, place] = alpha
                unchanged = tuple(size) == (height, width)
                colours[index][:, place] = plain if unchanged else weighted_colours(weighted, alpha, plain)
    return [Picture(rgb, alpha, picture.name) for rgb, alpha in zip(colours, alphas, strict=True)]


def opened(
    source: str | os.PathLike[str] | IO[bytes] | bytes, what: str, name: str, max_pixels: int
) -> StreamedPicture | None:
    """The picture of a file, at a path or as its bytes; None where it is small enough to be read whole.

    Raises ImageError where the header shows that it cannot be read, or the structure of a file that is read in parts
    that something of it lacks or is damaged: nothing is decoded for that.
    """
    with _file(source, what) as file:
        found = _reader(file, what, max_pixels)
        if found is None:
            return None
        (height, width), parts = found
        check_pixels(height, width, what, max_pixels)
        check_size(height, width, what)
        _check_structure(file, what)

    def read() -> Iterator[Picture]:
        with _file(source, what) as file, within_memory(what, height, width):
            rows = 0
            try:
                for part in parts(file, what, name, max_pixels):
                    rows += part.height
                    yield part
            except ImageError:
                raise
            except Exception as error:
                if ran_out(error):
                    raise
                raise ImageError(damaged(what, error)) from error
            if rows != height:
                raise ImageError(f"{what} has changed while it was used; begin anew")

    return StreamedPicture(height, width, name, read)


def _check_structure(file: IO[bytes], what: str) -> None:
    try:
        if is_npy(file):
            check_npy(file)
        elif (layout := png_layout(file)) is not None:
            check_png(file, layout)
        else:
            check_tiff(file, PART_PIXELS, WHOLE_PIXELS)
    except ValueError as error:
        raise ImageError(damaged(what, error)) from error


_Parts = Callable[[IO[bytes], str, str, int], Iterator[Picture]]


def _reader(file: IO[bytes], what: str, max_pixels: int) -> tuple[tuple[int, int], _Parts] | None:
    """(height, width) of the upright picture in a file, and what reads it; None for a small one."""
    if is_npy(file):
        size = npy_size(file, what)
        return None if size is None or size[0] * size[1] <= STREAMED_PIXELS else (size, _npy_parts)
    with image_of(file, what) as image:
        if image.height * image.width <= STREAMED_PIXELS:
            return None
        if image.format == "PNG" and png_layout(file) is not None:
            return (image.height, image.width), _png_parts
        # Pillow turns a TIFF itself, and says the size that it will have.
        if image.format == "TIFF":
            return (image.height, image.width), _whole_parts if _turns(image) else _tiff_parts
        check_pixels(image.height, image.width, what, max_pixels)
        orientation = exif_tag(image, ExifTags.Base.Orientation)
        size = image.height, image.width
        return size[::-1] if orientation in _TURNED else size, _whole_parts


def _turns(image: Image.Image) -> bool:
    return exif_tag(image, ExifTags.Base.Orientation) not in (None, 1)


def _file(source: str | os.PathLike[str] | IO[bytes] | bytes, what: str) -> AbstractContextManager[IO[bytes]]:
    return open_source(io.BytesIO(source) if isinstance(source, bytes) else source, what)


def _npy_parts(file: IO[bytes], what: str, name: str, max_pixels: int) -> Iterator[Picture]:
    for samples in npy_rows(file, PART_PIXELS):
        yield from_rows(samples, what, name)


def _png_parts(file: IO[bytes], what: str, name: str, max_pixels: int) -> Iterator[Picture]:
    layout = png_layout(file)
    if layout is None:
        raise ImageError(f"{what} has changed while it was used; begin anew")
    for small in png_rows(file, layout, max(1, PART_PIXELS // layout.width)):
        yield from _small_parts(small, what, name, max_pixels)


def _tiff_parts(file: IO[bytes], what: str, name: str, max_pixels: int) -> Iterator[Picture]:
    files = tiff_rows(file, PART_PIXELS, WHOLE_PIXELS)
    if files is None:
        yield from _whole_parts(file, what, name, max_pixels)
        return
    for small in files:
        yield from _small_parts(small, what, name, max_pixels)


def _small_parts(small: bytes, what: str, name: str, max_pixels: int) -> Iterator[Picture]:
    with image_of(io.BytesIO(small), what) as image:
        yield from _parts(decoded(image, what, max_pixels), what, name)


def _whole_parts(file: IO[bytes], what: str, name: str, max_pixels: int) -> Iterator[Picture]:
    with image_of(file, what) as image:
        yield from _parts(decoded(image, what, max_pixels), what, name)


def _parts(found: Decoded, what: str, name: str) -> Iterator[Picture]:
    height, step = found.image.height, max(1, PART_PIXELS // found.image.width)
    for top in range(0, height, step):
        yield found.picture(what, name, slice(top, min(top + step, height)))
