"""A folder that stands for the pictures in it."""

import os
from pathlib import Path

from fastnst.errors import ImageError

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".avif", ".jp2", ".ppm", ".pgm", ".psd", ".qoi", ".tga", ".npy"),
)


def pictures_at(path: str | os.PathLike[str], role: str) -> list[str]:
    """The path itself, or of a folder the paths of the pictures in it, by name; its own folders are left out.

    A picture is what ends as one and is not hidden. Raises ImageError, which `role` begins, for a folder without
    pictures, or one that cannot be read.
    """
    place = os.fsdecode(path)
    if not os.path.isdir(place):  # noqa: PTH112 - Path("") would be the current directory
        return [place]
    try:
        names = sorted(entry.name for entry in os.scandir(place) if entry.is_file())
    except OSError as error:
        raise ImageError(f"{role} folder {place!r} cannot be read ({error.strerror}); check its permissions") from error
    found = [name for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".")]
    if not found:
        raise ImageError(f"{role} folder {place!r} has no pictures; pictures end in .png, .jpg, .webp, .tif …")
    return [os.path.join(place, name) for name in found]  # noqa: PTH118 - "./a" stays as it was given
