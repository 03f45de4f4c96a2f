# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of bias + ReLU + 2×2 pooling that keep one bit of each activation, and of the way back.

Layouts and groups are those of `triton_relu`.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.layout import in_layout
from fastnst_kernels.relu.triton_relu import (
    GROUP,
    GROUPS,
    channels_last_buffer,
    packed,
    relu,
    run_groups_of,
    run_in_groups,
    unpacked,
)


@triton.jit
def _place(H, W, half, run_groups, blocks, half_rows):
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
    pooled,  # (B, H // 2, W // 2, C)
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
    image, h, window, group, channel, windows, W_below = _place(H, W, half, run_groups, blocks, half_rows)
    mask = (window[:, None] < windows) & (channel < C)
    corner = x + (image * H + h) * W * C + window[:, None] * 2 * C + channel
    out = pooled + (image * (H // 2) + h // 2) * half * C + window[:, None] * C + channel
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
    tl.store(out, result.to(pooled.dtype.element_ty), mask=mask)
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
    image, h, window, group, channel, windows, W_below = _place(H, W, half, run_groups, blocks, half_rows)
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


def _run(kernel: Any, full: Tensor, own: Mapping[str, Any]) -> None:
    """Runs one of the pooling kernels, which share their part in the full-size tensor."""
    batch, channels, height, width = full.shape
    run_groups, half_rows = run_groups_of(channels), ceil(height / 2)
    blocks = ceil(run_groups * ceil(width / 2) / GROUPS.value)
    arguments = {
        **own,
        "C": channels,
        "H": height,
        "W": width,
        "half": width // 2,
        "run_groups": run_groups,
        "blocks": blocks,
        "half_rows": half_rows,
    }
    run_in_groups(kernel, batch * half_rows * blocks, arguments, full.device)


def bias_relu_pool(x: Tensor, bias: Tensor | None, pool: str, pooled: Tensor, bits: Tensor | None) -> None:
    """`eager.bias_relu_pool` as one kernel, whose bits run along the channels."""
    x = in_layout(x, True)
    with channels_last_buffer(pooled) as buffer:
        _run(bias_relu_pool_kernel, x, {"x": x, "bias": bias, "pooled": buffer, "bits": bits, "MAX": pool == "max"})


def unpool_backward(gradient: Tensor, bits: Tensor, pool: str, result: Tensor) -> None:
    """`eager.unpool_backward` as one kernel, of bits that run along the channels."""
    with channels_last_buffer(result) as buffer:
        own = {"gradient": in_layout(gradient, True), "bits": bits, "result": buffer}
        _run(unpool_backward_kernel, buffer, {**own, "factor": 1.0 if pool == "max" else 0.25})
