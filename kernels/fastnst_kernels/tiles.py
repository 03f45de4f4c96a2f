"""The operations on the tiles of a picture: its losses depend on it only through sums over positions.

First each tile's `accumulate_gram`, then `finish_gram_loss` of the whole, then back through each tile with that
difference: by autograd with `tile_tap`, or step by step with `tap_gradient`.
"""

import torch
from torch import Tensor

from fastnst_kernels import ops, reference
from fastnst_kernels.backends import resolve_backend
from fastnst_kernels.checks import (
    check_content,
    check_difference,
    check_dtype,
    check_features,
    check_loss_gradient,
    check_owned,
    check_sums,
    check_sums_for,
    check_target,
    check_weight,
)
from fastnst_kernels.functions import TileTap, written_gradient
from fastnst_kernels.targets import BlendedTarget, GramDifference
from fastnst_kernels.terms import ContentTerm, Owned, StyleTerm, flat_terms


def accumulate_gram(sums: Tensor, features: Tensor, *, precision: str = "ieee", backend: str = "auto") -> None:
    """sums += F Fᵀ, in place: (B, C, C) contiguous, float32 (float64 for float64 features), not divided by M.

    `features`, `precision`, `backend` and what is raised are those of `gram`; give the owned part of a tile as a view,
    `features[:, :, top : top + height, left : left + width]`, which is read without a copy. Nothing is differentiated.
    The order of the calls is the order of the sum: tiles in the same order give the same bits. Raises ValueError for
    sums of another shape, dtype, layout or device.
    """
    backend = check_features(features, precision, backend)
    check_sums_for(features, sums)
    features = features.detach()
    if backend == "reference":
        sums += (reference.gram(features) * features[0, 0].numel()).to(sums.dtype)
    else:
        ops.accumulate_gram(sums, features, precision, backend)


def finish_gram_loss(
    sums: Tensor,
    positions: int,
    target: Tensor | BlendedTarget,
    weight: float = 1.0,
    *,
    dtype: torch.dtype,
    backend: str = "auto",
) -> tuple[Tensor, GramDifference]:
    """The `gram_loss` of a whole picture from its F Fᵀ: (loss, the difference that its tiles' backward needs).

    `sums` is (B, C, C) as `accumulate_gram` leaves it, and stays as it is; `positions` is M, 1 or more, `dtype` the
    features'. `target`, `weight` and `backend` are those of `gram_loss`. The loss is (B,) in the dtype of the sums.
    Raises ValueError as `gram_loss` does, and for sums or positions that are none.
    """
    check_sums(sums)
    backend = resolve_backend(backend, sums.device)
    check_dtype(dtype, backend)
    matrix, total, offset = check_target(sums, target, weight)
    if positions < 1:
        raise ValueError(f"{positions} positions cannot be averaged over; give 1 or more")
    factor = total / (sums.shape[1] ** 2 * positions)
    if backend == "reference":
        exact = sums.double() / positions
        symmetric = (matrix.double() + matrix.double().mT) / 2
        difference = (exact - symmetric).to(reference.result_dtype(dtype))
        loss = total / (4 * sums.shape[1] ** 2) * (exact - matrix.double()).square().sum((1, 2))
        loss = (loss if offset is None else loss + weight * offset.double()).to(sums.dtype)
        return loss, GramDifference(difference, torch.ones_like(loss), factor)
    loss, difference, scale = ops.finish_gram_loss(sums, positions, matrix, total, offset, weight, dtype, backend)
    return loss, GramDifference(difference, scale, factor)


def tile_tap(
    features: Tensor,
    *,
    difference: GramDifference | None = None,
    style_gradient: Tensor | None = None,
    content: Tensor | None = None,
    content_weight: float = 1.0,
    content_gradient: Tensor | None = None,
    owned: Owned | None = None,
    relu: bool = False,
    inplace: bool = False,
    precision: str = "ieee",
    backend: str = "auto",
) -> Tensor:
    """A pass-through whose backward adds the terms of a whole picture's losses to its tile's gradient, in one pass.

    Forward returns the features, or max(features, 0) with `relu` (`inplace` as in `tap`). Backward writes what
    `tap_gradient` does, whose arguments the others are. Differentiable once. Raises what `tap_gradient` raises.
    """
    backend = check_features(features, precision, backend)
    if inplace and not relu:
        raise ValueError("inplace=True writes the ReLU's output over its input; give relu=True with it")
    style, term = _terms(
        features, difference, style_gradient, content, content_weight, content_gradient, owned, backend
    )
    result: Tensor = TileTap.apply(  # type: ignore[no-untyped-call]
        features,
        *flat_terms(style, term),
        owned,
        relu,
        inplace,
        precision,
        backend,
    )
    return result


def tap_gradient(
    features: Tensor,
    *,
    upstream: Tensor | None = None,
    difference: GramDifference | None = None,
    style_gradient: Tensor | None = None,
    content: Tensor | None = None,
    content_weight: float = 1.0,
    content_gradient: Tensor | None = None,
    owned: Owned | None = None,
    relu: bool = False,
    into_upstream: bool = False,
    precision: str = "ieee",
    backend: str = "auto",
) -> Tensor:
    """The gradient that a tap sends down, (B, C, H, W) in the features' dtype and layout, in one pass:

        upstream + s_b · factor · (G − (A + Aᵀ)/2) F + c_b · 2 content_weight · (F − P)

    with s = `style_gradient` and c = `content_gradient`, (B,) float32 (float64 for float64), ones where not given, and
    the terms that are given. `features` F are those after the ReLU; with `relu` the gradient is zero where F ≤ 0.
    `owned` = (top, left, height, width) keeps both terms inside those positions of the tile; upstream and mask act
    everywhere. `difference` is that of `finish_gram_loss`; P = `content` is (1 or B, C, height, width) in the features'
    dtype, for the owned positions alone. `upstream` is (B, C, H, W) in the features' dtype.

    With `into_upstream` the result is written over `upstream`, which is returned and must not share memory with the
    features: no further map is needed. Nothing is differentiated.

    Raises ValueError as `gram` does and for arguments that do not fit the features.
    """
    backend = check_features(features, precision, backend)
    style, term = _terms(
        features, difference, style_gradient, content, content_weight, content_gradient, owned, backend
    )
    if upstream is None:
        if into_upstream:
            raise ValueError("into_upstream=True writes over upstream, and none is given")
        if style is None and term is None:
            return torch.zeros_like(features)
    elif upstream.shape != features.shape or upstream.dtype != features.dtype or upstream.device != features.device:
        raise ValueError(
            f"upstream {tuple(upstream.shape)} {upstream.dtype} on {upstream.device} does not fit features "
            f"{tuple(features.shape)} {features.dtype} on {features.device}"
        )
    above = None if upstream is None else upstream.detach()
    return written_gradient(
        features.detach(),
        above,
        style,
        term,
        relu,
        owned,
        precision,
        backend,
        into_upstream=into_upstream,
    )


def _terms(
    features: Tensor,
    difference: GramDifference | None,
    style_gradient: Tensor | None,
    content: Tensor | None,
    content_weight: float,
    content_gradient: Tensor | None,
    owned: Owned | None,
    backend: str,
) -> tuple[StyleTerm | None, ContentTerm | None]:
    if owned is not None:
        check_owned(features, owned)
    style = term = None
    if difference is not None:
        check_difference(features, difference, ops.difference_dtype(features.dtype, backend))
        gradient = check_loss_gradient(features, style_gradient, "style_gradient")
        style = StyleTerm(difference.matrix, difference.scale, gradient, difference.factor)
    if content is not None:
        check_content(features, content, owned)
        gradient = check_loss_gradient(features, content_gradient, "content_gradient")
        term = ContentTerm(content, gradient, 2 * check_weight(content_weight))
    return style, term
