"""Convolutions on a CPU in float32, by NNPACK's Winograd transforms in about half of the time of direct ones.

NNPACK comes with most builds of torch. It computes 6×6 outputs of a 3×3 kernel from 8×8 inputs with 64 products instead
of 324 (Winograd 1980; Lavin and Gray 2016), with an error of 3 to 5·10⁻⁶ of the result's size against 0.4 to 1.2·10⁻⁶.
Its workspace holds all transformed tiles of a call, so the rows of a map are convolved in stripes. Three channels are
too few for a convolution's own kernels: there it is a matrix product (Chellapilla et al. 2006).
"""

from collections.abc import Iterator
from functools import cache
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

# Output rows and columns of one tile, and the bytes of its transform for one channel: 8 × 8 float32.
_TILE = 6
_TRANSFORM_BYTES = 256
# The bytes of a stripe's transforms: small enough to stay near the cache, large enough for the threads to share.
_STRIPE_BYTES = 48_000_000
# Elements of the columns of one band of the first convolution.
_BAND_ELEMENTS = 1 << 20


@cache
def available() -> bool:
    """True where torch has NNPACK and it runs on this CPU; the call also readies it."""
    return bool(torch.backends.nnpack.is_available())  # type: ignore[no-untyped-call]


def stripes(channels: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """The rows of a map as ranges (start, stop) of whole tiles; `channels` are those in and out together."""
    row_bytes = ceil(width / _TILE) * channels * _TRANSFORM_BYTES / _TILE
    rows = max(1, int(_STRIPE_BYTES / row_bytes) // _TILE) * _TILE
    rows = ceil(height / ceil(height / rows) / _TILE) * _TILE
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool, padding: int) -> Tensor:
    """The convolution of a float32 map (1, C, H, W), `padding` rows and columns of zeros around it, with `weight`
    (K, C, 3, 3), and its ReLU if wanted: (1, K, H + 2 · padding − 2, W + 2 · padding − 2)."""
    _, channels, height, width = x.shape
    filters, shape = len(weight), (height + 2 * padding - 2, width + 2 * padding - 2)
    if filters == 3:
        return _scatter(x, weight, padding)
    if channels == 3:
        result = x.new_empty((1, filters, *shape))
        _gather(x, weight, bias, padding, result)
        return result.relu_() if relu else result
    if 2 * height * width < filters + channels:
        # The transform of the weights costs more than it saves.
        result = F.conv2d(x, weight, bias, padding=padding)
        return result.relu_() if relu else result
    parts = tuple(stripes(filters + channels, *shape))
    if len(parts) == 1:
        result = torch._nnpack_spatial_convolution(x, weight, bias, [padding, padding])
        return result.relu_() if relu else result
    result = x.new_empty((1, filters, *shape))
    for start, stop in parts:
        first, last = start - padding, stop + 2 - padding
        rows = x[:, :, max(first, 0) : last]
        source = F.pad(rows, (0, 0, max(-first, 0), max(last - height, 0)))  # (1, C, stop − start + 2, W)
        stripe = torch._nnpack_spatial_convolution(source, weight, bias, [0, padding])
        result[:, :, start:stop] = stripe.relu_() if relu else stripe
    return result


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The rows of a map as ranges (start, stop) whose 27 columns of a product stay in the cache."""
    rows = max(1, _BAND_ELEMENTS // (27 * width))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _gather(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, result: Tensor) -> None:
    """Writes the convolution of three planes into `result`: the product's columns are 27 shifted copies of them."""
    padded = F.pad(x[0], (padding,) * 4).contiguous()
    row, (height, width) = padded.stride(1), result.shape[2:]
    if bias is None:
        bias = weight.new_zeros(len(weight))
    for start, stop in _bands(height, width):
        band = padded[:, start:]
        windows = band.as_strided((3, 3, 3, stop - start, width), (padded.stride(0), row, 1, row, 1))
        columns = windows.reshape(27, -1)
        target = result[0, :, start:stop].flatten(1)
        torch.addmm(bias[:, None], weight.flatten(1), columns, out=target)


def _scatter(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The convolution to three planes: each of the product's 27 rows is added to them where it belongs."""
    height, width = x.shape[2:]
    matrix = weight.permute(0, 2, 3, 1).reshape(27, -1)
    full = x.new_zeros((1, 3, height + 2, width + 2))
    for start, stop in _bands(height, width):
        products = (matrix @ x[0, :, start:stop].flatten(1)).view(3, 3, 3, stop - start, width)
        for row in range(3):
            for column in range(3):
                top, left = start + 2 - row, 2 - column
                full[0, :, top : top + stop - start, left : left + width] += products[:, row, column]
    cut = 2 - padding
    return full[:, :, cut : full.shape[2] - cut, cut : full.shape[3] - cut]
