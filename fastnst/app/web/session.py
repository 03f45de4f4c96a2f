"""The session: the pictures, the results and the present run of the page, from its opening until the program ends."""

import secrets
import threading
from dataclasses import replace
from typing import Any

from fastnst.app.web.results import Kept, Limits, Request, Upload, oldest_first
from fastnst.app.web.ticket import Ticket
from fastnst.errors import OptionError


class Session:
    """All that the page holds, the same in each of its tabs; safe to use from any thread.

    `id` tells a tab that the program was started anew; `version` grows with each change of the history.
    """

    def __init__(self, limits: Limits) -> None:
        self.id = secrets.token_urlsafe(8)
        self.ticket: Ticket | None = None
        self.version = 0
        self._limits = limits
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}
        self._results: list[Kept] = []
        self._requests = 0

    @property
    def results(self) -> list[Kept]:
        """The history, oldest first."""
        return list(self._results)

    def add_upload(self, upload: Upload) -> str:
        """Keeps the picture, and returns its name for the page. Pictures that nothing needs are dropped."""
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
        upload = self._uploads.get(name) if isinstance(name, str) else None
        if upload is None:
            raise OptionError("this picture is not here any more; drop it again")
        return upload

    def upload_name(self, upload: Upload) -> str | None:
        """The name that the page knows the picture by, if it is still here."""
        return next((name for name, known in list(self._uploads.items()) if known is upload), None)

    def result(self, name: object) -> Kept:
        """Raises OptionError where there is none of this name."""
        kept = next((kept for kept in self._results if kept.id == name), None)
        if kept is None:
            raise OptionError("this result is not in the history any more; make it again")
        return kept

    @property
    def next_number(self) -> int:
        return self._requests + 1

    def take(self, ticket: Ticket) -> None:
        """Makes the ticket the present one. Raises OptionError while another one is not over."""
        with self._lock:
            if self.ticket is not None and not self.ticket.over:
                raise OptionError("a run is still in progress; stop it first")
            self.ticket = ticket
            self._requests += 1

    def keep(self, kept: Kept) -> None:
        """Adds a result to the history, which stays within its limits."""
        with self._lock:
            limits = self._limits
            self._results = oldest_first([*self._results, kept], limits.results, limits.history_bytes)
            self.version += 1

    def _drop_unused(self) -> None:
        """The oldest pictures that no result was made of, but for as many as a page shows."""
        needed = {upload for kept in self._results for upload in kept.request.uploads}
        if self.ticket is not None:
            needed |= set(self.ticket.request.uploads)
        loose = [name for name, upload in self._uploads.items() if upload not in needed]
        for name in loose[: -2 * (1 + self._limits.styles)]:
            del self._uploads[name]


def continued(kept: Kept, number: int, size: int) -> Request:
    """The request that goes on from a result at another size: the same options at one scale, from its image.

    Where each scale had a value of its own, that of the last scale goes on.
    """
    request, options = kept.request, kept.parameters["options"]
    changed: dict[str, Any] = {"size": size, "scales": "none"}
    for name in ("iterations", "style_weight"):
        if isinstance(options[name], list | tuple):
            changed[name] = options[name][-1]
    form = {**request.form, **{name: str(value) for name, value in changed.items()}}
    options = {**request.options, **changed}
    return replace(request, number=number, options=options, form=form, begins=kept.id, start=kept)
