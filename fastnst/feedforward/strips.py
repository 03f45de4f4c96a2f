"""A network over an image of any size, some rows at a time and with the normalisations of the whole image.

A normalisation needs the moments of its map over the whole image, and what follows it needs the normalisation. So a
unit goes over its map in strips that stay in the processor's cache, once for the moments; the strips of the next unit
normalise what they read, so many more rows of it as their convolution reaches. At the border of the image rows are
reflected. Of a small image the maps are kept; of a large one those of its size and of half of it are computed again
where they are read. As the strips are the same, the result is the same, to the bit.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from fastnst_kernels.launch.layout import exact
from torch import Tensor

from fastnst.feedforward.network import EPSILON, Painter, StyleNetwork, Unit, enlarged_twice

KEPT_PIXELS = 1 << 23
"""Pixels beyond which the large maps are computed again; kept, they are 70 bytes a pixel in 16 bits."""

Span = tuple[int, int]
_CACHED, _ON_A_GPU = 1 << 20, 1 << 27  # the elements of a strip


@dataclass(frozen=True)
class _Rows:
    """A map of `height` × `width` positions; `read` gives its rows from one to before another, (1, C, h, W)."""

    height: int
    width: int
    read: Callable[[int, int], Tensor]


@torch.no_grad()
def stylized(network: StyleNetwork, image: Tensor, blend: Tensor, *, kept: bool | None = None) -> Tensor:
    """The image, (1, 3, H, W) float32 in 0…1 on the CPU, in a mixture of styles (styles,): (1, 3, H, W) float32.

    kept: whether the large maps are kept or computed again; None decides by the image's size.

    Raises ImageError for an image that is too small.
    """
    prepared = network.prepared(image)
    if kept is None:
        kept = prepared.shape[2] * prepared.shape[3] <= KEPT_PIXELS
    device = network.paint.weight.device
    blend = blend.to(device)

    def source(first: int, last: int) -> Tensor:
        return prepared[:, :, first:last].to(device)

    rows = _Rows(prepared.shape[2], prepared.shape[3], source)
    inner = len(network.down) - 1
    for index, unit in enumerate(network.down):
        rows = _normalised(unit, rows, blend, kept=kept or index == inner)
    x = rows.read(0, rows.height)
    for block in network.blocks:
        rows = _normalised(block.first, _of(x), blend, kept=True)
        rows = _normalised(block.second, rows, blend, kept=True)
        for first, last in _spans(rows, x.shape[1], x.device):
            x[:, :, first:last] += rows.read(first, last)
    rows = _of(x)
    for unit in network.up:
        rows = _normalised(unit, rows, blend, kept=kept)
    painted = torch.empty((1, 3, *image.shape[2:]))
    for first, last in _spans(rows, network.architecture.channels, device):
        (top, bottom), above, below = _reach(network.paint, (first, last), rows.height)
        strip = network.paint(rows.read(top, bottom), blend, above=above, below=below)
        last = min(last, image.shape[2])
        painted[:, :, first:last] = strip[:, :, : last - first, : image.shape[3]]
    return painted


def _of(x: Tensor) -> _Rows:
    return _Rows(x.shape[2], x.shape[3], lambda first, last: x[:, :, first:last])


def _normalised(unit: Unit, before: _Rows, blend: Tensor, *, kept: bool) -> _Rows:
    """The unit's map of the rows `before`, which goes over all of them once."""
    if unit.enlarges:
        height, width = before.height * 2, before.width * 2
    else:
        height, width = before.height // unit.stride, before.width // unit.stride
    rows, moments = _Rows(height, width, partial(_convolved, unit, before)), _Moments()
    maps: Tensor | None = None
    for first, last in _spans(rows, len(unit.weight), unit.weight.device):
        strip = rows.read(first, last)
        moments.add(strip)
        if kept:
            if maps is None:
                shape = (1, strip.shape[1], height, width)
                maps = torch.empty(shape, dtype=strip.dtype, device=strip.device, memory_format=torch.channels_last)
            maps[:, :, first:last] = strip
    raw = rows if maps is None else _of(maps)
    mean, variance = (x.to(unit.weight.device) for x in (moments.mean.float(), moments.variance))
    return _Rows(height, width, lambda first, last: unit.normalised(raw.read(first, last), blend, mean, variance))


def _spans(rows: _Rows, channels: int, device: torch.device) -> Iterator[Span]:
    elements = _ON_A_GPU if device.type == "cuda" else _CACHED
    step = max(4, elements // (rows.width * channels))
    return itertools.pairwise([*range(0, rows.height, step), rows.height])


def _convolved(unit: Unit, before: _Rows, first: int, last: int) -> Tensor:
    if not unit.enlarges:
        (top, bottom), above, below = _reach(unit, (first, last), before.height)
        return unit.convolved(before.read(top, bottom), above=above, below=below)
    (top, bottom), above, below = _reach(unit, (first, last), 2 * before.height)
    # With a neighbour on either side to interpolate with, but at the borders.
    first = max(0, top // 2 - 1)
    x = enlarged_twice(before.read(first, min(before.height, (bottom + 1) // 2 + 1)))
    x = x[:, :, top - 2 * first : bottom - 2 * first]
    return unit.convolved(x, above=above, below=below, enlarged=True)


def _reach(unit: Unit | Painter, span: Span, height: int) -> tuple[Span, int, int]:
    """The rows of a convolution's input, `height` in all, that the rows `span` of its output are made of, and how many
    are to be reflected above and below them."""
    stride = unit.stride if isinstance(unit, Unit) else 1
    first, last = span[0] * stride - unit.reach, (span[1] - 1) * stride + unit.reach + 1
    return (max(0, first), min(height, last)), max(0, -first), max(0, last - height)


class _Moments:
    """The moments of a map from those of its strips (Chan, Golub and LeVeque 1983), (K,) in float64."""

    def __init__(self) -> None:
        self._count = 0
        self.mean = self._squares = torch.zeros((), dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        return (self._squares / self._count).float()

    def add(self, maps: Tensor) -> None:
        channels, count = maps.shape[1], maps.shape[2] * maps.shape[3]
        ones, zeros = (torch.full((channels,), value, device=maps.device) for value in (1.0, 0.0))
        # The quickest of torch's means over channels-last maps.
        _, mean, inverse = torch.native_batch_norm(maps, ones, zeros, None, None, True, 0.0, EPSILON)
        mean, squares = exact(mean), (exact(inverse) ** -2 - EPSILON).clamp(min=0) * count
        shift, both = mean - self.mean.to(mean), self._count + count
        self._squares = self._squares.to(mean) + squares + shift**2 * (self._count * count / both)
        self.mean = self.mean.to(mean) + shift * (count / both)
        self._count = both
