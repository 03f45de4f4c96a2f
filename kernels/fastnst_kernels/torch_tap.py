"""The content loss and the gradient of a tap in plain torch: the fast path on CPU, and where Triton does not run."""

import torch
from torch import Tensor

from fastnst_kernels.layout import position_stride
from fastnst_kernels.terms import ContentTerm, Owned, StyleTerm
from fastnst_kernels.torch_gram import accumulation_dtype, row_chunks

# A matrix (B, C, C) and the factor of its product.
Scaled = tuple[Tensor, float]


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
    matrix = None if style is None else _scaled(style)
    coefficient = None
    if content is not None:
        coefficient = (content.gradient * content.factor)[:, None, None, None]
    with torch.autocast(features.device.type, enabled=False):
        alone = upstream is None and content is None and owned is None
        if matrix is not None and alone and gradient.dtype == features.dtype == dtype:
            _write_product(matrix, features, gradient)
            if relu:
                _mask(gradient, features)
            return
        for start, stop in row_chunks(features):
            rows = slice(start, stop)
            own, out = features[:, :, rows], gradient[:, :, rows]
            above = None if upstream is None else upstream[:, :, rows]
            if owned is None:
                p = None if content is None else content.content[:, :, rows]
                terms = _terms(own.to(dtype), matrix, p, coefficient)
            else:
                terms = _owned_terms(features, start, stop, owned, matrix, content, coefficient, dtype)
            _write_sum(terms, above, out)
            if relu:
                _mask(out, own)


def _mask(gradient: Tensor, features: Tensor) -> None:
    """gradient = 0 where features ≤ 0, in one vectorised pass."""
    torch.ops.aten.threshold_backward.grad_input(gradient, features, 0.0, grad_input=gradient)


def _scaled(style: StyleTerm) -> Scaled:
    """The matrix and the factor that its product with F is to be multiplied by."""
    coefficient = style.gradient * style.scale * style.factor
    # The matrix of a deep layer is as large as its features: one image on a CPU, where to read a number is free, needs
    # no scaled copy of it.
    if len(coefficient) == 1 and coefficient.device.type == "cpu":
        return style.difference, float(coefficient)
    return style.difference * coefficient[:, None, None], 1.0


def _write_sum(terms: Tensor | None, above: Tensor | None, out: Tensor) -> None:
    """out = terms + above, rounded once, however large the gradient from above is."""
    if terms is None:
        out.copy_(above) if above is not None else out.zero_()
    elif above is None:
        out.copy_(terms)
    elif out.dtype == terms.dtype:
        torch.add(terms, above, out=out)
    else:
        out.copy_(terms.add_(above))


def _terms(f: Tensor, style: Scaled | None, p: Tensor | None, coefficient: Tensor | None) -> Tensor | None:
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
    style: Scaled | None,
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


def _write_product(style: Scaled, features: Tensor, out: Tensor) -> None:
    """out = style · F, in no other memory where H and W of `out` act as one axis."""
    if position_stride(out) is None:
        out.copy_(_product(style, features))
    elif features.stride(1) == 1:
        _multiply(features.flatten(2).mT, style[0], style[1], out.flatten(2).mT)
    else:
        _multiply(style[0], features.flatten(2), style[1], out.flatten(2))


def _product(style: Scaled, features: Tensor) -> Tensor:
    """style · F in the layout of the features."""
    layout = torch.channels_last if features.stride(1) == 1 else torch.contiguous_format
    product = torch.empty_like(features, memory_format=layout)
    _write_product(style, features, product)
    return product


def _multiply(left: Tensor, right: Tensor, factor: float, out: Tensor) -> None:
    """out = factor · left · right of batches of matrices."""
    torch.baddbmm(out, left, right, beta=0, alpha=factor, out=out)
