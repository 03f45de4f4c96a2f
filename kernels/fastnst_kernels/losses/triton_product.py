# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel of the product F Fᵀ: split-K partial sums of the tiles on and above the diagonal.

It takes the features, or a convolution's output before bias and ReLU, of which it writes the features on the way.

Every sum is in float32 and in an order that the shape alone decides, so two runs are equal to the bit.
"""

from dataclasses import replace
from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.heuristic import pairs_of, partial_heuristic
from fastnst_kernels.launch.launch import Launch, input_precision, launch_gpu, problem_of, run
from fastnst_kernels.launch.layout import is_crop, strides, wide
from fastnst_kernels.relu.triton_relu import relu


@triton.jit
def tile_of(index):
    """The tile (row, column) of an index that runs column by column down the upper triangle, index 0 at (0, 0)."""
    # index = column·(column + 1)/2 + row
    column = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5 + 1e-3).to(tl.int32)
    return index - column * (column + 1) // 2, column


@triton.jit
def _operand(pointers, mask, bias):
    """x, or with a bias max(x + bias, 0), rounded to the dtype of x; 0 where it is masked."""
    x = tl.load(pointers, mask=mask, other=0.0)
    if bias is not None:
        x = tl.where(mask, relu(x.to(tl.float32) + bias), 0.0).to(x.dtype)
    return x


@triton.jit(do_not_specialize=["pairs", "splits"])
def partial_gram_kernel(
    features,  # (B, C, H, W) by its strides; before bias and ReLU where there is a bias
    bias,  # (C,) any float dtype, or None; not with CROP
    activations,  # as features, and another tensor, that is written with a bias
    partial,  # (B, splits, pairs, BLOCK_C, BLOCK_C) float32
    stride_b,
    stride_c,
    stride_h,  # used if CROP
    stride_w,  # of neighbouring positions
    C,
    M,
    W,  # used if CROP
    pairs,
    splits,
    split_length,  # positions of one split, a multiple of BLOCK_M
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDE: tl.constexpr,  # offsets inside one image's tile need 64 bits
    CROP: tl.constexpr,  # H and W do not act as one axis
    ONE_TILE: tl.constexpr,  # C fits one tile, whose two operands are the same
    PRECISION: tl.constexpr,
):
    program = tl.program_id(0)
    pair = program % pairs
    split = (program // pairs) % splits
    image = (program // pairs // splits).to(tl.int64)
    row_block, column_block = tile_of(pair)

    c = tl.arange(0, BLOCK_C)
    m = tl.arange(0, BLOCK_M)
    rows = row_block * BLOCK_C + c
    columns = column_block * BLOCK_C + c
    start = split.to(tl.int64) * split_length
    length = tl.minimum(M - start, split_length).to(tl.int32)
    row_mask = rows[:, None] < C
    column_mask = columns[:, None] < C
    row_bias, column_bias = None, None
    if bias is not None:
        row_bias = tl.load(bias + rows, mask=rows < C, other=0.0).to(tl.float32)[:, None]
        column_bias = tl.load(bias + columns, mask=columns < C, other=0.0).to(tl.float32)[:, None]
        written = activations + image * stride_b
        # A tile on the diagonal writes its channels.
        written_mask = rows[:, None] < tl.where(row_block == column_block, C, 0)
    if WIDE:
        rows = rows.to(tl.int64)
        columns = columns.to(tl.int64)
        m = m.to(tl.int64)
    base = features + image * stride_b
    row_offsets = rows[:, None] * stride_c
    column_offsets = columns[:, None] * stride_c
    if CROP:
        first = start if WIDE else start.to(tl.int32)
    else:
        base += start * stride_w
        if bias is not None:
            written += start * stride_w
        row_offsets += m[None, :] * stride_w
        column_offsets += m[None, :] * stride_w

    sums = tl.zeros((BLOCK_C, BLOCK_C), dtype=tl.float32)
    for offset in range(0, length, BLOCK_M):
        m_mask = m[None, :] < length - offset
        m_offsets = 0
        if CROP:
            position = (first + offset) + m
            m_offsets = (position // W * stride_h + position % W * stride_w)[None, :]
        x = _operand(base + (row_offsets + m_offsets), row_mask & m_mask, row_bias)
        if bias is not None:
            tl.store(written + row_offsets, x, mask=written_mask & m_mask)
        y = x
        if not ONE_TILE:
            y = _operand(base + (column_offsets + m_offsets), column_mask & m_mask, column_bias)
        sums = tl.dot(x, tl.trans(y), sums, input_precision=PRECISION)
        if not CROP:
            step = (tl.cast(BLOCK_M, tl.int64) if WIDE else BLOCK_M) * stride_w
            base += step
            if bias is not None:
                written += step

    tile = partial + ((image * splits + split) * pairs + pair) * (BLOCK_C * BLOCK_C)
    tl.store(tile + c[:, None] * BLOCK_C + c[None, :], sums)


def partial_sums(
    features: Tensor, precision: str, bias: Tensor | None = None, activations: Tensor | None = None
) -> Tensor:
    """Sums of F Fᵀ of readable features (B, C, H, W), (B, splits, pairs, block_c, block_c) float32.

    With `bias`, (C,), the features are those of max(features + bias, 0), and are written into `activations`, which has
    their shape and strides.
    """
    batch, channels, height, width = features.shape
    gpu = launch_gpu(features.device)
    dot_precision = input_precision(features.dtype, precision, gpu)
    config = partial_heuristic(problem_of(features, dot_precision), gpu)
    blocks = ceil(channels / config.block_c)
    if bias is not None and blocks == 1 and features.element_size() == 2:
        # One operand's block of twice the positions leaves no registers for its activation.
        config = replace(config, block_m=config.block_m // 2)
    pairs = pairs_of(blocks)
    partial = torch.empty(
        (batch, config.splits, pairs, config.block_c, config.block_c), dtype=torch.float32, device=features.device
    )
    crop = is_crop(features)
    arguments = {
        "features": features,
        "bias": bias,
        "activations": activations,
        "partial": partial,
        **strides(features),
        "C": channels,
        "M": height * width,
        "W": width if crop else 0,
        "pairs": pairs,
        "splits": config.splits,
        "split_length": config.split_length,
        "BLOCK_C": config.block_c,
        "BLOCK_M": config.block_m,
        "WIDE": wide(features),
        "CROP": crop,
        "ONE_TILE": blocks == 1,
        "PRECISION": dot_precision,
    }
    grid = batch * config.splits * pairs
    run(Launch(partial_gram_kernel, grid, arguments, config.num_warps, config.num_stages), features.device)
    return partial
