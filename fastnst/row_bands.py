"""An image whose rows are shared among processes: who owns which, and whole tensors from parts and back.

Bands lie one below the other, as even as the grid of the deepest pool allows. A process keeps its own rows of the
image, of its gradient and of all that the optimiser remembers; what the network has to see beyond them, the halo, comes
from the neighbours and is no further away than they are high.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastnst.bands import Pixels
from fastnst.ranks import Ranks
from fastnst.tile_grid import Reach

_CHANNELS = 3
# Lower bands are not worth the talk about them.
_LOWEST = 16


@dataclass(frozen=True)
class Bands:
    """The bands of an image of `height` × `width`. Make them with `make_bands`.

    `edges` are the first rows of all bands, then `height`; where the image is not split, each process has it whole.
    `halo` is how many rows beyond its own a band sees, within the image.
    """

    ranks: Ranks
    height: int
    width: int
    edges: tuple[int, ...]
    halo: int

    @property
    def is_split(self) -> bool:
        return len(self.edges) > 2

    def rows(self, rank: int) -> slice:
        """What `rank` owns."""
        return slice(self.edges[rank], self.edges[rank + 1]) if self.is_split else slice(0, self.height)

    @property
    def own(self) -> slice:
        """What this process owns."""
        return self.rows(self.ranks.rank)

    @property
    def seen(self) -> slice:
        """What this process sees: its own rows and the halo."""
        own = self.own
        return slice(max(own.start - self.halo, 0), min(own.stop + self.halo, self.height))

    @property
    def seen_size(self) -> tuple[int, int]:
        """Height and width of what this process sees."""
        return self._count(self.seen), self.width

    def cut(self, image: Tensor) -> Tensor:
        """This process's part, (1, 3, h, W), of a whole image (1, 3, H, W): a copy, or the image if it is not split."""
        return image[:, :, self.own].clone(memory_format=torch.contiguous_format) if self.is_split else image

    def whole(self, part: Tensor) -> Tensor:
        """The whole of a part, on every process, in main memory if it is split; what is no part stays as it is.

        A part is (…, 3, h, W), or the same as blocks of `fastnst.bands.Pixels`.
        """
        own = self._planes(part, self.own) if self.is_split else None
        if own is None:
            return part
        own = own.cpu()
        whole = torch.empty((len(own), _CHANNELS, self.height, self.width), dtype=part.dtype)
        for rank in range(self.ranks.size):
            rows = self.rows(rank)
            band = own if rank == self.ranks.rank else torch.empty_like(whole[:, :, rows])
            self.ranks.spread(band, rank)
            whole[:, :, rows] = band
        return self._shaped(whole, part, slice(0, self.height))

    def gathered(self, part: Tensor) -> Tensor | None:
        """The whole of a part, as `whole`, on the leader; None on the others."""
        own = self._planes(part, self.own) if self.is_split else None
        if own is None:
            return part if self.ranks.leads else None
        if not self.ranks.leads:
            for vector in own:
                self.ranks.send(vector)
            return None
        whole = torch.empty((len(own), _CHANNELS, self.height, self.width), dtype=part.dtype)
        whole[:, :, self.own] = own.cpu()
        for rank in range(1, self.ranks.size):
            rows = self.rows(rank)
            buffer = torch.empty((_CHANNELS, self._count(rows), self.width), dtype=part.dtype)
            for vector in whole:
                self.ranks.receive(buffer, rank)
                vector[:, rows] = buffer
        return self._shaped(whole, part, slice(0, self.height))

    def gathered_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state, as of an optimiser, with whole tensors, on the leader; nothing on the others."""
        if not self.is_split:
            return dict(state)
        found = {name: self.gathered(value) if isinstance(value, Tensor) else value for name, value in state.items()}
        return found if self.ranks.leads else {}

    def whole_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state with whole tensors, on every process."""
        return {name: self.whole(value) if isinstance(value, Tensor) else value for name, value in state.items()}

    def cut_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """This process's part of a state with whole tensors."""
        if not self.is_split:
            return dict(state)
        return {name: self._cut(value) if isinstance(value, Tensor) else value for name, value in state.items()}

    def _cut(self, whole: Tensor) -> Tensor:
        planes = self._planes(whole, slice(0, self.height))
        return whole if planes is None else self._shaped(planes[:, :, self.own], whole, self.own)

    def _planes(self, tensor: Tensor, rows: slice) -> Tensor | None:
        """The pixels of so many rows in `tensor` as (vectors, 3, rows, W); None where that is not what it holds."""
        height = self._count(rows)
        if tensor.shape[-3:] == (_CHANNELS, height, self.width):
            return tensor.reshape(-1, _CHANNELS, height, self.width)
        if tensor.shape[-3:] == self._blocks(rows):
            pixels = tensor.flatten(-3)[..., : _CHANNELS * height * self.width]
            return pixels.reshape(-1, _CHANNELS, height, self.width)
        return None

    def _shaped(self, planes: Tensor, like: Tensor, rows: slice) -> Tensor:
        """`planes`, (vectors, 3, rows, W), with the dimensions of `like` before its pixels, and in blocks if it is."""
        lead = like.shape[:-3]
        if like.shape[-2:] in {(self.height, self.width), (self._count(self.own), self.width)}:
            return planes.reshape(*lead, *planes.shape[1:])
        _, blocks, length = self._blocks(rows)
        flat = planes.reshape(*lead, -1)
        return torch.nn.functional.pad(flat, (0, blocks * length - flat.shape[-1])).view(*lead, 1, blocks, length)

    def _blocks(self, rows: slice) -> tuple[int, int, int]:
        """The shape of the blocks that so many rows are kept in."""
        basis = Pixels(torch.empty((1, _CHANNELS, self._count(rows), self.width), device="meta"))
        return basis.channels, len(basis.band), basis.length

    @staticmethod
    def _count(rows: slice) -> int:
        return int(rows.stop - rows.start)


def make_bands(ranks: Ranks, height: int, width: int, reach: Reach) -> Bands:
    """The bands of an image of `height` × `width` pixels among all processes.

    Not split where one of them would be lower than what its neighbour sees of it; see `most_bands`.
    """
    halo = -(-reach.pixels // reach.grid) * reach.grid
    if ranks.size == 1 or ranks.size > most_bands(height, reach):
        return Bands(ranks, height, width, (0, height), halo)
    cells = height // reach.grid
    edges = [reach.grid * (cells * rank // ranks.size) for rank in range(ranks.size)]
    return Bands(ranks, height, width, (*edges, height), halo)


def most_bands(height: int, reach: Reach) -> int:
    """Among how many processes an image of `height` rows can be shared, at least 1."""
    lowest = -(-max(reach.pixels, _LOWEST) // reach.grid)
    return max(height // reach.grid // lowest, 1)
