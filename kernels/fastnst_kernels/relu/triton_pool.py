# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of bias + ReLU + 2×2 pooling that keep one bit of each activation, and of the way back.

Layouts, groups and words are those of `triton_relu`.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.launch import Launch, launch_gpu, run
from fastnst_kernels.launch.layout import in_layout
from fastnst_kernels.relu.triton_relu import (
    as_words,
    channels_last_buffer,
    group_size,
    groups_per_program,
    packed_word,
    relu,
)


@triton.jit
def _later_is_larger(best, value):
    return (value > best) | (value != value)


@triton.jit
def _place(H, W, half, blocks, half_rows, GROUPS: tl.constexpr):
    """A program's image, upper row and groups (GROUPS,), the windows of its row, the activations of the row below."""
    program = tl.program_id(0).to(tl.int64)
    index = program // blocks
    g = (program % blocks).to(tl.int32) * GROUPS + tl.arange(0, GROUPS)
    h = index % half_rows * 2
    # A last odd row is in no window, and has no row below.
    return index // half_rows, h, g, tl.where(h + 1 < H, half, 0), tl.where(h + 1 < H, W, 0)


@triton.jit(do_not_specialize=["H", "W", "half", "run_groups", "blocks", "half_rows"])
def bias_relu_pool_kernel(
    x,  # (B, H, W, C)
    bias,  # (C,) any float dtype, read if BIAS
    pooled,  # (B, H // 2, W // 2, C)
    bits,  # (B, H, W, run_groups) words, written if BITS
    C,
    H,
    W,
    half,  # W // 2, whole windows in a row
    run_groups,  # ⌈C / GROUP⌉
    blocks,  # programs of one row of windows
    half_rows,  # ⌈H / 2⌉
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,  # of one program
    EVEN: tl.constexpr,  # GROUP divides C
    BIAS: tl.constexpr,
    BITS: tl.constexpr,
    MAX: tl.constexpr,
):
    image, h, g, windows, W_below = _place(H, W, half, blocks, half_rows, GROUPS)
    j = tl.arange(0, GROUP)[None, :]
    window = g // run_groups
    group = g - window * run_groups
    column = group[:, None] * GROUP + j
    mask = window[:, None] < windows
    if not EVEN:
        mask = mask & (column < C)
    top = x + (image * H + h) * W * C + window[:, None] * 2 * C + column
    bottom = top + W * C
    a = tl.load(top, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(top + C, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(bottom, mask=mask, other=0.0).to(tl.float32)
    d = tl.load(bottom + C, mask=mask, other=0.0).to(tl.float32)
    out = pooled + (image * (H // 2) + h // 2) * half * C + window[:, None] * C + column
    if BIAS:
        shift = tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
        a += shift
        b += shift
        c += shift
        d += shift
    a = relu(a)
    b = relu(b)
    c = relu(c)
    d = relu(d)
    if MAX:
        best = a
        hot = tl.zeros_like(a).to(tl.int32)
        larger = _later_is_larger(best, b)
        best = tl.where(larger, b, best)
        hot = tl.where(larger, 1, hot)
        larger = _later_is_larger(best, c)
        best = tl.where(larger, c, best)
        hot = tl.where(larger, 2, hot)
        larger = _later_is_larger(best, d)
        best = tl.where(larger, d, best)
        hot = tl.where(larger, 3, hot)
        value = best
        off = best <= 0.0
        off_a = off | (hot != 0)
        off_b = off | (hot != 1)
        off_c = off | (hot != 2)
        off_d = off | (hot != 3)
    else:
        value = (((a + b) + c) + d) * 0.25
        off_a = a <= 0.0
        off_b = b <= 0.0
        off_c = c <= 0.0
        off_d = d <= 0.0
    tl.store(out, value.to(pooled.dtype.element_ty), mask=mask)
    if BITS:
        WORD: tl.constexpr = bits.dtype.element_ty
        place = tl.full((1, 1), 1, tl.int32) << j
        here = bits + (image * H + h) * W * run_groups + window * 2 * run_groups + group
        live = window * 2 < W
        beside = window * 2 + 1 < W
        tl.store(here, packed_word(off_a, mask, place, WORD), mask=live)
        tl.store(here + run_groups, packed_word(off_b, mask, place, WORD), mask=beside)
        here += W * run_groups
        tl.store(here, packed_word(off_c, mask, place, WORD), mask=window * 2 < W_below)
        tl.store(here + run_groups, packed_word(off_d, mask, place, WORD), mask=window * 2 + 1 < W_below)


@triton.jit
def _let_through(word, j, value, dtype: tl.constexpr):
    return tl.where((word[:, None] >> j) & 1 != 0, value, 0.0).to(dtype)


@triton.jit(do_not_specialize=["H", "W", "half", "run_groups", "blocks", "half_rows"])
def unpool_backward_kernel(
    gradient,  # (B, H // 2, W // 2, C)
    bits,  # (B, H, W, run_groups) words
    result,  # (B, H, W, C)
    C,
    H,
    W,
    half,
    run_groups,
    blocks,
    half_rows,
    factor,  # 1/4 for the average, 1 for the maximum
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    EVEN: tl.constexpr,
):
    image, h, g, windows, W_below = _place(H, W, half, blocks, half_rows, GROUPS)
    j = tl.arange(0, GROUP)[None, :]
    DTYPE: tl.constexpr = result.dtype.element_ty
    window = g // run_groups
    group = g - window * run_groups
    column = group[:, None] * GROUP + j
    in_run = window[:, None] >= 0
    if not EVEN:
        in_run = column < C
    pooled = gradient + (image * (H // 2) + h // 2) * half * C + window[:, None] * C + column
    value = tl.load(pooled, mask=in_run & (window[:, None] < windows), other=0.0).to(tl.float32) * factor
    here = bits + (image * H + h) * W * run_groups + window * 2 * run_groups + group
    there = here + W * run_groups
    live = window * 2 < W
    beside = window * 2 + 1 < W
    a = tl.load(here, mask=live, other=0).to(tl.int32)
    b = tl.load(here + run_groups, mask=beside, other=0).to(tl.int32)
    c = tl.load(there, mask=window * 2 < W_below, other=0).to(tl.int32)
    d = tl.load(there + run_groups, mask=window * 2 + 1 < W_below, other=0).to(tl.int32)
    out = result + (image * H + h) * W * C + window[:, None] * 2 * C + column
    tl.store(out, _let_through(a, j, value, DTYPE), mask=in_run & live[:, None])
    tl.store(out + C, _let_through(b, j, value, DTYPE), mask=in_run & beside[:, None])
    out += W * C
    tl.store(out, _let_through(c, j, value, DTYPE), mask=in_run & (window[:, None] * 2 < W_below))
    tl.store(out + C, _let_through(d, j, value, DTYPE), mask=in_run & (window[:, None] * 2 + 1 < W_below))


def _run(kernel: Any, full: Tensor, bits: Tensor | None, own: Mapping[str, Any], switches: Mapping[str, bool]) -> None:
    """Runs one of the pooling kernels, which share their part in the full-size tensor and its bits."""
    batch, channels, height, width = full.shape
    group = group_size(channels, bits)
    run_groups = ceil(channels / group)
    # Four loads of a program's activations are in flight.
    groups = groups_per_program(1024, group)
    half_rows = ceil(height / 2)
    blocks = ceil(run_groups * ceil(width / 2) / groups)
    arguments = {
        **own,
        "bits": full if bits is None else as_words(bits, group),
        "C": channels,
        "H": height,
        "W": width,
        "half": width // 2,
        "run_groups": run_groups,
        "blocks": blocks,
        "half_rows": half_rows,
    }
    constants = {"GROUP": group, "GROUPS": groups, "EVEN": channels % group == 0, **switches}
    # Warps that leave each thread 16 bytes of 16-bit activations.
    warps = 4 if launch_gpu(full.device).warp_size == 32 else 2
    run(Launch(kernel, batch * half_rows * blocks, arguments, constants, num_warps=warps), full.device)


def bias_relu_pool(x: Tensor, bias: Tensor | None, pool: str, pooled: Tensor, bits: Tensor | None) -> None:
    """`eager.bias_relu_pool` as one kernel, whose bits run along the channels."""
    x, switches = in_layout(x, True), {"BIAS": bias is not None, "BITS": bits is not None, "MAX": pool == "max"}
    with channels_last_buffer(pooled) as buffer:
        own = {"x": x, "bias": x if bias is None else bias, "pooled": buffer}
        _run(bias_relu_pool_kernel, x, bits, own, switches)


def unpool_backward(gradient: Tensor, bits: Tensor, pool: str, result: Tensor) -> None:
    """`eager.unpool_backward` as one kernel, of bits that run along the channels."""
    with channels_last_buffer(result) as buffer:
        own = {"gradient": in_layout(gradient, True), "result": buffer, "factor": 1.0 if pool == "max" else 0.25}
        _run(unpool_backward_kernel, buffer, bits, own, {})
