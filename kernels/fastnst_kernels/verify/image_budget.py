"""Error budgets of the operations at the image's edge, by the rule of `budget`.

The plain computation is the formula in naive torch, in the image's dtype. It is not taken below the roundings that
every implementation shares: of the factors, and of each sum where terms cancel, added in quadrature.

Every function returns the exact result and its budget, one number for each image.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels.image import reference
from fastnst_kernels.verify.budget import Expected, allowed, orders, relative_error, unit


def normalise(
    image: Tensor, scale: Sequence[float], shift: Sequence[float], flip: bool, dtype: torch.dtype
) -> Expected:
    exact = reference.normalise(image, scale, shift, flip)
    plain = reference.normalise(image, scale, shift, flip, dtype=image.dtype)
    shifts = reference.by_channel(shift, exact).expand_as(exact)
    return _budget([plain.to(dtype)], exact, [exact - shifts, shifts, exact], dtype=image.dtype, result_dtype=dtype)


def normalise_gradient(upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype) -> Expected:
    """The gradient of `normalise` for the image's `dtype`."""
    exact = reference.normalise_gradient(upstream, scale, flip)
    plain = reference.normalise_gradient(upstream, scale, flip, dtype=dtype)
    return _budget([plain], exact, [exact, exact], dtype=dtype)


def total_variation(image: Tensor, kind: str) -> Expected:
    """The total variation: its plain sum is taken in a few orders of the terms."""
    exact = reference.total_variation(image, kind)
    plains = [reference.total_variation(image, kind, dtype=image.dtype)]
    if kind != "nine-point":
        terms = torch.cat([difference.flatten(1) for difference in reference.differences(image, kind)], 1)
        terms = terms.square() if kind == "squared" else terms.abs()
        plains += [terms[:, order].sum(1) / image[0, 0].numel() for order in orders(terms.shape[1], image.device)]
    return _budget(plains, exact, [exact] * (3 if kind == "nine-point" else 2), dtype=image.dtype)


def image_gradient(
    image: Tensor, upstream: Tensor | None, scale: Sequence[float], flip: bool, tv_weight: float | Tensor, kind: str
) -> Expected:
    """The gradient of `image_gradient`; with no upstream, the one of `total_variation`."""
    exact, plain = (
        reference.image_gradient(image, upstream, scale, flip=flip, tv_weight=tv_weight, kind=kind, dtype=dtype)
        for dtype in (torch.float64, image.dtype)
    )
    weights = torch.as_tensor(tv_weight, dtype=image.dtype, device=image.device).expand(len(image))[:, None, None, None]
    # Each difference counts in two pixels.
    terms = [weights * slope for slope in reference.slopes(image, kind)] * 2 + [exact, exact]
    if upstream is not None:
        terms.append(reference.normalise_gradient(upstream, scale, flip))
    return _budget([plain], exact, terms, dtype=image.dtype)


def adam(image: Tensor, gradients: Sequence[Tensor], **change: Any) -> list[Expected]:
    """Image, first and second moment after one step for each gradient, from moments of zero; `change` is the rest of
    what `reference.adam_step` takes."""
    exact = plain = (image, torch.zeros_like(image), torch.zeros_like(image))
    updates = [torch.zeros_like(image)] * 3
    for index, gradient in enumerate(gradients):
        before = exact
        exact = reference.adam_step(exact[0], gradient, *exact[1:], index + 1, **change)
        plain = reference.adam_step(plain[0], gradient, *plain[1:], index + 1, **change, dtype=image.dtype)
        updates = [(now - then).abs() + total for now, then, total in zip(exact, before, updates, strict=True)]
    return [
        _budget([result], state, [state, 2 * update], dtype=image.dtype)
        for result, state, update in zip(plain, exact, updates, strict=True)
    ]


def _budget(
    plains: Sequence[Tensor],
    exact: Tensor,
    terms: Sequence[Tensor],
    *,
    dtype: torch.dtype,
    result_dtype: torch.dtype | None = None,
) -> Expected:
    """The exact result and the budget of plain results that share one rounding of each of `terms` in `dtype`."""
    size = exact.reshape(len(exact), -1).norm(dim=1)
    sizes = torch.stack([term.double().reshape(len(exact), -1).norm(dim=1) for term in terms])
    shared = unit(dtype) * sizes.norm(dim=0) / torch.where(size > 0, size, 1.0)
    return Expected(
        exact, allowed([relative_error(plain, exact) for plain in plains], exact, shared, result_dtype or dtype)
    )
