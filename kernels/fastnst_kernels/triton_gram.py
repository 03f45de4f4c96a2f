# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of the Gram matrix and the Gram-difference loss, with their launchers.

Split-K partial sums of the tiles on and above the diagonal, then a reduction over the splits in a fixed order whose
epilogue is the loss. Every sum is in float32 and in an order that the shape alone decides, so two runs are equal to
the bit.
"""

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.config import pairs_of, partial_config, power_of_two, reduce_config
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
from fastnst_kernels.layout import as_rows_or_columns

# The smallest peak that is scaled in full, 2⁻¹¹²: its scale is the smallest normal number.
_SMALLEST_POWER = tl.constexpr(2.0**-112)


@triton.jit
def _pair(index):
    # Column by column down the upper triangle: tile (row, column) has index column·(column + 1)/2 + row.
    column = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5 + 1e-3).to(tl.int32)
    return index - column * (column + 1) // 2, column


@triton.jit(do_not_specialize=["pairs", "splits"])
def partial_gram_kernel(
    features,  # (B, C, M) by its strides
    partial,  # (B, splits, pairs, BLOCK_C, BLOCK_C) float32
    stride_b,
    stride_c,
    stride_m,
    C,
    M,
    pairs,
    splits,
    split_length,  # positions of one split, a multiple of BLOCK_M
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDE: tl.constexpr,  # offsets inside one image's tile need 64 bits
    ONE_TILE: tl.constexpr,  # C fits one tile, whose two operands are the same
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,  # the interpreter multiplies the raw bits of bfloat16
):
    program = tl.program_id(0)
    pair = program % pairs
    split = (program // pairs) % splits
    image = (program // pairs // splits).to(tl.int64)
    row_block, column_block = _pair(pair)

    c = tl.arange(0, BLOCK_C)
    m = tl.arange(0, BLOCK_M)
    rows = row_block * BLOCK_C + c
    columns = column_block * BLOCK_C + c
    start = split.to(tl.int64) * split_length
    length = tl.minimum(M - start, split_length).to(tl.int32)
    base = features + image * stride_b + start * stride_m
    row_mask = rows[:, None] < C
    column_mask = columns[:, None] < C
    if WIDE:
        rows = rows.to(tl.int64)
        columns = columns.to(tl.int64)
        m = m.to(tl.int64)
    row_offsets = rows[:, None] * stride_c + m[None, :] * stride_m
    column_offsets = columns[:, None] * stride_c + m[None, :] * stride_m

    sums = tl.zeros((BLOCK_C, BLOCK_C), dtype=tl.float32)
    for offset in range(0, length, BLOCK_M):
        m_mask = m[None, :] < length - offset
        x = tl.load(base + row_offsets, mask=row_mask & m_mask, other=0.0)
        if UPCAST:
            x = x.to(tl.float32)
        if ONE_TILE:
            sums = tl.dot(x, tl.trans(x), sums, input_precision=PRECISION)
        else:
            y = tl.load(base + column_offsets, mask=column_mask & m_mask, other=0.0)
            if UPCAST:
                y = y.to(tl.float32)
            sums = tl.dot(x, tl.trans(y), sums, input_precision=PRECISION)
        base += (tl.cast(BLOCK_M, tl.int64) if WIDE else BLOCK_M) * stride_m

    tile = partial + ((image * splits + split) * pairs + pair) * (BLOCK_C * BLOCK_C)
    tl.store(tile + c[:, None] * BLOCK_C + c[None, :], sums)


@triton.jit(do_not_specialize=["pairs", "splits", "tiles"])
def reduce_gram_kernel(
    partial,  # (B, splits, pairs, BLOCK_C, BLOCK_C) float32
    target,  # (B or 1, C, C) by its strides, any float dtype; read if LOSS
    result,  # (B, C, C) float32: G, or G − (A + Aᵀ)/2 if LOSS
    tile_loss,  # (B, tiles) float32, written if LOSS: Σ (G − A)² of the tile and of its mirror image
    tile_peak,  # (B, tiles) float32, written if LOSS: the largest magnitude in the result's tile
    target_stride_b,
    target_stride_r,
    target_stride_c,
    C,
    pairs,
    splits,
    tiles,
    positions,  # M, as a float
    BLOCK_C: tl.constexpr,
    TILE: tl.constexpr,  # divides BLOCK_C
    SPLIT_BLOCK: tl.constexpr,
    LOSS: tl.constexpr,
):
    PER_BLOCK: tl.constexpr = BLOCK_C // TILE
    program = tl.program_id(0)
    tile = program % tiles
    image = (program // tiles).to(tl.int64)
    tile_row, tile_column = _pair(tile)
    row_block = tile_row // PER_BLOCK
    column_block = tile_column // PER_BLOCK
    pair = column_block * (column_block + 1) // 2 + row_block

    element = tl.arange(0, TILE * TILE)
    r = element // TILE
    c = element % TILE
    s = tl.arange(0, SPLIT_BLOCK)
    inner = (tile_row % PER_BLOCK * TILE + r) * BLOCK_C + tile_column % PER_BLOCK * TILE + c
    base = partial + (image * splits * pairs + pair) * (BLOCK_C * BLOCK_C)
    sums = tl.zeros((TILE * TILE,), dtype=tl.float32)
    for split in range(0, splits, SPLIT_BLOCK):
        offsets = (split + s).to(tl.int64)[:, None] * pairs * (BLOCK_C * BLOCK_C) + inner[None, :]
        x = tl.load(base + offsets, mask=(split + s)[:, None] < splits, other=0.0)
        sums += tl.sum(x, axis=0)

    row = tile_row * TILE + r
    column = tile_column * TILE + c
    upper = (row <= column) & (column < C)
    strictly_upper = (row < column) & (column < C)
    # Not times 1/M: its rounding would move all of G one way, which G − A then magnifies.
    value = tl.div_rn(sums, positions)
    if LOSS:
        a = target + image * target_stride_b
        a_ij = tl.load(a + row * target_stride_r + column * target_stride_c, mask=upper, other=0.0).to(tl.float32)
        a_ji = tl.load(a + column * target_stride_r + row * target_stride_c, mask=upper, other=0.0).to(tl.float32)
        d_ij = value - a_ij
        d_ji = value - a_ji
        squares = tl.where(upper, d_ij * d_ij, 0.0) + tl.where(strictly_upper, d_ji * d_ji, 0.0)
        value = value - 0.5 * (a_ij + a_ji)
        tl.store(tile_loss + image * tiles + tile, tl.sum(squares, axis=0))
        tl.store(tile_peak + image * tiles + tile, tl.max(tl.where(upper, tl.abs(value), 0.0), axis=0))
    out = result + image * C * C
    # Both triangles from one value: G is symmetric to the bit.
    tl.store(out + row * C + column, value, mask=upper)
    tl.store(out + column * C + row, value, mask=strictly_upper)


@triton.jit(do_not_specialize=["tiles", "blocks"])
def finish_loss_kernel(
    tile_loss,  # (B, tiles) float32
    tile_peak,  # (B, tiles) float32
    exact,  # (B, C·C) float32, read if NORMALISE
    loss,  # (B,) float32
    scale,  # (B,) float32
    difference,  # (B, C·C) 16-bit, written if NORMALISE: exact / scale
    tiles,
    blocks,
    elements,  # C·C
    factor,  # weight / 4N²
    TILES: tl.constexpr,  # power of two, at least `tiles`
    BLOCK: tl.constexpr,
    NORMALISE: tl.constexpr,
):
    program = tl.program_id(0)
    block = program % blocks
    image = (program // blocks).to(tl.int64)
    t = tl.arange(0, TILES)
    if block == 0:
        losses = tl.load(tile_loss + image * tiles + t, mask=t < tiles, other=0.0)
        tl.store(loss + image, tl.sum(losses, axis=0) * factor)
    if NORMALISE:
        peak = tl.max(tl.load(tile_peak + image * tiles + t, mask=t < tiles, other=0.0), axis=0)
        # The power of two at or below the peak: its exponent bits alone. Zero and infinity are left as they are.
        power = (peak.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        usable = (power > 0.0) & (power < float("inf"))
        power = tl.where(usable, tl.maximum(power, _SMALLEST_POWER), 16384.0)
        i = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(exact + image * elements + i, mask=i < elements, other=0.0)
        x = x * (16384.0 / power)
        tl.store(difference + image * elements + i, x.to(difference.dtype.element_ty), mask=i < elements)
        if block == 0:
            tl.store(scale + image, power * (1.0 / 16384.0))


def _partial_launch(features: Tensor, precision: str, gpu: Gpu) -> tuple[Launch, Tensor]:
    batch, channels, height, width = features.shape
    positions = height * width
    dot_precision = input_precision(features.dtype, precision, gpu)
    tensor_cores = features.dtype != torch.float32 or dot_precision == "tf32"
    config = partial_config(channels, positions, batch, features.element_size(), tensor_cores, aligned(features), gpu)
    blocks = ceil(channels / config.block_c)
    pairs = pairs_of(blocks)
    partial = torch.empty(
        (batch, config.splits, pairs, config.block_c, config.block_c), dtype=torch.float32, device=features.device
    )
    stride_b, stride_c, stride_m = strides(features)
    arguments = {
        "features": features,
        "partial": partial,
        "stride_b": stride_b,
        "stride_c": stride_c,
        "stride_m": stride_m,
        "C": channels,
        "M": positions,
        "pairs": pairs,
        "splits": config.splits,
        "split_length": config.split_length,
    }
    constants = {
        "BLOCK_C": config.block_c,
        "BLOCK_M": config.block_m,
        "WIDE": wide(features),
        "ONE_TILE": blocks == 1,
        "PRECISION": dot_precision,
        "UPCAST": upcast(features.dtype),
    }
    grid = batch * config.splits * pairs
    return Launch(partial_gram_kernel, grid, arguments, constants, config.num_warps, config.num_stages), partial


def _reduce_launch(partial: Tensor, result: Tensor, positions: int, target: Tensor | None) -> tuple[Launch, Tensor]:
    batch, splits, pairs, block_c, _ = partial.shape
    channels = result.shape[1]
    config = reduce_config(channels, splits)
    tiles = pairs_of(ceil(channels / config.tile))
    sums = torch.empty((2, batch, tiles), dtype=torch.float32, device=partial.device)
    matrix = result if target is None else target
    arguments = {
        "partial": partial,
        "target": matrix,
        "result": result,
        "tile_loss": sums[0],
        "tile_peak": sums[1],
        "target_stride_b": 0 if matrix.shape[0] == 1 else matrix.stride(0),
        "target_stride_r": matrix.stride(1),
        "target_stride_c": matrix.stride(2),
        "C": channels,
        "pairs": pairs,
        "splits": splits,
        "tiles": tiles,
        "positions": float(positions),
    }
    constants = {
        "BLOCK_C": block_c,
        "TILE": config.tile,
        "SPLIT_BLOCK": config.split_block,
        "LOSS": target is not None,
    }
    return Launch(reduce_gram_kernel, batch * tiles, arguments, constants, config.num_warps), sums


def plan_gram(features: Tensor, precision: str, gpu: Gpu) -> Plan:
    """G = F Fᵀ/M of features (B, C, H, W): its launches and its output, (B, C, C) float32."""
    batch, channels, height, width = features.shape
    result = torch.empty((batch, channels, channels), dtype=torch.float32, device=features.device)
    partial_launch, partial = _partial_launch(features, precision, gpu)
    reduce_launch, _ = _reduce_launch(partial, result, height * width, None)
    return Plan((partial_launch, reduce_launch), (result,))


def plan_difference_loss(features: Tensor, target: Tensor, weight: float, precision: str, gpu: Gpu) -> Plan:
    """weight/4N² · Σ (G − A)² and what backward needs: its launches and its outputs.

    The outputs are the loss, (B,) float32; the symmetric difference, (B, C, C) in the features' dtype; and its scale,
    (B,) float32: G − (A + Aᵀ)/2 = difference · scale, a power of two that keeps 16-bit differences in range.
    """
    batch, channels, height, width = features.shape
    device = features.device
    partial_launch, partial = _partial_launch(features, precision, gpu)
    exact = torch.empty((batch, channels, channels), dtype=torch.float32, device=device)
    reduce_launch, sums = _reduce_launch(partial, exact, height * width, target)
    tiles = sums.shape[2]
    normalise = features.dtype != torch.float32
    loss = torch.empty((batch,), dtype=torch.float32, device=device)
    scale = torch.empty_like(loss) if normalise else torch.ones_like(loss)
    difference = torch.empty_like(exact, dtype=stored(features.dtype)) if normalise else exact
    elements = channels * channels
    blocks = ceil(elements / 1024) if normalise else 1
    arguments = {
        "tile_loss": sums[0],
        "tile_peak": sums[1],
        "exact": exact,
        "loss": loss,
        "scale": scale,
        "difference": difference,
        "tiles": tiles,
        "blocks": blocks,
        "elements": elements,
        "factor": weight / (4 * channels**2),
    }
    constants = {"TILES": power_of_two(tiles), "BLOCK": 1024, "NORMALISE": normalise}
    finish_launch = Launch(finish_loss_kernel, batch * blocks, arguments, constants)
    return Plan((partial_launch, reduce_launch, finish_launch), (loss, difference, scale))


def gram(features: Tensor, precision: str) -> Tensor:
    """G = F Fᵀ/M, (B, C, C) float32, of features (B, C, H, W) in float32, float16 or bfloat16."""
    features = as_rows_or_columns(features)
    (result,) = run(plan_gram(features, precision, launch_gpu(features.device)), features.device)
    return result


def gram_difference_loss(
    features: Tensor, target: Tensor, weight: float, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss (B,), the difference (B, C, C) in the features' dtype and its scale (B,); see `plan_difference_loss`."""
    features = as_rows_or_columns(features)
    plan = plan_difference_loss(features, target, weight, precision, launch_gpu(features.device))
    loss, difference, scale = run(plan, features.device)
    return loss, difference.to(features.dtype), scale
