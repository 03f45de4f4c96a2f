"""Writing a picture to a file or a stream, with how it was made in its metadata."""

import errno
import io
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastnst.errors import ImageError, OptionError, check_choice
from fastnst.image.decode import CREDITS, libvips, srgb_profile
from fastnst.image.files import check_place, real_target
from fastnst.image.metadata import credits_in, dpi_in, packet, to_json
from fastnst.replacing import replacing

Target = str | os.PathLike[str] | IO[bytes]


class Form(TypedDict, total=False):
    """How a picture is written: `format`, a name of `FORMATS` whatever the extension; `bit_depth` per channel, 8 or for
    PNG and TIFF 16; `quality` of JPEG, WebP and AVIF, 1 to 100."""

    format: str | None
    bit_depth: int | None
    quality: int | None


@dataclass(frozen=True)
class Format:
    """A format that pictures are written in, by the `saver` of a libvips image and its options.

    It holds sides of `longest_side` pixels at most; `depths` are its bits per channel, of which 32 is float; `lossy`
    are the options of a given quality, if it has one.
    """

    name: str
    extensions: tuple[str, ...]
    saver: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    longest_side: int = 2**31 - 1
    has_alpha: bool = True
    depths: tuple[int, ...] = (8,)
    lossy: Mapping[str, object] | None = None


_JPEG = {"Q": 95, "subsample_mode": "off"}
# In lossless WebP, quality is the effort: 25 costs under 1 % in size and saves 40 % of the time against 80.
_WEBP = {"lossless": True, "Q": 25, "exact": True}
_WEBP_LOSSY = {"lossless": False, "smart_subsample": True}
_TIFF = {"compression": "deflate", "predictor": "horizontal", "resunit": "inch"}
_AVIF = {"compression": "av1", "Q": 90, "subsample_mode": "off"}
FORMATS: Mapping[str, Format] = {
    "png": Format("PNG", (".png",), "pngsave_target", {"compression": 4, "filter": "all"}, depths=(8, 16)),
    "jpeg": Format("JPEG", (".jpg", ".jpeg"), "jpegsave_target", _JPEG, longest_side=65_500, has_alpha=False, lossy={}),
    "webp": Format("WEBP", (".webp",), "webpsave_target", _WEBP, longest_side=16_383, lossy=_WEBP_LOSSY),
    "tiff": Format("TIFF", (".tif", ".tiff"), "tiffsave_target", _TIFF, depths=(8, 16)),
    "avif": Format("AVIF", (".avif",), "heifsave_target", _AVIF, longest_side=16_384, lossy={}),
    "npy": Format("NPY", (".npy",), depths=(32,)),
}

_ROWS = 64  # at a time
# A classic TIFF holds 4 GiB; deflate makes noise a little longer than it was.
_LARGEST_TIFF = 4_000_000_000
# What EXIF says where the resolution is unknown.
_UNKNOWN_DPI = 72
# Address space that must be there, for libvips ends the process where it is not.
_VIPS_BYTES = 1 << 28
# The process in which libvips' threads run, once it has written.
_WRITER: dict[str, int] = {}


def _format_of(name: str, given: str | None) -> Format:
    """The format `given` by its own name, else that of the extension of the path `name`."""
    if given is not None:
        check_choice("format", given, FORMATS)
        return FORMATS[given]
    by_extension = {extension: form for form in FORMATS.values() for extension in form.extensions}
    extension = Path(name).suffix.lower()
    if extension not in by_extension:
        problem = f"has the unknown extension {extension!r}" if extension else "has no extension"
        raise ImageError(f"output {name!r} {problem}; use one of: {', '.join(by_extension)}")
    return by_extension[extension]


def _depth_of(form: Format, bit_depth: int | None) -> int:
    """The bits per channel to write: `bit_depth`, or the least of the format. NPY holds floats, and takes any."""
    if bit_depth is None or form.depths == (32,):
        return form.depths[0]
    if bit_depth not in (8, 16):
        raise OptionError(f"bit depth {bit_depth} is not possible; give 8 or 16 bits per channel")
    if bit_depth not in form.depths:
        deep = " or ".join(name for name, other in FORMATS.items() if bit_depth in other.depths)
        raise OptionError(f"{form.name} holds {form.depths[0]} bits per channel, not {bit_depth}; choose {deep}")
    return bit_depth


def _quality_of(form: Format, quality: int | None) -> dict[str, object]:
    """The saver's options for a quality, or without one those of the format."""
    if quality is None:
        return dict(form.options)
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise OptionError(f"quality {quality!r} is out of range; give a whole number from 1 to 100")
    if form.lossy is None:
        raise OptionError(
            f"{form.name} keeps every pixel, so quality has no effect; leave it out, or choose jpeg, webp or avif"
        )
    return {**form.options, **form.lossy, "Q": quality}


def check_output_path(path: Target, size: tuple[int, int] | None = None, **form: Unpack[Form]) -> None:
    """Raises ImageError if a picture, of `size` (height, width) where known, could not be written to `path`; for an
    unknown extension, a place that will not do, and a picture larger than the format holds. Raises OptionError for
    a `form` that will not do."""
    name, *_ = _destination(path, size, form)
    if not hasattr(path, "write"):
        folder = real_target(name).parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass  # permissions alone say nothing of /proc
        except OSError as error:
            raise ImageError(
                f"output {name!r}: no file can be made in {str(folder)!r} ({error.strerror}); choose another folder"
            ) from error


def _destination(path: Target, size: tuple[int, int] | None, asked: Form) -> tuple[str, Format, int, dict[str, object]]:
    """The name of the target in messages, and the format, the depth and the saver's options to write it with."""
    format = asked.get("format")
    if isinstance(path, str | os.PathLike):
        name = os.fsdecode(path)
        form = _format_of(name, format)
    elif hasattr(path, "write") and not isinstance(path, io.TextIOBase):
        name, form = str(getattr(path, "name", "stream")), _format_of("", format or "png")
    else:
        raise ImageError(f"output is of type {type(path).__name__}; give a path or a binary stream")
    depth, options = _depth_of(form, asked.get("bit_depth")), _quality_of(form, asked.get("quality"))
    height, width = size or (0, 0)
    if max(height, width) > form.longest_side:
        choice = "choose .png or .tif, or " if form.longest_side < FORMATS["png"].longest_side else ""
        raise ImageError(
            f"output {name!r} would be {width}×{height} pixels, but {form.name} holds at most {form.longest_side} "
            f"a side; {choice}lower the size"
        )
    if not hasattr(path, "write"):
        check_place(name)
    return name, form, depth, options


def save_image(
    path: Target,
    rgb: Tensor,
    alpha: Tensor | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    **form: Unpack[Form],
) -> None:
    """Write an sRGB picture, with an sRGB profile, in the format of the path's extension.

    path: a path, or a binary stream such as `sys.stdout.buffer`, which gets PNG unless `format` says otherwise.
    rgb: (3, H, W) or (1, 3, H, W), float, any device; rounded to the nearest value after clamping to 0…1.
    alpha: (1, H, W) or (1, 1, H, W), or None for an opaque picture. JPEG has no alpha: it is laid over white.
    parameters: how the picture was made, as far as JSON goes. JPEG metadata holds 60 KB: what does not fit is left out,
    the largest entries first (the losses, as a rule), and named under `left_out`.
    The artist and the copyright of their `content` are written as EXIF (not in TIFF) and as Dublin Core, and its `dpi`
    as the resolution, or 72, which stands for an unknown one.
    form: see `Form`; by default the format is the extension's, with 8 bits per channel.

    float32 on the CPU is written as it lies in memory, some rows at a time (WebP and AVIF need it whole). PNG, lossless
    WebP and TIFF (deflate; BigTIFF from 4 GB) keep the rounded values exactly; JPEG is quality 95 and AVIF quality 90,
    both without chroma subsampling. A `quality` makes WebP lossy. A `.npy` file holds float32, (H, W, 3 or 4) in 0…1,
    unrounded.
    A file appears whole or not at all: it is written beside its target, flushed to the disk and moved into place. A
    symbolic link is followed. A new file gets the umask's permissions, a replaced one keeps its own.

    Raises ImageError as check_output_path, and for values that are not finite, wrong shapes and what fails on the way;
    OptionError for a format or bit depth that is not to be had; BrokenPipeError where nobody reads the stream.
    """
    layers = _layers(rgb, alpha)
    _, height, width = layers[0].shape
    name, kind, depth, options = _destination(path, (height, width), form)
    try:
        if isinstance(path, str | os.PathLike):
            with replacing(real_target(name)) as file:
                _encode(file, layers, kind, depth=depth, options=options, parameters=parameters)
            return
        # A TIFF's writer goes back to the beginning in the end, and a pipe cannot.
        with tempfile.TemporaryFile() as file:
            _encode(file, layers, kind, depth=depth, options=options, parameters=parameters)
            file.seek(0)
            shutil.copyfileobj(file, path)
        path.flush()
    except (BrokenPipeError, ImageError):
        raise
    except Exception as error:
        raise ImageError(f"output {name!r} could not be written {_write_problem(error)}") from error


def _encode(
    file: IO[bytes],
    layers: list[Tensor],
    form: Format,
    *,
    depth: int,
    options: dict[str, object],
    parameters: Mapping[str, Any] | None,
) -> None:
    if form.name == "NPY":
        _write_npy(file, layers, parameters)
        return
    exif, resolution = Image.Exif(), (dpi_in(parameters) or _UNKNOWN_DPI) / 25.4  # pixels a millimetre
    image = _image(layers, depth, over_white=not form.has_alpha).copy(xres=resolution, yres=resolution)
    vips = libvips()
    image.set_type(vips.GValue.blob_type, "icc-profile-data", srgb_profile())
    image.set_type(vips.GValue.blob_type, "xmp-data", packet(parameters, shortened=form.name == "JPEG"))
    for name, text in credits_in(parameters).items():
        exif[CREDITS[name]] = text.encode(errors="replace")
    # Of a text by itself libvips keeps the ASCII only.
    image.set_type(vips.GValue.blob_type, "exif-data", exif.tobytes())
    options["keep"] = "icc:xmp:exif"
    if form.name == "TIFF":
        options["bigtiff"] = image.height * image.width * image.bands * depth // 8 > _LARGEST_TIFF
    if _WRITER.setdefault("process", os.getpid()) != os.getpid():
        raise ImageError(
            "this process was forked after a picture was written, and libvips' threads do not survive a fork; start "
            "processes with spawn"
        )
    np.empty(_VIPS_BYTES, np.uint8)
    # No more threads than torch has; it waits meanwhile.
    vips.concurrency_set(torch.get_num_threads())
    getattr(image, form.saver)(vips.Target.new_to_descriptor(file.fileno()), **options)


def _write_npy(file: IO[bytes], layers: list[Tensor], parameters: Mapping[str, Any] | None) -> None:
    """Writes float32 (H, W, C), some rows at a time, and the parameters after it. To map the file and fill it would
    end the process where the disk is full."""
    height, width = layers[0].shape[1:]
    header = {"descr": "<f4", "fortran_order": False, "shape": (height, width, 2 + len(layers))}
    np.lib.format.write_array_header_1_0(file, header)
    for top in range(0, height, _ROWS):
        rows = torch.cat([layer[:, top : top + _ROWS].float() for layer in layers]).clamp_(0, 1)
        file.write(np.ascontiguousarray(rows.permute(1, 2, 0).cpu().numpy(), "<f4").data)
    if parameters is not None:
        np.save(file, np.frombuffer(to_json(parameters).encode(), np.uint8))
    file.flush()


def to_pil(rgb: Tensor, alpha: Tensor | None = None) -> Image.Image:
    """The picture as an RGB, or with `alpha` an RGBA, PIL image; arguments and rounding as for `save_image`.

    Raises ImageError for values that are not finite or a shape that is not a picture's.
    """
    # In float32 as in libvips: half precision would round twice.
    planes = [(layer.float().cpu() * 255).round_().clamp_(0, 255).byte() for layer in _layers(rgb, alpha)]
    return Image.fromarray(torch.cat(planes).permute(1, 2, 0).contiguous().numpy())


def _layers(rgb: Tensor, alpha: Tensor | None) -> list[Tensor]:
    """The colours (3, H, W) and, if given, alpha (1, H, W), of the same size."""
    layers = []
    for planes, channels, what in ((rgb, 3, "picture"), (alpha, 1, "alpha")):
        if planes is None:
            continue
        layer = planes.detach()
        if layer.ndim == 4 and layer.shape[0] == 1:
            layer = layer[0]
        if layer.ndim != 3 or layer.shape[0] != channels or layer.numel() == 0 or not layer.is_floating_point():
            raise ImageError(
                f"the {what} is {tuple(planes.shape)} {planes.dtype}; it must be ({channels}, H, W), float in 0…1"
            )
        if not all(math.isfinite(bound) for bound in torch.aminmax(layer)):  # NaN propagates; 30 × as fast as isfinite
            raise ImageError(f"the {what} has NaN or infinite values, and cannot be written")
        layers.append(layer)
    if layers[-1].shape[1:] != layers[0].shape[1:]:
        raise ImageError(f"alpha is {tuple(layers[-1].shape)}, but the picture is {tuple(layers[0].shape)}")
    return layers


def _image(layers: list[Tensor], depth: int, *, over_white: bool = False) -> Any:
    """libvips' image of the layers, rounded to `depth` bits as its rows are asked for."""
    bands, new = [], libvips().Image.new_from_memory
    for layer in (layer.float().cpu() for layer in layers):
        count, height, width = layer.shape
        pixels = layer.permute(1, 2, 0)
        if pixels.is_contiguous():
            bands.append(new(pixels.numpy(), width, height, count, "float"))
        else:
            bands += [new(plane.contiguous().numpy(), width, height, 1, "float") for plane in layer]
    image = bands[0].bandjoin(bands[1:]) if len(bands) > 1 else bands[0]
    if over_white and image.bands == 4:
        opacity = image[3]
        image = image[0:3] * opacity + (1 - opacity)
    # To an integer it is cast with saturation.
    image = (image * (2**depth - 1)).rint().cast("uchar" if depth == 8 else "ushort")
    return image.copy(interpretation="srgb" if depth == 8 else "rgb16")


def _write_problem(error: Exception) -> str:
    """The reason, in parentheses, and what to do."""
    if isinstance(error, MemoryError):
        return "(out of memory); lower the size"
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
        return f"({error.strerror}); choose another folder"
    text = str(getattr(error, "strerror", None) or getattr(error, "detail", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    # libvips tells the system's reason in a line after its own.
    reason = next((line for line in lines if "system error" in line), lines[0]).removeprefix("system error: ")
    return f"({reason}); free some space or choose another folder"
