"""3×3 convolutions on a CPU in float32, as products of transformed tiles.

For a pair of channels, 4×4 outputs Y are computed from 6×6 inputs X and the 3×3 weights W with 36 products in place of
144, Y = Aᵀ ((Bᵀ X B) ⊙ (G W Gᵀ)) A (Winograd 1980; Lavin and Gray 2016, F(4×4, 3×3)). Each transform is a matrix over
the places of a tile, so all of it is products of matrices, by the library that torch brings for them; with few channels
the transforms cost about as much as what lies between them. Errors are 1 to 3·10⁻⁶ of the result's size, those of
direct convolutions 0.3 to 1.2·10⁻⁶. A number that is not finite spoils its whole tile.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

TILE, INPUT = 4, 6
"""Rows and columns of the outputs of one tile, and of its inputs."""

# What one strip of tiles holds for all channels: small enough to stay near the caches, large enough for the threads.
_STRIP_ELEMENTS = 1 << 20


def _over_places(matrix: list[list[float]]) -> Tensor:
    """The transform M X Mᵀ of a square X, over its elements in memory order."""
    wide = torch.tensor(matrix, dtype=torch.float64, device="cpu")
    return torch.kron(wide, wide).float()


# Bᵀ, G and Aᵀ for the points 0, 1, −1, 2, −2 and infinity.
_OF_INPUTS = _over_places(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_OF_WEIGHTS = _over_places(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OF_PRODUCTS = _over_places([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
# The product at the point (1, 1) is a part of each output, with a factor of one: there a bias counts for all.
_ONE = INPUT + 1


def pack(weight: Tensor) -> Tensor:
    """The weight (K, C, 3, 3) in the order in memory in which it is transformed; its shape stays."""
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def strips(channels: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """The rows of a result as ranges (start, stop) of whole tiles, but for the last; `channels` are those in or out,
    whichever are more."""
    tall, wide = math.ceil(height / TILE), math.ceil(width / TILE)
    most = max(1, _STRIP_ELEMENTS // (INPUT**2 * wide * channels))
    rows = TILE * math.ceil(tall / math.ceil(tall / most))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool, padding: int) -> Tensor:
    """The convolution of a float32 map (1, C, H, W) in channels-last, `padding` rows and columns of zeros around it,
    with a packed `weight` (K, C, 3, 3), and its ReLU if wanted: (1, K, H + 2 · padding − 2, W + 2 · padding − 2)."""
    filters, channels = weight.shape[:2]
    shape = x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2
    result, source = x.new_empty((1, *shape, filters)), x[0].permute(1, 2, 0)
    least = 0.0 if relu else -math.inf
    factors = (_OF_WEIGHTS @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, channels, filters)
    for start, stop in strips(max(filters, channels), *shape):
        # Nothing holds the rows of one strip while the next one is computed.
        size = stop - start, shape[1]
        torch.clamp_min(_rows(source, factors, bias, padding, start, size), least, out=result[0, start:stop])
    return result.permute(0, 3, 1, 2)


def _rows(
    source: Tensor, factors: Tensor, bias: Tensor | None, padding: int, start: int, size: tuple[int, int]
) -> Tensor:
    """Rows of the convolution of `source`, (H, W, C), with the transformed weights (36, C, K): from `start` on, a strip
    whose height and width are `size`, (height, width, K)."""
    _, channels, filters = factors.shape
    tall, wide = (math.ceil(side / TILE) for side in size)
    band = source.new_zeros((TILE * tall + 2, TILE * wide + 2, channels))
    above, (height, width) = start - padding, source.shape[:2]
    first, last = max(above, 0), min(above + len(band), height)
    band[first - above : last - above, padding : padding + width] = source[first:last]
    row, column, _ = band.stride()
    tiles = band.as_strided((INPUT, INPUT, tall, wide, channels), (row, column, TILE * row, TILE * column, 1))
    products = torch.bmm((_OF_INPUTS @ tiles.reshape(INPUT**2, -1)).view(INPUT**2, -1, channels), factors)
    if bias is not None:
        products[_ONE] += bias
    outputs = (_OF_PRODUCTS @ products.view(INPUT**2, -1)).view(TILE, TILE, tall, wide, filters)
    rows = outputs.permute(2, 0, 3, 1, 4).reshape(TILE * tall, TILE * wide, filters)
    return rows[: size[0], : size[1]]
