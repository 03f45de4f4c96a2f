"""Settings that belong to the whole process, held by the runs of several threads at once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from fastnst.errors import FastnstError

Value = TypeVar("Value")


class HeldSetting(Generic[Value]):
    """A setting that is `read` and `write`n, and that has a holder's value for as long as anyone holds it.

    Threads that want the same value hold it together; one that wants another waits for them. The last to let go puts
    back what was there before the first, whatever order they end in. Within what a thread holds it may hold another
    value, unless other threads hold the setting too.
    """

    def __init__(self, read: Callable[[], Value], write: Callable[[Value], None]) -> None:
        self._read, self._write = read, write
        self._changed = threading.Condition()
        self._held: dict[int, list[Value]] = {}
        self._before: list[Value] = []

    @contextmanager
    def held(self, value: Value) -> Iterator[None]:
        """Within it, the setting is `value`. Raises FastnstError where waiting for others would never end."""
        me = threading.get_ident()
        with self._changed:
            if me in self._held and not self._is_free(value, me):
                raise FastnstError(
                    f"this run needs {value} while another one, in another thread, needs {self._read()}; begin it when "
                    "that has ended, or give both the same precision"
                )
            self._changed.wait_for(lambda: self._is_free(value, me))
            if not self._held:
                self._before = [self._read()]
            self._held.setdefault(me, []).append(value)
            self._write(value)
        try:
            yield
        finally:
            with self._changed:
                own = self._held[me]
                own.pop()
                if own:
                    self._write(own[-1])
                else:
                    del self._held[me]
                if not self._held:
                    self._write(self._before.pop())
                self._changed.notify_all()

    def _is_free(self, value: Value, me: int) -> bool:
        return all(thread == me or values[-1] == value for thread, values in self._held.items())
