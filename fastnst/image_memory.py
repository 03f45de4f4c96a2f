"""A picture that does not fit in the memory, told in the user's words."""

import contextlib
from collections.abc import Iterator

from fastnst.errors import ImageError


@contextlib.contextmanager
def within_memory(what: str, height: int, width: int) -> Iterator[None]:
    """Raise ImageError where the block runs out of memory."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise ImageError(f"{what} does not fit in memory ({width}×{height} pixels); reduce it first") from error


def ran_out(error: Exception) -> bool:
    """Whether `error` says that memory ran out."""
    said = str(error).lower()
    # NumPy and Pillow raise MemoryError, torch RuntimeError, Pillow's codecs OSError.
    return isinstance(error, MemoryError) or "can't allocate memory" in said or "out of memory" in said
