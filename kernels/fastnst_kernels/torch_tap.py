"""The content loss and the gradient of a tap in plain torch: the fast path on CPU, and where Triton does not run."""

import torch
from torch import Tensor

from fastnst_kernels.layout import channels_last, position_stride
from fastnst_kernels.terms import ContentTerm, Owned, StyleTerm
from fastnst_kernels.torch_gram import accumulation_dtype, row_chunks


def content_loss(features: Tensor, content: Tensor, weight: float) -> Tensor:
    """weight · Σ (F − P)² of features (B, C, H, W) and content (B or 1, C, H, W): (B,) float32 (float64 for it)."""
    dtype = accumulation_dtype(features.dtype)
    sums = [
        (features[:, :, start:stop].to(dtype) - content[:, :, start:stop].to(dtype)).square_().sum((1, 2, 3))
        for start, stop in row_chunks(features)
    ]
    return torch.stack(sums).sum(0).mul_(weight)


def tap_backward(
    gradient: Tensor,
    features: Tensor,
    upstream: Tensor | None,
    style: StyleTerm | None,
    content: ContentTerm | None,
    relu: bool,
    owned: Owned | None,
) -> None:
    """Write upstream + style term + content term, zero where `relu` and features ≤ 0, over `gradient` (B, C, H, W).

    `upstream` may be `gradient`. The two terms are added inside `owned` alone.
    """
    dtype = accumulation_dtype(features.dtype)
    matrix = coefficient = None
    if style is not None:
        matrix = style.difference * (style.gradient * style.scale * style.factor)[:, None, None]
    if content is not None:
        coefficient = (content.gradient * content.factor)[:, None, None, None]
    with torch.autocast(features.device.type, enabled=False):
        whole = owned is None and features.dtype == dtype and _one_axis(features, gradient, upstream)
        if whole and matrix is not None:
            _write_product(features, matrix, upstream, gradient)
            matrix = None
            upstream = gradient
            if content is None and not relu:
                return
        top, left, height, width = owned or (0, 0, *features.shape[2:])
        for start, stop in row_chunks(features):
            own = features[:, :, start:stop]
            above = None if upstream is None else upstream[:, :, start:stop]
            # A copy even where `gradient` could be added to: one rounding of the whole sum.
            sums = torch.zeros_like(own, dtype=dtype) if above is None else above.to(dtype, copy=True)
            first, last = max(start, top), min(stop, top + height)
            if first < last:
                columns = slice(left, left + width)
                inner = features[:, :, first:last, columns].to(dtype)
                inner_sums = sums[:, :, first - start : last - start, columns]
                if matrix is not None:
                    inner_sums += _product(matrix, inner)
                if content is not None and coefficient is not None:
                    distance = inner - content.content[:, :, first - top : last - top].to(dtype)
                    inner_sums += distance.mul_(coefficient)
            if relu:
                sums.masked_fill_(own <= 0, 0.0)
            gradient[:, :, start:stop].copy_(sums)


def _one_axis(features: Tensor, gradient: Tensor, upstream: Tensor | None) -> bool:
    maps = (features, gradient) if upstream is None else (features, gradient, upstream)
    return all(position_stride(x) is not None for x in maps)


def _as_matrix(features: Tensor, rows_are_positions: bool) -> Tensor:
    matrix = features.flatten(2)
    return matrix.mT if rows_are_positions else matrix


def _product(style: Tensor, features: Tensor) -> Tensor:
    """style · F in the layout of the features."""
    if channels_last(features) or features.stride(1) == 1:
        rows = features.permute(0, 2, 3, 1)
        return torch.bmm(rows.flatten(1, 2), style).view(rows.shape).permute(0, 3, 1, 2)
    return torch.bmm(style, features.flatten(2)).view(features.shape)


def _write_product(features: Tensor, style: Tensor, upstream: Tensor | None, gradient: Tensor) -> None:
    """gradient = upstream + style · F in one product; the maps' H and W act as one axis."""
    rows_are_positions = channels_last(features)
    inputs = _as_matrix(features, rows_are_positions)
    result = _as_matrix(gradient, rows_are_positions)
    left, right = (inputs, style) if rows_are_positions else (style, inputs)
    if upstream is None:
        torch.bmm(left, right, out=result)
    elif upstream is gradient:
        result.baddbmm_(left, right)
    else:
        torch.baddbmm(_as_matrix(upstream, rows_are_positions), left, right, out=result)
