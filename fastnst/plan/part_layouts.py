"""How a process's part of an image lies in a tensor: as rows of pixels, in blocks of pixels or blocks of frequencies.

Each layout turns the tensors of a part, and of the whole, into planes and back: (vectors, 3, rows, columns), in which a
part is a window of the whole.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fastnst.network.tiles import Window
from fastnst.optim.frequency_bands import Arranged, Pixels, radial_places
from fastnst.optim.shared_frequencies import arranged_columns, columns_of
from fastnst.plan.ranks import Ranks

CHANNELS = 3


class Layout(Protocol):
    """The parts of one kind of tensor; `shape` is that of the whole's planes, (rows, columns)."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def whole_shape(self) -> tuple[int, int, int]:
        """That of a vector of the whole tensor."""

    def window(self, rank: int) -> Window:
        """The rows and columns of a process's part in the whole."""

    def planes(self, tensor: Tensor, *, whole: bool) -> Tensor:
        """Of a tensor (…, ·, ·, ·) of this process's part, or of the whole, its planes (vectors, 3, rows, columns)."""

    def tensor(self, planes: Tensor, *, whole: bool) -> Tensor:
        """The inverse of `planes`: (vectors, ·, ·, ·)."""


class Rows:
    """Pixels as they are, (…, 3, rows, W)."""

    def __init__(self, edges: Sequence[int], width: int) -> None:
        self._edges, self._width = edges, width

    @property
    def shape(self) -> tuple[int, int]:
        return self._edges[-1], self._width

    @property
    def whole_shape(self) -> tuple[int, int, int]:
        return CHANNELS, *self.shape

    def window(self, rank: int) -> Window:
        return slice(self._edges[rank], self._edges[rank + 1]), slice(0, self._width)

    def planes(self, tensor: Tensor, *, whole: bool) -> Tensor:
        return tensor.reshape(-1, *tensor.shape[-3:])

    def tensor(self, planes: Tensor, *, whole: bool) -> Tensor:
        return planes


class RowBlocks(Rows):
    """Pixels in the blocks of `Pixels`, (…, 1, blocks, length)."""

    @property
    def whole_shape(self) -> tuple[int, int, int]:
        basis = Pixels(torch.empty(CHANNELS * self.shape[0] * self.shape[1], device="meta"))
        return 1, len(basis.band), basis.length

    def planes(self, tensor: Tensor, *, whole: bool) -> Tensor:
        flat = tensor.reshape(-1, tensor.shape[-2] * tensor.shape[-1])
        rows = flat.shape[1] // (CHANNELS * self._width)
        return flat[:, : CHANNELS * rows * self._width].reshape(-1, CHANNELS, rows, self._width)

    def tensor(self, planes: Tensor, *, whole: bool) -> Tensor:
        flat = planes.flatten(1)
        basis = Pixels(torch.empty(flat.shape[1], device="meta"))
        blocks = len(basis.band)
        padded = torch.nn.functional.pad(flat, (0, blocks * basis.length - flat.shape[1]))
        return padded.view(-1, 1, blocks, basis.length)


class ColumnBlocks:
    """Frequencies in the blocks of `RadialBands`, and of `SharedRadialBands`, (…, 3, blocks, length).

    Real and imaginary parts are columns of their own. All processes make it together.
    """

    def __init__(self, ranks: Ranks, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._columns = columns_of(width, ranks.size)
        self._own, _ = arranged_columns(torch.empty((1, CHANNELS, 0, width), dtype=torch.float32), ranks, height)

    @property
    def shape(self) -> tuple[int, int]:
        return self._height, 2 * (self._width // 2 + 1)

    @property
    def whole_shape(self) -> tuple[int, int, int]:
        return CHANNELS, len(self._whole.band), self._whole.length

    def window(self, rank: int) -> Window:
        columns = self._columns[rank]
        return slice(0, self._height), slice(2 * columns.start, 2 * columns.stop)

    def planes(self, tensor: Tensor, *, whole: bool) -> Tensor:
        arranged = self._whole if whole else self._own
        return arranged.laid_out(tensor.cpu().reshape(-1, *tensor.shape[-3:]))

    def tensor(self, planes: Tensor, *, whole: bool) -> Tensor:
        return (self._whole if whole else self._own).gathered(planes)

    @cached_property
    def _whole(self) -> Arranged:
        places, weights = radial_places(self._height, self._width)
        return Arranged(places, weights, np.unique(places), torch.empty(0, dtype=torch.float32))
