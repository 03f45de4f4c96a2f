"""The guard of what would wait for ever in a process that was forked from one that had used torch's threads."""

import os
from functools import cache

import torch

from fastnst.errors import FastnstError

# Torch works on fewer elements in the calling thread.
_SHARED_ELEMENTS = 32768


@cache
def _first_process() -> int:
    """The process of the first call; one that is forked from it inherits the answer."""
    return os.getpid()


def check_fork(elements: int = _SHARED_ELEMENTS) -> None:
    """Raises FastnstError in a process forked from one that had called it, where work on so many elements would hang.

    OpenMP's threads do not come along, and the first operation waits for them for ever. Where torch uses one thread
    there is nothing to wait for.
    """
    if elements < _SHARED_ELEMENTS or torch.compiler.is_compiling():
        return
    if _first_process() != os.getpid() and torch.get_num_threads() > 1:
        raise FastnstError(
            "this process was forked after a run, and torch's threads do not survive a fork; start processes with "
            "spawn, or call torch.set_num_threads(1) in this one first"
        )
