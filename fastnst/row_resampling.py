"""Resampling of a picture whose rows come a few at a time, as `resizing.resize` does it whole."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Rows of the result that are made at once: they and what they are made of stay in the cache.
_ROWS = 32


class RowResampler:
    """Takes the rows of (C, height, width) from the top and gives those of (C, *size) as soon as they are complete.

    The kernel is that of `resize` (bicubic, a = −0.5, widened when shrinking), with the library's own weights, so that
    the result is that of `resize` up to float32's rounding, and the same bits however the rows are cut. It is not
    clamped. Memory: the rows that the kernel reaches.
    """

    def __init__(self, height: int, width: int, size: tuple[int, int]) -> None:
        self._height, self._width, self._size = height, width, size
        self._places, self._weights = _vertical(height, size[0])
        # The last row that each row of the result asks for; they never fall.
        last = torch.where(self._weights != 0, self._places, -1).amax(dim=1)
        self._last = torch.cummax(last, dim=0).values
        self._first = torch.where(self._weights != 0, self._places, height).amin(dim=1)
        self._kept: Tensor | None = None
        self._kept_from = 0
        self._done = 0

    def push(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Takes the next rows, (C, n, width), and yields the rows of the result that are complete now, (C, m, size[1]),
        each time with the index of the first."""
        rows = _horizontal(rows, self._size[1])
        self._kept = rows if self._kept is None else torch.cat([self._kept, rows], dim=1)
        end = self._kept_from + self._kept.shape[1]
        while (ready := int(torch.searchsorted(self._last, end)) - self._done) > 0:
            count = min(ready, _ROWS)
            yield self._done, self._made(slice(self._done, self._done + count))
            self._done += count
        needed = int(self._first[self._done :].amin()) if self._done < self._size[0] else end
        dropped = min(max(needed, self._kept_from), end) - self._kept_from
        self._kept = self._kept[:, dropped:].clone()
        self._kept_from += dropped

    def _made(self, rows: slice) -> Tensor:
        if self._kept is None:
            raise ValueError("no rows were given")
        if self._height == self._size[0]:
            start = rows.start - self._kept_from
            return self._kept[:, start : start + rows.stop - rows.start]
        places, weights = self._places[rows] - self._kept_from, self._weights[rows]
        places = places.clamp(0, self._kept.shape[1] - 1)
        made = self._kept.new_zeros((len(self._kept), len(places), self._size[1]))
        for place, weight in zip(places.T, weights.T, strict=True):
            if bool(weight.any()):
                made.addcmul_(self._kept[:, place], weight[:, None].expand(made.shape))
        return made


def _horizontal(rows: Tensor, width: int) -> Tensor:
    """(C, n, W) resampled to (C, n, width): each row is a picture of its own."""
    channels, count, before = rows.shape
    if before == width:
        return rows
    flat = rows.reshape(1, channels * count, 1, before)
    resized = torch.nn.functional.interpolate(flat, size=(1, width), mode="bicubic", antialias=True)
    return resized.view(channels, count, width)


def _vertical(before: int, after: int) -> tuple[Tensor, Tensor]:
    """For each of `after` rows the `before` rows that it is made of and their weights, (after, reach) each.

    The weights are what the library makes of combs, whose teeth lie further apart than the kernel reaches.
    """
    if before == after:
        return torch.arange(after)[:, None], torch.ones(after, 1, dtype=torch.float32)
    scale = before / after
    support = 2 * max(scale, 1.0)
    reach = math.ceil(2 * support) + 4
    rows = torch.arange(before)
    # Of a picture one pixel wide, the library takes the rows for columns.
    combs = torch.zeros(reach, before, 2, dtype=torch.float32)
    combs[rows % reach, rows] = 1
    resampled = torch.nn.functional.interpolate(combs[None], size=(after, 2), mode="bicubic", antialias=True)
    centres = scale * (torch.arange(after, dtype=torch.float64) + 0.5)
    places = (centres - support - 1.5).floor().long().clamp(min=0)[:, None] + torch.arange(reach)
    weights = resampled[0, :, :, 0].T.gather(1, places % reach)
    return places.clamp(max=before - 1), torch.where(places < before, weights, 0.0)
