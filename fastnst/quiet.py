"""Other packages' warnings, kept from users who can do nothing about them."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Python's warning filters belong to the whole process: if two threads set them aside at once, neither puts them back.
_LOCK = threading.RLock()


@contextmanager
def quietened(package: str) -> Iterator[None]:
    """Within it, nothing that modules of `package` warn of is shown; one thread at a time."""
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
        yield
