"""Memory that is used again: on a CPU the pages of a fresh tensor cost more than what is written into it."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from fastnst.network.arena import Arena, Block


class Buffers:
    """Uninitialised contiguous CPU tensors, handed out and given back; what is given back is handed out again.

    They lie in regions of `length` bytes (see `Arena`), of which the system gives only those pages that are written to.
    Not for several threads.
    """

    def __init__(self, length: int) -> None:
        self._arena = Arena(length)
        self._regions: list[Tensor] = []
        self._blocks: dict[int, Block] = {}

    @property
    def used(self) -> int:
        """The bytes that were ever in use, in all regions."""
        return self._arena.used

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of `shape`, whose contents are what was last there."""
        size = prod(shape) * dtype.itemsize
        block = self._arena.take(size)
        for length in self._arena.lengths[len(self._regions) :]:
            self._regions.append(torch.empty(length, dtype=torch.uint8))
        tensor = self._regions[block.region][block.start : block.start + size].view(dtype).view(tuple(shape))
        self._blocks[tensor.data_ptr()] = block
        return tensor

    def give(self, tensor: Tensor) -> None:
        """Takes back a tensor that came from `take`, and that nobody reads any more."""
        self._arena.give(self._blocks.pop(tensor.data_ptr()))
