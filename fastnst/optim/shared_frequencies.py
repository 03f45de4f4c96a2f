"""The Fourier transform of a picture whose rows are shared among processes: each keeps some of its columns."""

from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from fastnst.optim.frequency_bands import MOST_BANDS, Arranged, radial_places
from fastnst.plan.ranks import Ranks


class SharedRadialBands:
    """As `RadialBands` of the whole picture, of which this process has rows in the picture and columns in the
    transform: rows are transformed where they are, then traded for columns, which are transformed in turn. Bands are
    those of the whole, so that products by band add up over the processes.
    """

    def __init__(self, like: Tensor, ranks: Ranks) -> None:
        """`like` is this process's part of the picture, (1, C, h, W). All processes make it together."""
        self.channels = like.shape[1]
        self._ranks = ranks
        rows = torch.zeros(ranks.size, dtype=torch.float64)
        rows[ranks.rank] = like.shape[2]
        self._rows = [int(count) for count in ranks.total(rows).tolist()]
        self._width = like.shape[3]
        self._columns = columns_of(self._width, ranks.size)
        self._arranged, self.bands = arranged_columns(like, ranks, sum(self._rows))
        self.band, self.length = self._arranged.band, self._arranged.length

    def to_blocks(self, picture: Tensor) -> Tensor:
        own = torch.view_as_real(torch.fft.rfft(picture[0], norm="ortho"))
        mine = self._columns[self._ranks.rank]
        into = [own.new_empty((self.channels, rows, mine.stop - mine.start, 2)) for rows in self._rows]
        self._ranks.trade([own[:, :, columns] for columns in self._columns], into)
        columns = torch.view_as_complex(torch.cat(into, 1))
        return self._arranged.to_blocks(torch.fft.fft(columns, dim=1, norm="ortho"))

    def to_picture(self, blocks: Tensor, like: Tensor) -> Tensor:
        """This process's part of the picture, of the layout of `like`."""
        columns = torch.view_as_real(torch.fft.ifft(self._arranged.to_spectrum(blocks), dim=1, norm="ortho"))
        height = self._rows[self._ranks.rank]
        into = [columns.new_empty((self.channels, height, each.stop - each.start, 2)) for each in self._columns]
        edges = [0, *accumulate(self._rows)]
        self._ranks.trade([columns[:, first:last] for first, last in pairwise(edges)], into)
        spectrum = torch.view_as_complex(torch.cat(into, 2))
        picture = torch.empty_like(like)
        picture.copy_(torch.fft.irfft(spectrum, n=self._width, norm="ortho")[None])
        return picture


def columns_of(width: int, processes: int) -> list[slice]:
    """Which columns of half the transform each process keeps."""
    half = width // 2 + 1
    edges = [half * rank // processes for rank in range(processes + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


def arranged_columns(like: Tensor, ranks: Ranks, height: int) -> tuple[Arranged, int]:
    """This process's columns in blocks, of a picture `height` high and as wide as `like`, and the number of bands."""
    width = like.shape[3]
    places, weights = radial_places(height, width, columns_of(width, ranks.size)[ranks.rank])
    present = torch.zeros(MOST_BANDS, dtype=torch.float32)
    present[np.unique(places)] = 1
    values = ranks.largest(present).nonzero()[:, 0].numpy()
    return Arranged(places, weights, values, like), len(values)
