"""What goes to a worker of a batch and what comes back. Light, so that a worker starts before torch is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastnst.options.options import Options


@dataclass(frozen=True)
class Task:
    """One picture to make, checked.

    `number` counts the rows from 1, `where` is what messages call the row, `given` are the options to make a
    `Stylizer` with, `options` what they come to. `weights_sha256` is the fingerprint of the network's weights.
    """

    number: int
    where: str
    content: str
    styles: tuple[str, ...]
    output: str
    given: Mapping[str, Any]
    options: Options
    weights_sha256: str

    @property
    def group(self) -> tuple[tuple[str, ...], Options]:
        """Tasks of equal groups share the targets of their styles."""
        return self.styles, self.options


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    `status` is done, skipped (it was there already), failed or interrupted; `error` says why it failed, `traceback`
    where, if that is a fault of the program's. `seconds` is the time it took; `facts` are size, iterations and loss of
    what was made; `warnings` are those that came up.
    """

    task: Task
    status: str
    seconds: float
    error: str | None = None
    traceback: str | None = None
    facts: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As one line of JSON holds it."""
        task = self.task
        known = {
            "row": task.number,
            "where": task.where,
            "content": task.content,
            "style": list(task.styles),
            "output": task.output,
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        optional = {"error": self.error, "traceback": self.traceback, **(self.facts or {})}
        return {**known, **{name: value for name, value in optional.items() if value is not None}}
