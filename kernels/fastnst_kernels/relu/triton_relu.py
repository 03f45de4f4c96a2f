# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of bias + ReLU that keep one bit of each activation, and of the way back from the bits alone.

Activations are channels-last, (B, H, W, C), and their bits run along the channels; other layouts are converted on the
way in and out. Each tensor is read and written once, in groups of 32 activations (8 where 32 does not divide C) whose
bits are one word: a thread holds 16 bytes of a group, and the threads of a group add up its word by shuffles. Where a
program starts is in 64 bits, what lies inside it in 32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.launch import Launch, cannot_round, finish_sum, run
from fastnst_kernels.launch.layout import empty_map, in_layout
from fastnst_kernels.relu import eager


@triton.jit
def packed_word(off, mask, dtype: tl.constexpr):
    """The words (G,) of the groups' bits, which are set where an activation (G, GROUP) is neither `off` nor masked."""
    # Each activation has a bit of its own: the sum is the bitwise or.
    place = tl.full((1, 1), 1, tl.int32) << tl.arange(0, off.shape[1])[None, :]
    return tl.sum(tl.where(off, 0, tl.where(mask, place, 0)), axis=1).to(dtype)


@triton.jit
def relu(value):
    # NaN is not at most zero: it comes through, and so does its gradient, as in torch.
    return tl.where(value <= 0.0, 0.0, value)


def groups_per_program(elements: int, group: int) -> int:
    """Groups of one program: so few that the thread that holds a group also reads and writes its bits."""
    return min(elements, 1024 if group == 8 else 2048) // group


def as_words(bits: Tensor, group: int) -> Tensor:
    """Packed bits, uint8, as the words of groups of this size: int32 for 32 activations, uint8 for 8."""
    return bits.view(-1).view(torch.int32) if group == 32 else bits


def group_size(channels: int, bits: Tensor | None) -> int:
    """Activations whose bits are one word, 32 or 8."""
    words = bits is None or bits.storage_offset() % 4 == 0
    return 32 if channels % 32 == 0 and words else 8


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
def _place(run, run_groups, groups, GROUP: tl.constexpr, GROUPS: tl.constexpr, EVEN: tl.constexpr):
    """A program's groups and which of them there are, (GROUPS,); of their activations, (GROUPS, GROUP), the first one's
    place, the places from there, the mask, and the places in their runs."""
    first = tl.program_id(0).to(tl.int64) * GROUPS
    g = tl.arange(0, GROUPS)
    j = tl.arange(0, GROUP)[None, :]
    live = g < groups - first
    in_run = (first % run_groups).to(tl.int32) + g
    row = in_run // run_groups
    column = (in_run - row * run_groups)[:, None] * GROUP + j
    if EVEN:
        start = first * GROUP
        offsets = g[:, None] * GROUP + j
        mask = live[:, None]
    else:
        start = first // run_groups * run
        offsets = row[:, None] * run + column
        mask = live[:, None] & (column < run)
    return first + g, live, start, offsets, mask, column


@triton.jit(do_not_specialize=["run_groups", "groups"])
def bias_relu_kernel(
    x,  # (positions, C)
    bias,  # (C,) any float dtype, or None
    y,  # as x, and may be x
    bits,  # (positions, run_groups) words, or None
    content,  # (positions, C), or None
    partial,  # (programs,) float32: Σ (y − content)²
    C,
    run_groups,  # ⌈C / GROUP⌉
    groups,  # of all positions
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,  # of one program
    EVEN: tl.constexpr,  # GROUP divides C
):
    group, live, start, offsets, mask, column = _place(C, run_groups, groups, GROUP, GROUPS, EVEN)
    value = tl.load(x + start + offsets, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
    rounded = relu(value).to(y.dtype.element_ty)
    tl.store(y + start + offsets, rounded, mask=mask)
    if content is not None:
        target = tl.load(content + start + offsets, mask=mask, other=0.0).to(tl.float32)
        difference = tl.where(mask, rounded.to(tl.float32) - target, 0.0)
        tl.store(partial + tl.program_id(0), tl.sum(tl.sum(difference * difference, axis=1), axis=0))
    if bits is not None:
        tl.store(bits + group, packed_word(value <= 0.0, mask, bits.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["run", "run_groups", "groups"])
def relu_backward_kernel(
    gradient,  # (runs, run)
    bits,  # (runs, run_groups) words
    result,  # as gradient, and may be it
    run,
    run_groups,  # ⌈run / GROUP⌉
    groups,  # of all runs
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,  # of one program
    EVEN: tl.constexpr,  # GROUP divides run
):
    group, live, start, offsets, mask, _ = _place(run, run_groups, groups, GROUP, GROUPS, EVEN)
    word = tl.load(bits + group, mask=live, other=0).to(tl.int32)
    value = tl.load(gradient + start + offsets, mask=mask, other=0.0)
    tl.store(result + start + offsets, tl.where((word[:, None] >> tl.arange(0, GROUP)) & 1 != 0, value, 0.0), mask=mask)


def bias_relu(x: Tensor, bias: Tensor | None, y: Tensor, bits: Tensor | None) -> None:
    """`eager.bias_relu` as one kernel, whose bits run along the channels."""
    with channels_last_buffer(y) as buffer:
        _activate(in_layout(x, True), bias, buffer, bits)


def bias_relu_content(x: Tensor, bias: Tensor, y: Tensor, content: Tensor, weight: float) -> Tensor:
    """`eager.bias_relu_content` of one image in one pass."""
    if cannot_round(x.dtype):
        return eager.bias_relu_content(x, bias, y, content, weight)
    with channels_last_buffer(y) as buffer:
        partial = _activate(in_layout(x, True), bias, buffer, None, in_layout(content, True))
    return finish_sum(cast(Tensor, partial), weight)


def _activate(
    x: Tensor, bias: Tensor | None, y: Tensor, bits: Tensor | None, content: Tensor | None = None
) -> Tensor | None:
    """Writes max(x + bias, 0) of channels-last activations (B, C, H, W) into `y`, and their bits into `bits`. Returns,
    with `content` P of one image, sums (1, parts) of (y − P)²."""
    channels = x.shape[1]
    grid, groups = _groups(channels, x.numel(), bits)
    partial = None if content is None else torch.empty((1, grid), dtype=torch.float32, device=x.device)
    arguments = {"x": x, "bias": bias, "y": y, "content": content, "partial": partial, "C": channels, **groups}
    run(Launch(bias_relu_kernel, grid, arguments), x.device)
    return partial


def relu_backward(gradient: Tensor, bits: Tensor, result: Tensor) -> None:
    """`eager.relu_backward` as one kernel, of bits that run along the channels."""
    channels = gradient.shape[1]
    # Runs of whole bytes are one run: nothing lies between their bits.
    length = gradient.numel() if channels % 8 == 0 else channels
    grid, groups = _groups(length, gradient.numel(), bits)
    with channels_last_buffer(result) as buffer:
        arguments = {"gradient": in_layout(gradient, True), "result": buffer, "run": length, **groups}
        run(Launch(relu_backward_kernel, grid, arguments), gradient.device)


def _groups(length: int, elements: int, bits: Tensor | None) -> tuple[int, dict[str, Any]]:
    """The number of programs, and the arguments that say how runs of this `length` are cut into groups."""
    group = group_size(length, bits)
    run_groups = ceil(length / group)
    groups = elements // length * run_groups
    per_program = groups_per_program(2048, group)
    arguments = {
        "bits": None if bits is None else as_words(bits, group),
        "run_groups": run_groups,
        "groups": groups,
        "GROUP": group,
        "GROUPS": per_program,
        "EVEN": length % group == 0,
    }
    return ceil(groups / per_program), arguments
