"""The rows of a batch as tasks of a Ray cluster (https://docs.ray.io); needs `pip install 'fastnst[ray]'`."""

import importlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastnst.app.batch.tasks import Outcome, Task
from fastnst.app.batch.workers import Worker
from fastnst.errors import FastnstError, OptionError, warn

_POLL = 0.2  # seconds between looks at whether to stop
_PATIENCE = 60.0  # seconds without any task at work, of which the user is told


def run_on_ray(
    tasks: Sequence[Task],
    should_stop: Callable[[], bool] = lambda: False,
    *,
    workers: int | None = None,
    address: str | None = None,
    resume: bool = False,
) -> Generator[Outcome]:
    """Yields the outcome of each task as it comes; Ray tries one whose worker dies once more.

    workers: how many at a time; None is one for each GPU of the cluster, or where it has none one for each machine.
    address: the cluster's; None is the one that RAY_ADDRESS names or that runs here, else one is started here.

    The machines read and write the tasks' paths themselves, from this process's folder: both must mean the same on all.
    Raises OptionError where Ray is not installed, FastnstError where the cluster cannot be reached.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise OptionError("--ray needs the package ray; install it (pip install 'fastnst[ray]')") from error
    was_there, at_work, stopping = ray.is_initialized(), dict[Any, Task](), False
    if not was_there:
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "Ray" if address is None else f"the Ray cluster {address!r}"
            raise FastnstError(f"{where} cannot be reached ({str(error).splitlines()[0]}); check --ray") from error
        finally:
            # Ray puts one in its place that leaves without a word.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)
    try:
        on_gpu = any(task.options.device != "cpu" for task in tasks)
        resources = _resources(ray, workers, on_gpu=on_gpu)
        row = ray.remote(_row).options(max_retries=1, scheduling_strategy="SPREAD", **resources)
        threads, folder = resources["num_cpus"], str(Path.cwd())
        at_work = {row.remote(task, folder, threads, resume): task for task in tasks}
        patient_until = time.monotonic() + _PATIENCE
        while at_work:
            if time.monotonic() > patient_until and ray.available_resources().get("CPU", 0) < threads:
                patient_until = math.inf
                many = f"{threads} free CPUs" if threads > 1 else "a free CPU"
                warn(f"the Ray cluster has no machine with {many} yet; waiting for one; Ctrl-C ends the wait")
            if not stopping and should_stop():
                stopping = True
                for reference in at_work:
                    ray.cancel(reference)
            for reference in ray.wait(list(at_work), timeout=_POLL)[0]:
                task, patient_until = at_work.pop(reference), math.inf
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    how = f"its worker was lost twice ({type(error).__name__}); lower the size if memory ran out"
                    yield Outcome(task, "interrupted") if stopping else Outcome(task, "failed", error=how)
    finally:
        for reference in at_work:
            ray.cancel(reference, force=True)
        if not was_there:
            ray.shutdown()


def _resources(ray: Any, workers: int | None, *, on_gpu: bool) -> dict[str, Any]:
    """The part of a machine for each of so many workers, spread evenly: the threads of the smallest, and a GPU.

    Raises FastnstError where Ray would wait for a machine for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not machines:
        raise FastnstError("no machine of the Ray cluster offers a CPU; start one with: ray start --num-cpus 1")
    gpus = int(sum(machine.get("GPU", 0) for machine in machines)) if on_gpu else 0
    count = workers or gpus or len(machines)
    least = int(min(machine["CPU"] for machine in machines))
    threads = max(1, least // math.ceil(count / len(machines)))
    return {"num_cpus": threads, "num_gpus": 1 / math.ceil(count / gpus) if gpus else 0}


def _row(task: Task, folder: str, threads: int, resume: bool) -> Outcome:
    os.chdir(folder)
    torch.set_num_threads(threads)
    return _worker(resume).run(task)


@cache
def _worker(resume: bool) -> Worker:
    """The worker of this process, which keeps what its next task can use."""
    return Worker(lambda: False, resume=resume)
