"""The capture of CUDA graphs: a failed one leaves the process as it was, and a graph may have a branch."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor


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


class Branch:
    """A branch of a captured graph: work that nothing waits for until `join`. Out of a capture it is no branch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        # Else the memory that the work reads is another's as soon as Python lets go of it.
        self._inputs: list[Tensor] = []

    @contextmanager
    def work(self, *inputs: Tensor) -> Iterator[None]:
        """The block's launches come after all that was launched before, and read `inputs`."""
        if self._device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._inputs += inputs
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Lets all that is launched from now on wait for the work."""
        if self._inputs and self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._inputs.clear()
