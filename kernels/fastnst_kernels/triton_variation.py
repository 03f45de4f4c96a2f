# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Total variation in a Triton kernel: the terms of groups of pixels (see `triton_pixels`), and their derivatives."""

import triton
import triton.language as tl

from fastnst_kernels.triton_pixels import neighbours, pixel_beside


@triton.jit
def _diagonals(x, up, down, beside, row, col, H, W):
    """Σ over the two diagonals downwards, (G, V), and its derivative, less its factor 2; `beside` are the pixels beside
    the group in the rows above and below."""
    up_before, up_after, down_before, down_after = beside
    up_left, up_right = neighbours(up, up_before, up_after)
    down_left, down_right = neighbours(down, down_before, down_after)
    column = col[:, None] + tl.arange(0, x.shape[1])[None, :]
    above, below = (row > 0)[:, None], (row + 1 < H)[:, None]
    # A pixel beyond the end of the row is none.
    to_down_left = tl.where(below & (column > 0) & (column < W), x - down_left, 0.0)
    to_down_right = tl.where(below & (column + 1 < W), x - down_right, 0.0)
    to_up_left = tl.where(above & (column > 0), x - up_left, 0.0)
    to_up_right = tl.where(above & (column + 1 < W), x - up_right, 0.0)
    value = to_down_left * to_down_left + to_down_right * to_down_right
    slope = (to_down_left + to_down_right) + (to_up_left + to_up_right)
    return value, slope


@triton.jit
def variation(x, up, down, before, after, beside, row, col, H, W, diagonal, ABSOLUTE: tl.constexpr, NINE: tl.constexpr):
    """One channel's terms: Σ over right and down, (G, V), and their derivative without its factor. With NINE the
    diagonals are added, times `diagonal`."""
    left, right = neighbours(x, before, after)
    column = col[:, None] + tl.arange(0, x.shape[1])[None, :]
    # A neighbour beyond the border is the pixel itself, and differs by nothing.
    to_left = tl.where(column > 0, x - left, 0.0)
    to_right = tl.where(column + 1 < W, x - right, 0.0)
    to_up = tl.where((row > 0)[:, None], x - up, 0.0)
    to_down = tl.where((row + 1 < H)[:, None], x - down, 0.0)
    if ABSOLUTE:
        value = tl.abs(to_right) + tl.abs(to_down)
        slope = (_sign(to_left) + _sign(to_right)) + (_sign(to_up) + _sign(to_down))
    else:
        value = to_right * to_right + to_down * to_down
        slope = (to_left + to_right) + (to_up + to_down)
    if NINE:
        diagonal_value, diagonal_slope = _diagonals(x, up, down, beside, row, col, H, W)
        # Where the border is replicated, each of both diagonals is a difference along it.
        across = 2 * ((row == 0).to(tl.float32) + (row + 1 == H).to(tl.float32))[:, None]
        along = 2 * ((column == 0).to(tl.float32) + (column + 1 == W).to(tl.float32))
        diagonal_value += across * to_right * to_right + along * to_down * to_down
        diagonal_slope += across * (to_left + to_right) + along * (to_up + to_down)
        value += diagonal * diagonal_value
        slope += diagonal * diagonal_slope
    return value, slope


@triton.jit
def _sign(x):
    # x itself where it is neither above nor below zero: a NaN stays one.
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@triton.jit
def corners(
    image,
    pixel,
    before,
    after,
    above,
    below,
    positions,
    width,
    channel,
    LAST: tl.constexpr,
    V: tl.constexpr,
    NINE: tl.constexpr,
):
    """The pixels beside each group in the rows above and below: (G,) each, 0 where there is none; all 0 less NINE."""
    if NINE:
        up, down = pixel - width, pixel + width
        up_before = pixel_beside(image, up - 1, before & (above > 0), positions, channel, LAST)
        up_after = pixel_beside(image, up + V, after & (above > 0), positions, channel, LAST)
        down_before = pixel_beside(image, down - 1, before & (below > 0), positions, channel, LAST)
        down_after = pixel_beside(image, down + V, after & (below > 0), positions, channel, LAST)
        beside = up_before, up_after, down_before, down_after
    else:
        beside = 0.0, 0.0, 0.0, 0.0
    return beside
