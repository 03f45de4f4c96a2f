"""Who makes what: each task once, whatever becomes of a worker."""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

from batch_samples import dummy

from fastnst.app.batch.tasks import Outcome, Task, grouped
from fastnst.app.batch.workers import ProcessPool, run_batch


class Pretence(ProcessPool):
    """A pool without processes: `happens` says what comes of a task at its first, second … try."""

    def __init__(self, workers: int, happens: Callable[[Task, int], str]) -> None:
        self.workers, self.happens = workers, happens
        self.tries: list[int] = []
        self.at_work: list[tuple[Task, Future[Outcome]]] = []
        self.renewed = 0
        self.stopped = self.closed = False

    def submit(self, task: Task) -> Future[Outcome]:
        assert len([future for _, future in self.at_work if not future.done()]) < self.workers
        self.tries.append(task.number)
        future: Future[Outcome] = Future()
        self.at_work.append((task, future))
        what = self.happens(task, self.tries.count(task.number))
        if what == "dies":
            for _, other in self.at_work:
                if not other.done():
                    other.set_exception(BrokenProcessPool())
        elif what != "hangs":
            future.set_result(Outcome(task, what, 1.0))
        return future

    def renew(self) -> None:
        self.renewed += 1

    def stop(self) -> None:
        self.stopped = True
        for task, future in self.at_work:
            if not future.done():
                future.set_result(Outcome(task, "interrupted", 1.0))

    def close(self) -> None:
        self.closed = True


def statuses(outcomes: list[Outcome]) -> list[tuple[int, str]]:
    return sorted((outcome.task.number, outcome.status) for outcome in outcomes)


def test_tasks_of_a_style_come_one_after_the_other() -> None:
    tasks = [dummy(number, group) for number, group in enumerate("xyxyxzzzz")]
    assert [task.styles[0] for task in grouped(tasks)] == list("xxxyyzzzz")
    pool = Pretence(2, lambda *_: "done")
    assert statuses(list(run_batch(grouped(tasks), pool))) == [(number, "done") for number in range(9)]
    assert pool.tries == [task.number for task in grouped(tasks)]
    assert pool.closed


def test_the_tasks_beside_one_that_kills_its_worker_are_made() -> None:
    # 0 works until its neighbour, 1, kills the worker; 1 does so again when it works alone.
    happens = {(0, 1): "hangs", (1, 1): "dies", (1, 2): "dies"}
    pool = Pretence(2, lambda task, attempt: happens.get((task.number, attempt), "done"))
    outcomes = list(run_batch([dummy(number, "x") for number in range(4)], pool))
    assert statuses(outcomes) == [(0, "done"), (1, "failed"), (2, "done"), (3, "done")]
    assert [outcome.error for outcome in outcomes if outcome.error] == [
        "its worker died twice, the second time while it worked alone; lower the size if memory ran out"
    ]
    assert pool.renewed == 2
    assert pool.closed


def test_a_batch_that_is_stopped_gives_out_no_more() -> None:
    pool = Pretence(1, lambda *_: "hangs")
    asked = iter([False, False, True])
    outcomes = list(run_batch([dummy(0, "x"), dummy(1, "x")], pool, lambda: next(asked)))
    assert statuses(outcomes) == [(0, "interrupted")]
    assert pool.stopped
    assert pool.closed


def test_a_batch_that_is_left_closes_its_workers() -> None:
    pool = Pretence(1, lambda *_: "done")
    outcomes = run_batch([dummy(0, "x"), dummy(1, "x")], pool)
    next(outcomes)
    outcomes.close()
    assert pool.closed
