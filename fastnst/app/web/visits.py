"""The visitors: the pictures and results of each, and whether its page is still open."""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from fastnst.app.web.limits import Limits
from fastnst.app.web.results import Kept, Request, oldest_first
from fastnst.app.web.ticket import Ticket
from fastnst.app.web.uploads import Upload
from fastnst.errors import OptionError

AWAY_SECONDS = 5.0
"""So long a page may be gone, as when it is loaded again, before its run is given up."""

FORGET_SECONDS = 600.0
"""So long it may be gone before all of the visit is forgotten."""


class Visit:
    """One page in one tab, from its opening until it is forgotten; safe to use from any thread."""

    def __init__(self, limits: Limits) -> None:
        self.id = secrets.token_urlsafe(24)
        self.ticket: Ticket | None = None
        self.version = 0
        self._limits = limits
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}
        self._results: list[Kept] = []
        self._requests = 0
        self._open_pages = 0
        self._left = time.monotonic()

    @property
    def results(self) -> list[Kept]:
        """The history, oldest first."""
        return list(self._results)

    def add_upload(self, upload: Upload) -> str:
        """Keeps the picture, and returns the name that the page knows it by. Those that nothing needs are dropped."""
        with self._lock:
            for name, known in self._uploads.items():
                if known.data == upload.data and known.name == upload.name:
                    return name
            name = secrets.token_urlsafe(8)
            self._uploads[name] = upload
            self._drop_unused()
            return name

    def upload(self, name: object) -> Upload:
        """Raises OptionError where there is none of this name."""
        found = self._uploads.get(name) if isinstance(name, str) else None
        if found is None:
            raise OptionError("this picture is not here any more; drop it again")
        return found

    def upload_name(self, upload: Upload) -> str | None:
        """The name that the page knows the picture by, if it is still here."""
        return next((name for name, known in list(self._uploads.items()) if known is upload), None)

    def result(self, name: object) -> Kept:
        """Raises OptionError where there is none of this name."""
        for kept in self._results:
            if kept.id == name:
                return kept
        raise OptionError("this result is not in the history any more; make it anew")

    @property
    def next_number(self) -> int:
        """The number of the request that comes next."""
        return self._requests + 1

    def take(self, ticket: Ticket) -> None:
        """Makes the ticket the visit's own. Raises OptionError while another one is not over."""
        with self._lock:
            if self.ticket is not None and not self.ticket.over:
                raise OptionError("a run of this page is going on; stop it first")
            self.ticket = ticket
            self._requests += 1

    def keep(self, kept: Kept) -> None:
        """Adds a result to the history, which stays within its limits."""
        with self._lock:
            limits = self._limits
            self._results = oldest_first([*self._results, kept], limits.results, limits.visit_bytes)
            self.version += 1

    def page_opened(self) -> None:
        with self._lock:
            self._open_pages += 1

    def page_closed(self) -> None:
        with self._lock:
            self._open_pages -= 1
            self._left = time.monotonic()

    def away(self) -> float:
        """For how many seconds no page of it has been open."""
        with self._lock:
            return 0.0 if self._open_pages else time.monotonic() - self._left

    def _drop_unused(self) -> None:
        """The oldest pictures that no result was made of, but for as many as a page shows."""
        needed = {upload for kept in self._results for upload in (kept.request.content, *kept.request.styles)}
        if self.ticket is not None:
            needed |= {self.ticket.request.content, *self.ticket.request.styles}
        loose = [name for name, upload in self._uploads.items() if upload not in needed]
        for name in loose[: -2 * (1 + self._limits.styles)]:
            del self._uploads[name]


class Visits:
    """All visits; `give_up` is called with the ticket of one whose page is gone."""

    def __init__(self, limits: Limits, give_up: Callable[[Ticket], None]) -> None:
        self._limits = limits
        self._give_up = give_up
        self._visits: dict[str, Visit] = {}

    def open(self) -> Visit:
        """A new visit. Raises OptionError where there are as many as there may be, all with a page open."""
        if len(self._visits) >= self._limits.visits:
            longest = max(self._visits.values(), key=lambda visit: visit.away())
            if longest.away() < AWAY_SECONDS:
                raise OptionError(f"{len(self._visits)} pages are open, the most there may be; close one or come later")
            self._forget(longest)
        visit = Visit(self._limits)
        self._visits[visit.id] = visit
        return visit

    def find(self, name: str) -> Visit | None:
        return self._visits.get(name)

    def keep(self, ticket: Ticket, kept: Kept) -> None:
        """Gives a result to the visit that the ticket is of, if it is still here."""
        for visit in list(self._visits.values()):
            if visit.ticket is ticket:
                visit.keep(kept)

    def sweep(self) -> None:
        """Gives up the runs of pages that are gone, and forgets visits that nobody came back to."""
        for visit in list(self._visits.values()):
            away = visit.away()
            if away > AWAY_SECONDS and visit.ticket is not None and not visit.ticket.over:
                self._give_up(visit.ticket)
            if away > FORGET_SECONDS:
                self._forget(visit)

    def _forget(self, visit: Visit) -> None:
        if visit.ticket is not None and not visit.ticket.over:
            self._give_up(visit.ticket)
        del self._visits[visit.id]


def continued(kept: Kept, number: int, size: int) -> Request:
    """The request that goes on from a result at another size: the same options at one scale, from its image.

    Of what the scales had one each of, that of the last scale goes on.
    """
    request, options = kept.request, kept.parameters["options"]
    changed: dict[str, Any] = {"size": size, "scales": "none"}
    for name in ("iterations", "style_weight"):
        if isinstance(options[name], list | tuple):
            changed[name] = options[name][-1]
    form = {**request.form, **{name: str(value) for name, value in changed.items()}}
    return Request(
        number=number,
        content=request.content,
        styles=request.styles,
        options={**request.options, **changed},
        form=form,
        begins=kept.id,
        start=kept,
    )
