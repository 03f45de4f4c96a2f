"""The formats that pictures are written in: names, extensions, limits, depths."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastnst.errors import ImageError, OptionError


@dataclass(frozen=True)
class Format:
    """One format. `name` is Pillow's, or NPY.

    longest_side: the most pixels a side that it holds.
    depths: the bits per channel that it can be written with; 32 is float.
    options: those of Pillow's writer.
    """

    name: str
    extensions: tuple[str, ...]
    longest_side: int
    has_alpha: bool
    depths: tuple[int, ...]
    options: Mapping[str, object] = field(default_factory=dict)


FORMATS: Mapping[str, Format] = {
    "png": Format("PNG", (".png",), 2**31 - 1, True, (8, 16)),
    "jpeg": Format("JPEG", (".jpg", ".jpeg"), 65_500, False, (8,), {"quality": 95, "subsampling": "4:4:4"}),
    # In lossless WebP, quality is the effort: 25 costs under 1 % in size and saves 40 % of the time against 80.
    "webp": Format("WEBP", (".webp",), 16_383, True, (8,), {"lossless": True, "quality": 25, "exact": True}),
    "tiff": Format("TIFF", (".tif", ".tiff"), 2**31 - 1, True, (8, 16), {"compression": "tiff_adobe_deflate"}),
    "npy": Format("NPY", (".npy",), 2**31 - 1, True, (32,)),
}
BIT_DEPTHS = (8, 16)


def format_of(name: str, given: str | None = None) -> Format:
    """The format `given` by its own name, else that of the extension of the path `name`.

    Raises OptionError for a format that is not known, ImageError for an extension that is not.
    """
    if given is not None:
        if given not in FORMATS:
            raise OptionError(f"unknown format {given!r}; choose one of: {', '.join(FORMATS)}")
        return FORMATS[given]
    extension = Path(name).suffix.lower()
    for form in FORMATS.values():
        if extension in form.extensions:
            return form
    known = ", ".join(extension for form in FORMATS.values() for extension in form.extensions)
    problem = f"has the unknown extension {extension!r}" if extension else "has no extension"
    raise ImageError(f"output {name!r} {problem}; use one of: {known}")


def depth_of(form: Format, bit_depth: int | None) -> int:
    """The bits per channel to write `form` with: `bit_depth`, or where that is None the least that it has.

    Raises OptionError where the format does not have it. A `.npy` file holds floats always, and takes any.
    """
    if bit_depth is None or form.depths == (32,):
        return form.depths[0]
    if bit_depth not in BIT_DEPTHS:
        raise OptionError(f"bit depth {bit_depth} is none of {' and '.join(map(str, BIT_DEPTHS))} bits per channel")
    if bit_depth not in form.depths:
        deep = " or ".join(name for name, other in FORMATS.items() if bit_depth in other.depths)
        raise OptionError(f"{form.name} holds {form.depths[0]} bits per channel, not {bit_depth}; choose {deep}")
    return bit_depth


def check_side(size: tuple[int, int], form: Format, name: str) -> None:
    """Raise ImageError if a picture of `size` (height, width) is more than `form` holds."""
    height, width = size
    if max(height, width) > form.longest_side:
        raise ImageError(
            f"output {name!r} would be {width}×{height} pixels, but {form.name} holds at most {form.longest_side} "
            f"a side; {_ways_to_fit(max(height, width))}"
        )


def _ways_to_fit(side: int) -> str:
    roomier = [
        form.extensions[0]
        for form in FORMATS.values()
        if form.longest_side >= side and form.has_alpha and 8 in form.depths
    ]
    return f"choose {' or '.join(roomier)}, or lower the size" if roomier else "lower the size"


def is_stream(path: object) -> bool:
    """Whether `path` is no path but a binary stream to write to."""
    return not isinstance(path, str | os.PathLike) and hasattr(path, "write")
