# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of bias + ReLU that keep one bit of each activation, and of the way back from the bits alone.

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


def run_groups_of(channels: int) -> int:
    """The groups of one position."""
    return ceil(channels / GROUP.value)


def run_in_groups(kernel: Any, grid: int, arguments: Mapping[str, Any], device: torch.device) -> None:
    """Runs a kernel whose programs have a thread for each group."""
    run(Launch(kernel, grid, arguments, GROUPS.value // launch_gpu(device).warp_size), device)


def bias_relu(x: Tensor, bias: Tensor | None, y: Tensor, bits: Tensor | None) -> None:
    """`eager.bias_relu` as one kernel, whose bits run along the channels."""
    grid, groups = _groups(x)
    with channels_last_buffer(y) as buffer:
        arguments = {"x": in_layout(x, True), "bias": bias, "y": buffer, "bits": bits, **groups}
        run_in_groups(bias_relu_kernel, grid, arguments, x.device)


def relu_backward(gradient: Tensor, bits: Tensor, result: Tensor) -> None:
    """`eager.relu_backward` as one kernel, of bits that run along the channels."""
    grid, groups = _groups(gradient)
    with channels_last_buffer(result) as buffer:
        arguments = {"gradient": in_layout(gradient, True), "bits": bits, "result": buffer, **groups}
        run_in_groups(relu_backward_kernel, grid, arguments, gradient.device)


def _groups(x: Tensor) -> tuple[int, dict[str, int]]:
    """The number of programs for activations (B, C, H, W), and the arguments that say how they are cut into groups."""
    channels = x.shape[1]
    groups = x.numel() // channels * run_groups_of(channels)
    arguments = {"C": channels, "run_groups": run_groups_of(channels), "groups": groups}
    return ceil(groups / GROUPS.value), arguments
