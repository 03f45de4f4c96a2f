"""The one queue: tickets are served one at a time, in the order in which they came, by one thread."""

import threading
from collections import deque
from collections.abc import Callable

from fastnst.app.web.ticket import Ticket


class Desk:
    """`serve` is called with each ticket, in a thread of its own, and must not raise."""

    def __init__(self, serve: Callable[[Ticket], None]) -> None:
        self._serve = serve
        self._waiting: deque[Ticket] = deque()
        self._served: Ticket | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="fastnst-web-desk", daemon=True)
        self._thread.start()

    def join(self, ticket: Ticket) -> None:
        """Puts the ticket at the end of the queue."""
        with self._changed:
            self._waiting.append(ticket)
            self._changed.notify()

    def leave(self, ticket: Ticket) -> None:
        """Takes the ticket out of the queue, or ends its run."""
        with self._changed:
            ticket.stop()
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def ahead(self, ticket: Ticket) -> int:
        """How many are served before it; 0 where its turn has come or is over."""
        with self._changed:
            if ticket not in self._waiting:
                return 0
            return self._waiting.index(ticket) + (self._served is not None)

    def close(self, seconds: float = 10.0) -> None:
        """Stops everything, and waits so long for the run to end."""
        with self._changed:
            self._closed = True
            for ticket in (*self._waiting, *([self._served] if self._served else [])):
                ticket.stop()
            self._waiting.clear()
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._served = None
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                self._served = self._waiting.popleft()
            if self._served.begin():
                self._serve(self._served)
