"""One large file over HTTP: resumed where it broke, verified by its SHA-256, shared by several processes."""

import hashlib
import http.client
import io
import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from fastnst.errors import WeightsError

_CHUNK = 1 << 18
_REAL_PROGRESS = 1 << 20  # bytes after which a broken connection no longer counts against the attempts
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file's bytes, in 64 hexadecimal digits. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def claimed(part: Path, *, patience_s: float = 30.0, progress: bool = False) -> Iterator[Path]:
    """A part file that nobody else writes while the block runs: `part`, or a file of our own beside it.

    While another process holds `part`, this one waits for it; once `part` has not grown for `patience_s` seconds, it
    goes on with its own file, as it does at once where files cannot be locked (Windows, some network drives). So on
    entering the block the caller should look whether the other process has finished the work.

    The file is deleted when the block ends well. When it raises, `part` is kept for resuming (unless it is empty) and a
    file of our own is deleted. Raises WeightsError if the folder cannot be written.
    """
    try:
        descriptor = _lock(part, patience_s, progress)
        path = part
        if descriptor is None:
            descriptor, name = tempfile.mkstemp(prefix=f"{part.name}.", dir=part.parent)
            path = Path(name)
    except OSError as error:
        raise _unwritable(part, error) from error
    try:
        yield path
    except BaseException:
        if path != part or os.fstat(descriptor).st_size == 0:
            path.unlink(missing_ok=True)
        raise
    else:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def fetch(
    url: str,
    part: Path,
    *,
    sha256_prefix: str,
    progress: bool = False,
    attempts: int = 4,
    timeout_s: float = 15.0,
    wait_s: float = 1.0,
) -> None:
    """Complete the file `part` from `url` until its SHA-256 starts with `sha256_prefix` (hexadecimal).

    What `part` holds already is kept and the rest asked for by HTTP Range; a server that ignores Range sends it all
    again. A `part` that turns out to be something else (longer, or of another version) is fetched once more from the
    start. A connection that breaks, or is silent for `timeout_s` seconds, is tried again after `wait_s`, 2·`wait_s`,
    4·`wait_s` … seconds; after `attempts` failures with less than 1 MiB received in each, it is given up and `part`
    stays for the next call.

    Raises WeightsError, with the URL, if the server refuses, the connection keeps failing, the disk is full, or the
    file received is not the one expected (`part` is then emptied).
    """
    if not url.startswith(("http://", "https://")):
        raise WeightsError(f"cannot download {url}: the address must start with http:// or https://")
    try:
        part.touch()
        resumed = part.stat().st_size > 0
        if resumed and sha256_of(part).startswith(sha256_prefix):
            return
        _receive_all(url, part, progress, attempts, timeout_s, wait_s)
        found = sha256_of(part)
        if resumed and not found.startswith(sha256_prefix):
            os.truncate(part, 0)
            _receive_all(url, part, progress, attempts, timeout_s, wait_s)
            found = sha256_of(part)
        if not found.startswith(sha256_prefix):
            size = part.stat().st_size
            os.truncate(part, 0)
            raise WeightsError(
                f"{url} is not the file meant: its {size} bytes have the SHA-256 {found[:8]}…, not {sha256_prefix}…; "
                "check the address and any proxy, and try again"
            )
    except OSError as error:
        raise _unwritable(part, error) from error


def _receive_all(url: str, part: Path, progress: bool, attempts: int, timeout_s: float, wait_s: float) -> None:
    failures = 0
    with tqdm(desc=url.rpartition("/")[2], unit="B", unit_scale=True, disable=not progress) as bar:
        while True:
            before = part.stat().st_size
            try:
                reason = _receive(url, part, bar, timeout_s)
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"the server answered {error.code} {error.reason}"
                if error.code not in _TRANSIENT:
                    raise WeightsError(f"cannot download {url}: {reason}; check the address") from error
            except (OSError, http.client.HTTPException) as error:
                reason = _reason(error)
            if reason is None:
                return
            size = part.stat().st_size
            failures = 1 if size - before >= _REAL_PROGRESS else failures + 1
            if failures >= attempts:
                raise WeightsError(
                    f"cannot download {url}: {reason}; {size / 1e6:.1f} MB came and are kept; run it again to resume"
                )
            time.sleep(wait_s * 2 ** (failures - 1))


def _receive(url: str, part: Path, bar: "tqdm[NoReturn]", timeout_s: float) -> str | None:
    """One request for what `part` lacks. Returns None when the server has sent all it has, else what went wrong."""
    offset = part.stat().st_size
    request = _request(url)
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after our offset: the part is complete, or too long; the hash tells which
            error.close()
            return None
        raise
    with response, part.open("r+b", buffering=0) as file:
        if response.headers.get_content_type() == "text/html":
            return "the server answered with a web page instead of the file (a login page of the network?)"
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if response.status == 206 and (span is None or int(span[1]) != offset):
            file.truncate(0)
            return f"the server sent another range than bytes={offset}-"
        if response.status != 206:
            offset = 0
            file.truncate(0)
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else None
        bar.total = total
        bar.n = offset
        bar.refresh()
        file.seek(offset)
        while chunk := response.read1(_CHUNK):
            _write(file, chunk, part)
            bar.update(len(chunk))
        received = file.tell()
    if total is not None and received < total:
        return f"the connection closed after {received} of {total} bytes"
    return None


def _write(file: io.FileIO, chunk: bytes, part: Path) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _unwritable(part, error) from error


def _lock(part: Path, patience_s: float, progress: bool) -> int | None:
    """A descriptor that locks `part`, or None if it cannot be had. The lock ends with the process, however it ends."""
    if sys.platform == "win32":
        return None
    import fcntl

    size = -1
    deadline = 0.0
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            grown = os.fstat(descriptor).st_size
            os.close(descriptor)
            if grown != size:
                if progress and size < 0:
                    tqdm.write(f"another process is downloading {part.stem}; waiting for it", file=sys.stderr)
                size = grown
                deadline = time.monotonic() + patience_s
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.1)
        except OSError:
            os.close(descriptor)
            return None
        else:
            # The holder before us deletes the file when it is done: the lock must be on what now has the name.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), part.stat()):
                    return descriptor
            os.close(descriptor)


def _request(url: str) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"User-Agent": "fastnst", "Accept-Encoding": "identity"})


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return "the server is silent"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__


def _unwritable(part: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"cannot write {part} ({error.strerror or error}); free some space, or set FASTNST_CACHE to a writable folder"
    )
