"""Paths: which files are pictures, which can be read, and where one can be written, before any long work."""

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastnst.errors import ImageError, OptionError

MAX_PIXELS = 200_000_000
"""The most pixels that are read of a file unless another limit is given."""
PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".avif", ".jp2", ".ppm", ".pgm", ".psd", ".qoi", ".tga", ".npy"),
)
GIVE_A_PICTURE = "give a PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF file"
# The largest picture, with 16 bits and alpha, is 1.6 GB; what is longer is no picture, or never ends.
_MAX_STREAM_BYTES = 2**31


def pictures_at(path: str | os.PathLike[str], role: str) -> list[str]:
    """The path itself, or for a folder the paths of what ends as a picture in it and is not hidden, by name.

    Raises ImageError, which `role` begins, for a folder without pictures, or one that cannot be read.
    """
    place = os.fsdecode(path)
    if not os.path.isdir(place):  # noqa: PTH112 - Path("") would be the current directory
        return [place]
    try:
        names = sorted(path.name for path in Path(place).iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ImageError(f"{role} folder {place!r} cannot be read ({error.strerror}); check its permissions") from error
    paths = [os.path.join(place, name) for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES]  # noqa: PTH118
    pictures = [path for path in paths if os.path.isfile(path)]  # noqa: PTH113 - "./a" stays as it was given
    if not pictures:
        raise ImageError(f"{role} folder {place!r} has no pictures; pictures end in .png, .jpg, .webp, .tif …")
    return pictures


def source_name(source: object, role: str) -> tuple[str, str]:
    """The name of a path or a stream, and what messages call the image in it."""
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        return name, f"{role} image {name!r}"
    given = getattr(source, "name", None)
    name = given if isinstance(given, str) else "stream"
    return name, f"{role} image ({name})"


def contents(source: object, what: str) -> str | bytes:
    """The path of a regular file that can be read, or the bytes of a stream. Raises ImageError, which `what` begins."""
    if isinstance(source, str | os.PathLike):
        held: str | bytes = os.fsdecode(source)
        filled = has_content(os.fsdecode(source), what)
    else:
        try:
            held = source.read(_MAX_STREAM_BYTES + 1)  # type: ignore[attr-defined]
        except (OSError, ValueError, AttributeError) as error:  # closed, or not open for reading
            raise ImageError(f"{what} could not be read ({error}); give a stream that is open for reading") from error
        if not isinstance(held, bytes):
            raise ImageError(
                f"{what} gives {type(held).__name__}, not bytes; open it in binary mode, with open(path, 'rb')"
            )
        if len(held) > _MAX_STREAM_BYTES:
            raise ImageError(f"{what} has more than {_MAX_STREAM_BYTES} bytes; give a smaller picture")
        filled = bool(held)
    if not filled:
        raise ImageError(f"{what} is an empty file; {GIVE_A_PICTURE}")
    return held


def has_content(name: str, what: str) -> bool:
    """False for an empty file. Raises ImageError, which `what` begins, for what is no regular file that can be read."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name) and not os.path.lexists(name):
        raise ImageError(f"{what} is a URL; fastnst does not download images: save it and give the file's path")
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 - Path("") would be the current directory
        if stat.S_ISREG(mode):
            with Path(name).open("rb") as file:
                return bool(file.read(1))
        problem = "is a directory; give an image file" if stat.S_ISDIR(mode) else "is not a regular file; give one"
    except (FileNotFoundError, NotADirectoryError):
        problem = "does not exist; check the path"
    except PermissionError:
        problem = "may not be read by this user; check its permissions"
    except OSError as error:
        problem = f"could not be opened ({error.strerror}); check the path"
    except ValueError as error:
        problem = f"is not a valid path ({error}); check the path"
    raise ImageError(f"{what} {problem}")


def check_place(name: str, what: str = "output", suffixes: Sequence[str] = ()) -> None:
    """Raises ImageError where no file can be written to the path `name`, which messages call `what`; OptionError where
    it ends in none of the `suffixes`."""
    problem = None
    if suffixes and Path(name).suffix.lower() not in suffixes:
        raise OptionError(f"{name!r} cannot be the name of a {what}; end it in {', '.join(suffixes)}")
    if os.path.basename(name) in ("", "."):  # noqa: PTH119 - Path drops the slash at the end
        raise ImageError(f"{what} {name!r} names a folder; give a file name, such as {str(Path(name))!r}")
    target = real_target(name, what)
    folder = target.parent
    try:
        if not folder.is_dir():
            problem = f": the folder {str(folder)!r} does not exist; create it or choose another"
            if folder.exists():
                problem = f": {str(folder)!r} is a file, not a folder; choose another"
        elif target.is_dir():
            problem = f" is a directory; give a file name in it, such as {name + '/out' + target.suffix!r}"
        elif target.is_symlink():  # realpath stops only at a link that it cannot resolve
            problem = " is a symbolic link that leads to itself; choose another name"
        elif (exists := target.exists()) and not target.is_file():
            problem = " is not a regular file; choose another name"
        elif not os.access(folder, os.W_OK | os.X_OK):
            problem = f": the folder {str(folder)!r} is not writable; choose another"
        elif exists and not os.access(target, os.W_OK):
            problem = " is write-protected; choose another name or change its permissions"
    except OSError as error:
        problem = f" is not possible ({error.strerror}); choose another name"
    if problem:
        raise ImageError(f"{what} {name!r}{problem}")


def check_apart(targets: Iterable[str | os.PathLike[str]], inputs: Iterable[object]) -> None:
    """Raises OptionError where two of the `targets` are the same file, or one is also a path among the `inputs`."""
    known: dict[object, str | os.PathLike[str]] = {}
    for target in targets:
        if _identity(target) in known:
            raise OptionError(f"{os.fspath(target)} was given for two outputs; give each a name of its own")
        known[_identity(target)] = target
    for given in inputs:
        if isinstance(given, str | os.PathLike) and (taken := known.get(_identity(given))) is not None:
            raise OptionError(
                f"{os.fspath(taken)} is also an input and would be overwritten; give the output another name"
            )


def _identity(path: str | os.PathLike[str]) -> object:
    """Identifies the file at a path: equal for two names of one file."""
    try:
        known = os.stat(path)  # noqa: PTH116 - Path("") would be the current directory
        return known.st_dev, known.st_ino
    except OSError:  # missing or out of reach: what reads or writes it says so
        return os.path.realpath(path)
    except ValueError:  # no path
        return path


def is_in_folder(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """True where a file `path` is, or would be, one of those that `pictures_at` finds in `folder`."""
    is_picture = Path(path).suffix.lower() in PICTURE_SUFFIXES
    return is_picture and os.path.isdir(folder) and os.path.realpath(Path(path).parent) == os.path.realpath(folder)  # noqa: PTH112


def make_folder(name: str, what: str = "output") -> None:
    """Makes the folder `name`, and those that it is in, where they are missing. Raises ImageError where that fails."""
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{what} folder {name!r} cannot be made ({reason}); choose another") from error


def real_target(name: str, what: str = "output") -> Path:
    """The file to replace: where `name` leads through symbolic links. Raises ImageError for what is no path."""
    try:
        return Path(os.path.realpath(name))
    except ValueError as error:
        raise ImageError(f"{what} {name!r} is not a valid path ({error}); choose another name") from error
