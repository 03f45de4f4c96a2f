"""Writing a picture to a file, with how it was made in its metadata, and reading that back.

The metadata is one JSON object: in PNG the iTXt text `fastnst`; in JPEG, WebP (EXIF) and TIFF the tag
ImageDescription, as UTF-8, wrapped as `{"fastnst": …}` to tell it from anyone else's description.
"""

import contextlib
import errno
import io
import json
import math
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from fastnst import __version__
from fastnst.errors import ImageError
from fastnst.images import exif_tag, open_image, srgb_profile

_KEY = "fastnst"
_SOFTWARE = f"fastnst {__version__}"
# A JPEG marker holds 65533 bytes; the rest is for EXIF's own headers and the other tag.
_JPEG_TEXT_BYTES = 65_000
_BAND = 64  # rows
_DEEPEST = 100  # fastnst's own parameters nest four deep


@dataclass(frozen=True)
class _Format:
    name: str
    extensions: tuple[str, ...]
    longest_side: int
    has_alpha: bool
    options: Mapping[str, object]


_FORMATS = (
    _Format("PNG", (".png",), 2**31 - 1, True, {}),
    _Format("JPEG", (".jpg", ".jpeg"), 65_500, False, {"quality": 95, "subsampling": "4:4:4"}),
    # In lossless WebP, quality is the effort: 25 costs under 1 % in size and saves 40 % of the time against 80.
    _Format("WEBP", (".webp",), 16_383, True, {"lossless": True, "quality": 25, "exact": True}),
    _Format("TIFF", (".tif", ".tiff"), 2**31 - 1, True, {"compression": "tiff_adobe_deflate"}),
)


def check_output_path(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> None:
    """Raise ImageError if a picture, of `size` (height, width) where known, could not be written to `path`.

    To be called before any long work. Finds: an unknown extension, a folder that is missing or not writable, a
    directory, a symbolic link that leads to itself or another thing that is not a file at `path`, a file that may not
    be overwritten, a picture larger than the format holds.
    """
    name = os.fsdecode(path)
    form = _format_of(name)
    if size is not None:
        _check_side(size, form, name)
    if os.path.basename(name) in ("", "."):  # noqa: PTH119 - Path drops the slash at the end
        raise ImageError(f"output {name!r} names a folder; give a file name, as in {str(Path(name))!r}")
    target = _target(name)
    folder = target.parent
    try:
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise ImageError(f"output {name!r}: the folder {str(folder)!r} {problem}; create it or choose another")
        if target.is_dir():
            raise ImageError(f"output {name!r} is a directory; give a file name in it, as in {name + '/out.png'!r}")
        if target.is_symlink():  # realpath stops only at a link that it cannot resolve
            raise ImageError(f"output {name!r} is a symbolic link that leads to itself; choose another name")
        exists = target.exists()
        if exists and not target.is_file():
            raise ImageError(f"output {name!r} is not a regular file; choose another name")
    except OSError as error:
        raise ImageError(f"output {name!r} is not possible ({error.strerror}); choose another name") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ImageError(f"output {name!r}: the folder {str(folder)!r} is not writable; choose another")
    if exists and not os.access(target, os.W_OK):
        raise ImageError(f"output {name!r} is write-protected; choose another name or change its permissions")


def save_image(
    path: str | os.PathLike[str],
    rgb: torch.Tensor,
    alpha: torch.Tensor | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Write an sRGB picture, 8 bits per channel, in the format of the path's extension, with an sRGB profile.

    rgb: (3, H, W) or (1, 3, H, W), float, any device; rounded to the nearest of 256 values after clamping to 0…1.
    alpha: (1, H, W) or (1, 1, H, W), or None for an opaque picture. JPEG has no alpha: it is laid over white.
    parameters: how the picture was made, as far as JSON goes (paths and other objects as their text, NaN and
    infinities as null). JPEG metadata holds 64 KB: what does not fit is left out, the largest entries first (the
    losses, as a rule), and named under `left_out`.

    PNG, lossless WebP and TIFF (deflate) keep the 8-bit values exactly; JPEG is quality 95 without chroma subsampling.
    The file appears whole or not at all: it is written beside its target and moved into place, and a file that was
    there stays untouched if anything fails. A symbolic link is followed. A new file gets the umask's permissions, a
    replaced one keeps its own.

    Raises ImageError: as check_output_path, values that are not finite, wrong shapes, a full disk, any failure of the
    encoder.
    """
    name = os.fsdecode(path)
    check_output_path(name)
    form = _format_of(name)
    image = to_pil(rgb, alpha)
    _check_side((image.height, image.width), form, name)
    if image.mode == "RGBA" and not form.has_alpha:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    options = {**form.options, **_metadata(form.name, parameters), "icc_profile": srgb_profile()}
    target = _target(name)
    # First in memory: Pillow's encoders overlook that a full disk took only the first part of a last block.
    encoded = io.BytesIO()
    try:
        image.save(encoded, form.name, **options)
        with _replacing(target) as file:
            file.write(encoded.getbuffer())
    except Exception as error:  # Pillow's encoders raise RuntimeError, struct.error … as well as OSError
        raise ImageError(f"output {name!r} could not be written {_write_problem(error)}") from error


def to_pil(rgb: torch.Tensor, alpha: torch.Tensor | None = None) -> Image.Image:
    """The picture as an RGB, or with `alpha` an RGBA, PIL image; arguments and rounding as for `save_image`.

    Raises ImageError for values that are not finite or a shape that is not a picture's.
    """
    colours = _one_picture(rgb, 3, "picture")
    layers = [colours] if alpha is None else [colours, _one_picture(alpha, 1, "alpha")]
    height, width = colours.shape[1:]
    if any(layer.shape[1:] != (height, width) for layer in layers):
        raise ImageError(f"alpha is {tuple(layers[-1].shape)}, but the picture is {tuple(colours.shape)}")
    samples = torch.empty((height, width, 2 + len(layers)), dtype=torch.uint8)
    for top in range(0, height, _BAND):  # in bands that stay in the cache
        band = torch.cat([layer[:, top : top + _BAND].float() for layer in layers])
        samples[top : top + _BAND].copy_(band.clamp_(0, 1).mul_(255).round_().permute(1, 2, 0))
    return Image.fromarray(samples.numpy())


def read_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `parameters` that `save_image` wrote into the file at `path`.

    What fastnst would not have written is not trusted: infinities and NaN come as None. Raises ImageError if the file
    cannot be read as an image, carries no parameters, or some that nest more than 100 deep.
    """
    name = os.fsdecode(path)
    with open_image(name, role="the") as image:
        text = image.info.get(_KEY) if image.format == "PNG" else _description(image)
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        found = None
    if image.format != "PNG" and isinstance(found, dict):
        found = found.get(_KEY)
    if not isinstance(found, dict):
        raise ImageError(f"{name!r} has no fastnst parameters; it was not made by fastnst, or its metadata was removed")
    if not _nests_at_most(found, _DEEPEST):
        raise ImageError(f"{name!r} has parameters that nest more than {_DEEPEST} deep; it was not made by fastnst")
    return {key: _plain(value) for key, value in found.items()}


def _format_of(name: str) -> _Format:
    extension = Path(name).suffix.lower()
    for form in _FORMATS:
        if extension in form.extensions:
            return form
    known = ", ".join(extension for form in _FORMATS for extension in form.extensions)
    problem = f"has the unknown extension {extension!r}" if extension else "has no extension"
    raise ImageError(f"output {name!r} {problem}; use one of: {known}")


def _check_side(size: tuple[int, int], form: _Format, name: str) -> None:
    height, width = size
    if max(height, width) > form.longest_side:
        raise ImageError(
            f"output {name!r} would be {width}×{height} pixels, but {form.name} holds at most {form.longest_side} "
            f"a side; {_ways_to_fit(max(height, width))}"
        )


def _ways_to_fit(side: int) -> str:
    roomier = [form.extensions[0] for form in _FORMATS if form.longest_side >= side and form.has_alpha]
    return f"choose {' or '.join(roomier)}, or lower the size" if roomier else "lower the size"


def _target(name: str) -> Path:
    """The file to replace: where `name` leads through symbolic links."""
    try:
        return Path(os.path.realpath(name))
    except ValueError as error:
        raise ImageError(f"output {name!r} is not a valid path ({error}); choose another name") from error


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


def _metadata(format_name: str, parameters: Mapping[str, Any] | None) -> dict[str, object]:
    """The options of Pillow's writer that carry `parameters`."""
    if format_name == "PNG":
        text = PngInfo()
        text.add_text("Software", _SOFTWARE)
        if parameters is not None:
            # Not compressed: Pillow refuses compressed text of more than 1 MB when it reads.
            text.add_itxt(_KEY, _json(parameters))
        return {"pnginfo": text}
    tags: dict[int, str | bytes] = {ExifTags.Base.Software: _SOFTWARE}
    if parameters is not None:
        wrapped = {_KEY: parameters} if format_name != "JPEG" else _shortened(parameters)
        # As bytes: Pillow would replace what is not ASCII in a string.
        tags[ExifTags.Base.ImageDescription] = _json(wrapped).encode()
    if format_name == "TIFF":
        return {"tiffinfo": tags}
    exif = Image.Exif()
    exif.update(tags)
    return {"exif": exif}


def _shortened(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters`, wrapped, without its largest entries, as many as it takes to fit in JPEG's EXIF."""
    kept = dict(parameters)
    largest_last = sorted(kept, key=lambda key: len(_json(kept[key])))
    left_out: list[str] = []
    while len(_json({_KEY: kept}).encode()) > _JPEG_TEXT_BYTES:
        key = largest_last.pop()
        del kept[key]
        if len(left_out) < 50:  # the list itself must fit, whatever the names are
            left_out.append(key[:50])
        kept["left_out"] = left_out
    return {_KEY: kept}


def _json(value: object) -> str:
    plain = _plain(value)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # a path that is not valid UTF-8 has lone surrogates, which only escapes can hold
        return json.dumps(plain, allow_nan=False, separators=(",", ":"))
    return text


def _plain(value: object) -> object:
    """`value` in JSON's terms."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _nests_at_most(value: object, depth: int) -> bool:
    """Whether lists and dicts are at most `depth` within each other; in a loop, for any depth that JSON can have."""
    level = [value]
    for _ in range(depth + 1):
        level = [child for part in level if isinstance(part, dict | list) for child in _children(part)]
    return not level


def _children(part: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


def _description(image: Image.Image) -> str | None:
    """ImageDescription, as the UTF-8 that it was written in; None where there is none."""
    text = exif_tag(image, ExifTags.Base.ImageDescription)
    try:
        return text.encode("latin-1").decode() if isinstance(text, str) else None  # Pillow reads bytes as Latin-1
    except UnicodeError:
        return None
