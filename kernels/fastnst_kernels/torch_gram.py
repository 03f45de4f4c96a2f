"""The Gram matrix and its loss in plain torch: the fast path on CPU, and what runs where Triton does not."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastnst_kernels.layout import position_stride

# Rows of G per product: blocks below the diagonal are skipped, and are not worth their own call when smaller.
_BLOCK_ROWS = 128
# Partial sums of a channels-last product: at most so many, and so many times the channels.
_MOST_PARTS = 16
_PART_CHANNELS = 2048
# Elements of features that are copied or widened to float32 at a time: they stay in the cache.
CHUNK_ELEMENTS = 1 << 20


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_chunks(features: Tensor) -> Iterator[tuple[int, int]]:
    """The rows of (B, C, H, W) features as ranges (start, stop) of at most `CHUNK_ELEMENTS`, or of one row."""
    batch, channels, height, width = features.shape
    # At most a quarter of a large map: what is copied of it is beside it in memory.
    elements = min(CHUNK_ELEMENTS, max(CHUNK_ELEMENTS // 8, features.numel() // 4))
    rows = max(1, elements // (batch * channels * width))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _add_products(sums: Tensor, matrix: Tensor) -> None:
    """Add F Fᵀ of one image's (C, M) matrix to (C, C) `sums`, on and above the diagonal blocks."""
    parts = _parts(matrix)
    length = matrix.shape[1] // parts
    for row in range(0, matrix.shape[0], _BLOCK_ROWS):
        upper = sums[row : row + _BLOCK_ROWS, row:]
        left, right = matrix[row : row + _BLOCK_ROWS], matrix[row:]
        if parts > 1:
            upper += torch.bmm(_split(left, parts, length), _split(right, parts, length).mT).sum(0)
            left, right = left[:, parts * length :], right[:, parts * length :]
        if left.shape[1]:
            upper.addmm_(left, right.mT)


def _parts(matrix: Tensor) -> int:
    """How many partial sums the product of a (C, M) matrix is cut into.

    Where the channels are contiguous, one product of so tall a matrix is up to nine times slower: the library does not
    share the long axis among threads.
    """
    channels, positions = matrix.shape
    if matrix.stride(1) == 1:
        return 1
    return max(1, min(_MOST_PARTS, _PART_CHANNELS // channels, positions // (2 * channels)))


def _split(matrix: Tensor, parts: int, length: int) -> Tensor:
    """The first parts · length positions of (C, M) as a batch, (parts, C, length)."""
    stride_c, stride_m = matrix.stride()
    return matrix.as_strided((parts, matrix.shape[0], length), (length * stride_m, stride_c, stride_m))


def _mirror(sums: Tensor) -> None:
    """Replace the elements of (C, C) below the diagonal by those above.

    The product of a block on the diagonal need not be symmetric to the bit.
    """
    below = sums.triu(1).mT
    sums.triu_().add_(below)


def _products(features: Tensor) -> Tensor:
    """F Fᵀ, (B, C, C) float32 (float64 for float64) and symmetric to the bit, of features (B, C, H, W)."""
    batch, channels = features.shape[:2]
    dtype = accumulation_dtype(features.dtype)
    result = torch.zeros((batch, channels, channels), dtype=dtype, device=features.device)
    whole = features.dtype == dtype and position_stride(features) is not None
    with torch.autocast(features.device.type, enabled=False):
        for image, sums in zip(features, result, strict=True):
            if whole:
                _add_products(sums, image.flatten(1))
            else:
                for start, stop in row_chunks(image[None]):
                    _add_products(sums, image[:, start:stop].to(dtype).flatten(1))
            _mirror(sums)
    return result


def gram(features: Tensor) -> Tensor:
    """G = F Fᵀ/M, (B, C, C) float32 (float64 for float64), of features (B, C, H, W), any floating dtype and layout."""
    return _products(features).div_(features.shape[2] * features.shape[3])


def accumulate_gram(sums: Tensor, features: Tensor) -> None:
    """sums += F Fᵀ, in place in (B, C, C) float32 (float64 for float64), of features (B, C, H, W)."""
    sums += _products(features)


def gram_difference_loss(
    features: Tensor, target: Tensor, weight: float, offset: Tensor | None, offset_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss weight/4N² · Σ (G − A)² + offset_weight · offset (B,), the difference G − (A + Aᵀ)/2 (B, C, C) and its
    scale (B,), all ones."""
    return _loss_of(gram(features), target, weight, offset, offset_weight)


def finish_gram_loss(
    sums: Tensor, positions: int, target: Tensor, weight: float, offset: Tensor | None, offset_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`gram_difference_loss` from F Fᵀ, (B, C, C), over `positions`."""
    return _loss_of(sums / positions, target, weight, offset, offset_weight)


def _loss_of(
    result: Tensor, target: Tensor, weight: float, offset: Tensor | None, offset_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same from G = `result`, which is overwritten."""
    difference = result.sub_(target)
    loss = difference.square().sum((1, 2)).mul_(weight / (4 * result.shape[1] ** 2))
    if offset is not None:
        loss.add_(offset, alpha=offset_weight)
    difference = torch.add(difference, difference.mT).mul_(0.5)
    return loss, difference, torch.ones_like(loss)
