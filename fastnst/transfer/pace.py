"""When the losses of a run are read back from the device."""

import time

import torch

from fastnst.transfer.descent import CAPACITY

READ_SECONDS = 0.25
"""How long a GPU is left alone at most, so that a run can be watched and stopped."""


class Pace:
    """When the losses are read back: after each evaluation on a CPU, where nobody waits for it; on a GPU in batches of
    about `READ_SECONDS`, but at least every `every` evaluations, and no longer than until `deadline`. `read` says how
    many have been read back before."""

    def __init__(self, device: torch.device, every: int | None, deadline: float, *, read: int = 0) -> None:
        self._every = every if device.type != "cpu" else 1
        self._deadline = deadline
        self._read_at = time.perf_counter()
        self._next = read
        self._count = read

    def is_due(self, evaluation: int) -> bool:
        """Whether the losses are to be read back after this evaluation, counted from the scale's first, which is 0."""
        return evaluation >= self._next or (self._every is not None and evaluation % self._every == 0)

    def moments(self, count: int) -> list[float]:
        """When the `count` evaluations just read back ended, on `time.perf_counter`: evenly since the last reading."""
        before, now = self._read_at, time.perf_counter()
        seconds = (now - before) / max(count, 1)
        batch = min(READ_SECONDS, max(self._deadline - now, 0)) / max(seconds, 1e-9)
        self._count += count
        self._next = self._count - 1 + max(1, min(int(batch), CAPACITY))
        self._read_at = now
        return [before + seconds * (index + 1) for index in range(count)]
