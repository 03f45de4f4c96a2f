"""The session: the pictures, the results and the present run of the page, from its opening until the program ends.

A ticket is a run: how far it is and what came of it. Both are safe to look at from any thread.
"""

import secrets
import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from fastnst.app.web.results import Kept, Limits, Request, Upload, oldest_first
from fastnst.errors import OptionError
from fastnst.options.options import Options
from fastnst.transfer.result import Iterate, LossRecord
from fastnst.transfer.scales import by_scale
from fastnst.video.run import FrameDone

RUNNING, DONE, FAILED = "running", "done", "failed"


class Ticket:
    """One request from its start to its result.

    `state` is running, done or failed; `version` grows with each change that a page has to show. `preview` is the
    newest image as a browser shows it, `last` the newest iterate until the run is over. `stopping` is true once it was
    asked to end.
    """

    def __init__(self, request: Request, options: Options) -> None:
        self.request, self.options = request, options
        self.state, self.version = RUNNING, 0
        self.preview: bytes | None = None
        self.last: Iterate | None = None
        self.stopping, self._lock = False, threading.Lock()
        weights = {term.name: getattr(options, f"{term.name}_weight", 0) for term in fields(LossRecord)}
        self._terms = [name for name, weight in weights.items() if isinstance(weight, tuple) or weight > 0]
        self._points: list[list[float]] = []
        self._progress: dict[str, Any] = {}
        self._previews = 0
        self._message: str | None = None
        self._notes: dict[str, None] = {}
        self._result: Kept | None = None

    @property
    def over(self) -> bool:
        return self.state != RUNNING

    def stop(self) -> None:
        """Ends the run at its next iteration."""
        with self._lock:
            self.stopping = True
            self.version += 1

    def show(self, iterate: Iterate, preview: bytes | None) -> None:
        """Takes an iterate and, now and then, its image."""
        record, (height, width) = iterate.record, iterate.image.shape[-2:]
        # Levels of a transfer share a scale.
        edges = list(dict.fromkeys(iterate.scales))
        with self._lock:
            self._points.append(self._point(record, edges))
            self.last = iterate
            self._progress = {"iteration": record.iteration, "iterations": iterate.iterations}
            self._progress |= {"scale": record.scale, "scales": edges, "width": width, "height": height}
            self._progress |= {"seconds": record.seconds, **self._forecast(record, iterate.share)}
            self._changed(preview)

    def _forecast(self, record: LossRecord, done: float) -> dict[str, float | None]:
        """The part of the run that is done, and the seconds that the rest takes, None while they are unknown."""
        seconds, limit = record.seconds, self.options.seconds
        # The first evaluation of a run is slower than the others, and there is nothing else to go by yet.
        left = seconds * (1 - done) / done if record.iteration >= 2 and done else None
        if limit is not None:
            rest = max(0.0, limit - seconds)
            left, done = rest if left is None else min(left, rest), max(done, min(seconds / limit, 1.0))
        return {"done": done, "left": left}

    def show_frame(self, done: FrameDone, seconds: float, preview: bytes) -> None:
        """Takes a finished frame of a clip; `seconds` are those of the run."""
        height, width = done.frame.shape[:2]
        left = seconds * (done.total - done.done) / done.done if done.done > 1 else None
        with self._lock:
            self._progress = {"iteration": done.done, "iterations": done.total, "frames": done.total}
            self._progress |= {"scale": width, "scales": [width], "width": width, "height": height}
            self._progress |= {"seconds": seconds, "done": done.done / done.total, "left": left}
            self._changed(preview)

    def _changed(self, preview: bytes | None) -> None:
        if preview is not None:
            self.preview = preview
            self._previews += 1
        self.version += 1

    def note(self, text: str) -> None:
        """Takes a warning of the run, for the page to say once."""
        with self._lock:
            self._notes[text] = None
            self.version += 1

    def finish(self, result: Kept | None, message: str | None = None, *, failed: bool = False) -> None:
        with self._lock:
            self._result, self._message = result, message
            self.state = FAILED if failed else DONE
            self.last = None
            self.version += 1

    def losses(self, since: int = 0) -> dict[str, Any]:
        """The curve, from the `since`-th point on: `points` are rows of iteration, scale, total and the weighted terms,
        whose names `terms` are."""
        return {"terms": self._terms, "points": self._points[since:], "since": since}

    def _point(self, record: LossRecord, edges: Sequence[int]) -> list[float]:
        weights = [by_scale(getattr(self.options, f"{term}_weight"), len(edges)) for term in self._terms]
        pairs = zip(self._terms, weights, strict=True)
        weighted = [getattr(record, term) * weight[edges.index(record.scale)] for term, weight in pairs]
        return [record.iteration, record.scale, *(float(f"{value:.5g}") for value in (record.total, *weighted))]

    def view(self, since: int = 0) -> dict[str, Any]:
        """The run as the page shows it, in JSON's types; of the losses those from the `since`-th on."""
        with self._lock:
            return {
                **self.losses(since),
                "number": self.request.number,
                "state": self.state,
                "stopping": self.stopping and not self.over,
                "message": self._message,
                "notes": "; ".join(self._notes),
                "result": self._result and self._result.id,
                "preview": self._previews,
                **self._progress,
            }


class Session:
    """All that the page holds, the same in each of its tabs.

    `id` tells a tab that the program was started anew; `version` grows with each change of the history, `results`,
    oldest first.
    """

    def __init__(self, limits: Limits) -> None:
        self.id = secrets.token_urlsafe(8)
        self.ticket: Ticket | None = None
        self.version = 0
        self._limits = limits
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}
        self.results: list[Kept] = []
        self.next_number = 1

    def add_upload(self, upload: Upload) -> str:
        """Keeps the picture, and returns its name for the page. Pictures that nothing needs are dropped."""
        with self._lock:
            for name, known in self._uploads.items():
                # A GIF is a clip as the content, and its first frame as a style.
                if known.data == upload.data and (known.name, known.frames) == (upload.name, upload.frames):
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
        kept = next((kept for kept in self.results if kept.id == name), None)
        if kept is None:
            raise OptionError("this result is not in the history any more; make it again")
        return kept

    @property
    def is_busy(self) -> bool:
        """True while the present run is not over."""
        return self.ticket is not None and not self.ticket.over

    def take(self, ticket: Ticket) -> None:
        """Makes the ticket the present one. Raises OptionError while another one is not over."""
        with self._lock:
            if self.is_busy:
                raise OptionError("a run is still in progress; stop it first")
            self.ticket = ticket
            self.next_number += 1

    def keep(self, kept: Kept) -> None:
        """Adds a result to the history, which stays within its limits."""
        with self._lock:
            limits = self._limits
            self.results = oldest_first([*self.results, kept], limits.results, limits.history_bytes)
            self.version += 1

    def _drop_unused(self) -> None:
        """The oldest pictures that no result was made of, but for as many as a page shows."""
        needed = {upload for kept in self.results for upload in kept.request.uploads}
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
