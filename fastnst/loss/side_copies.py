"""Tensors brought to main memory and back while a GPU computes something else.

On a GPU the copies run on a stream of their own, to and from pinned memory, whose speed they need; whoever begins one
waits for it where it is needed. On a CPU they are done at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Copying(Protocol):
    """Copies on their way."""

    def wait(self) -> None:
        """What is computed from now on comes after them."""

    def join(self) -> None:
        """Returns when they are done."""


class Copier(Protocol):
    """What copies beside the computation, one after the other."""

    def begin(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Copying:
        """Begins to copy into the first of each pair the second, after all that was computed before.

        Until they have been waited for, the sources stay as they are and nobody looks at the destinations.
        """


@dataclass(frozen=True)
class _Done:
    def wait(self) -> None: ...

    def join(self) -> None: ...


@dataclass(frozen=True)
class _OnStream:
    """Holds what is copied: its memory is nobody else's before somebody has waited."""

    device: torch.device
    event: torch.cuda.Event
    pairs: Sequence[tuple[Tensor, Tensor]] = field(repr=False)

    def wait(self) -> None:
        torch.cuda.current_stream(self.device).wait_event(self.event)

    def join(self) -> None:
        self.event.synchronize()


class SideCopier:
    """The copier of a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def begin(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Copying:
        if self._stream is None:
            for to, source in pairs:
                to.copy_(source)
            return _Done()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for to, source in pairs:
                to.copy_(source, non_blocking=True)
            event = self._stream.record_event()
        return _OnStream(self._device, event, pairs)


def in_main_memory(tensor: Tensor) -> Tensor:
    """Uninitialised memory of the size and layout of `tensor`, pinned where it is a GPU's."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")


class TileStore:
    """Tensors of tiles in main memory, for a network on `device`.

    One tile's are on their way there while the next one is computed, and one tile's on their way back: the device has
    those of one more tile than the one in use.
    """

    def __init__(self, device: torch.device, copier: Copier) -> None:
        self._device = device
        self._copier = copier
        self._kept: dict[int, list[Tensor]] = {}
        self._leaving: Copying | None = None
        self._coming: tuple[int, list[Tensor], Copying] | None = None

    def put(self, index: int, tensors: Sequence[Tensor]) -> None:
        """Takes those of a tile, of the same shapes each time. They stay as they are until others are put or sent
        for."""
        self._settle()
        if index not in self._kept:
            self._kept[index] = [in_main_memory(tensor) for tensor in tensors]
        self._leaving = self._copier.begin(list(zip(self._kept[index], tensors, strict=True)))

    def send(self, index: int) -> None:
        """Those of a tile set out for the device, to be fetched next."""
        self._settle()
        kept = self._kept[index]
        tensors = [torch.empty_like(one, device=self._device) for one in kept]
        self._coming = index, tensors, self._copier.begin(list(zip(tensors, kept, strict=True)))

    def fetch(self, index: int) -> list[Tensor]:
        """Those of a tile, on the device: at once if they were sent for in time."""
        if self._coming is None or self._coming[0] != index:
            self.send(index)
        tensors = [] if self._coming is None else self._coming[1]
        self._settle()
        return tensors

    def _settle(self) -> None:
        """Waits for what is on its way: its memory may then be used again."""
        for copying in (self._leaving, self._coming and self._coming[2]):
            if copying is not None:
                copying.wait()
        self._leaving = self._coming = None
