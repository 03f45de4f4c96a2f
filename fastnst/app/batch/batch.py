"""The loop of a batch: tasks go to workers that are free, outcomes come as they finish."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastnst.app.batch.batch_task import Outcome, Task

_POLL = 0.2  # seconds between looks at whether to stop


@dataclass(frozen=True)
class Event:
    """What a worker says: that it is ready (no outcome), the outcome of its task, or that it `died`, and how."""

    worker: int
    outcome: Outcome | None = None
    died: str | None = None


class Pool(Protocol):
    """Workers, numbered from 0, wherever they are. Each says that it is ready before it is given its first task."""

    def submit(self, worker: int, task: Task) -> None:
        """Gives a task to a worker that has none."""

    def wait(self, seconds: float) -> list[Event]:
        """What has happened, after at most so long. Raises FastnstError where a worker cannot be started."""

    def restart(self, worker: int) -> None:
        """Puts a new worker in the place of one that died."""

    def stop(self) -> None:
        """Tells all workers to leave off after the present iteration."""

    def close(self) -> None:
        """Ends the workers, also those that are at work, within seconds."""


def run_batch(tasks: Sequence[Task], pool: Pool, should_stop: Callable[[], bool] = lambda: False) -> Generator[Outcome]:
    """Yields the outcome of each task as it comes. Closes the pool at the end, however that comes.

    Once `should_stop` says so, no more tasks are given out, and those at work end as interrupted. A task whose worker
    dies has failed; the others go on.
    """
    schedule = Schedule(tasks)
    running: dict[int, Task] = {}
    stopping = False
    try:
        while running or (schedule and not stopping):
            if not stopping and should_stop():
                stopping = True
                pool.stop()
            for event in pool.wait(_POLL):
                task = running.pop(event.worker, None)
                if event.outcome is not None:
                    yield event.outcome
                if event.died is not None:
                    if task is not None:
                        yield _lost(task, event.died, stopping)
                    if schedule and not stopping:
                        pool.restart(event.worker)
                elif schedule and not stopping:
                    running[event.worker] = schedule.take(event.worker)
                    pool.submit(event.worker, running[event.worker])
    finally:
        pool.close()


def _lost(task: Task, how: str, stopping: bool) -> Outcome:
    return Outcome(task, "interrupted" if stopping else "failed", 0.0, None if stopping else how)


class Schedule:
    """The tasks that are left, by groups; a worker gets those of its own group while there are any.

    Then it begins a group of which no one has had a task, and last it helps with the group that has most left.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._left: dict[Any, deque[Task]] = {}
        for task in tasks:
            self._left.setdefault(task.group, deque()).append(task)
        self._begun: set[Any] = set()
        self._own: dict[int, Any] = {}

    def __len__(self) -> int:
        return sum(len(tasks) for tasks in self._left.values())

    def take(self, worker: int) -> Task:
        """The next task of `worker`. Raises IndexError where none is left."""
        group = self._own.get(worker)
        if group not in self._left:
            if not self._left:
                raise IndexError("no task is left")
            fresh = (group for group in self._left if group not in self._begun)
            group = next(fresh, None) or max(self._left, key=lambda group: len(self._left[group]))
        tasks = self._left[group]
        self._begun.add(group)
        self._own[worker] = group
        task = tasks.popleft()
        if not tasks:
            del self._left[group]
        return task
