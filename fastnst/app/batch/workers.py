"""The workers of a batch as processes of this machine, and the loop that gives them its tasks."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any

import torch

from fastnst.app.batch.tasks import Outcome, Task, is_done
from fastnst.errors import FastnstError, FastnstWarning, Interrupted, counted
from fastnst.image.read import open_picture
from fastnst.image.write import check_output_path
from fastnst.loss.networks import Networks
from fastnst.network.runtime import is_out_of_memory
from fastnst.transfer.inputs import fingerprint
from fastnst.transfer.result import Iterate
from fastnst.transfer.run import Watch
from fastnst.transfer.stylizer import Stylizer
from fastnst.video.run import FrameDone, Production
from fastnst.video.work import Work, work_folder

KEPT_STYLES = 2
"""Stylizers that a worker keeps: each has its styles' pictures and targets. Tasks come by groups, so few are enough."""

_POLL = 0.2  # seconds between looks at whether to stop
_LAST_WORDS = 5.0  # seconds that workers have to end by themselves
_LOST = "its worker died twice, the second time while it worked alone; lower the size if memory ran out"

# Workers that die one after the other before they have begun.
_MOST_STILLBORN = 3


class _CannotStart(Exception):
    """Worker after worker has died while it started."""


_worker: "Worker"  # of this process, where it is one


def run_batch(
    tasks: Sequence[Task], pool: "ProcessPool", should_stop: Callable[[], bool] = lambda: False
) -> Generator[Outcome]:
    """Yields the outcome of each task as it comes, and closes the pool in the end.

    Once `should_stop` says so, no more tasks are given out, and those at work end as interrupted. The tasks that were
    at work when a worker died are tried once more, one by one. Where no worker can start any more, those that are left
    fail.
    """
    ended = set()
    try:
        for outcome in _outcomes(tasks, pool, should_stop, pool.workers):
            ended.add(outcome.task.number)
            yield outcome
    except _CannotStart as error:
        for task in tasks:
            if task.number not in ended:
                yield Outcome(task, "failed", error=str(error))
    finally:
        pool.close()


def _outcomes(
    tasks: Iterable[Task], pool: "ProcessPool", should_stop: Callable[[], bool], most: int, *, alone: bool = False
) -> Generator[Outcome]:
    """Keeps `most` tasks at work; `alone` are those that have lost a worker before."""
    waiting, at_work, stopping = deque(tasks), dict[Future[Outcome], Task](), False
    while at_work or (waiting and not stopping):
        if not stopping and should_stop():
            stopping = True
            pool.stop()
        while waiting and len(at_work) < most and not stopping:
            task = waiting.popleft()
            at_work[pool.submit(task)] = task
        done, _ = wait(at_work, _POLL, FIRST_COMPLETED)
        broken = any(isinstance(future.exception(), BrokenProcessPool) for future in done)
        lost = []
        for future in wait(at_work).done if broken else done:
            task = at_work.pop(future)
            if future.exception() is None:
                yield future.result()
            elif stopping:
                yield Outcome(task, "interrupted")
            elif alone:
                yield Outcome(task, "failed", error=_LOST)
            else:
                lost.append(task)
        if broken and not stopping:
            pool.renew()
            yield from _outcomes(lost, pool, should_stop, most=1, alone=True)


class ProcessPool:
    """Processes of this machine, started afresh (spawn); new ones take their place where one has died.

    `threads` is how many each may use on a CPU; each sees one of the `gpus` alone, by its name in CUDA_VISIBLE_DEVICES,
    or where there are none what this process sees. They ignore Ctrl-C, which is the parent's, and end with it.
    """

    def __init__(self, workers: int, *, threads: int, gpus: Sequence[str] = (), resume: bool = False) -> None:
        self.workers = workers
        self._context = multiprocessing.get_context("spawn")
        # No worker has the other end: when it closes, or its process is gone, all of them end.
        lifeline, self._held = self._context.Pipe(duplex=False)
        stop, started = self._context.Event(), self._context.Event()
        self._shares = self._context.Array("d", workers)
        numbers = self._context.Value("i", 0)
        self._start = _Start(lifeline, stop, started, self._shares, numbers, threads, resume, gpus)
        self._stillborn = 0
        self._executor = self._made()

    def submit(self, task: Task) -> Future[Outcome]:
        """Gives the task to a worker; the future raises BrokenProcessPool where one has died."""
        masks = hasattr(signal, "pthread_sigmask")
        # A process that starts here must not hear a Ctrl-C before it says that it ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if masks else None
        try:
            return self._executor.submit(_run, task)
        except (BrokenProcessPool, OSError) as error:  # OSError: no process is to be had
            future: Future[Outcome] = Future()
            future.set_exception(BrokenProcessPool(str(error)))
            return future
        finally:
            if before is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def renew(self) -> None:
        """Puts new processes in the place of all. Raises `_CannotStart` where none comes to life, time after time."""
        self._executor.shutdown()
        self._stillborn = 0 if self._start.started.is_set() else self._stillborn + 1
        if self._stillborn == _MOST_STILLBORN:
            raise _CannotStart("a worker could not start; read its message above, or lower --workers")
        self._start.started.clear()
        self._executor = self._made()

    def share(self) -> float:
        """The part of the tasks at work that is done, each of which counts up to 1."""
        return float(sum(self._shares[:]))

    def stop(self) -> None:
        """Tells all workers to leave off after the present iteration."""
        self._start.stop.set()

    def close(self) -> None:
        """Ends the workers, also those that are at work, within seconds."""
        self._held.close()
        self._executor.shutdown(cancel_futures=True)

    def _made(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, self._context, _begin, (self._start,))


@dataclass(frozen=True)
class _Start:
    """All that a worker is started with: the pipe that ends it, the flag that stops it, the one that it sets itself,
    and the array in which each, by its number, says how far its task is."""

    lifeline: Connection
    stop: Flag
    started: Flag
    shares: Any
    numbers: Any
    threads: int
    resume: bool
    gpus: Sequence[str]


def _begin(start: _Start) -> None:
    global _worker
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with start.numbers.get_lock():
        place = start.numbers.value % len(start.shares)
        start.numbers.value += 1
    if start.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = start.gpus[place % len(start.gpus)]  # CUDA reads it when it is first used
    torch.set_num_threads(start.threads)
    ending = threading.Event()
    threading.Thread(target=_end_with_the_parent, args=(start.lifeline, ending), daemon=True).start()

    def note(share: float) -> None:
        start.shares[place] = share

    _worker = Worker(lambda: ending.is_set() or start.stop.is_set(), note, resume=start.resume)
    start.started.set()


def _end_with_the_parent(lifeline: Connection, ending: threading.Event) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv()
    ending.set()
    time.sleep(_LAST_WORDS)
    os._exit(1)


def _run(task: Task) -> Outcome:
    return _worker.run(task)


class Worker:
    """Makes the pictures of tasks, one after the other, and keeps what the next one can use; it is the callback of its
    runs, which needs no image.

    `should_stop` is asked after each evaluation; a picture that it stops is not written. `note` hears how far the
    picture is, 0 to 1. With `resume`, an output that is there already is not made again.
    """

    lazy = True

    def __init__(
        self, should_stop: Callable[[], bool], note: Callable[[float], None] = lambda _: None, *, resume: bool = False
    ) -> None:
        self._should_stop, self._note, self._resume = should_stop, note, resume
        self._networks = Networks()
        self._fingerprint = cache(fingerprint)
        self._stylizer = lru_cache(KEPT_STYLES)(
            lambda styles, options: Stylizer(list(styles), networks=self._networks, **vars(options))
        )

    def __call__(self, iterate: Iterate) -> bool:
        self._note(iterate.share)
        return not self._should_stop()

    def run(self, task: Task) -> Outcome:
        """Makes and writes one picture. Every Exception ends in the outcome."""
        began = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", FastnstWarning)
            outcome = self._run(task)
        self._note(0.0)
        texts = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        return replace(outcome, seconds=time.perf_counter() - began, warnings=texts)

    def _run(self, task: Task) -> Outcome:
        pixels = task.options.max_pixels
        try:
            if task.is_clip:
                return self._clip(task)
            if self._resume and is_done(task, partial(self._fingerprint, pixels)):
                return Outcome(task, "skipped")
            content = open_picture(task.content, role="content", max_pixels=pixels)
            prepared = self._stylizer(*task.group).prepare(content)
            check_output_path(task.output, prepared.scales[-1].size)
            result = prepared.run(Watch(callback=self, callback_every=None))
            if result.stopped == "callback":
                return Outcome(task, "interrupted")
            result.save(task.output)
        except FastnstError as error:
            return Outcome(task, "failed", error=str(error))
        except Exception as error:  # noqa: BLE001 - the batch goes on; the log has the traceback
            if is_out_of_memory(error):
                self._stylizer.cache_clear()
                self._networks.clear()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                lower = "it ran out of memory; lower its size, style scale or scales, or --workers"
                return Outcome(task, "failed", error=lower)
            fault = f"{type(error).__name__}: {error}"
            return Outcome(task, "failed", error=fault, traceback=traceback.format_exc())
        height, width = result.tensor.shape[-2:]
        iterations, loss = result.losses[-1].iteration, result.parameters["final"]["total"]
        return Outcome(task, "done", facts={"width": width, "height": height, "iterations": iterations, "loss": loss})

    def _clip(self, task: Task) -> Outcome:
        """Makes and writes one clip; its frames are kept where that is stopped between two of them."""
        output = Path(task.output)

        def look(_: FrameDone) -> None:
            if self._should_stop():
                raise Interrupted

        try:
            resume = self._resume and Work(work_folder(output)).record.exists()
            production = Production(task.content, list(task.styles), output, resume=resume, **vars(task.options))
            if self._resume and production.is_there():
                production.work.remove()
                return Outcome(task, "skipped")
            result = production.run(look)
        except Interrupted:
            return Outcome(task, "interrupted")
        if result.broken is not None:
            how = f"{result.broken}; the output has the {counted(result.frames, 'frame')} before it"
            return Outcome(task, "failed", error=how)
        height, width = result.size
        return Outcome(task, "done", facts={"width": width, "height": height, "frames": result.frames})
