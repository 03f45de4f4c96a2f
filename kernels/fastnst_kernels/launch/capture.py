"""The capture of CUDA graphs, of which one that fails leaves the process as it was."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, stream: Any, device: torch.device) -> Iterator[None]:
    """Captures what the block launches on `device` into `graph`, on `stream`, which is of that device; other threads
    may allocate meanwhile.

    Raises RuntimeError where something cannot be captured. The stream of before is then current again, and allocations
    no longer go to the graph's memory, which torch leaves out where the capture cannot be ended either.
    """
    before, pool = torch.cuda.current_stream(device), torch.cuda.graph_pool_handle()
    try:
        with (
            torch.cuda.device(device),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            yield
    except RuntimeError:
        torch.cuda.set_stream(before)
        index = torch.cuda.current_device() if device.index is None else device.index
        with suppress(RuntimeError):
            # Raises where the capture was ended.
            torch._C._cuda_endAllocateToPool(index, pool)
            torch._C._cuda_releasePool(index, pool)
        raise
