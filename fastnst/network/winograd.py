"""Convolutions on a CPU: by NNPACK's Winograd transforms in about half of the time of direct ones, and the first one.

NNPACK comes with torch. It computes 6×6 outputs of a 3×3 kernel from 8×8 inputs with 64 products instead of 324
(Winograd 1980; Lavin and Gray 2016), in float32, with an error of 3 to 5·10⁻⁶ of the result's size against 0.4 to
1.2·10⁻⁶. Its workspace holds all transformed tiles of a call, so the rows of a map are convolved in stripes; what
follows a convolution is done on each stripe, while it is in the cache.
"""

from collections.abc import Callable, Iterator
from functools import cache
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.network.padding import bordered, fill_columns_, unbordered

# Output rows and columns of one tile, and the bytes of its transform for one channel: 8 × 8 float32.
_TILE = 6
_TRANSFORM_BYTES = 256
# The bytes of a stripe's transforms: small enough to stay near the cache, large enough for the threads to share.
_STRIPE_BYTES = 48_000_000
# A stripe has whole tiles, and whole windows of the pooling.
_ROW_STEP = 12
# Elements of the columns of one band of the first convolution.
_BAND_ELEMENTS = 1 << 20


@cache
def available() -> bool:
    """True where torch has NNPACK and it runs on this CPU; the call also readies it."""
    return bool(torch.backends.nnpack.is_available())  # type: ignore[no-untyped-call]


def stripes(channels: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """The rows of a map as ranges (start, stop); `channels` are those in and out together."""
    row_bytes = ceil(width / _TILE) * channels * _TRANSFORM_BYTES / _TILE
    rows = max(1, int(_STRIPE_BYTES / row_bytes) // _ROW_STEP) * _ROW_STEP
    count = max(1, ceil(height / rows))
    rows = ceil(ceil(height / count) / _ROW_STEP) * _ROW_STEP
    start = 0
    while start < height:
        # A single row would have no window of the pooling.
        stop = start + rows if start + rows < height - 1 else height
        yield start, stop
        start = stop


def convolve(
    shape: tuple[int, ...],
    read: Callable[[int, int, Tensor], None],
    weight: Tensor,
    bias: Tensor | None,
    write: Callable[[int, int, Tensor], None],
    *,
    padding: str = "zeros",
) -> None:
    """Convolves a (1, C, H, W) float32 map of `shape` with `weight` (K, C, 3, 3), stripe by stripe.

    Around the map are zeros, its nearest pixels ("replicate") or its other sides ("circular"). A map with fewer
    positions than channels is convolved directly.

    `read(start, stop, rows)` puts the map's rows start … stop into `rows`, (1, C, stop − start, W) of any strides;
    `write(start, stop, result)` gets the output's, (1, K, stop − start, W), its own to change.
    """
    _, channels, height, width = shape
    if 2 * height * width < weight.shape[0] + channels:
        # The transform of the weights costs more than it saves.
        whole = torch.empty((1, channels, height, width), dtype=torch.float32)  # (1, C, H, W)
        read(0, height, whole)
        if padding == "zeros":
            write(0, height, F.conv2d(whole, weight, bias, padding=1))
        else:
            write(0, height, F.conv2d(bordered(whole, padding), weight, bias))
        return
    border = int(padding != "zeros")
    above, below = _rows_around(channels, height, width, read, padding) if border else (None, None)
    source = None
    for start, stop in stripes(weight.shape[0] + channels, height, width):
        if source is None or source.shape[2] != stop - start + 2:
            source = torch.empty((1, channels, stop - start + 2, width + 2 * border), dtype=torch.float32)
        columns = slice(border, border + width)
        first, last = max(start - 1, 0), min(stop + 1, height)
        source[:, :, 0].zero_()
        source[:, :, -1].zero_()
        read(first, last, source[:, :, first - start + 1 : last - start + 1, columns])
        if above is not None and start == 0:
            source[:, :, 0, columns] = above
        if below is not None and stop == height:
            source[:, :, -1, columns] = below
        if border:
            fill_columns_(source, padding)
        write(start, stop, torch._nnpack_spatial_convolution(source, weight, bias, [0, 1 - border]))


def _rows_around(
    channels: int, height: int, width: int, read: Callable[[int, int, Tensor], None], padding: str
) -> tuple[Tensor, Tensor]:
    """The rows beyond the first and beyond the last one of a map, each (1, C, W), as `bordered` has them."""
    # A single row would have no window of the pooling.
    count = min(2, height)
    ends = torch.empty((2, 1, channels, count, width), dtype=torch.float32)
    read(height - count, height, ends[0])
    read(0, count, ends[1])
    last, first = ends[0, :, :, -1], ends[1, :, :, 0]
    return (last, first) if padding == "circular" else (first, last)


def _bands(height: int, width: int) -> list[tuple[int, int]]:
    rows = max(1, _BAND_ELEMENTS // (27 * width))
    return [(start, min(start + rows, height)) for start in range(0, height, rows)]


def convolve_first(image: Tensor, weight: Tensor, bias: Tensor, padding: str, result: Tensor) -> None:
    """Writes the ReLU of the convolution of (1, 3, H, W) planes with `weight` (K, 3, 3, 3) into `result` (1, K, H, W).

    It is one matrix product, since three channels are too few for a convolution's own kernels: twenty-seven shifted
    copies of the planes are the columns (Chellapilla et al. 2006), a band of rows at a time, so that they stay in the
    cache. `padding` is "zeros", "replicate" or "circular".
    """
    _, channels, height, width = image.shape
    padded = F.pad(image[0], (1, 1, 1, 1), mode="constant" if padding == "zeros" else padding)
    matrix = weight.flatten(1)
    output = result.view(len(weight), height, width)
    for start, stop in _bands(height, width):
        rows = stop - start
        band = padded[:, start:]
        windows = band.as_strided((channels, 3, 3, rows, width), (padded.stride(0), width + 2, 1, width + 2, 1))
        columns = windows.reshape(9 * channels, rows * width)
        target = output[:, start:stop].flatten(1)
        torch.addmm(bias[:, None], matrix, columns, out=target).relu_()


def first_gradient(gradient: Tensor, weight: Tensor, padding: str) -> Tensor:
    """The gradient of `convolve_first`'s image, (1, 3, H, W), for `gradient` before the ReLU, (1, K, H, W)."""
    height, width = gradient.shape[2:]
    channels = weight.shape[1]
    matrix = weight.flatten(1).T.contiguous()
    result = gradient.new_zeros((1, channels, height + 2, width + 2))
    for start, stop in _bands(height, width):
        columns = (matrix @ gradient[0, :, start:stop].flatten(1)).view(channels, 3, 3, stop - start, width)
        for row in range(3):
            for column in range(3):
                target = result[0, :, start + row : stop + row, column : column + width]
                target += columns[:, row, column]
    return unbordered(result, padding)
