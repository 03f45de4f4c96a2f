"""How a picture was made, in its own metadata: written as JSON, and read back.

The metadata is one JSON object: in PNG the iTXt text `fastnst`; in JPEG, WebP (EXIF) and TIFF the tag
ImageDescription, as UTF-8, wrapped as `{"fastnst": …}` to tell it from anyone else's description; in `.npy` a second
array after the picture's, the bytes of the text.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from fastnst import __version__
from fastnst.errors import ImageError
from fastnst.image_files import exif_tag, image_of, open_source
from fastnst.npy_files import is_npy, read_npy_text

_KEY = "fastnst"
SOFTWARE = f"fastnst {__version__}"
# A JPEG marker holds 65533 bytes; the rest is for EXIF's own headers and the other tag.
_JPEG_TEXT_BYTES = 65_000
_DEEPEST = 100  # fastnst's own parameters nest four deep


def read_parameters(path: str | os.PathLike[str] | IO[bytes]) -> dict[str, Any]:
    """The `parameters` that `save_image` wrote into the file at `path`, or into a stream of its bytes.

    What fastnst would not have written is not trusted: infinities and NaN come as None. Raises ImageError if the file
    cannot be read as an image, carries no parameters, or some that nest more than 100 deep.
    """
    name = os.fsdecode(path) if isinstance(path, str | os.PathLike) else str(getattr(path, "name", "stream"))
    found = _found(path, f"the image {name!r}")
    if not isinstance(found, dict):
        raise ImageError(f"{name!r} has no fastnst parameters; it was not made by fastnst, or its metadata was removed")
    if not _nests_at_most(found, _DEEPEST):
        raise ImageError(f"{name!r} has parameters that nest more than {_DEEPEST} deep; it was not made by fastnst")
    return {key: _plain(value) for key, value in found.items()}


def _found(path: str | os.PathLike[str] | IO[bytes], what: str) -> object:
    with open_source(path, what) as file:
        if is_npy(file):
            text, wrapped = read_npy_text(file), False
        else:
            with image_of(file, what) as image:
                wrapped = image.format != "PNG"
                text = _description(image) if wrapped else image.info.get(_KEY)
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return found.get(_KEY) if wrapped and isinstance(found, dict) else None if wrapped else found


def png_text(parameters: Mapping[str, Any] | None) -> PngInfo:
    """The text chunks of a PNG."""
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    if parameters is not None:
        # Not compressed: Pillow refuses compressed text of more than 1 MB when it reads.
        text.add_itxt(_KEY, to_json(parameters))
    return text


def exif_tags(format_name: str, parameters: Mapping[str, Any] | None) -> dict[int, str | bytes]:
    """The tags of a JPEG, WEBP or TIFF file; JPEG's are shortened to what it holds."""
    tags: dict[int, str | bytes] = {ExifTags.Base.Software: SOFTWARE}
    if parameters is not None:
        wrapped = {_KEY: parameters} if format_name != "JPEG" else _shortened(parameters)
        # As bytes: Pillow would replace what is not ASCII in a string.
        tags[ExifTags.Base.ImageDescription] = to_json(wrapped).encode()
    return tags


def to_json(value: object) -> str:
    """`value` as JSON; objects that JSON does not know as their text, NaN and infinities as null."""
    plain = _plain(value)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # a path that is not valid UTF-8 has lone surrogates, which only escapes can hold
        return json.dumps(plain, allow_nan=False, separators=(",", ":"))
    return text


def _shortened(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters`, wrapped, without its largest entries, as many as it takes to fit in JPEG's EXIF."""
    kept = dict(parameters)
    largest_last = sorted(kept, key=lambda key: len(to_json(kept[key])))
    left_out: list[str] = []
    while len(to_json({_KEY: kept}).encode()) > _JPEG_TEXT_BYTES:
        key = largest_last.pop()
        del kept[key]
        if len(left_out) < 50:  # the list itself must fit, whatever the names are
            left_out.append(key[:50])
        kept["left_out"] = left_out
    return {_KEY: kept}


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
