"""A network over an image of any size, some rows at a time and with the normalisations of the whole image.

A normalisation needs the moments of its map over the whole image, and what follows it needs the normalisation. So a
unit goes over its map in strips that stay in the processor's cache, once for the moments; the strips of the next unit
normalise what they read, so many more rows of it as their convolution reaches. At the border of the image rows are
reflected. Of a small image the maps are kept; of a large one those of its size and of half of it are computed again
where they are read. As the strips are the same, the result is the same, to the bit.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from fastnst_kernels.launch.layout import exact
from torch import Tensor

from fastnst.feedforward.network import EPSILON, Painter, StyleNetwork, Unit

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
    rows = _Rows(prepared.shape[2], prepared.shape[3], lambda first, last: prepared[:, :, first:last].to(device))
    normalised = partial(_normalised, blend=blend, dtype=prepared.dtype)
    for unit in network.down:
        rows = normalised(unit, rows, kept=kept or unit is network.down[-1])
    x = rows.read(0, rows.height)
    for block in network.blocks:
        rows = normalised(block.first, _of(x), kept=True)
        rows = normalised(block.second, rows, kept=True)
        for first, last in _spans(rows, x.shape[1], device):
            x[:, :, first:last] += rows.read(first, last)
    rows = _of(x)
    for unit in network.up:
        rows = normalised(unit, rows, kept=kept)
    painted = torch.empty((1, 3, *image.shape[2:]), dtype=torch.float32)
    for first, last in _spans(rows, network.architecture.channels, device):
        (top, bottom), above, below = _reach(network.paint, (first, last), rows.height)
        strip = network.paint(rows.read(top, bottom), blend, above=above, below=below)
        last = min(last, image.shape[2])
        painted[:, :, first:last] = strip[:, :, : last - first, : image.shape[3]]
    return painted


def _of(x: Tensor) -> _Rows:
    return _Rows(x.shape[2], x.shape[3], lambda first, last: x[:, :, first:last])


def _normalised(unit: Unit, before: _Rows, *, blend: Tensor, dtype: torch.dtype, kept: bool) -> _Rows:
    """The unit's map of the rows `before`, which goes over all of them once."""
    grown = 2 if unit.enlarges else 1
    height, width = before.height * grown // unit.stride, before.width * grown // unit.stride
    kernel = unit.kernel(dtype)
    raw, moments = _Rows(height, width, partial(_convolved, unit, kernel, before)), _Moments()
    maps: Tensor | None = None
    for first, last in _spans(raw, len(unit.weight), kernel.device):
        strip = raw.read(first, last)
        moments.add(strip)
        if kept:
            if maps is None:
                shape = (1, strip.shape[1], height, width)
                maps = torch.empty(shape, dtype=strip.dtype, device=strip.device, memory_format=torch.channels_last)
            maps[:, :, first:last] = strip
    if maps is not None:
        raw = _of(maps)
    (mean, variance), (scale, shift) = moments.whole(), unit.affine(blend)

    def read(first: int, last: int) -> Tensor:
        y = F.batch_norm(raw.read(first, last), mean, variance, scale, shift, training=False, eps=EPSILON)
        return y.relu_() if unit.relu else y

    return _Rows(height, width, read)


def _spans(rows: _Rows, channels: int, device: torch.device) -> Iterator[Span]:
    """Strips of the rows, of an even number each."""
    elements = _ON_A_GPU if device.type == "cuda" else _CACHED
    step = max(4, elements // (rows.width * channels) // 2 * 2)
    return itertools.pairwise([*range(0, rows.height, step), rows.height])


def _convolved(unit: Unit, kernel: Tensor, before: _Rows, first: int, last: int) -> Tensor:
    """The rows of the unit's convolution; where it enlarges, four times as many channels are made of half as many rows,
    so one row more may be made at either end."""
    if not unit.enlarges:
        (top, bottom), above, below = _reach(unit, (first, last), before.height)
        return unit.convolved(before.read(top, bottom), kernel, above=above, below=below)
    start = first // 2
    (top, bottom), above, below = _reach(unit, (start, (last + 1) // 2), before.height)
    y = unit.convolved(before.read(top, bottom), kernel, above=above, below=below)
    return y[:, :, first - 2 * start : last - 2 * start]


def _reach(unit: Unit | Painter, span: Span, height: int) -> tuple[Span, int, int]:
    """The rows of a convolution's input, `height` in all, that the rows `span` of its output are made of, and how many
    it lacks above and below them."""
    stride = unit.stride if isinstance(unit, Unit) else 1
    first, last = span[0] * stride - unit.reach, (span[1] - 1) * stride + unit.reach + 1
    return (max(0, first), min(height, last)), max(0, -first), max(0, last - height)


class _Moments:
    """The moments of a map from those of its parts (Chan, Golub and LeVeque 1983), strips and columns of them."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, maps: Tensor) -> None:
        _, channels, height, width = maps.shape
        # Torch is quickest where it has as many channels as this: neighbours lie side by side in channels-last.
        side_by_side = math.gcd(width, max(1, 64 // channels))
        folded = maps.permute(0, 2, 3, 1).reshape(1, height, width // side_by_side, side_by_side * channels)
        folded = folded.permute(0, 3, 1, 2)
        if folded.device.type in ("cpu", "cuda"):
            mean, variance = torch.batch_norm_update_stats(folded, None, None, 0.0)
        else:
            variance, mean = torch.var_mean(folded.float(), (0, 2, 3), correction=0)
        self._counts += [height * width // side_by_side] * side_by_side
        self._parts.append((mean.view(-1, channels), variance.view(-1, channels)))

    def whole(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, (K,) float32 each."""
        means, variances = (torch.cat(each) for each in zip(*self._parts, strict=True))
        device, means = means.device, exact(means)
        shares = torch.tensor(self._counts, dtype=torch.float64, device=means.device)[:, None] / sum(self._counts)
        mean = (shares * means).sum(0)
        variance = (shares * (exact(variances) + (means - mean) ** 2)).sum(0)
        return mean.float().to(device), variance.float().to(device)
