# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of bias + ReLU that keep one bit of each activation, and of the way back from the bits alone.

Each reads and writes its tensors once, in groups whose bits are one word (see `triton_bits`).
"""

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.gpu import Gpu
from fastnst_kernels.launch import Launch, Plan
from fastnst_kernels.relu_layout import dense, empty_bits, packed_by_channels
from fastnst_kernels.triton_bits import as_words, buffer_of, group_size, groups_per_program, packed_word, relu, run_into


@triton.jit(do_not_specialize=["groups", "blocks", "rows_per_channel"])
def bias_relu_kernel(
    x,  # (runs, run)
    bias,  # (C,) any float dtype, read if BIAS
    y,  # as x, and may be x
    bits,  # (runs, run_groups) words, written if BITS
    C,
    run,  # activations that lie side by side, and their bits too: channels of a position, or positions of a channel
    run_groups,  # ⌈run / GROUP⌉
    groups,  # of all runs, read if CHANNELS_LAST
    blocks,  # programs of one run, unless CHANNELS_LAST
    rows_per_channel,  # runs of one channel of one image, unless CHANNELS_LAST
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,  # of one program
    CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr,  # GROUP divides run
    BIAS: tl.constexpr,
    BITS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    g = tl.arange(0, GROUPS)
    j = tl.arange(0, GROUP)[None, :]
    if CHANNELS_LAST:
        first = program * GROUPS
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
        word_start = first
        words = g
    else:
        index = program // blocks
        words = (program % blocks).to(tl.int32) * GROUPS + g
        live = words < run_groups
        offsets = words[:, None] * GROUP + j
        mask = offsets < run
        start = index * run
        word_start = index * run_groups
    value = tl.load(x + start + offsets, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        if CHANNELS_LAST:
            value += tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
        else:
            value += tl.load(bias + index // rows_per_channel % C).to(tl.float32)
    tl.store(y + start + offsets, relu(value).to(y.dtype.element_ty), mask=mask)
    if BITS:
        word = packed_word(value <= 0.0, mask, tl.full((1, 1), 1, tl.int32) << j, bits.dtype.element_ty)
        tl.store(bits + word_start + words, word, mask=live)


@triton.jit(do_not_specialize=["groups"])
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
    first = tl.program_id(0).to(tl.int64) * GROUPS
    g = tl.arange(0, GROUPS)
    j = tl.arange(0, GROUP)[None, :]
    live = g < groups - first
    if EVEN:
        start = first * GROUP
        offsets = g[:, None] * GROUP + j
        mask = live[:, None]
    else:
        in_run = (first % run_groups).to(tl.int32) + g
        row = in_run // run_groups
        column = (in_run - row * run_groups)[:, None] * GROUP + j
        start = first // run_groups * run
        offsets = row[:, None] * run + column
        mask = live[:, None] & (column < run)
    word = tl.load(bits + first + g, mask=live, other=0).to(tl.int32)
    value = tl.load(gradient + start + offsets, mask=mask, other=0.0)
    tl.store(result + start + offsets, tl.where((word[:, None] >> j) & 1 != 0, value, 0.0), mask=mask)


def plan_bias_relu(x: Tensor, bias: Tensor | None, y: Tensor, bits: Tensor | None) -> Plan:
    """max(x + bias, 0) of dense (B, C, H, W) activations into `y`, and the sign bits into `bits`: its launch."""
    batch, channels, height, width = x.shape
    by_channels = packed_by_channels(x)
    # Rows of whole bytes are one run: nothing lies between their bits.
    positions = height * width if width % 8 == 0 else width
    run_length = channels if by_channels else positions
    group = group_size(run_length, bits)
    runs = x.numel() // run_length
    run_groups = ceil(run_length / group)
    groups = groups_per_program(2048, group)
    blocks = ceil(run_groups / groups)
    arguments = {
        "x": x,
        "bias": x if bias is None else bias,
        "y": y,
        "bits": y if bits is None else as_words(bits, group),
        "C": channels,
        "run": run_length,
        "run_groups": run_groups,
        "groups": runs * run_groups,
        "blocks": blocks,
        "rows_per_channel": runs // (batch * channels) if not by_channels else 1,
    }
    constants = {
        "GROUP": group,
        "GROUPS": groups,
        "CHANNELS_LAST": by_channels,
        "EVEN": run_length % group == 0,
        "BIAS": bias is not None,
        "BITS": bits is not None,
    }
    grid = ceil(runs * run_groups / groups) if by_channels else runs * blocks
    return Plan((Launch(bias_relu_kernel, grid, arguments, constants),), (y,))


def plan_relu_backward(gradient: Tensor, bits: Tensor, result: Tensor) -> Plan:
    """The gradient where its bit is set, else 0, into `result`, all of one dense layout: its launch."""
    channels, _, width = gradient.shape[1:]
    run_length = channels if packed_by_channels(result) else width
    # Runs of whole bytes are one run: nothing lies between their bits.
    run_length = gradient.numel() if run_length % 8 == 0 else run_length
    group = group_size(run_length, bits)
    run_groups = ceil(run_length / group)
    all_groups = gradient.numel() // run_length * run_groups
    groups = groups_per_program(2048, group)
    arguments = {
        "gradient": gradient,
        "bits": as_words(bits, group),
        "result": result,
        "run": run_length,
        "run_groups": run_groups,
        "groups": all_groups,
    }
    constants = {"GROUP": group, "GROUPS": groups, "EVEN": run_length % group == 0}
    return Plan((Launch(relu_backward_kernel, ceil(all_groups / groups), arguments, constants),), (result,))


def bias_relu(x: Tensor, bias: Tensor | None, y: Tensor, bits: Tensor | None) -> None:
    """`torch_relu.bias_relu` as one kernel."""
    buffer = buffer_of(y)
    run_into(plan_bias_relu(x, bias, buffer, bits), y, buffer)


def relu_backward(gradient: Tensor, bits: Tensor, result: Tensor) -> None:
    """`torch_relu.relu_backward` as one kernel."""
    buffer = buffer_of(result)
    run_into(plan_relu_backward(gradient, bits, buffer), result, buffer)


def example_launches(features: Tensor, precision: str, gpu: Gpu) -> list[Launch]:
    """The launches of every kernel in each of its switches, on features (B, C, H, W), which may be meta tensors.

    `precision` changes nothing here: there is no product.
    """
    x = dense(features)
    bits = empty_bits(x)
    bias = torch.empty((x.shape[1],), dtype=x.dtype, device=x.device)
    plans = [plan_relu_backward(x, bits, x)]
    plans.extend(plan_bias_relu(x, shift, x, kept) for shift in (bias, None) for kept in (bits, None))
    return [launch for plan in plans for launch in plan.launches]
