"""Memory that is used again: on a CPU the pages of a fresh tensor cost more than what is written into it.

An `Arena` says where blocks lie, by arithmetic alone: the lowest place that has room is taken. So the blocks of a pass
forward lie in the order of the layers, and on the way back those that are given back join to make room for the large
ones of the first layers. A pool with a list for each size would hold almost twice as much. `Buffers` are an arena with
tensors in it.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

# Blocks start at lines of the cache, of so many bytes.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Block:
    """Bytes `start` … `start + size` of a region."""

    region: int
    start: int
    size: int


class _Region:
    """A stretch of `length` bytes, and how much of it was in use at once: up to `end`."""

    def __init__(self, length: int) -> None:
        self.end = 0
        self._free = [(0, length)]

    def take(self, size: int) -> int | None:
        """The lowest start of `size` free bytes."""
        for index, (start, stop) in enumerate(self._free):
            if stop - start >= size:
                self._free[index : index + 1] = [(start + size, stop)] if stop - start > size else []
                self.end = max(self.end, start + size)
                return start
        return None

    def give(self, start: int, size: int) -> None:
        index, stop = bisect(self._free, (start, 0)), start + size
        if index < len(self._free) and self._free[index][0] == stop:
            stop = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == start:
            start = self._free.pop(index - 1)[0]
            index -= 1
        self._free.insert(index, (start, stop))


class Arena:
    """Blocks of memory in regions of `length` bytes, or of one block's size where that is larger.

    A further region begins where a block finds no room in those before.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._regions: list[_Region] = []
        self.lengths: list[int] = []
        """The bytes of each region."""

    @property
    def used(self) -> int:
        """The bytes that were ever in use: each region up to its highest block."""
        return sum(region.end for region in self._regions)

    def take(self, size: int) -> Block:
        """A free block of at least `size` bytes."""
        size = -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        for index, region in enumerate(self._regions):
            start = region.take(size)
            if start is not None:
                return Block(index, start, size)
        self.lengths.append(max(size, self._length))
        self._regions.append(_Region(self.lengths[-1]))
        return self.take(size)

    def give(self, block: Block) -> None:
        """Takes back a block, which nobody uses any more."""
        self._regions[block.region].give(block.start, block.size)


class Buffers:
    """Uninitialised contiguous CPU tensors, handed out and given back; what is given back is handed out again.

    They lie in the regions of an `Arena` of `length`; the system gives only those pages that are written to.
    Buffers are for one thread at a time.
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
        """A tensor of `shape`, which holds whatever was last there."""
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
