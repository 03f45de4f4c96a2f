"""A place in the queue, and what its run shows while it goes on: safe to look at from any thread."""

import threading
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from fastnst.app.web.progress import progress_of
from fastnst.app.web.results import Kept, Request
from fastnst.options.options import Options
from fastnst.transfer.result import Iterate, LossRecord
from fastnst.transfer.scales import scale_style_weights

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


class Ticket:
    """One request from its place in the queue to its result.

    `state` is waiting, running, done or failed; `version` grows with each change that a page has to show.
    """

    def __init__(self, request: Request, options: Options) -> None:
        self.request = request
        self.options = options
        self.state = WAITING
        self.version = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._records: list[LossRecord] = []
        self._iterate: Iterate | None = None
        self._whole: dict[str, Any] = {}
        self._preview: bytes | None = None
        self._previews = 0
        self._message: str | None = None
        self._result: Kept | None = None

    @property
    def stopping(self) -> bool:
        """Whether its visitor, or a closed page, wants it to end."""
        return self._stop.is_set()

    @property
    def over(self) -> bool:
        return self.state in (DONE, FAILED)

    @property
    def preview(self) -> bytes | None:
        """The newest image, as a browser shows it."""
        return self._preview

    @property
    def last(self) -> Iterate | None:
        """The last iterate that was seen, until the run is over."""
        return self._iterate

    def stop(self) -> None:
        """Ends the run at its next iteration, or before it begins."""
        with self._lock:
            self._stop.set()
            if self.state == WAITING:
                self.state = DONE
            self.version += 1

    def begin(self) -> bool:
        """Whether the run may begin: False where it was stopped while it waited."""
        with self._lock:
            if self.state != WAITING:
                return False
            self.state = RUNNING
            self.version += 1
            return True

    def show(self, iterate: Iterate, preview: bytes | None) -> None:
        """Takes an iterate and, now and then, its image."""
        with self._lock:
            self._records.append(iterate.record)
            self._iterate = iterate
            height, width = iterate.image.shape[-2:]
            self._whole = {
                "iterations": iterate.iterations,
                "scales": list(iterate.scales),
                "width": width,
                "height": height,
            }
            if preview is not None:
                self._preview = preview
                self._previews += 1
            self.version += 1

    def finish(self, result: Kept | None, message: str | None = None, *, failed: bool = False) -> None:
        """Ends with a result, a message, or both."""
        with self._lock:
            self._result, self._message = result, message
            self.state = FAILED if failed else DONE
            self._iterate = None
            self.version += 1

    def losses(self, since: int = 0) -> dict[str, Any]:
        """The curve, from the `since`-th point on: `points` are rows of iteration, scale, total and the weighted terms,
        whose names `terms` are."""
        with self._lock:
            terms = _terms(self.options)
            points = [_point(record, terms, self.options, self._whole["scales"]) for record in self._records[since:]]
            return {"terms": terms, "points": points, "since": since}

    def view(self, ahead: int, since: int = 0) -> dict[str, Any]:
        """What the page shows, as JSON holds it; of the losses those from the `since`-th on."""
        losses = self.losses(since)
        with self._lock:
            records = self._records[: since + len(losses["points"])]
            view: dict[str, Any] = {
                **losses,
                "number": self.request.number,
                "state": self.state,
                "stopping": self.stopping and not self.over,
                "ahead": ahead,
                "message": self._message,
                "result": self._result and self._result.id,
                "preview": self._previews,
            }
            if records:
                last, progress = records[-1], progress_of(records, self._whole["scales"], self.options)
                view |= {"iteration": last.iteration, "scale": last.scale, "seconds": last.seconds}
                view |= {"done": progress.done, "left": progress.left, **self._whole}
            return view


def _terms(options: Options) -> list[str]:
    """The terms of the loss that have a weight, and one of more than 0."""
    weights = {term.name: getattr(options, f"{term.name}_weight", 0) for term in fields(LossRecord)}
    return [name for name, weight in weights.items() if isinstance(weight, tuple) or weight > 0]


def _point(record: LossRecord, terms: Sequence[str], options: Options, edges: Sequence[int]) -> list[float]:
    index = edges.index(record.scale)
    weights = [scale_style_weights(getattr(options, f"{term}_weight"), len(edges))[index] for term in terms]
    weighted = [getattr(record, term) * weight for term, weight in zip(terms, weights, strict=True)]
    return [record.iteration, record.scale, *(float(f"{value:.5g}") for value in (record.total, *weighted))]
