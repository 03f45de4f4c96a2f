"""Processes that start quickly; several of them as torchrun would start them, each with one thread."""

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

# Seconds, for what takes a few on a quiet machine.
PATIENCE = 600.0
# The server has imported what takes long, and each process is forked from it.
_CONTEXT: Any = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    _CONTEXT.set_forkserver_preload(["torch.distributed", "fastnst.transfer.stylizer", "fastnst.plan.processes"])


def start(size: int, job: Callable[..., Any], folder: Path, *arguments: Any) -> list[BaseProcess]:
    """Starts `job(*arguments)`, a function of a module, in `size` processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes: list[BaseProcess] = [
        _CONTEXT.Process(target=_one, args=(rank, size, port, job, folder, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def forked(job: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Starts `job(*arguments)`, a function of a module, in one process, quicker than a command starts."""
    process: BaseProcess = _CONTEXT.Process(target=job, args=arguments, daemon=True)
    process.start()
    return process


def run_together(size: int, job: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `job` returns in each of `size` processes; raises RuntimeError with the traceback of one that failed."""
    finish(start(size, job, folder, *arguments))
    results = [torch.load(folder / f"{rank}.result", weights_only=False) for rank in range(size)]
    failed = [result for result in results if isinstance(result, Failure)]
    if failed:
        raise RuntimeError("\n".join(str(failure) for failure in failed))
    return results


def finish(processes: list[BaseProcess]) -> None:
    """Waits for the end of all; kills and raises TimeoutError where one does not come to it."""
    for process in processes:
        process.join(PATIENCE)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    if late:
        raise TimeoutError(f"{len(late)} of {len(processes)} processes did not end")


class Failure(Exception):
    """What a process raised."""


def _one(rank: int, size: int, port: int, job: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        result = job(*arguments)
    except Exception as error:  # noqa: BLE001  (the test is told)
        result = Failure(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    torch.save(result, folder / f"{rank}.result")
