"""The workers of a batch as actors on a Ray cluster (https://docs.ray.io); needs `pip install 'fastnst[ray]'`."""

import importlib
import math
import os
import re
import threading
from dataclasses import replace
from typing import Any

from fastnst.app.batch.batch import Event
from fastnst.app.batch.batch_task import Outcome, Task
from fastnst.errors import FastnstError, OptionError


class RayPool:
    """A `Pool` of Ray actors.

    Args:
        workers: how many; None is one for each GPU of the cluster, or where it has none one for each machine, but no
            more than `most`.
        address: the cluster's; None is the one that RAY_ADDRESS names or that runs here, else one is started here.
        use_gpus: whether a worker gets a GPU of its own, if the cluster has any.
        resume: as for `Worker`.

    Workers read and write the tasks' paths themselves: they must mean the same on all machines. Each has, for its
    threads, what the smallest machine can give if they are spread evenly; a worker for whom there is no room gets no
    task.

    Raises OptionError where Ray is not installed, FastnstError where the cluster cannot be reached.
    """

    def __init__(
        self,
        workers: int | None,
        *,
        most: int,
        address: str | None = None,
        use_gpus: bool = True,
        resume: bool = False,
    ) -> None:
        self._ray = _import_ray()
        self._was_there = self._ray.is_initialized()
        if not self._was_there:
            try:
                self._ray.init(address=address, log_to_driver=False, logging_level="error")
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = "Ray" if address is None else f"the Ray cluster {address!r}"
                raise FastnstError(f"{where} cannot be reached ({str(error).splitlines()[0]}); check --ray") from error
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = int(sum(machine.get("GPU", 0) for machine in machines)) if use_gpus else 0
        count = min(most, workers or gpus or len(machines))
        least = min(machine.get("CPU", 1) for machine in machines)
        self._threads = max(1, int(least) // math.ceil(count / len(machines)))
        self._gpus = 1 / math.ceil(count / gpus) if gpus else 0.0
        self._resume = resume
        self._actors: list[Any] = []
        self._answers: dict[Any, int] = {}
        self._ready: set[int] = set()
        for worker in range(count):
            self._actors.append(None)
            self.restart(worker)

    def submit(self, worker: int, task: Task) -> None:
        self._answers[self._actors[worker].run.remote(_absolute(task))] = worker

    def wait(self, seconds: float) -> list[Event]:
        if not self._answers:
            return []
        answered, _ = self._ray.wait(list(self._answers), num_returns=1, timeout=seconds)
        return [self._event(answer) for answer in answered]

    def restart(self, worker: int) -> None:
        actor = self._ray.remote(_Actor).options(
            num_cpus=self._threads, num_gpus=self._gpus, max_concurrency=2, scheduling_strategy="SPREAD"
        )
        self._actors[worker] = actor.remote(self._threads, self._resume)
        self._answers[self._actors[worker].ready.remote()] = worker

    def stop(self) -> None:
        for actor in self._actors:
            actor.stop.remote()

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if not self._was_there:
            self._ray.shutdown()

    def _event(self, answer: Any) -> Event:
        worker = self._answers.pop(answer)
        try:
            outcome: Outcome | None = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            how = _cause(error)
            if worker not in self._ready:
                raise FastnstError(f"a worker could not start on the Ray cluster: {how}") from error
            return Event(worker, died=f"the worker was lost ({how}); lower the size if memory ran out")
        self._ready.add(worker)
        return Event(worker, outcome)


class _Actor:
    """A `Worker` in an actor of two threads: one works, the other hears that it should stop."""

    def __init__(self, threads: int, resume: bool) -> None:
        import torch

        from fastnst.app.batch.batch_worker import Worker

        torch.set_num_threads(threads)
        self._stopped = threading.Event()
        self._worker = Worker(self._stopped.is_set, resume=resume)

    def ready(self) -> None:
        return

    def run(self, task: Task) -> Outcome:
        return self._worker.run(task)

    def stop(self) -> None:
        self._stopped.set()


def _cause(error: Exception) -> str:
    """The line of Ray's report, a coloured traceback or a few sentences, that says why."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    told = [line for line in lines if line]
    if not told:
        return type(error).__name__
    return told[-1] if any("Traceback" in line or "::" in line for line in told) else told[0]


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise OptionError("--ray needs the package ray; install it (pip install 'fastnst[ray]')") from error


def _absolute(task: Task) -> Task:
    """The task with absolute paths: a worker's own folder is another one."""
    options, given = task.options, dict(task.given)
    for name in ("init", "weights"):
        value = getattr(options, name)
        if os.path.isfile(value):  # noqa: PTH113
            given[name] = os.path.abspath(value)  # noqa: PTH100
            options = replace(options, **{name: given[name]})
    if options.masks is not None:
        given["masks"] = [
            {name: source and os.path.abspath(source) for name, source in mask.as_dict().items()}  # noqa: PTH100
            for mask in options.masks
        ]
        options = replace(options, masks=given["masks"])
    content, output = (os.path.abspath(path) for path in (task.content, task.output))  # noqa: PTH100
    styles = tuple(os.path.abspath(style) for style in task.styles)  # noqa: PTH100
    return replace(task, content=content, styles=styles, output=output, given=given, options=options)
