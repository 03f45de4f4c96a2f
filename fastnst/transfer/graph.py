"""A function of fixed shapes and addresses as a CUDA graph: one launch from the host instead of hundreds."""

import warnings
from collections.abc import Callable

import torch

from fastnst.errors import FastnstWarning

# Calls that run as they are: libraries choose their algorithms and kernels are built, which no capture allows.
_WARM_UP = 3


class Replayed:
    """Calls of one function on a GPU: the first few as they are, then captured once and replayed.

    The function, the same at each call, takes and returns nothing, works in place on tensors that stay where they are,
    and never waits for the device. Where it cannot be captured it goes on uncaptured, with a FastnstWarning. On other
    devices it is just called.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._calls = 0
        self._capturable = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, function: Callable[[], None]) -> None:
        if self._capturable and self._graph is None and self._calls == _WARM_UP:
            self._graph = self._captured(function)
        if self._graph is not None:
            self._graph.replay()
        elif not self._capturable:
            function()
        else:
            self._warm_up(function)

    def _warm_up(self, function: Callable[[], None]) -> None:
        self._calls += 1
        # On a stream of its own, as the capture will be: what libraries keep for a stream is then there.
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream(self._device).wait_stream(stream)

    def _captured(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(graph):
                function()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"the iteration cannot be captured as a CUDA graph ({reason}); it runs uncaptured, and slower",
                FastnstWarning,
                stacklevel=2,
            )
            self._capturable = False
            return None
        return graph
