"""Who makes what: each task once, those of a style one after the other, whatever becomes of a worker."""

from collections.abc import Callable

import pytest
from batch_samples import dummy
from hypothesis import given
from hypothesis import strategies as st

from fastnst.app.batch.batch import Event, Schedule, run_batch
from fastnst.app.batch.batch_rows import grouped
from fastnst.app.batch.batch_task import Outcome, Task


def test_a_workers_next_task_has_its_style() -> None:
    tasks = [dummy(number, group) for number, group in enumerate("xyxyxzzzz")]
    assert [task.styles[0] for task in grouped(tasks)] == list("xxxyyzzzz")
    schedule = Schedule(grouped(tasks))
    taken: dict[int, str] = {0: "", 1: ""}
    for worker in (0, 1, 0, 1, 1, 1, 0, 0, 0):
        taken[worker] += schedule.take(worker).styles[0]
    # 1 has finished y and goes on to z; 0 has finished x and helps with what is left of z.
    assert taken == {0: "xxxzz", 1: "yyzz"}
    assert not schedule
    with pytest.raises(IndexError):
        schedule.take(0)


@given(
    groups=st.lists(st.sampled_from("uvwxyz"), max_size=30),
    workers=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)
def test_each_task_is_taken_once(groups: list[str], workers: list[int]) -> None:
    tasks = [dummy(number, group) for number, group in enumerate(groups)]
    schedule = Schedule(grouped(tasks))
    own: dict[int, str] = {}
    taken = []
    for worker in workers[: len(tasks)]:
        left = {task.styles[0] for task in tasks if task not in taken}
        task = schedule.take(worker)
        assert own.get(worker) not in left or task.styles[0] == own[worker]
        own[worker] = task.styles[0]
        taken.append(task)
    assert sorted(task.number for task in taken) == list(range(len(groups)))
    assert not schedule


class Pretence:
    """A pool without work: `happens` says what comes of each task; a worker can die."""

    def __init__(self, workers: int, happens: Callable[[Task], str]) -> None:
        self.happens, self.events = happens, [Event(worker) for worker in range(workers)]
        self.stopped = self.closed = False
        self.restarted: list[int] = []

    def submit(self, worker: int, task: Task) -> None:
        what = self.happens(task)
        if what == "dies":
            self.events.append(Event(worker, died="the worker was killed by SIGKILL"))
        elif what != "hangs":
            self.events.append(Event(worker, Outcome(task, what, 1.0)))

    def wait(self, seconds: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def restart(self, worker: int) -> None:
        self.restarted.append(worker)
        self.events.append(Event(worker))

    def stop(self) -> None:
        self.stopped = True
        self.events.append(Event(0, Outcome(dummy(0, "x"), "interrupted", 1.0)))

    def close(self) -> None:
        self.closed = True


def test_a_task_whose_worker_dies_has_failed_and_the_others_go_on() -> None:
    tasks = [dummy(number, "x") for number in range(5)]
    pool = Pretence(2, lambda task: "dies" if task.number in (1, 4) else "done")
    outcomes = list(run_batch(tasks, pool))
    assert sorted((outcome.task.number, outcome.status) for outcome in outcomes) == [
        *((number, "failed" if number in (1, 4) else "done") for number in range(5))
    ]
    assert [outcome.error for outcome in outcomes if outcome.status == "failed"] == [
        "the worker was killed by SIGKILL"
    ] * 2
    assert len(pool.restarted) == 1
    assert pool.closed


def test_a_batch_that_is_stopped_gives_out_no_more() -> None:
    pool = Pretence(1, lambda _: "hangs")
    asked = iter([False, False, True])
    outcomes = list(run_batch([dummy(0, "x"), dummy(1, "x")], pool, lambda: next(asked)))
    assert [outcome.status for outcome in outcomes] == ["interrupted"]
    assert pool.stopped
    assert pool.closed


def test_a_batch_that_is_left_closes_its_workers() -> None:
    pool = Pretence(1, lambda _: "done")
    outcomes = run_batch([dummy(0, "x"), dummy(1, "x")], pool)
    next(outcomes)
    outcomes.close()
    assert pool.closed
