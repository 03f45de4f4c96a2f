"""Bias + ReLU, and bias + ReLU + 2×2 pooling, that keep one bit of each activation for backward: the public functions.

The bit says whether the activation before pooling receives gradient, and backward needs nothing else: 1/16 of 16-bit
activations, 1/32 of float32 ones. A step that has its own buffers calls the functions of `direct`.
"""

from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import direct, operators
from fastnst_kernels.launch.backends import check_dtype, check_map, is_transformed, refuse_second_derivative
from fastnst_kernels.launch.layout import dense, empty_bits, is_dense
from fastnst_kernels.relu import reference

POOLS = ("avg", "max")


def bias_relu(x: Tensor, bias: Tensor | None = None, *, inplace: bool = False, backend: str = "auto") -> Tensor:
    """Computes y = max(x + bias, 0). For backward it keeps only the sign of each y, one bit, and neither x nor y.

    `x` is (B, C, H, W), float32, float16 or bfloat16 (float64 too with backends "torch" and "reference"); NCHW and
    channels-last are read without a copy, and y has the layout of `x`. `bias` is (C,), of any floating dtype, on the
    device of `x`, and gets no gradient; None means zero. The sum is computed in float32 and rounded once. `inplace`
    writes y into `x`, which must be dense, such as a convolution's output; backend "reference" cannot do this.

    ∂x = ∂y where y ≠ 0, else 0. As in torch, NaN is passed on and receives a gradient, and −0 and −∞ give 0. You can
    differentiate it once; create_graph=True raises RuntimeError.

    `backend` is "auto" (Triton on CUDA and ROCm, torch elsewhere), "triton", "torch", or "reference" (naive float64).

    Raises ValueError for a wrong shape, dtype, device, backend, for a bias that requires a gradient, and for `inplace`
    on a tensor that is not dense; RuntimeError if triton is asked for and missing.
    """
    backend = _checked(x, bias, backend)
    if backend == "reference":
        if inplace and is_transformed():
            raise ValueError("bias_relu does not work in place under torch.func's transforms; leave inplace out")
        if inplace:
            raise ValueError('backend "reference" does not work in place; leave inplace out, or use backend="torch"')
        return reference.bias_relu(x, bias).to(x.dtype)
    if inplace and not is_dense(x):
        raise ValueError(
            f"x of shape {tuple(x.shape)} and strides {x.stride()} is not dense, which inplace=True needs; "
            "make it contiguous or channels-last, or leave inplace out"
        )
    return _activated(x, bias, None, inplace=inplace, backend=backend)


def bias_relu_pool(x: Tensor, bias: Tensor | None = None, pool: str = "avg", *, backend: str = "auto") -> Tensor:
    """Computes the average ("avg") or maximum ("max") of each 2×2 window of max(x + bias, 0). For backward it keeps one
    bit of each element of `x`, and neither x nor the result.

    Arguments and errors are those of `bias_relu`. H and W are 2 or more, windows do not overlap, and no window has an
    odd last row or column. Returns (B, C, ⌊H/2⌋, ⌊W/2⌋) in the layout and dtype of `x`: all arithmetic is in float32,
    in scan order, and rounded once.

    ∂x is a quarter of the window's gradient where max(x + bias, 0) ≠ 0; for the maximum the window's gradient at the
    first of the largest (at the last NaN, if there is one, as in torch) where that is not 0; else 0. You can
    differentiate it once; create_graph=True raises RuntimeError.

    Raises ValueError also for an unknown `pool`.
    """
    backend = _checked(x, bias, backend)
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r} is unknown; choose one of {', '.join(POOLS)}")
    if min(x.shape[2:]) < 2:
        raise ValueError(f"x of shape {tuple(x.shape)} has no 2×2 window; give 2 or more rows and columns")
    if backend == "reference":
        return reference.bias_relu(x, bias, pool).to(x.dtype)
    return _activated(x, bias, pool, inplace=False, backend=backend)


def _activated(x: Tensor, bias: Tensor | None, pool: str | None, *, inplace: bool, backend: str) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _BiasRelu.apply(x, bias, pool, inplace, backend)  # type: ignore[no-untyped-call]
        return result
    return _with_bits(x, bias, pool, keep_bits=False, inplace=inplace, backend=backend)[0]


def _with_bits(
    x: Tensor, bias: Tensor | None, pool: str | None, *, keep_bits: bool, inplace: bool, backend: str
) -> tuple[Tensor, Tensor | None]:
    """max(x + bias, 0), in `x` itself if `inplace`, or its `pool`, and its bits."""
    if inplace and not torch.compiler.is_compiling():
        bits = empty_bits(x, operators.by_channels(backend, x)) if keep_bits else None
        direct.bias_relu(backend, x.detach(), bias, None, x.detach(), bits)
        operators.note_written(x)
        return x, bits
    y, packed = operators.bias_relu(backend, x, bias, pool, keep_bits)
    # torch.compile takes functional operators whole, and makes of the copy what it likes.
    return x.copy_(y) if inplace else y, packed


class _BiasRelu(torch.autograd.Function):
    """max(x + bias, 0), in `x` itself if `inplace`, or its `pool`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, pool: str | None, inplace: bool, backend: str) -> Tensor:
        x = x if inplace else dense(x)
        y, bits = _with_bits(x, bias, pool, keep_bits=True, inplace=inplace, backend=backend)
        if inplace:
            ctx.mark_dirty(x)
        ctx.save_for_backward(bits)
        ctx.height, ctx.width = x.shape[2:]
        ctx.by_channels, ctx.pool, ctx.backend = operators.by_channels(backend, x), pool, backend
        return x if inplace else y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("sign-bit")
        (bits,) = ctx.saved_tensors
        place = {"height": ctx.height, "width": ctx.width, "by_channels": ctx.by_channels}
        below = operators.relu_backward(ctx.backend, gradient, bits, **place, pool=ctx.pool)
        return below, None, None, None, None


def _checked(x: Tensor, bias: Tensor | None, backend: str) -> str:
    """The backend for this input, or the error that names what is wrong with it."""
    backend = check_map(x, backend, "x")
    check_dtype(x.dtype, backend, "x is")
    if bias is None:
        return backend
    if bias.shape != x.shape[1:2]:
        raise ValueError(
            f"bias of shape {tuple(bias.shape)} does not fit x of shape {tuple(x.shape)}; give ({x.shape[1]},)"
        )
    if not bias.is_floating_point():
        raise ValueError(f"bias is {bias.dtype}; give a floating-point bias")
    if bias.device != x.device:
        raise ValueError(f"bias is on {bias.device} and x is on {x.device}; move it there")
    if bias.requires_grad:
        raise ValueError("bias requires a gradient, which the sign bits do not give; pass bias.detach()")
    return backend
