"""The content loss and the gradient of a tap in plain torch: the fast path on CPU, and where Triton does not run."""

import torch
from torch import Tensor

from fastnst_kernels.layout import position_stride
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
        for start, stop in row_chunks(features):
            rows = slice(start, stop)
            own, out = features[:, :, rows], gradient[:, :, rows]
            above = None if upstream is None else upstream[:, :, rows]
            alone = above is None and content is None and owned is None
            if matrix is not None and alone and out.dtype == own.dtype == dtype:
                _write_product(matrix, own, out)
            else:
                if owned is None:
                    p = None if content is None else content.content[:, :, rows]
                    terms = _terms(own.to(dtype), matrix, p, coefficient)
                else:
                    terms = _owned_terms(features, start, stop, owned, matrix, content, coefficient, dtype)
                _write_sum(terms, above, out)
            if relu:
                out.masked_fill_(own <= 0, 0.0)


def _write_sum(terms: Tensor | None, above: Tensor | None, out: Tensor) -> None:
    """out = terms + above, rounded once, however large the gradient from above is."""
    if terms is None and above is None:
        out.zero_()
    elif terms is None or above is None:
        out.copy_(terms if above is None else above)
    elif out.dtype == terms.dtype:
        torch.add(terms, above, out=out)
    else:
        out.copy_(terms.add_(above))


def _terms(f: Tensor, style: Tensor | None, p: Tensor | None, coefficient: Tensor | None) -> Tensor | None:
    """style · F + coefficient · (F − P), in the layout of F; None without either."""
    total = None if style is None else _product(style, f)
    if p is None or coefficient is None:
        return total
    distance = (f - p).mul_(coefficient)
    return distance if total is None else total.add_(distance)


def _owned_terms(
    features: Tensor,
    start: int,
    stop: int,
    owned: Owned,
    style: Tensor | None,
    content: ContentTerm | None,
    coefficient: Tensor | None,
    dtype: torch.dtype,
) -> Tensor | None:
    """The terms on rows start … stop of the features, zero outside the owned positions; None where there are none."""
    top, left, height, width = owned
    first, last = max(start, top), min(stop, top + height)
    if first >= last:
        return None
    columns = slice(left, left + width)
    p = None if content is None else content.content[:, :, first - top : last - top]
    inner = _terms(features[:, :, first:last, columns].to(dtype), style, p, coefficient)
    if inner is None:
        return None
    total = torch.zeros_like(features[:, :, start:stop], dtype=dtype)
    total[:, :, first - start : last - start, columns] = inner
    return total


def _write_product(style: Tensor, features: Tensor, out: Tensor) -> None:
    """out = style · F, in no other memory where H and W of `out` act as one axis."""
    if position_stride(out) is None:
        out.copy_(_product(style, features))
    elif features.stride(1) == 1:
        torch.bmm(features.flatten(2).mT, style, out=out.flatten(2).mT)
    else:
        torch.bmm(style, features.flatten(2), out=out.flatten(2))


def _product(style: Tensor, features: Tensor) -> Tensor:
    """style · F in the layout of the features."""
    if features.stride(1) == 1:
        rows = features.permute(0, 2, 3, 1)
        return torch.bmm(rows.flatten(1, 2), style).view(rows.shape).permute(0, 3, 1, 2)
    return torch.bmm(style, features.flatten(2)).view(features.shape)
