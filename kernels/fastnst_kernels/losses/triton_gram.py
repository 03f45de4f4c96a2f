# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of the Gram matrix and the Gram-difference loss after their product, with their launchers.

The partial sums of `triton_product` are reduced over the splits in a fixed order, and the loss, or the running sum of
the tiles of a larger picture, is the reduction's epilogue. Two runs are equal to the bit.
"""

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.heuristic import pairs_of, power_of_two, reduce_tile
from fastnst_kernels.launch.launch import Launch, interpreted, run
from fastnst_kernels.launch.layout import as_readable
from fastnst_kernels.losses import eager
from fastnst_kernels.losses.triton_product import partial_sums, tile_of

# The smallest peak that is scaled in full, 2⁻¹¹²: its scale is the smallest normal number.
_SMALLEST_POWER = tl.constexpr(2.0**-112)
# Elements of the partial sums that a program of the reduction reads at once.
_REDUCED = 4096
_FINISH_BLOCK = 1024


@triton.jit(do_not_specialize=["pairs", "splits", "tiles"])
def reduce_gram_kernel(
    partial,  # (B, splits, pairs, BLOCK_C, BLOCK_C) float32; (B, C, C) sums if SUMMED
    target,  # (B or 1, C, C) by its strides, any float dtype, or None
    result,  # (B, C, C) float32: G, with a target G − (A + Aᵀ)/2, or a running sum that F Fᵀ is added to if ACCUMULATE
    tile_loss,  # (B, tiles) float32, written with a target: Σ (G − A)² of the tile and of its mirror image
    tile_peak,  # (B, tiles) float32, written with a target: the largest magnitude in the result's tile
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
    SUMMED: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    PER_BLOCK: tl.constexpr = BLOCK_C // TILE
    program = tl.program_id(0)
    tile = program % tiles
    image = (program // tiles).to(tl.int64)
    tile_row, tile_column = tile_of(tile)
    element = tl.arange(0, TILE * TILE)
    r = element // TILE
    c = element % TILE
    row = tile_row * TILE + r
    column = tile_column * TILE + c
    upper = (row <= column) & (column < C)
    strictly_upper = (row < column) & (column < C)
    if SUMMED:
        sums = tl.load(partial + image * C * C + row * C + column, mask=upper, other=0.0)
    else:
        row_block = tile_row // PER_BLOCK
        column_block = tile_column // PER_BLOCK
        pair = column_block * (column_block + 1) // 2 + row_block
        s = tl.arange(0, SPLIT_BLOCK)
        inner = (tile_row % PER_BLOCK * TILE + r) * BLOCK_C + tile_column % PER_BLOCK * TILE + c
        base = partial + (image * splits * pairs + pair) * (BLOCK_C * BLOCK_C)
        sums = tl.zeros((TILE * TILE,), dtype=tl.float32)
        for split in range(0, splits, SPLIT_BLOCK):
            offsets = (split + s).to(tl.int64)[:, None] * pairs * (BLOCK_C * BLOCK_C) + inner[None, :]
            x = tl.load(base + offsets, mask=(split + s)[:, None] < splits, other=0.0)
            sums += tl.sum(x, axis=0)

    out = result + image * C * C
    # Not times 1/M: its rounding would move all of G one way, which G − A then magnifies.
    value = tl.div_rn(sums, positions)
    if ACCUMULATE:
        value += tl.load(out + row * C + column, mask=upper, other=0.0)
    if target is not None:
        a = target + image * target_stride_b
        a_ij = tl.load(a + row * target_stride_r + column * target_stride_c, mask=upper, other=0.0).to(tl.float32)
        a_ji = tl.load(a + column * target_stride_r + row * target_stride_c, mask=upper, other=0.0).to(tl.float32)
        d_ij = value - a_ij
        d_ji = value - a_ji
        squares = tl.where(upper, d_ij * d_ij, 0.0) + tl.where(strictly_upper, d_ji * d_ji, 0.0)
        value = value - 0.5 * (a_ij + a_ji)
        tl.store(tile_loss + image * tiles + tile, tl.sum(squares, axis=0))
        tl.store(tile_peak + image * tiles + tile, tl.max(tl.where(upper, tl.abs(value), 0.0), axis=0))
    # Both triangles from one value: G is symmetric to the bit.
    tl.store(out + row * C + column, value, mask=upper)
    tl.store(out + column * C + row, value, mask=strictly_upper)


@triton.jit(do_not_specialize=["offset_stride", "tiles", "blocks"])
def finish_loss_kernel(
    tile_loss,  # (B, tiles) float32
    tile_peak,  # (B, tiles) float32
    exact,  # (B, C·C) float32
    offset,  # (B or 1,) float32 by its stride, or None
    loss,  # (B,) float32
    scale,  # (B,) float32
    difference,  # (B, C·C) 16-bit: exact / scale, or None
    offset_stride,
    tiles,
    blocks,
    elements,  # C·C
    factor,  # weight / 4N²
    offset_factor,
    TILES: tl.constexpr,  # power of two, at least `tiles`
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    block = program % blocks
    image = (program // blocks).to(tl.int64)
    t = tl.arange(0, TILES)
    if block == 0:
        losses = tl.load(tile_loss + image * tiles + t, mask=t < tiles, other=0.0)
        total = tl.sum(losses, axis=0) * factor
        if offset is not None:
            total += tl.load(offset + image * offset_stride) * offset_factor
        tl.store(loss + image, total)
    if difference is not None:
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


def _reduce(
    partial: Tensor, result: Tensor, positions: int, target: Tensor | None = None, *, accumulate: bool = False
) -> Tensor:
    """Reduces partial sums, or (B, C, C) sums, into `result`; returns the tiles' losses and peaks, (2, B, tiles)."""
    batch, channels = result.shape[:2]
    summed = partial.ndim == 3
    splits, pairs, block_c = (1, 1, 32) if summed else partial.shape[1:4]
    tile = reduce_tile(channels, splits)
    tiles = pairs_of(ceil(channels / tile))
    sums = torch.empty((2, batch, tiles), dtype=torch.float32, device=partial.device)
    matrix = result if target is None else target
    arguments = {
        "partial": partial,
        "target": target,
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
        "BLOCK_C": block_c,
        "TILE": tile,
        "SPLIT_BLOCK": min(power_of_two(splits), _REDUCED // tile**2),
        "SUMMED": summed,
        "ACCUMULATE": accumulate,
    }
    run(Launch(reduce_gram_kernel, batch * tiles, arguments, num_warps=8), partial.device)
    return sums


def gram(features: Tensor, precision: str) -> Tensor:
    """G = F Fᵀ/M, (B, C, C) float32, of features (B, C, H, W) in float32, float16 or bfloat16."""
    batch, channels, height, width = features.shape
    result = torch.empty((batch, channels, channels), dtype=torch.float32, device=features.device)
    _reduce(partial_sums(as_readable(features), precision), result, height * width)
    return result


def accumulate_gram(sums: Tensor, features: Tensor, precision: str) -> None:
    """sums += F Fᵀ, in place in contiguous (B, C, C) float32, of features (B, C, H, W)."""
    _reduce(partial_sums(as_readable(features), precision), sums, 1, accumulate=True)


def bias_relu_gram(x: Tensor, bias: Tensor, y: Tensor, precision: str) -> Tensor:
    """`eager.bias_relu_gram` in one pass, of dense maps; its sums are those of the splits."""
    # The interpreter does not see what is rounded: see `launch._widened`.
    if interpreted() and x.dtype == torch.bfloat16:
        return eager.bias_relu_gram(x, bias, y, precision)
    return partial_sums(x, precision, bias, y)


def gram_difference_loss(
    features: Tensor, target: Tensor, weight: float, offset: Tensor | None, offset_weight: float, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The `finish_gram_loss` of features (B, C, H, W)."""
    sums, positions = partial_sums(as_readable(features), precision), features[0, 0].numel()
    return finish_gram_loss(
        sums, positions, target, weight, offset=offset, offset_weight=offset_weight, dtype=features.dtype
    )


def finish_gram_loss(
    sums: Tensor,
    positions: int,
    target: Tensor,
    weight: float,
    offset: Tensor | None,
    offset_weight: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """weight/4N² · Σ (G − A)² + offset_weight · offset, (B,) float32, and what backward needs: the symmetric
    difference, (B, C, C) in the features' `dtype`, and its scale, (B,) float32.

    G − (A + Aᵀ)/2 = difference · scale, a power of two that keeps 16-bit differences in range. `sums` are the features'
    contiguous F Fᵀ (B, C, C) float32, or those of `bias_relu_gram`.
    """
    batch, channels, device = len(sums), target.shape[1], sums.device
    exact = torch.empty((batch, channels, channels), dtype=torch.float32, device=device)
    tile_sums = _reduce(sums, exact, positions, target)
    tiles = tile_sums.shape[2]
    normalise = dtype != torch.float32
    loss = torch.empty((batch,), dtype=torch.float32, device=device)
    scale = torch.empty_like(loss) if normalise else torch.ones_like(loss)
    difference = torch.empty_like(exact, dtype=dtype) if normalise else exact
    elements = channels * channels
    blocks = ceil(elements / _FINISH_BLOCK) if normalise else 1
    arguments = {
        "tile_loss": tile_sums[0],
        "tile_peak": tile_sums[1],
        "exact": exact,
        "offset": offset,
        "loss": loss,
        "scale": scale,
        "difference": difference if normalise else None,
        "offset_stride": 0 if offset is None or len(offset) == 1 else offset.stride(0),
        "tiles": tiles,
        "blocks": blocks,
        "elements": elements,
        "factor": weight / (4 * channels**2),
        "offset_factor": offset_weight,
        "TILES": power_of_two(tiles),
        "BLOCK": _FINISH_BLOCK,
    }
    run(Launch(finish_loss_kernel, batch * blocks, arguments), device)
    return loss, difference, scale
