"""The signals that ask a command to stop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# SIGHUP, where there is one, comes when the terminal goes away.
_STOPPING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@contextmanager
def heard(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Within it, Ctrl-C, SIGTERM and SIGHUP call `handler`. Python tells the main thread alone: in another nothing is.

    What was ignored before stays so: nohup, and a shell's background jobs, mean it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
