# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of bias + ReLU, alone or with 2×2 pooling, that keep one bit of each activation, and of the way
back from the bits alone.

Activations are channels-last, (B, H, W, C), and their bits run along the channels; other layouts are converted on the
way in and out. Each tensor is read and written once, in groups of eight activations, whose bits are one byte: a thread
has a group. Where a program starts is in 64 bits, what lies inside it in 32.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.launch import Launch, launch_gpu, run
from fastnst_kernels.launch.layout import empty_map, in_layout

GROUP = tl.constexpr(8)
# Of one program.
GROUPS = tl.constexpr(128)


@triton.jit
def packed(off, mask):
    """The bytes (G,) of the groups' bits, which are set where an activation (G, GROUP) is neither `off` nor masked."""
    # Each activation has a bit of its own: the sum is the bitwise or.
    place = tl.full((1, 1), 1, tl.int32) << tl.arange(0, GROUP)[None, :]
    return tl.sum(tl.where(off, 0, tl.where(mask, place, 0)), axis=1).to(tl.uint8)


@triton.jit
def unpacked(byte):
    """The flags (G, GROUP) of the groups' bytes (G,)."""
    return (byte.to(tl.int32)[:, None] >> tl.arange(0, GROUP)[None, :]) & 1 != 0


@triton.jit
def relu(value):
    # NaN is not at most zero: it comes through, and so does its gradient, as in torch.
    return tl.where(value <= 0.0, 0.0, value)


@contextmanager
def channels_last_buffer(written: Tensor) -> Iterator[Tensor]:
    """The channels-last tensor that the block's kernel writes: `written`, or where it lies otherwise one that is copied
    into it."""
    if written.is_contiguous(memory_format=torch.channels_last):
        yield written
        return
    buffer = empty_map(written, True)
    yield buffer
    written.copy_(buffer)


@triton.jit
def _place(C, run_groups, groups):
    """A program's groups and which of them there are, (GROUPS,); of their activations, (GROUPS, GROUP), the first one's
    place, the places from there, the mask, and the channels."""
    first = tl.program_id(0).to(tl.int64) * GROUPS
    g = tl.arange(0, GROUPS)
    live = g < groups - first
    in_run = (first % run_groups).to(tl.int32) + g
    row = in_run // run_groups
    channel = (in_run - row * run_groups)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    start = first // run_groups * C
    return first + g, live, start, row[:, None] * C + channel, live[:, None] & (channel < C), channel


@triton.jit(do_not_specialize=["run_groups", "groups"])
def bias_relu_kernel(
    x,  # (positions, C)
    bias,  # (C,) any float dtype, or None
    y,  # as x, and may be x
    bits,  # (positions, run_groups) uint8, or None
    C,
    run_groups,  # ⌈C / GROUP⌉
    groups,  # of all positions
):
    group, live, start, offsets, mask, channel = _place(C, run_groups, groups)
    value = tl.load(x + start + offsets, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + channel, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + start + offsets, relu(value).to(y.dtype.element_ty), mask=mask)
    if bits is not None:
        tl.store(bits + group, packed(value <= 0.0, mask), mask=live)


@triton.jit(do_not_specialize=["run_groups", "groups"])
def relu_backward_kernel(
    gradient,  # (positions, C)
    bits,  # (positions, run_groups) uint8
    result,  # as gradient, and may be it
    C,
    run_groups,  # ⌈C / GROUP⌉
    groups,  # of all positions
):
    group, live, start, offsets, mask, _ = _place(C, run_groups, groups)
    passes = unpacked(tl.load(bits + group, mask=live, other=0))
    value = tl.load(gradient + start + offsets, mask=mask, other=0.0)
    tl.store(result + start + offsets, tl.where(passes, value, 0.0), mask=mask)


@triton.jit
def _window_place(H, W, half, run_groups, blocks, half_rows):
    """A program's image and upper row; of its groups (GROUPS,) the window, the place in its run and the channels; whole
    windows of its row, and activations of the row below."""
    program = tl.program_id(0).to(tl.int64)
    index = program // blocks
    g = (program % blocks).to(tl.int32) * GROUPS + tl.arange(0, GROUPS)
    h = index % half_rows * 2
    window = g // run_groups
    group = g - window * run_groups
    channel = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    # A last odd row is in no window, and has no row below.
    windows, W_below = tl.where(h + 1 < H, half, 0), tl.where(h + 1 < H, W, 0)
    return index // half_rows, h, window, group, channel, windows, W_below


@triton.jit(do_not_specialize=["H", "W", "half", "run_groups", "blocks", "half_rows"])
def bias_relu_pool_kernel(
    x,  # (B, H, W, C)
    bias,  # (C,) any float dtype, or None
    y,  # (B, H // 2, W // 2, C)
    bits,  # (B, H, W, run_groups) uint8, or None
    C,
    H,
    W,
    half,  # W // 2, whole windows in a row
    run_groups,  # ⌈C / GROUP⌉
    blocks,  # programs of one row of windows
    half_rows,  # ⌈H / 2⌉
    MAX: tl.constexpr,
):
    image, h, window, group, channel, windows, W_below = _window_place(H, W, half, run_groups, blocks, half_rows)
    mask = (window[:, None] < windows) & (channel < C)
    corner = x + (image * H + h) * W * C + window[:, None] * 2 * C + channel
    out = y + (image * (H // 2) + h // 2) * half * C + window[:, None] * C + channel
    below = corner + W * C
    a = tl.load(corner, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(corner + C, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(below, mask=mask, other=0.0).to(tl.float32)
    d = tl.load(below + C, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        shift = tl.load(bias + channel, mask=mask, other=0.0).to(tl.float32)
        a, b, c, d = a + shift, b + shift, c + shift, d + shift
    values = (relu(a), relu(b), relu(c), relu(d))
    if MAX:
        result = values[0]
        hot = tl.zeros_like(result).to(tl.int32)
        for i in tl.static_range(1, 4):
            # The last NaN is the largest, as in torch.
            larger = (values[i] > result) | (values[i] != values[i])
            result = tl.where(larger, values[i], result)
            hot = tl.where(larger, i, hot)
    else:
        result = (((values[0] + values[1]) + values[2]) + values[3]) * 0.25
    tl.store(out, result.to(y.dtype.element_ty), mask=mask)
    if bits is not None:
        here = bits + (image * H + h) * W * run_groups + window * 2 * run_groups + group
        for i in tl.static_range(4):
            off = (result <= 0.0) | (hot != i) if MAX else values[i] <= 0.0
            live = window * 2 + i % 2 < (W if i < 2 else W_below)
            tl.store(here + (i // 2 * W + i % 2) * run_groups, packed(off, mask), mask=live)


@triton.jit(do_not_specialize=["H", "W", "half", "run_groups", "blocks", "half_rows"])
def unpool_backward_kernel(
    gradient,  # (B, H // 2, W // 2, C)
    bits,  # (B, H, W, run_groups) uint8
    result,  # (B, H, W, C)
    C,
    H,
    W,
    half,
    run_groups,
    blocks,
    half_rows,
    factor,  # 1/4 for the average, 1 for the maximum
):
    image, h, window, group, channel, windows, W_below = _window_place(H, W, half, run_groups, blocks, half_rows)
    in_run = channel < C
    pooled = gradient + (image * (H // 2) + h // 2) * half * C + window[:, None] * C + channel
    value = tl.load(pooled, mask=in_run & (window[:, None] < windows), other=0.0).to(tl.float32) * factor
    here = bits + (image * H + h) * W * run_groups + window * 2 * run_groups + group
    out = result + (image * H + h) * W * C + window[:, None] * 2 * C + channel
    here_below = here + W * run_groups
    bytes_of_window = (
        tl.load(here, mask=window * 2 < W, other=0),
        tl.load(here + run_groups, mask=window * 2 + 1 < W, other=0),
        tl.load(here_below, mask=window * 2 < W_below, other=0),
        tl.load(here_below + run_groups, mask=window * 2 + 1 < W_below, other=0),
    )
    for i in tl.static_range(4):
        live = window * 2 + i % 2 < (W if i < 2 else W_below)
        passed = tl.where(unpacked(bytes_of_window[i]), value, 0.0).to(result.dtype.element_ty)
        tl.store(out + (i // 2 * W + i % 2) * C, passed, mask=in_run & live[:, None])


def _run(kernel: Any, full: Tensor, pool: str | None, own: Mapping[str, Any]) -> None:
    """Runs a kernel, whose programs have a thread for each group of the full-size tensor; with a `pool`, for the four
    groups of a window."""
    batch, channels, height, width = full.shape
    run_groups = ceil(channels / GROUP.value)
    if pool is None:
        groups = batch * height * width * run_groups
        grid, place = ceil(groups / GROUPS.value), {"groups": groups}
    else:
        half_rows, blocks = ceil(height / 2), ceil(run_groups * ceil(width / 2) / GROUPS.value)
        grid = batch * half_rows * blocks
        place = {"H": height, "W": width, "half": width // 2, "blocks": blocks, "half_rows": half_rows}
    arguments = {**own, "C": channels, "run_groups": run_groups, **place}
    run(Launch(kernel, grid, arguments, GROUPS.value // launch_gpu(full.device).warp_size), full.device)


def bias_relu(x: Tensor, bias: Tensor | None, pool: str | None, y: Tensor, bits: Tensor | None) -> None:
    """`eager.bias_relu` as one kernel, whose bits run along the channels."""
    x = in_layout(x, True)
    with channels_last_buffer(y) as buffer:
        own = {"x": x, "bias": bias, "y": buffer, "bits": bits}
        if pool is None:
            _run(bias_relu_kernel, x, pool, own)
        else:
            _run(bias_relu_pool_kernel, x, pool, {**own, "MAX": pool == "max"})


def relu_backward(gradient: Tensor, bits: Tensor, pool: str | None, result: Tensor) -> None:
    """`eager.relu_backward` as one kernel, of bits that run along the channels."""
    with channels_last_buffer(result) as buffer:
        own = {"gradient": in_layout(gradient, True), "bits": bits, "result": buffer}
        if pool is None:
            _run(relu_backward_kernel, buffer, pool, own)
        else:
            _run(unpool_backward_kernel, buffer, pool, {**own, "factor": 1.0 if pool == "max" else 0.25})
