"""An image whose rows are shared among processes: who owns which, and whole tensors from parts and back.

Bands lie one below the other, as even as the grid of the deepest pool allows. A process keeps its own rows of the
image, of its gradient and of all that the optimiser remembers; what the network has to see beyond them, the halo, comes
from the neighbours and is no further away than they are high.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastnst.network.tiles import Reach
from fastnst.optim.lbfgs import IN_BLOCKS
from fastnst.plan.part_layouts import CHANNELS, ColumnBlocks, Layout, RowBlocks, Rows
from fastnst.plan.ranks import Ranks
from fastnst.transfer.tensor_file import Pieces, pieces_of

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
        """The whole image, (1, 3, H, W), of the parts (1, 3, h, W): on every process, in main memory if it is split."""
        return self._whole(part, self._rows) if self.is_split else part

    def gathered(self, part: Tensor) -> Tensor | None:
        """The whole image on the leader, in main memory if it is split; None on the others."""
        if self.is_split:
            return self._gathered(part, self._rows)
        return part if self.ranks.leads else None

    def pieces(self, state: Mapping[str, Any]) -> dict[str, Pieces]:
        """The whole tensors of a state, as of an optimiser, a vector at a time.

        On the leader each piece comes from all processes when it is asked for; on the others asking sends theirs. So
        all must go through all of them, in one order.
        """
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if not self.is_split:
            return {name: pieces_of(value) for name, value in tensors.items()}
        shared = self._each(tensors, self._gathering, whole=False)
        own = {name: pieces_of(value) for name, value in shared.items() if isinstance(value, Tensor)}
        if not self.ranks.leads:
            own = {name: Pieces(value.dtype, value.shape, ()) for name, value in own.items()}
        return {name: own.get(name, value) for name, value in shared.items()}

    def whole_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state with whole tensors, on every process."""
        return self._each(state, self._whole, whole=False)

    def cut_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """This process's part of a state with whole tensors."""
        return self._each(state, self._cut, whole=True)

    def _each(
        self, state: Mapping[str, Any], change: Callable[[Tensor, Layout], Any], *, whole: bool
    ) -> dict[str, Any]:
        """The state with its parts, or its wholes, changed; the rest as it is."""
        if not self.is_split:
            return dict(state)
        rows = self.height if whole else self._count(self.own)
        blocks: Layout | None = None
        found = {}
        for name, value in state.items():
            found[name] = value
            if name in IN_BLOCKS:
                if blocks is None:
                    blocks = self._blocks(state)
                found[name] = change(value, blocks)
            elif isinstance(value, Tensor) and value.shape[-3:] == (CHANNELS, rows, self.width):
                found[name] = change(value, self._rows)
        return found

    @property
    def _rows(self) -> Rows:
        return Rows(self.edges, self.width)

    def _blocks(self, state: Mapping[str, Any]) -> Layout:
        """That of L-BFGS's vectors, whose first guess tells what they are of."""
        if state["h0"].shape[-1] > 1:
            return ColumnBlocks(self.ranks, self.height, self.width)
        return RowBlocks(self.edges, self.width)

    def _whole(self, part: Tensor, layout: Layout) -> Tensor:
        own = layout.planes(part, whole=False).cpu()
        whole = own.new_empty((*own.shape[:2], *layout.shape))
        for rank in range(self.ranks.size):
            window = layout.window(rank)
            band = own if rank == self.ranks.rank else torch.empty_like(whole[:, :, *window])
            self.ranks.spread(band, rank)
            whole[:, :, *window] = band
        found = layout.tensor(whole, whole=True)
        return found.view(*part.shape[:-3], *found.shape[1:])

    def _gathered(self, part: Tensor, layout: Layout) -> Tensor | None:
        pieces = self._gathering(part, layout)
        vectors = list(pieces.each)
        return torch.cat(vectors).view(pieces.shape) if self.ranks.leads else None

    def _gathering(self, part: Tensor, layout: Layout) -> Pieces:
        """The whole of all processes' parts, a vector at a time; see `pieces`."""
        shape = (*part.shape[:-3], *layout.whole_shape) if self.ranks.leads else tuple(part.shape)
        return Pieces(part.dtype, shape, self._gathered_vectors(part, layout))

    def _gathered_vectors(self, part: Tensor, layout: Layout) -> Iterator[Tensor]:
        for vector in part.reshape(-1, 1, *part.shape[-3:]):
            own = layout.planes(vector, whole=False)
            if not self.ranks.leads:
                self.ranks.send(own[0])
                continue
            whole = torch.empty((*own.shape[:2], *layout.shape), dtype=part.dtype)
            whole[:, :, *layout.window(0)] = own.cpu()
            for rank in range(1, self.ranks.size):
                place = whole[0][:, *layout.window(rank)]
                buffer = torch.empty(place.shape, dtype=place.dtype)
                self.ranks.receive(buffer, rank)
                place.copy_(buffer)
            yield layout.tensor(whole, whole=True)

    def _cut(self, whole: Tensor, layout: Layout) -> Tensor:
        """A vector at a time: the whole may lie in a file."""
        vectors = whole.reshape(-1, 1, *whole.shape[-3:])
        found: Tensor | None = None
        for index, vector in enumerate(vectors):
            planes = layout.planes(vector, whole=True)[:, :, *layout.window(self.ranks.rank)]
            part = layout.tensor(planes.contiguous(), whole=False)
            if found is None:
                found = part.new_empty((len(vectors), *part.shape[1:]))
            found[index] = part[0]
        if found is None:
            return whole
        return found.view(*whole.shape[:-3], *found.shape[1:])

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
