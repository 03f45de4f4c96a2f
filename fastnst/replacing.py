"""Files that appear whole or not at all, whatever fails, ends or loses its power while they are written."""

import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from fastnst.errors import FastnstError, warn

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_Contents = TypeVar("_Contents")


@contextmanager
def replacing(target: Path, *, keep: bool = False) -> Iterator[IO[bytes]]:
    """A new file, to be written, that takes the place of `target` if the block succeeds and vanishes if not.

    With `keep` the file that it replaces stays as `previous(target)`. No one may read it who may not read that.
    """
    # Mode 0666 less the umask, as for any new file.
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666
    temporary, descriptor = _temporary(target, mode)
    before, linked = previous(target), temporary.with_suffix(".prev")
    try:
        # With the path for its name: a film's muxer opens it by that.
        with open(temporary, "w+b", opener=lambda *_: descriptor) as file:
            yield file
            file.flush()
            sync(file.fileno())
            if target.exists():
                temporary.chmod(mode)
                if keep:
                    _link(target, linked, before)
            if fcntl is None:  # an open file keeps its name on Windows
                file.close()
            temporary.replace(target)
        if keep and linked.exists():
            linked.replace(before)
        sync_folder(target.parent)
    except BaseException:
        for left in (temporary, linked):
            left.unlink(missing_ok=True)
        raise


def previous(path: Path) -> Path:
    """The place of the file that the one at `path` has replaced, where it is kept."""
    return path.with_name(f"{path.name}.prev")


def newest(path: Path, read: Callable[[Path], _Contents]) -> _Contents:
    """Reads the checkpoint at `path`, or where it is missing or damaged and the one before it is not, that one, with a
    FastnstWarning. Raises what `read` raises of `path`."""
    try:
        return read(path)
    except FastnstError as error:
        try:
            before = previous(Path(os.path.realpath(path)))
            contents = read(before)
        except (FastnstError, ValueError):  # ValueError: what is no path
            raise error from None
        warn(f"{error}; fastnst uses the checkpoint before it, {before}", level=3)
        return contents


def _link(target: Path, linked: Path, before: Path) -> None:
    """Gives `target` the second name `linked`, so that there is always one of its name, or else renames it."""
    linked.unlink(missing_ok=True)
    try:
        os.link(target, linked)
    except OSError:  # a file system without links
        target.replace(before)


def _temporary(target: Path, mode: int) -> tuple[Path, int]:
    """A new file beside `target`, by the name of one that a process left which was killed while it wrote to `target`.

    It is locked while it is open, so that nobody takes it for such a file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    temporary = target.with_name(f".fastnst-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.tmp")
    _remove_left(temporary)
    while True:
        try:
            descriptor = os.open(temporary, flags, mode)
        except FileExistsError:  # another process writes to the same target
            temporary = target.with_name(f".fastnst-{secrets.token_hex(8)}.tmp")
            continue
        if fcntl is None:
            return temporary, descriptor
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # removed before it was locked


def _remove_left(temporary: Path) -> None:
    """Removes the file unless a process is writing it."""
    with suppress(OSError):
        if fcntl is None:
            temporary.unlink()
            return
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
        finally:
            os.close(descriptor)


def sync(descriptor: int) -> None:
    """Makes what is written to the file last through a power cut."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:  # on macOS, whose fsync leaves it in the disk's own cache
        with suppress(OSError):  # a file system that has fsync alone
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder last through a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rescued(save: Callable[[Path], None], suffix: str) -> Path | None:
    """The file in the working folder, or else among the temporary ones, that `save` could write; None without one."""
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with suppress(FastnstError, OSError):
            path = folder() / f"fastnst-rescued-{secrets.token_hex(4)}{suffix}"
            save(path)
            return path
    return None
