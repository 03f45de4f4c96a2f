"""The sign-bit epilogues as torch custom operators: functional ones, and ones that write into the caller's buffers.

The latter are for a step whose buffers are fixed. Activations are dense (B, C, H, W), NCHW or channels-last; bits lie
as `relu_layout` says; `backend` is "triton" or "torch", and the Triton module is imported by the first call that needs
it. Gradients are in `relu`.
"""

import torch
from torch import Tensor

from fastnst_kernels import torch_relu
from fastnst_kernels.relu_layout import (
    POOLS,
    bits_shape,
    dense,
    empty_activations,
    empty_bits,
    in_layout,
    is_dense,
    packed_by_channels,
)

_NAMESPACE = "fastnst_kernels"

for _schema in (
    "bias_relu(Tensor x, Tensor? bias, bool keep_bits, str backend) -> (Tensor, Tensor)",
    "bias_relu_(Tensor(a!) x, Tensor? bias, Tensor(b!)? bits, str backend) -> ()",
    "bias_relu_pool(Tensor x, Tensor? bias, str pool, bool keep_bits, str backend) -> (Tensor, Tensor)",
    "bias_relu_pool_out(Tensor x, Tensor? bias, str pool, Tensor(a!) pooled, Tensor(b!)? bits, str backend) -> ()",
    "relu_backward(Tensor gradient, Tensor bits, bool by_channels, str backend) -> Tensor",
    "relu_backward_(Tensor(a!) gradient, Tensor bits, str backend) -> ()",
    "unpool_backward(Tensor gradient, Tensor bits, SymInt height, SymInt width, bool by_channels, str pool, "
    "str backend) -> Tensor",
    "unpool_backward_out(Tensor gradient, Tensor bits, str pool, Tensor(a!) result, str backend) -> ()",
):
    torch.library.define(f"{_NAMESPACE}::{_schema.partition('(')[0]}", _schema[_schema.index("(") :])


@torch.library.impl(f"{_NAMESPACE}::bias_relu", "default")
def _bias_relu(x: Tensor, bias: Tensor | None, keep_bits: bool, backend: str) -> tuple[Tensor, Tensor]:
    x = dense(x)
    y, bits = _empty_outputs(x, x.shape[2], x.shape[3], keep_bits)
    _forward(x, bias, y, bits if keep_bits else None, backend)
    return y, bits


@torch.library.register_fake(f"{_NAMESPACE}::bias_relu")  # type: ignore[untyped-decorator]
def _bias_relu_fake(x: Tensor, bias: Tensor | None, keep_bits: bool, backend: str) -> tuple[Tensor, Tensor]:
    x = dense(x)
    return _empty_outputs(x, x.shape[2], x.shape[3], keep_bits)


@torch.library.impl(f"{_NAMESPACE}::bias_relu_", "default")
def _bias_relu_in_place(x: Tensor, bias: Tensor | None, bits: Tensor | None, backend: str) -> None:
    _check_dense(x, "x")
    _check_bits(bits, x)
    _forward(x, bias, x, bits, backend)


@torch.library.impl(f"{_NAMESPACE}::bias_relu_pool", "default")
def _bias_relu_pool(x: Tensor, bias: Tensor | None, pool: str, keep_bits: bool, backend: str) -> tuple[Tensor, Tensor]:
    x = dense(x)
    _check_pool(pool, x)
    pooled, bits = _empty_outputs(x, x.shape[2] // 2, x.shape[3] // 2, keep_bits)
    _forward_pool(x, bias, pool, pooled, bits if keep_bits else None, backend)
    return pooled, bits


@torch.library.register_fake(f"{_NAMESPACE}::bias_relu_pool")  # type: ignore[untyped-decorator]
def _bias_relu_pool_fake(
    x: Tensor, bias: Tensor | None, pool: str, keep_bits: bool, backend: str
) -> tuple[Tensor, Tensor]:
    x = dense(x)
    return _empty_outputs(x, x.shape[2] // 2, x.shape[3] // 2, keep_bits)


@torch.library.impl(f"{_NAMESPACE}::bias_relu_pool_out", "default")
def _bias_relu_pool_out(
    x: Tensor, bias: Tensor | None, pool: str, pooled: Tensor, bits: Tensor | None, backend: str
) -> None:
    _check_dense(x, "x")
    _check_pool(pool, x)
    _check_pooled(pooled, x, "pooled")
    _check_bits(bits, x)
    _forward_pool(x, bias, pool, pooled, bits, backend)


@torch.library.impl(f"{_NAMESPACE}::relu_backward", "default")
def _relu_backward(gradient: Tensor, bits: Tensor, by_channels: bool, backend: str) -> Tensor:
    gradient = in_layout(gradient, by_channels)
    result = empty_activations(gradient, gradient.shape[2], gradient.shape[3], by_channels)
    _check_bits(bits, result)
    _backward(gradient, bits, result, backend)
    return result


@torch.library.register_fake(f"{_NAMESPACE}::relu_backward")  # type: ignore[untyped-decorator]
def _relu_backward_fake(gradient: Tensor, bits: Tensor, by_channels: bool, backend: str) -> Tensor:
    return empty_activations(gradient, gradient.shape[2], gradient.shape[3], by_channels)


@torch.library.impl(f"{_NAMESPACE}::relu_backward_", "default")
def _relu_backward_in_place(gradient: Tensor, bits: Tensor, backend: str) -> None:
    _check_dense(gradient, "gradient")
    _check_bits(bits, gradient)
    _backward(gradient, bits, gradient, backend)


@torch.library.impl(f"{_NAMESPACE}::unpool_backward", "default")
def _unpool_backward(
    gradient: Tensor, bits: Tensor, height: int, width: int, by_channels: bool, pool: str, backend: str
) -> Tensor:
    gradient = in_layout(gradient, by_channels)
    result = empty_activations(gradient, height, width, by_channels)
    _check_pool(pool, result)
    _check_pooled(gradient, result, "gradient")
    _check_bits(bits, result)
    _backward_pool(gradient, bits, pool, result, backend)
    return result


@torch.library.register_fake(f"{_NAMESPACE}::unpool_backward")  # type: ignore[untyped-decorator]
def _unpool_backward_fake(
    gradient: Tensor, bits: Tensor, height: int, width: int, by_channels: bool, pool: str, backend: str
) -> Tensor:
    return empty_activations(gradient, height, width, by_channels)


@torch.library.impl(f"{_NAMESPACE}::unpool_backward_out", "default")
def _unpool_backward_out(gradient: Tensor, bits: Tensor, pool: str, result: Tensor, backend: str) -> None:
    _check_dense(result, "result")
    _check_pool(pool, result)
    _check_pooled(gradient, result, "gradient")
    _check_bits(bits, result)
    _backward_pool(gradient, bits, pool, result, backend)


@torch.library.register_fake(f"{_NAMESPACE}::bias_relu_")  # type: ignore[untyped-decorator]
@torch.library.register_fake(f"{_NAMESPACE}::bias_relu_pool_out")  # type: ignore[untyped-decorator]
@torch.library.register_fake(f"{_NAMESPACE}::relu_backward_")  # type: ignore[untyped-decorator]
@torch.library.register_fake(f"{_NAMESPACE}::unpool_backward_out")  # type: ignore[untyped-decorator]
def _nothing_fake(*_: object) -> None:
    """Of an operator that only writes into what it is given."""


def _empty_outputs(x: Tensor, height: int, width: int, keep_bits: bool) -> tuple[Tensor, Tensor]:
    y = empty_activations(x, height, width, packed_by_channels(x))
    return y, empty_bits(x) if keep_bits else torch.empty((0,), dtype=torch.uint8, device=x.device)


def _forward(x: Tensor, bias: Tensor | None, y: Tensor, bits: Tensor | None, backend: str) -> None:
    if backend == "triton":
        from fastnst_kernels import triton_relu

        triton_relu.bias_relu(x, bias, y, bits)
    else:
        torch_relu.bias_relu(x, bias, y, bits)


def _forward_pool(x: Tensor, bias: Tensor | None, pool: str, pooled: Tensor, bits: Tensor | None, backend: str) -> None:
    if backend == "triton":
        from fastnst_kernels import triton_relu_pool

        triton_relu_pool.bias_relu_pool(x, bias, pool, pooled, bits)
    else:
        torch_relu.bias_relu_pool(x, bias, pool, pooled, bits)


def _backward(gradient: Tensor, bits: Tensor, result: Tensor, backend: str) -> None:
    if backend == "triton":
        from fastnst_kernels import triton_relu

        triton_relu.relu_backward(gradient, bits, result)
    else:
        torch_relu.relu_backward(gradient, bits, result)


def _backward_pool(gradient: Tensor, bits: Tensor, pool: str, result: Tensor, backend: str) -> None:
    if backend == "triton":
        from fastnst_kernels import triton_relu_pool

        triton_relu_pool.unpool_backward(gradient, bits, pool, result)
    else:
        torch_relu.unpool_backward(gradient, bits, pool, result)


def _check_pool(pool: str, x: Tensor) -> None:
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r} is unknown; choose one of {', '.join(POOLS)}")
    if min(x.shape[2:]) < 2:
        raise ValueError(f"activations of shape {tuple(x.shape)} have no 2×2 window; give 2 or more rows and columns")


def _check_dense(x: Tensor, name: str) -> None:
    if x.ndim != 4 or not is_dense(x):
        raise ValueError(
            f"{name} of shape {tuple(x.shape)} and strides {x.stride()} is not dense (B, C, H, W); "
            "make it contiguous or channels-last"
        )


def _check_pooled(pooled: Tensor, x: Tensor, name: str) -> None:
    batch, channels, height, width = x.shape
    wanted = (batch, channels, height // 2, width // 2)
    layout = torch.channels_last if packed_by_channels(x) else torch.contiguous_format
    if tuple(pooled.shape) != wanted or not pooled.is_contiguous(memory_format=layout) or pooled.dtype != x.dtype:
        raise ValueError(
            f"{name} of shape {tuple(pooled.shape)}, strides {pooled.stride()} and {pooled.dtype} does not fit; "
            f"give {wanted}, {x.dtype}, {'channels-last' if packed_by_channels(x) else 'contiguous'}"
        )


def _check_bits(bits: Tensor | None, x: Tensor) -> None:
    if bits is None:
        return
    wanted = bits_shape(x.shape[0], x.shape[1], x.shape[2], x.shape[3], packed_by_channels(x))
    if tuple(bits.shape) != wanted or bits.dtype != torch.uint8 or not bits.is_contiguous():
        raise ValueError(
            f"bits of shape {tuple(bits.shape)}, strides {bits.stride()} and {bits.dtype} do not fit activations of "
            f"shape {tuple(x.shape)} and strides {x.stride()}; give {wanted}, uint8, contiguous"
        )


bias_relu = torch.ops.fastnst_kernels.bias_relu.default
bias_relu_ = torch.ops.fastnst_kernels.bias_relu_.default
bias_relu_pool = torch.ops.fastnst_kernels.bias_relu_pool.default
bias_relu_pool_out = torch.ops.fastnst_kernels.bias_relu_pool_out.default
relu_backward = torch.ops.fastnst_kernels.relu_backward.default
relu_backward_ = torch.ops.fastnst_kernels.relu_backward_.default
unpool_backward = torch.ops.fastnst_kernels.unpool_backward.default
unpool_backward_out = torch.ops.fastnst_kernels.unpool_backward_out.default
