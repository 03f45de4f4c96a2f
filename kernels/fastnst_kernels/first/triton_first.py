# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel of the first layer's way forward, and its launcher.

A program takes a range of positions and sums their F Fᵀ while it writes them. The 27 pixels around each position are
rows of a matrix of 32, multiplied by the filters on the tensor cores.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.first import FirstLayer
from fastnst_kernels.image.triton_image import by_channel, numbered
from fastnst_kernels.launch.heuristic import LONGEST_SUM, split_evenly
from fastnst_kernels.launch.launch import Launch, input_precision, launch_gpu, run
from fastnst_kernels.launch.layout import wide_image
from fastnst_kernels.relu.triton_relu import channels_last_buffer

# Positions at a time, of features in 16 bit, and half as many in 32.
_BLOCK_M = 128
# Pixels of the next step are on their way while one is computed.
_STAGES = 2
# Programs for each multiprocessor: one more writes a matrix of partial sums more.
_PROGRAMS = 2


@triton.jit
def wrapped(place, size):
    """A place at most one beyond an axis as that at the axis' other side."""
    return tl.where(place < 0, place + size, tl.where(place >= size, place - size, place))


@triton.jit
def patches(
    image,  # (3, H, W) float32 by its strides
    row,  # (P,)
    column,  # (P,)
    valid,  # (P,)
    strides,  # of channels, rows and columns
    size,  # H and W
    scale,  # three, by the network's channels
    shift,
    PADDING: tl.constexpr,
    FLIP: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The normalised pixels around positions, (32, P): three channels of 3 × 3, two ones for the bias, zeros; all zeros
    where a position is not `valid`."""
    H, W = size
    stride_c, stride_h, stride_w = strides
    k = tl.arange(0, 32)
    channel = k % 3
    ones = tl.where(valid[None, :] & ((k == 27) | (k == 28))[:, None], 1.0, 0.0)
    rows = row[None, :] + (k // 9 - 1)[:, None]
    columns = column[None, :] + (k // 3 % 3 - 1)[:, None]
    mask = valid[None, :] & (k < 27)[:, None]
    if PADDING == "zeros":
        mask = mask & (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
    elif PADDING == "replicate":
        rows = tl.minimum(tl.maximum(rows, 0), H - 1)
        columns = tl.minimum(tl.maximum(columns, 0), W - 1)
    else:
        rows = wrapped(rows, H)
        columns = wrapped(columns, W)
    if WIDE:
        rows = rows.to(tl.int64)
        columns = columns.to(tl.int64)
    plane = (2 - channel if FLIP else channel)[:, None]
    x = tl.load(image + plane * stride_c + (rows * stride_h + columns * stride_w), mask=mask, other=0.0)
    return tl.where(mask, x * by_channel(channel, scale)[:, None] + by_channel(channel, shift)[:, None], ones)


@triton.jit
def filters(weight, bias, C: tl.constexpr):
    """The filters (C, 3, 3, 3), channels-last, and the bias (C,) as the matrix (32, C) that multiplies `patches`.

    The bias is two rows, its first ten bits and the rest: TF32 then takes nothing of it.
    """
    k = tl.arange(0, 32)[:, None]
    n = tl.arange(0, C)[None, :]
    weights = tl.load(weight + n * 27 + k, mask=k < 27, other=0.0).to(tl.float32)
    shift = tl.load(bias + n).to(tl.float32)
    high = (shift.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return tl.where(k == 27, high, tl.where(k == 28, shift - high, weights))


@triton.jit
def activated(value, dtype: tl.constexpr):
    """max(value, 0) in `dtype`; a NaN stays one."""
    return tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL).to(dtype)


@triton.jit(do_not_specialize=["splits"])
def first_forward_kernel(
    image,  # (B, 3, H, W) float32 by its strides
    weight,  # (C, 3, 3, 3) channels-last
    bias,  # (C,)
    y,  # (B, H·W, C)
    partial,  # (B, splits, C, C) float32, or None
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    H,
    W,
    splits,
    split_length,  # positions of one split, a multiple of BLOCK_M
    scale_0,  # by the network's channels
    scale_1,
    scale_2,
    shift_0,
    shift_1,
    shift_2,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PADDING: tl.constexpr,
    FLIP: tl.constexpr,
    WIDE: tl.constexpr,  # offsets inside one image need 64 bits
    PRECISION: tl.constexpr,
):
    program = tl.program_id(0)
    split = program % splits
    index = (program // splits).to(tl.int64)
    positions = tl.cast(H, tl.int64) * W
    start = split.to(tl.int64) * split_length
    length = tl.minimum(positions - start, split_length).to(tl.int32)
    first_row = (start // W).to(tl.int32)
    first_column = (start % W).to(tl.int32)
    image += index * stride_b
    y += (index * positions + start) * C

    strides, size = (stride_c, stride_h, stride_w), (H, W)
    scale, shift = (scale_0, scale_1, scale_2), (shift_0, shift_1, shift_2)
    dtype = weight.dtype.element_ty
    n = tl.arange(0, C)
    matrix = filters(weight, bias, C).to(dtype)
    sums = tl.zeros((C, C), dtype=tl.float32)
    for offset in range(0, length, BLOCK_M):
        m = offset + tl.arange(0, BLOCK_M)
        flat = first_column + m
        row, column = first_row + flat // W, flat % W
        x = patches(image, row, column, m < length, strides, size, scale, shift, PADDING, FLIP, WIDE)
        mask = (m < length)[:, None]
        f = activated(tl.dot(tl.trans(x.to(dtype)), matrix, input_precision=PRECISION), dtype)
        tl.store(y + (m[:, None] * C + n[None, :]), f, mask=mask)
        if partial is not None:
            sums = tl.dot(tl.trans(f), f, sums, input_precision=PRECISION)
    if partial is not None:
        tl.store(partial + tl.cast(program, tl.int64) * (C * C) + n[:, None] * C + n[None, :], sums)


def layer_arguments(image: Tensor, layer: FirstLayer, precision: str) -> dict[str, Any]:
    """The arguments of both ways: an image (B, 3, H, W), by its strides, its normalisation, and the filters."""
    dtype = layer.weight.dtype
    return {
        "image": image,
        "weight": layer.weight,
        "bias": layer.bias,
        **dict(zip(("stride_b", "stride_c", "stride_h", "stride_w"), image.stride(), strict=True)),
        "H": image.shape[2],
        "W": image.shape[3],
        **numbered("scale", layer.scale),
        **numbered("shift", layer.shift),
        "C": len(layer.weight),
        "PADDING": layer.padding,
        "FLIP": layer.flip,
        "WIDE": wide_image(image),
        "PRECISION": input_precision(dtype, precision, launch_gpu(image.device)),
    }


def run_layer(kernel: Any, grid: int, arguments: Mapping[str, Any], layer: FirstLayer) -> None:
    """Runs a kernel of the layer, with 8 warps where tensor cores take 32 bits, for 4 run out of registers; AMD's have
    more of them."""
    device = layer.weight.device
    warps = 8 if layer.weight.element_size() == 4 and launch_gpu(device).backend == "cuda" else 4
    run(Launch(kernel, grid, arguments, warps, _STAGES), device)


def first_forward(image: Tensor, layer: FirstLayer, y: Tensor, gram: bool, precision: str) -> Tensor | None:
    """`eager.first_forward` as one kernel; its sums are as `triton_product` has them, (B, splits, 1, C, C) float32."""
    batch, channels, height, width = y.shape
    block_m = _BLOCK_M * 2 // layer.weight.element_size()
    positions = height * width
    wanted = max(ceil(_PROGRAMS * launch_gpu(image.device).multiprocessors / batch), ceil(positions / LONGEST_SUM))
    splits, split_length = split_evenly(positions, block_m, wanted, LONGEST_SUM)
    sums = None
    if gram:
        sums = torch.empty((batch, splits, 1, channels, channels), dtype=torch.float32, device=y.device)
    with channels_last_buffer(y) as buffer:
        arguments = {
            **layer_arguments(image, layer, precision),
            "y": buffer,
            "partial": sums,
            "splits": splits,
            "split_length": split_length,
            "BLOCK_M": block_m,
        }
        run_layer(first_forward_kernel, batch * splits, arguments, layer)
    return sums
