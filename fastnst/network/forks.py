"""A process that was forked from one whose threads it lacks."""

import os

import torch

from fastnst.errors import FastnstError

_RUNS: dict[str, int] = {}


def check_fork() -> None:
    """To be called where a run begins. Raises FastnstError in a process forked from one that had run, and would hang.

    OpenMP's threads do not come along, and the first operation waits for them for ever. Where torch uses one thread
    there is nothing to wait for.
    """
    if _RUNS.setdefault("process", os.getpid()) != os.getpid() and torch.get_num_threads() > 1:
        raise FastnstError(
            "this process was forked from one that had run, and torch's threads did not come along; start processes "
            "by spawn, or call torch.set_num_threads(1) in this one first"
        )
