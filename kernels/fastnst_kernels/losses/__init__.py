"""Gram matrices, style and content losses of feature maps, whole or tile by tile: the public functions.

The losses of a picture depend on its features only through sums over positions, so that its tiles can be seen one
after another: each tile's `accumulate_gram`, then `finish_gram_loss` of the whole, then each tile's `tap_gradient`.
"""

from typing import Any, cast

import torch
from torch import Tensor

from fastnst_kernels import operators
from fastnst_kernels.launch.backends import accumulation_dtype, check_dtype, check_number, resolve_backend
from fastnst_kernels.losses import reference
from fastnst_kernels.losses.autograd import Gram, Tap
from fastnst_kernels.losses.checks import (
    backend_for,
    check_content,
    check_difference,
    check_features,
    check_sums,
    check_sums_for,
    check_target,
)
from fastnst_kernels.losses.targets import BlendedTarget, GramDifference, difference_dtype


def gram(features: Tensor, *, precision: str = "ieee", backend: str = "auto") -> Tensor:
    """The Gram matrix of each image's features: G = F Fᵀ/M, with F the C×(H·W) matrix and M = H·W.

    `features` is (B, C, H, W), float32, float16 or bfloat16 (float64 too with backends "torch" and "reference"); NCHW
    and channels-last are read without a copy, and so are crops of them. Returns (B, C, C), symmetric, accumulated in
    float32 (float64 for float64). You can differentiate it once; create_graph=True raises RuntimeError.

    `precision` "tf32" lets the tensor cores round float32 factors to TF32; it changes nothing for 16-bit features, or
    for the torch backend on a CPU. "bf16" lets a CPU with 16-bit units round the products of slices of bfloat16
    features, channels-last, before it sums them in float32, and changes nothing elsewhere. On CUDA the torch backend
    follows `torch.backends.cuda.matmul` instead; "ieee" then needs TF32 to be off, which is torch's default.

    `backend` is "auto" (Triton on CUDA and ROCm, torch elsewhere), "triton", "torch", or "reference" (naive float64).
    Triton takes up to 1024 channels: "auto" is torch beyond them.

    Raises ValueError for a wrong shape, dtype, precision or backend; RuntimeError if triton is asked for and missing.
    """
    backend = check_features(features, precision, backend)
    if backend == "reference":
        return reference.gram(features).to(accumulation_dtype(features.dtype))
    result: Tensor = Gram.apply(features, precision, backend)  # type: ignore[no-untyped-call]
    return result


def gram_loss(
    features: Tensor,
    target: Tensor | BlendedTarget,
    weight: float = 1.0,
    *,
    precision: str = "ieee",
    backend: str = "auto",
) -> Tensor:
    """The Gram-difference loss of each image: E = weight/4N² · Σ (G − A)², N = C (Gatys, Ecker, Bethge, equation 4).

    `features`, `precision` and `backend` are those of `gram`. `target` A is (C, C), (1, C, C) or (B, C, C), of any
    floating dtype and layout, on the features' device; it need not be symmetric, and gets no gradient. `weight` is a
    finite number in float32's range. Give several targets as one `BlendedTarget`; `weight` multiplies its own weight
    and offset. Returns (B,) float32 (float64 for float64).

    The gradient weight/(N² M) · (G − (A + Aᵀ)/2) F is one product. You can differentiate it once; create_graph=True
    raises RuntimeError.

    Raises ValueError as `gram` does, for a target of another shape, device or dtype, for one that requires a gradient,
    and for a weight that is not finite or beyond float32 (which it does not check while torch.compile traces).
    """
    return style_tap(features, target, weight, precision=precision, backend=backend)[1]


def style_tap(
    features: Tensor,
    target: Tensor | BlendedTarget,
    weight: float = 1.0,
    *,
    precision: str = "ieee",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Computes `gram_loss` and passes the features on: returns (features, loss), with the features for the next layer.

    Arguments, loss and errors are those of `gram_loss`. The first output is a view of the input, without a copy, so do
    not change it in place. Give it to the next layer, whose gradient then comes back through the tap. The backward of
    the tap writes

        upstream + ∂loss · weight/(N² M) · (G − (A + Aᵀ)/2) F

    in one pass: one product and no gradient accumulation. It also works if only one of the outputs is used.
    """
    passed, loss, _ = tap(features, target=target, weight=weight, precision=precision, backend=backend)
    return passed, cast(Tensor, loss)


def tap(
    features: Tensor,
    *,
    target: Tensor | BlendedTarget | None = None,
    weight: float = 1.0,
    content: Tensor | None = None,
    content_weight: float = 1.0,
    relu: bool = False,
    inplace: bool = False,
    precision: str = "ieee",
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Passes a layer's features on with a style loss, a content loss or both: returns (features, style loss, content
    loss).

    The style loss is the `gram_loss` of `target` and `weight`, the content loss is content_weight · Σ (F − P)², each
    (B,) float32 (float64 for float64), and None if you give no target for it. P = `content` is (1 or B, C, H, W) in the
    features' dtype, in any layout, and gets no gradient. Backward writes, in one pass,

        upstream + ∂style · weight/(N² M) · (G − (A + Aᵀ)/2) F + ∂content · 2 content_weight · (F − P)

    With `relu` the input is the layer's output before its ReLU. The tap returns and compares F = max(input, 0), and the
    gradient is zero where F is zero. `inplace` then writes F over the input, which must not be a leaf, a view of
    another tensor, or kept for another gradient. Without `relu` the features are returned as `style_tap` does.

    The other arguments and the errors are those of `gram_loss`. Also raises ValueError for a content that does not fit,
    if you give neither target, and for `inplace` without `relu`.
    """
    if target is None and content is None:
        raise ValueError("a tap without a target has no loss; give target, content or both")
    if inplace and not relu:
        raise ValueError("inplace=True writes the ReLU's output over its input; give relu=True with it")
    backend = check_features(features, precision, backend)
    matrix, total, offset = None, 1.0, None
    if target is not None:
        matrix, total, offset = check_target(features, target, weight)
    if content is not None:
        check_content(features, content)
        content_weight = float(content_weight)
        check_number("weight", content_weight)
    if backend == "reference":
        dtype = accumulation_dtype(features.dtype)
        passed = features.view_as(features)
        if relu:
            passed = features.relu_() if inplace else features.relu()
        losses = []
        if matrix is not None:
            loss = reference.gram_loss(passed, matrix, total)
            losses.append(loss.to(dtype) if offset is None else (loss + weight * offset.double()).to(dtype))
        if content is not None:
            losses.append(reference.content_loss(passed, content, content_weight).to(dtype))
    else:
        passed, *losses = Tap.apply(  # type: ignore[no-untyped-call]
            features, matrix, total, offset, weight, content, content_weight, relu, inplace, precision, backend
        )
    return passed, None if target is None else losses[0], None if content is None else losses[-1]


def accumulate_gram(sums: Tensor, features: Tensor, *, precision: str = "ieee", backend: str = "auto") -> None:
    """sums += F Fᵀ, in place: (B, C, C) contiguous, float32 (float64 for float64 features), not divided by M.

    `features`, `precision`, `backend` and the errors are those of `gram`. Give the owned part of a tile as a view,
    `features[:, :, top : top + height, left : left + width]`, which is read without a copy. The operation has no
    gradient. The order of the calls is the order of the sum: tiles in the same order give the same bits. Raises
    ValueError for sums of another shape, dtype, layout or device.
    """
    backend = check_features(features, precision, backend)
    check_sums_for(features, sums)
    features = features.detach()
    if backend == "reference":
        sums += (reference.gram(features) * features[0, 0].numel()).to(sums.dtype)
    else:
        _by_compiling().accumulate_gram(backend, sums, features, precision)
        operators.note_written(sums)


def _by_compiling() -> Any:
    """The operators that torch.compile takes whole under it, else what they call: nothing is differentiated here."""
    return operators if torch.compiler.is_compiling() else operators.direct


def finish_gram_loss(
    sums: Tensor,
    positions: int,
    target: Tensor | BlendedTarget,
    weight: float = 1.0,
    *,
    dtype: torch.dtype,
    backend: str = "auto",
) -> tuple[Tensor, GramDifference]:
    """Computes the `gram_loss` of a whole picture from its F Fᵀ: returns (loss, the difference for the backward of its
    tiles).

    `sums` is (B, C, C) from `accumulate_gram`, and does not change. `positions` is M, 1 or more, and `dtype` is that of
    the features. `target`, `weight` and `backend` are those of `gram_loss`. The loss is (B,) in the dtype of the sums.
    Raises ValueError as `gram_loss` does, and for invalid sums or positions.
    """
    check_sums(sums, dtype)
    backend = backend_for(sums.shape[1], backend, resolve_backend(backend, sums.device))
    check_dtype(dtype, backend)
    matrix, total, offset = check_target(sums, target, weight)
    if positions < 1:
        raise ValueError(f"{positions} positions cannot be averaged over; give 1 or more")
    factor = total / (sums.shape[1] ** 2 * positions)
    if backend == "reference":
        exact = sums.double() / positions
        symmetric = (matrix.double() + matrix.double().mT) / 2
        difference = (exact - symmetric).to(accumulation_dtype(dtype))
        loss = total / (4 * sums.shape[1] ** 2) * (exact - matrix.double()).square().sum((1, 2))
        loss = (loss if offset is None else loss + weight * offset.double()).to(sums.dtype)
        return loss, GramDifference(difference, torch.ones_like(loss), factor)
    loss, difference, scale = _by_compiling().finish_gram_loss(
        backend, sums, positions, matrix, weight=total, offset=offset, offset_weight=weight, dtype=dtype
    )
    return loss, GramDifference(difference, scale, factor)


def tap_gradient(
    features: Tensor,
    difference: GramDifference,
    upstream: Tensor | None = None,
    *,
    precision: str = "ieee",
    backend: str = "auto",
) -> Tensor:
    """upstream + factor · (G − (A + Aᵀ)/2) F: the gradient that a whole picture's loss sends to a part of its features.

    `features` (B, C, H, W), `precision` and `backend` are those of `gram`. `difference` comes from `finish_gram_loss`,
    for the same backend and dtype. `upstream` has the features' shape and dtype. Returns (B, C, H, W) in the features'
    dtype and layout, in one pass. The operation has no gradient of its own. Raises ValueError as `gram` does and for
    arguments that do not fit.
    """
    backend = check_features(features, precision, backend)
    check_difference(features, difference, difference_dtype(features.dtype, backend))
    if upstream is not None and (upstream.shape, upstream.dtype, upstream.device) != (
        features.shape,
        features.dtype,
        features.device,
    ):
        raise ValueError(
            f"upstream {tuple(upstream.shape)} {upstream.dtype} on {upstream.device} does not fit features "
            f"{tuple(features.shape)} {features.dtype} on {features.device}; give it as the features are"
        )
    if backend == "reference":
        scale = difference.scale.double() * difference.factor
        style = difference.matrix.double() * scale[:, None, None]  # (B, C, C)
        return reference.tap_gradient(features.detach(), upstream, style=style).to(features.dtype)
    terms = {
        "difference": difference.matrix,
        "scale": difference.scale,
        "style_gradient": torch.ones_like(difference.scale),
        "style_factor": difference.factor,
    }
    above = None if upstream is None else upstream.detach()
    return cast(Tensor, operators.tap_gradient(backend, features.detach(), above, precision, **terms))
