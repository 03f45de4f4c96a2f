"""The workers of a batch as processes of this machine, started afresh (spawn), one per GPU or with a share of the CPU.

Nothing here loads torch before a worker knows which GPU it may see.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event as Flag

from fastnst.app.batch.batch import Event
from fastnst.app.batch.batch_task import Task
from fastnst.errors import FastnstError

_LAST_WORDS = 5.0  # seconds that workers have to end by themselves


@dataclass
class _Process:
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    dead: bool = False


class ProcessPool:
    """A `Pool` of processes.

    `threads` is how many each may use on a CPU; worker i sees the GPU `gpus[i % len(gpus)]` alone, by its name in
    CUDA_VISIBLE_DEVICES, or where there are none what this process sees. They ignore Ctrl-C, which is the parent's, and
    end with it.
    """

    def __init__(self, workers: int, *, threads: int, gpus: Sequence[str] = (), resume: bool = False) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._threads, self._gpus, self._resume = threads, gpus, resume
        self._stop: Flag = self._context.Event()
        self._workers = [self._started(worker) for worker in range(workers)]

    def submit(self, worker: int, task: Task) -> None:
        with suppress(OSError):  # it has died; wait() tells
            self._workers[worker].connection.send(task)

    def wait(self, seconds: float) -> list[Event]:
        living = [worker for worker in self._workers if not worker.dead]
        wait([item for worker in living for item in (worker.connection, worker.process.sentinel)], seconds)
        return [event for number, worker in enumerate(self._workers) for event in self._heard(number, worker)]

    def restart(self, worker: int) -> None:
        self._workers[worker].connection.close()
        self._workers[worker] = self._started(worker)

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        for worker in self._workers:
            if not worker.dead:
                worker.connection.close()
        self._stop.set()
        deadline = time.monotonic() + _LAST_WORDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _started(self, number: int) -> _Process:
        ours, theirs = self._context.Pipe()
        gpu = self._gpus[number % len(self._gpus)] if self._gpus else None
        process = self._context.Process(
            target=_serve, args=(theirs, self._stop, self._threads, gpu, self._resume), daemon=True
        )
        with _held_back(signal.SIGINT):
            process.start()
        theirs.close()
        return _Process(process, ours)

    def _heard(self, number: int, worker: _Process) -> Iterator[Event]:
        if worker.dead:
            return
        ended = not worker.process.is_alive()  # before what it said is read, so that nothing is missed
        try:
            while worker.connection.poll():
                outcome = worker.connection.recv()
                worker.ready = True
                yield Event(number, outcome)
        except (EOFError, OSError):
            worker.process.join()
            ended = True
        if ended:
            worker.dead = True
            how = _how_it_ended(worker.process.exitcode)
            if not worker.ready:
                raise FastnstError(f"a worker could not start: it {how}; see above, or lower --workers")
            yield Event(number, died=f"the worker {how}; lower the size or --workers if memory ran out")


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Within it, the signal waits, also for a process that starts here and has not said what to do with it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, stop: Flag, threads: int, gpu: str | None, resume: bool) -> None:
    """A worker's life: tasks in, outcomes out, until the connection is closed."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    import torch

    from fastnst.app.batch.batch_worker import Worker

    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    worker = Worker(lambda: stop.is_set() or (parent is not None and not parent.is_alive()), resume=resume)
    try:
        connection.send(None)
        while True:
            connection.send(worker.run(connection.recv()))
    except (EOFError, OSError):  # the parent has closed it, or is gone
        return
