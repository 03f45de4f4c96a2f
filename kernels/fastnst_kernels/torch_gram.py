"""The same operations in plain torch: the fast path on CPU, and what runs where Triton does not."""

import torch
from torch import Tensor

from fastnst_kernels.layout import channels_last

# Rows of G per product: blocks below the diagonal are skipped, and are not worth their own call when smaller.
_BLOCK_ROWS = 128
# Partial sums of a channels-last product: at most so many, and so many times the channels.
_MOST_PARTS = 16
_PART_CHANNELS = 2048
# Elements of features that are widened to float32 at a time: they stay in the cache.
_CHUNK_ELEMENTS = 1 << 19


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _add_upper_products(result: Tensor, matrix: Tensor) -> None:
    """Add F Fᵀ of one image's (C, M) matrix to (C, C) `result`, on and above the diagonal blocks."""
    for row in range(0, matrix.shape[0], _BLOCK_ROWS):
        result[row : row + _BLOCK_ROWS, row:].addmm_(matrix[row : row + _BLOCK_ROWS], matrix[row:].mT)


def _add_product_by_parts(result: Tensor, rows: Tensor) -> Tensor:
    """Add Xᵀ X of one image's (M, C) positions to (C, C) `result`, as a batch of partial sums.

    One product of so tall a matrix is up to nine times slower: the library does not share the long axis among threads.
    """
    parts = max(1, min(_MOST_PARTS, _PART_CHANNELS // rows.shape[1], rows.shape[0] // rows.shape[1]))
    length = rows.shape[0] // parts
    batch: Tensor = rows[: parts * length].unflatten(0, (parts, length))  # type: ignore[no-untyped-call]
    result += torch.bmm(batch.mT, batch).sum(0)
    rest = rows[parts * length :]
    return result.addmm_(rest.mT, rest) if len(rest) else result


def _mirrored(result: Tensor) -> Tensor:
    """The matrix with the elements below the diagonal replaced by those above: the products of a block on the diagonal
    need not be symmetric to the bit."""
    upper = result.triu()
    return upper + upper.triu(1).mT


def gram(features: Tensor) -> Tensor:
    """G = F Fᵀ/M, (B, C, C) float32 (float64 for float64), of features (B, C, H, W), any floating dtype and layout."""
    batch, channels, height, width = features.shape
    dtype = accumulation_dtype(features.dtype)
    result = torch.zeros((batch, channels, channels), dtype=dtype, device=features.device)
    step = height * width if features.dtype == dtype else max(1, _CHUNK_ELEMENTS // channels)
    with torch.autocast(features.device.type, enabled=False):
        for matrix, sums in zip(features.flatten(2), result, strict=True):
            if features.dtype == dtype and channels_last(features):
                _add_product_by_parts(sums, matrix.mT)
                continue
            for chunk in matrix.split(step, dim=1):
                _add_upper_products(sums, chunk.to(dtype))
    return _mirrored(result).div_(height * width)


def gram_difference_loss(features: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss weight/4N² · Σ (G − A)² (B,), the difference G − (A + Aᵀ)/2 (B, C, C) and its scale (B,), all ones."""
    result = gram(features)
    target = target.to(result.dtype)
    loss = (result - target).square_().sum((1, 2)).mul_(weight / (4 * features.shape[1] ** 2))
    difference = result.sub_((target + target.mT).mul_(0.5))
    return loss, difference, torch.ones_like(loss)


def tap_backward(
    features: Tensor,
    difference: Tensor,
    scale: Tensor,
    loss_gradient: Tensor,
    factor: float,
    upstream: Tensor | None,
) -> Tensor:
    """upstream + factor · loss_gradient · scale · difference · F in the layout of the features, (B, C, H, W)."""
    batch, channels, height, width = features.shape
    dtype = accumulation_dtype(features.dtype)
    rows_are_positions = channels_last(features)
    matrix = difference.to(dtype) * (loss_gradient * scale * factor)[:, None, None]
    inputs = features.flatten(2)
    above = None if upstream is None else upstream.flatten(2)
    if rows_are_positions:
        inputs = inputs.mT
        above = None if above is None else above.mT

    def product(f: Tensor, added: Tensor | None) -> Tensor:
        left, right = (f, matrix) if rows_are_positions else (matrix, f)
        return torch.bmm(left, right) if added is None else torch.baddbmm(added, left, right)

    with torch.autocast(features.device.type, enabled=False):
        if features.dtype == dtype:
            gradient = product(inputs, above)
        else:
            gradient = torch.empty(inputs.shape, dtype=features.dtype, device=features.device)
            axis = 1 if rows_are_positions else 2
            step = max(1, _CHUNK_ELEMENTS // (batch * channels))
            for start in range(0, height * width, step):
                length = min(step, height * width - start)
                added = None if above is None else above.narrow(axis, start, length).to(dtype)
                chunk = product(inputs.narrow(axis, start, length).to(dtype), added)
                gradient.narrow(axis, start, length).copy_(chunk)
    if rows_are_positions:
        return gradient.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return gradient.view(batch, channels, height, width)
