# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel of the gradient of a tap: one product, with the gradient from above added to it."""

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.config import backward_config
from fastnst_kernels.gpu import Gpu
from fastnst_kernels.launch import (
    Launch,
    Plan,
    aligned,
    input_precision,
    launch_gpu,
    run,
    stored,
    strides,
    upcast,
    wide,
)
from fastnst_kernels.layout import as_rows_or_columns, channels_last, empty_gradient, position_stride


@triton.jit(do_not_specialize=["m_blocks", "loss_gradient_stride"])
def tap_backward_kernel(
    features,  # (B, C, M) by its strides
    difference,  # (B, C, C) symmetric, in the features' dtype
    scale,  # (B,) float32
    loss_gradient,  # (B,) float32 by its stride
    upstream,  # (B, C, M) by its strides, read if UPSTREAM
    gradient,  # (B, C, M) by its strides
    stride_b,
    stride_c,
    stride_m,
    loss_gradient_stride,
    upstream_stride_b,
    upstream_stride_c,
    upstream_stride_m,
    gradient_stride_b,
    gradient_stride_c,
    gradient_stride_m,
    C,
    M,
    m_blocks,
    factor,  # weight / (N² M)
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,  # offsets inside one image need 64 bits
    CHANNELS_LAST: tl.constexpr,  # the accumulator is (positions, channels), so that it is stored as it lies
    UPSTREAM: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    program = tl.program_id(0)
    c_blocks = tl.cdiv(C, BLOCK_C)
    image = (program // c_blocks // m_blocks).to(tl.int64)
    c = program % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    m = (program // c_blocks % m_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    coefficient = tl.load(loss_gradient + image * loss_gradient_stride) * (tl.load(scale + image) * factor)

    features += image * stride_b
    difference += image * C * C
    if CHANNELS_LAST:
        f_mask = m[:, None] < M
        d_mask = c[None, :] < C
        mask = f_mask & d_mask
        d_offsets = k[:, None] * C + c[None, :]
        sums = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    else:
        f_mask = m[None, :] < M
        d_mask = c[:, None] < C
        mask = f_mask & d_mask
        d_offsets = c[:, None] * C + k[None, :]
        sums = tl.zeros((BLOCK_C, BLOCK_M), dtype=tl.float32)
    if WIDE:
        c = c.to(tl.int64)
        m = m.to(tl.int64)
        k_wide = k.to(tl.int64)
    else:
        k_wide = k
    if CHANNELS_LAST:
        f_offsets = m[:, None] * stride_m + k_wide[None, :] * stride_c
    else:
        f_offsets = k_wide[:, None] * stride_c + m[None, :] * stride_m

    for offset in range(0, C, BLOCK_K):
        if CHANNELS_LAST:
            f = tl.load(features + f_offsets, mask=f_mask & (k[None, :] < C - offset), other=0.0)
            d = tl.load(difference + d_offsets, mask=d_mask & (k[:, None] < C - offset), other=0.0)
            difference += BLOCK_K * C
        else:
            f = tl.load(features + f_offsets, mask=f_mask & (k[:, None] < C - offset), other=0.0)
            d = tl.load(difference + d_offsets, mask=d_mask & (k[None, :] < C - offset), other=0.0)
            difference += BLOCK_K
        if UPCAST:
            f = f.to(tl.float32)
            d = d.to(tl.float32)
        if CHANNELS_LAST:
            sums = tl.dot(f, d, sums, input_precision=PRECISION)
        else:
            sums = tl.dot(d, f, sums, input_precision=PRECISION)
        features += tl.cast(BLOCK_K, tl.int64) * stride_c

    value = sums * coefficient
    gradient += image * gradient_stride_b
    upstream += image * upstream_stride_b
    if CHANNELS_LAST:
        g_offsets = m[:, None] * gradient_stride_m + c[None, :] * gradient_stride_c
        u_offsets = m[:, None] * upstream_stride_m + c[None, :] * upstream_stride_c
    else:
        g_offsets = c[:, None] * gradient_stride_c + m[None, :] * gradient_stride_m
        u_offsets = c[:, None] * upstream_stride_c + m[None, :] * upstream_stride_m
    if UPSTREAM:
        value += tl.load(upstream + u_offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(gradient + g_offsets, value.to(gradient.dtype.element_ty), mask=mask)


def plan_tap_backward(
    features: Tensor,
    difference: Tensor,
    scale: Tensor,
    loss_gradient: Tensor,
    factor: float,
    upstream: Tensor | None,
    precision: str,
    gpu: Gpu,
) -> Plan:
    """upstream + factor · loss_gradient · scale · difference · F: its launch and its output, (B, C, H, W)."""
    batch, channels, height, width = features.shape
    positions = height * width
    dot_precision = input_precision(features.dtype, precision, gpu)
    tensor_cores = features.dtype != torch.float32 or dot_precision == "tf32"
    config = backward_config(channels, positions, batch, features.element_size(), tensor_cores, aligned(features), gpu)
    gradient = empty_gradient(features, stored(features.dtype))
    m_blocks = ceil(positions / config.block_m)
    stride_b, stride_c, stride_m = strides(features)
    gradient_stride_b, gradient_stride_c, gradient_stride_m = strides(gradient)
    added = gradient if upstream is None else upstream
    upstream_stride_b, upstream_stride_c, upstream_stride_m = strides(added)
    arguments = {
        "features": features,
        "difference": difference,
        "scale": scale,
        "loss_gradient": loss_gradient,
        "upstream": added,
        "gradient": gradient,
        "stride_b": stride_b,
        "stride_c": stride_c,
        "stride_m": stride_m,
        "loss_gradient_stride": loss_gradient.stride(0),
        "upstream_stride_b": upstream_stride_b,
        "upstream_stride_c": upstream_stride_c,
        "upstream_stride_m": upstream_stride_m,
        "gradient_stride_b": gradient_stride_b,
        "gradient_stride_c": gradient_stride_c,
        "gradient_stride_m": gradient_stride_m,
        "C": channels,
        "M": positions,
        "m_blocks": m_blocks,
        "factor": factor,
    }
    constants = {
        "BLOCK_C": config.block_c,
        "BLOCK_M": config.block_m,
        "BLOCK_K": config.block_k,
        "WIDE": wide(features, added, gradient),
        "CHANNELS_LAST": channels_last(features),
        "UPSTREAM": upstream is not None,
        "PRECISION": dot_precision,
        "UPCAST": upcast(features.dtype),
    }
    grid = batch * m_blocks * ceil(channels / config.block_c)
    launch = Launch(tap_backward_kernel, grid, arguments, constants, config.num_warps, config.num_stages)
    return Plan((launch,), (gradient,))


def tap_backward(
    features: Tensor,
    difference: Tensor,
    scale: Tensor,
    loss_gradient: Tensor,
    factor: float,
    upstream: Tensor | None,
    precision: str,
) -> Tensor:
    """upstream + factor · loss_gradient · scale · difference · F in one pass, in the layout of the features."""
    features = as_rows_or_columns(features)
    if upstream is not None and position_stride(upstream) is None:
        upstream = upstream.contiguous()
    plan = plan_tap_backward(
        features, difference, scale, loss_gradient, factor, upstream, precision, launch_gpu(features.device)
    )
    (gradient,) = run(plan, features.device)
    return gradient.to(features.dtype)
