"""Where a file can be written: the checks that come before any long work."""

import os
from pathlib import Path

from fastnst.errors import ImageError


def check_place(name: str, what: str = "output") -> None:
    """Raises ImageError where no file can be written to the path `name`; messages call it `what`.

    Finds: a name that is no path or ends in a slash, a folder that is missing or not writable, a directory, a symbolic
    link that leads to itself or another thing that is not a file at `name`, a file that may not be overwritten.
    """
    if os.path.basename(name) in ("", "."):  # noqa: PTH119 - Path drops the slash at the end
        raise ImageError(f"{what} {name!r} names a folder; give a file name, as in {str(Path(name))!r}")
    target = real_target(name, what)
    folder = target.parent
    try:
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise ImageError(f"{what} {name!r}: the folder {str(folder)!r} {problem}; create it or choose another")
        if target.is_dir():
            raise ImageError(
                f"{what} {name!r} is a directory; give a file name in it, as in {name + '/out' + target.suffix!r}"
            )
        if target.is_symlink():  # realpath stops only at a link that it cannot resolve
            raise ImageError(f"{what} {name!r} is a symbolic link that leads to itself; choose another name")
        exists = target.exists()
        if exists and not target.is_file():
            raise ImageError(f"{what} {name!r} is not a regular file; choose another name")
    except OSError as error:
        raise ImageError(f"{what} {name!r} is not possible ({error.strerror}); choose another name") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ImageError(f"{what} {name!r}: the folder {str(folder)!r} is not writable; choose another")
    if exists and not os.access(target, os.W_OK):
        raise ImageError(f"{what} {name!r} is write-protected; choose another name or change its permissions")


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
