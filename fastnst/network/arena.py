"""Where in memory blocks lie, by arithmetic alone: the lowest place that has room is taken.

So the blocks of a pass forward lie in the order of the layers, and on the way back those that are given back join to
make room for the large ones of the first layers. A pool with a list for each size would hold almost twice as much.
"""

from bisect import bisect
from dataclasses import dataclass

# Of the starts of blocks, in bytes: a line of the cache.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Block:
    """Bytes `start` … `start + size` of a region."""

    region: int
    start: int
    size: int


class _Region:
    """A line of `length` bytes, and how much of it was in use at once: up to `end`."""

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
        """Of the regions, in bytes."""

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
