"""How much memory a call needs besides what it is given and what it returns."""

import gc
import os
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from fastnst.measure import Contender, synchronise

T = TypeVar("T")


def peak_extra_bytes(contender: Contender, device: torch.device) -> int:
    """The peak of what `contender` allocates, in its preparation or in its call, less the tensor that its call returns.

    On CUDA it is the caching allocator's peak; on a CPU the running sum of what torch's profiler sees allocated and
    freed. What a library allocates by itself is not seen.
    """
    watched = _watched_cuda if device.type == "cuda" else _watched_cpu
    collecting = gc.isenabled()
    # What is collected on the way would count as freed by the call.
    gc.disable()
    try:
        call, prepared_peak, kept = watched(contender, device)
        result, call_peak, _ = watched(call, device)
    finally:
        if collecting:
            gc.enable()
    returned = result.untyped_storage().nbytes() if isinstance(result, Tensor) else 0
    return max(prepared_peak, kept + call_peak - returned, 0)


def _watched_cuda(function: Callable[[], T], device: torch.device) -> tuple[T, int, int]:
    """The result of `function`, and the bytes that it adds to those that live: at the peak and at its end."""
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = function()
    synchronise(device)
    return result, torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before


def _watched_cpu(function: Callable[[], T], device: torch.device) -> tuple[T, int, int]:
    quieten_profiler()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    recorded = profiler.profiler
    if recorded is None or recorded.kineto_results is None:
        raise RuntimeError("torch's profiler recorded nothing")
    changes = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(changes, key=lambda event: int(event.start_ns())):
        live += event.nbytes()
        peak = max(peak, live)
    return result, peak, live


def quieten_profiler() -> None:
    """Keeps the profiler's own log off the standard error; call it before the process profiles for the first time."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
