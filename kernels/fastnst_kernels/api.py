"""The public operations: their checks, and their gradients over the operators of `ops`."""

import math
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import ops, reference
from fastnst_kernels.backends import PRECISIONS, resolve_backend
from fastnst_kernels.layout import as_rows_or_columns

MAX_CHANNELS = 1024
_LARGEST_WEIGHT = torch.finfo(torch.float32).max
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def gram(features: Tensor, *, precision: str = "ieee", backend: str = "auto") -> Tensor:
    """The Gram matrix of each image's features: G = F Fᵀ/M, with F the C×(H·W) matrix and M = H·W.

    `features` is (B, C, H, W), float32, float16 or bfloat16 (float64 too with backends "torch" and "reference"), C up
    to 1024; NCHW and channels-last are read without a copy. Returns (B, C, C), symmetric, accumulated and kept in
    float32 (float64 for float64). Differentiable once: its gradient raises RuntimeError under create_graph=True.

    `precision` "tf32" lets the tensor cores round float32 factors to TF32; it changes nothing for 16-bit features or
    where the torch backend runs on CPU. On CUDA the torch backend follows torch's own setting instead, which is
    `torch.backends.cuda.matmul`'s; "ieee" there needs TF32 to be off, as it is by default.

    `backend` is "auto" (Triton on CUDA and ROCm, torch elsewhere), "triton", "torch", or "reference" (naive float64).

    Raises ValueError for a wrong shape, dtype, precision or backend; RuntimeError if triton is asked for and missing.
    """
    backend = _checked(features, precision, backend)
    if backend == "reference":
        return reference.gram(features).to(reference.result_dtype(features.dtype))
    result: Tensor = _Gram.apply(features, precision, backend)  # type: ignore[no-untyped-call]
    return result


def gram_loss(
    features: Tensor, target: Tensor, weight: float = 1.0, *, precision: str = "ieee", backend: str = "auto"
) -> Tensor:
    """The Gram-difference loss of each image: E = weight/4N² · Σ (G − A)², N = C (Gatys, Ecker, Bethge, equation 4).

    `features`, `precision` and `backend` are those of `gram`. `target` A is (C, C), (1, C, C) or (B, C, C), of any
    floating dtype and layout, on the features' device; it need not be symmetric, and gets no gradient. `weight` is a
    finite number in float32's range. Returns (B,) float32 (float64 for float64).

    The gradient weight/(N² M) · (G − (A + Aᵀ)/2) F is one product. Differentiable once: it raises RuntimeError under
    create_graph=True.

    Raises ValueError as `gram` does, for a target of another shape, device or dtype, for one that requires a gradient,
    and for a weight that is not finite or beyond float32 (not looked at while torch.compile traces).
    """
    return style_tap(features, target, weight, precision=precision, backend=backend)[1]


def style_tap(
    features: Tensor, target: Tensor, weight: float = 1.0, *, precision: str = "ieee", backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`gram_loss` as a pass-through: returns (features, loss), the features for the next layer, and the loss beside.

    Takes, returns and raises what `gram_loss` does. The first output is a view of the input: no copy is made, and it
    must not be changed in place. Fed with it, the next layer sends its gradient through the tap, whose backward writes

        upstream + ∂loss · weight/(N² M) · (G − (A + Aᵀ)/2) F

    in one pass: one product and no gradient accumulation. It also works if only one of the outputs is used.
    """
    backend = _checked(features, precision, backend)
    target = _checked_target(features, target)
    weight = float(weight)
    # Under torch.compile the weight may be symbolic, and a look at its value would break the graph.
    if not torch.compiler.is_compiling():
        _check_weight(weight)
    if backend == "reference":
        passed, exact = reference.style_tap(features, target, weight)
        return passed, exact.to(reference.result_dtype(features.dtype))
    outputs: tuple[Tensor, Tensor] = _StyleTap.apply(  # type: ignore[no-untyped-call]
        features, target, weight, precision, backend
    )
    return outputs


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, precision: str, backend: str) -> Tensor:
        matrix = as_rows_or_columns(features)
        ctx.save_for_backward(matrix)
        # Here and not in backward: under torch.compile the sizes of saved tensors may be those of another call.
        ctx.factor = 1.0 / (features.shape[2] * features.shape[3])
        ctx.precision, ctx.backend = precision, backend
        result: Tensor = ops.gram(matrix, precision, backend)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        _refuse_second_derivative()
        (features,) = ctx.saved_tensors
        difference, scale = ops.normalised(gradient + gradient.mT, ops.difference_dtype(features, ctx.backend))
        ones = torch.ones_like(scale)
        return (
            ops.tap_backward(features, difference, scale, ones, ctx.factor, None, ctx.precision, ctx.backend),
            None,
            None,
        )


class _StyleTap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, target: Tensor, weight: float, precision: str, backend: str
    ) -> tuple[Tensor, Tensor]:
        matrix = as_rows_or_columns(features)
        loss, difference, scale = ops.gram_difference_loss(matrix, target, weight, precision, backend)
        ctx.save_for_backward(matrix, difference, scale)
        channels, height, width = features.shape[1:]
        ctx.factor = weight / (channels**2 * height * width)
        ctx.precision, ctx.backend = precision, backend
        ctx.set_materialize_grads(False)
        return features.view_as(features), loss

    @staticmethod
    def backward(
        ctx: Any, upstream: Tensor | None, loss_gradient: Tensor | None
    ) -> tuple[Tensor | None, None, None, None, None]:
        if loss_gradient is None:
            return upstream, None, None, None, None
        _refuse_second_derivative()
        features, difference, scale = ctx.saved_tensors
        gradient = ops.tap_backward(
            features, difference, scale, loss_gradient, ctx.factor, upstream, ctx.precision, ctx.backend
        )
        return gradient, None, None, None, None


def _refuse_second_derivative() -> None:
    """Raise where autograd records the backward pass, whose derivative would lack the Gram term without a word."""
    # torch.compile traces with gradients on, and refuses second derivatives itself.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError("the Gram operations are differentiable once; call backward without create_graph=True")


def _check_weight(weight: float) -> None:
    if not math.isfinite(weight):
        raise ValueError(f"weight {weight} is not finite; give a finite number")
    if abs(weight) > _LARGEST_WEIGHT:
        raise ValueError(f"weight {weight} is beyond float32; give a number of magnitude up to {_LARGEST_WEIGHT}")


def _checked(features: Tensor, precision: str, backend: str) -> str:
    """The backend for these features, or the error that names what is wrong with them."""
    if features.ndim != 4:
        raise ValueError(f"features of shape {tuple(features.shape)} have {features.ndim} axes; give (B, C, H, W)")
    if 0 in features.shape:
        raise ValueError(f"features of shape {tuple(features.shape)} are empty; each axis must be 1 or more")
    if features.shape[1] > MAX_CHANNELS:
        raise ValueError(f"features have {features.shape[1]} channels; the Gram kernels take up to {MAX_CHANNELS}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    backend = resolve_backend(backend, features.device)
    if features.dtype not in _DTYPES and not (features.dtype == torch.float64 and backend != "triton"):
        allowed = "float32, float16 or bfloat16" + ("" if backend == "triton" else ", or float64")
        raise ValueError(f"features are {features.dtype}; backend {backend!r} takes {allowed}")
    return backend


def _checked_target(features: Tensor, target: Tensor) -> Tensor:
    """The target as (1, C, C) or (B, C, C), or the error that names what is wrong with it."""
    batch, channels = features.shape[:2]
    matrices = target.unsqueeze(0) if target.ndim == 2 else target
    if matrices.ndim != 3 or matrices.shape[1:] != (channels, channels) or matrices.shape[0] not in (1, batch):
        raise ValueError(
            f"target of shape {tuple(target.shape)} does not fit features of shape {tuple(features.shape)}; "
            f"give ({channels}, {channels}) or ({batch}, {channels}, {channels})"
        )
    if not target.is_floating_point():
        raise ValueError(f"target is {target.dtype}; give a floating-point Gram matrix")
    if target.device != features.device:
        raise ValueError(f"target is on {target.device}, the features on {features.device}; move it there")
    if target.requires_grad:
        raise ValueError("target requires a gradient, which the loss does not give; pass target.detach()")
    return matrices
