"""Writing a picture to a file or a stream, with how it was made in its metadata."""

import contextlib
import errno
import io
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastnst.errors import ImageError
from fastnst.formats import Format, check_side, depth_of, format_of, is_stream
from fastnst.icc import srgb_profile
from fastnst.metadata import exif_tags, png_text, read_parameters, to_json
from fastnst.npy_files import write_npy
from fastnst.places import check_place, real_target
from fastnst.row_writers import Samples, write_png, write_tiff

__all__ = ["Target", "check_output_path", "read_parameters", "save_image", "to_pil"]

Target = str | os.PathLike[str] | IO[bytes]

LARGE_PIXELS = 1 << 22
"""Larger PNG, TIFF and `.npy` files are written as their rows are made, with no copy of the picture in memory."""
_BY_ROWS = ("PNG", "TIFF", "NPY")
_BAND = 64  # rows
_COPIED = 1 << 20


def check_output_path(
    path: Target, size: tuple[int, int] | None = None, *, format: str | None = None, bit_depth: int | None = None
) -> None:
    """Raise ImageError if a picture, of `size` (height, width) where known, could not be written to `path`.

    To be called before any long work. Finds: an unknown extension, a folder that is missing or not writable, a
    directory, a symbolic link that leads to itself or another thing that is not a file at `path`, a file that may not
    be overwritten, a picture larger than the format holds. Raises OptionError for a `format` or a `bit_depth` that
    will not do; both are those of `save_image`.
    """
    name, form = _destination(path, format)
    depth_of(form, bit_depth)
    if size is not None:
        check_side(size, form, name)
    if not is_stream(path):
        check_place(name)


def _destination(path: Target, format: str | None) -> tuple[str, Format]:
    """What messages call the target, and the format to write it in."""
    if isinstance(path, str | os.PathLike):
        name = os.fsdecode(path)
        return name, format_of(name, format)
    if not is_stream(path):
        raise ImageError(f"output is of type {type(path).__name__}; give a path or a binary stream")
    return str(getattr(path, "name", "stream")), format_of("", format or "png")


def save_image(
    path: Target,
    rgb: torch.Tensor,
    alpha: torch.Tensor | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    format: str | None = None,
    bit_depth: int | None = None,
) -> None:
    """Write an sRGB picture, with an sRGB profile, in the format of the path's extension.

    path: a path, or a binary stream such as `sys.stdout.buffer`, which gets PNG unless `format` says otherwise.
    rgb: (3, H, W) or (1, 3, H, W), float, any device; rounded to the nearest of 256 (65536 with 16 bits) values after
    clamping to 0…1.
    alpha: (1, H, W) or (1, 1, H, W), or None for an opaque picture. JPEG has no alpha: it is laid over white.
    parameters: how the picture was made, as far as JSON goes (paths and other objects as their text, NaN and
    infinities as null). JPEG metadata holds 64 KB: what does not fit is left out, the largest entries first (the
    losses, as a rule), and named under `left_out`.
    format: png, jpeg, webp, tiff or npy, whatever the extension.
    bit_depth: 8 or, for PNG and TIFF, 16 bits per channel; 8 by default.

    PNG, TIFF (BigTIFF from 4 GiB) and `.npy` of more than 4 million pixels take no memory beside the picture.
    PNG, lossless WebP and TIFF (deflate) keep the rounded values exactly; JPEG is quality 95 without chroma
    subsampling. A `.npy` file holds float32, (H, W, 3 or 4) in 0…1, unrounded.
    A file appears whole or not at all: it is written beside its target and moved into place, and a file that was
    there stays untouched if anything fails. A symbolic link is followed. A new file gets the umask's permissions, a
    replaced one keeps its own.

    Raises ImageError: as check_output_path, values that are not finite, wrong shapes, a full disk, any failure of the
    encoder; OptionError: a format or bit depth that is not to be had; BrokenPipeError: nobody reads the stream.
    """
    name, form = _destination(path, format)
    depth = depth_of(form, bit_depth)
    if not is_stream(path):
        check_place(name)
    layers = _layers(rgb, alpha)
    height, width = layers[0].shape[1:]
    check_side((height, width), form, name)
    large = height * width > LARGE_PIXELS
    try:
        if large and form.name in _BY_ROWS:
            _write_rows(path, name, layers, form, depth, parameters)
            return
        # First in memory: Pillow's encoders overlook that a full disk took only the first part of a last block.
        encoded = io.BytesIO()
        _encode(encoded, layers, form, depth, parameters)
        if isinstance(path, str | os.PathLike):
            with _replacing(real_target(name)) as file:
                file.write(encoded.getbuffer())
        else:
            path.write(encoded.getbuffer())
            path.flush()
    except BrokenPipeError:
        raise
    except Exception as error:  # Pillow's encoders raise RuntimeError, struct.error … as well as OSError
        raise ImageError(f"output {name!r} could not be written {_write_problem(error)}") from error


def _write_rows(
    path: Target, name: str, layers: list[torch.Tensor], form: Format, depth: int, parameters: Mapping[str, Any] | None
) -> None:
    """Writes a format that needs no more than some rows at a time, straight to the file."""
    if isinstance(path, str | os.PathLike):
        with _replacing(real_target(name)) as file:
            _encode_rows(file, layers, form, depth, parameters)
        return
    # A TIFF's writer goes back to the beginning in the end, and a pipe cannot.
    with tempfile.TemporaryFile() as file:
        _encode_rows(file, layers, form, depth, parameters)
        file.seek(0)
        shutil.copyfileobj(file, path, _COPIED)
    path.flush()


def _encode_rows(
    file: IO[bytes], layers: list[torch.Tensor], form: Format, depth: int, parameters: Mapping[str, Any] | None
) -> None:
    if form.name == "NPY":
        write_npy(file, _samples(layers, 32), None if parameters is None else to_json(parameters))
    elif form.name == "PNG":
        write_png(file, _samples(layers, depth), png_text(parameters), srgb_profile())
    else:
        write_tiff(file, _samples(layers, depth), exif_tags(form.name, parameters), srgb_profile())


def _encode(
    file: IO[bytes], layers: list[torch.Tensor], form: Format, depth: int, parameters: Mapping[str, Any] | None
) -> None:
    if depth > 8:
        _encode_rows(file, layers, form, depth, parameters)
    else:
        image = Image.fromarray(_whole(layers))
        if image.mode == "RGBA" and not form.has_alpha:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
        options = {**form.options, **_metadata(form.name, parameters), "icc_profile": srgb_profile()}
        image.save(file, form.name, **options)


def _metadata(format_name: str, parameters: Mapping[str, Any] | None) -> dict[str, object]:
    """The options of Pillow's writer that carry `parameters`."""
    if format_name == "PNG":
        return {"pnginfo": png_text(parameters)}
    tags = exif_tags(format_name, parameters)
    if format_name == "TIFF":
        return {"tiffinfo": tags}
    exif = Image.Exif()
    exif.update(tags)
    return {"exif": exif}


def to_pil(rgb: torch.Tensor, alpha: torch.Tensor | None = None) -> Image.Image:
    """The picture as an RGB, or with `alpha` an RGBA, PIL image; arguments and rounding as for `save_image`.

    Raises ImageError for values that are not finite or a shape that is not a picture's.
    """
    return Image.fromarray(_whole(_layers(rgb, alpha)))


def _layers(rgb: torch.Tensor, alpha: torch.Tensor | None) -> list[torch.Tensor]:
    """The colours (3, H, W) and, if given, alpha (1, H, W), of one size."""
    layers = [_one_picture(rgb, 3, "picture")]
    if alpha is not None:
        layers.append(_one_picture(alpha, 1, "alpha"))
    if any(layer.shape[1:] != layers[0].shape[1:] for layer in layers):
        raise ImageError(f"alpha is {tuple(layers[-1].shape)}, but the picture is {tuple(layers[0].shape)}")
    return layers


def _whole(layers: list[torch.Tensor]) -> npt.NDArray[np.uint8]:
    """(H, W, 3 or 4) of 8 bits."""
    samples = _samples(layers, 8)
    whole = np.empty((samples.height, samples.width, samples.channels), np.uint8)
    for top, rows in zip(range(0, samples.height, _BAND), samples.rows, strict=True):
        whole[top : top + _BAND] = rows
    return whole


def _samples(layers: list[torch.Tensor], depth: int) -> Samples:
    """Rows of uint8 or uint16, rounded, or for 32 bits float32."""
    height, width = layers[0].shape[1:]
    return Samples(height, width, 2 + len(layers), depth, _rows(layers, depth))


def _rows(layers: list[torch.Tensor], depth: int) -> Iterator[npt.NDArray[Any]]:
    dtype = {8: np.uint8, 16: np.uint16, 32: np.float32}[depth]
    for top in range(0, layers[0].shape[1], _BAND):
        band = torch.cat([layer[:, top : top + _BAND].float() for layer in layers]).clamp_(0, 1)
        if depth < 32:
            band = band.mul_(2**depth - 1).round_()
        yield np.ascontiguousarray(band.permute(1, 2, 0).cpu().numpy().astype(dtype))


def _write_problem(error: Exception) -> str:
    """The reason, in parentheses, and what to do."""
    if isinstance(error, MemoryError):
        return "(out of memory); lower the size"
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
        return f"({error.strerror}); choose another folder"
    lines = str(getattr(error, "strerror", None) or error).splitlines()
    return f"({lines[0] if lines else type(error).__name__}); free some space or choose another folder"


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new file, to be written, that takes the place of `target` if the block succeeds and vanishes if not."""
    temporary = target.with_name(f".fastnst-{secrets.token_hex(8)}.tmp")
    # Mode 0666 less the umask, as for any new file.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _one_picture(planes: torch.Tensor, channels: int, what: str) -> torch.Tensor:
    picture = planes.detach()
    if picture.ndim == 4 and picture.shape[0] == 1:
        picture = picture[0]
    if picture.ndim != 3 or picture.shape[0] != channels or picture.numel() == 0 or not picture.is_floating_point():
        raise ImageError(
            f"the {what} is {tuple(planes.shape)} {planes.dtype}; it must be ({channels}, H, W), float in 0…1"
        )
    if not all(math.isfinite(bound) for bound in torch.aminmax(picture)):  # NaN propagates; 30 × as fast as isfinite
        raise ImageError(f"the {what} has NaN or infinite values, and cannot be written")
    return picture
