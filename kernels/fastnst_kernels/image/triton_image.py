# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel at the image's edge, with its launchers: normalisation, total variation, gradient.

A program takes a tile of pixels with their channels side by side, a fourth of which is masked: maps are read and
written by their strides, planes and channels-last alike. The nine-point variation is plain torch's.
"""

from collections.abc import Sequence
from math import ceil
from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.image import eager
from fastnst_kernels.launch.heuristic import power_of_two
from fastnst_kernels.launch.launch import Launch, finish_sum, launch_gpu, run
from fastnst_kernels.launch.layout import dense, dense_channels_last, empty_map, strides, wide_image

_WARPS = 4
# Pixels of a thread.
_PIXELS = 2
# Columns of a tile: 128 bytes of a plane.
_COLUMNS = 32


@triton.jit
def by_channel(channel, values):
    """One of three values, by a channel of 0 to 2."""
    return tl.where(channel == 0, values[0], tl.where(channel == 1, values[1], values[2]))


@triton.jit
def _sign(x):
    # x itself where it is neither above nor below zero: a NaN stays one.
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))


@triton.jit
def variation(image, here, mask, row, column, size, strides, ABSOLUTE: tl.constexpr):
    """The terms of the pixels `here`: Σ over right and down, and its derivative without its factor; 0 where masked."""
    H, W = size
    _, stride_h, stride_w = strides
    pixel = tl.load(image + here, mask=mask, other=0.0)
    left = tl.load(image + here - stride_w, mask=mask & (column > 0), other=0.0)
    right = tl.load(image + here + stride_w, mask=mask & (column + 1 < W), other=0.0)
    up = tl.load(image + here - stride_h, mask=mask & (row > 0), other=0.0)
    down = tl.load(image + here + stride_h, mask=mask & (row + 1 < H), other=0.0)
    # A neighbour beyond the border is the pixel itself, and differs by nothing.
    to_left = tl.where(column > 0, pixel - left, 0.0)
    to_right = tl.where(column + 1 < W, pixel - right, 0.0)
    to_up = tl.where(row > 0, pixel - up, 0.0)
    to_down = tl.where(row + 1 < H, pixel - down, 0.0)
    if ABSOLUTE:
        value = tl.abs(to_right) + tl.abs(to_down)
        slope = (_sign(to_left) + _sign(to_right)) + (_sign(to_up) + _sign(to_down))
    else:
        value = to_right * to_right + to_down * to_down
        slope = (to_left + to_right) + (to_up + to_down)
    return value, slope


@triton.jit(do_not_specialize=["H", "W", "row_tiles", "column_tiles", "variation_gradient_stride"])
def image_kernel(
    image,  # (B, 3, H, W) float32 by its strides, or None
    source,  # (B, 3, H, W) by its strides, or None
    result,  # (B, 3, H, W) by its strides: source · scale + the variation's derivative or shift; or None
    partial,  # (B, tiles) float32, the image's variation; or None
    variation_gradient,  # (B,) float32 by its stride, or None
    variation_gradient_stride,
    divisor,  # (1,) float32, a power of two that the source is divided by, or None
    image_stride_b,
    image_stride_c,
    image_stride_h,
    image_stride_w,
    source_stride_b,
    source_stride_c,
    source_stride_h,
    source_stride_w,
    result_stride_b,
    result_stride_c,
    result_stride_h,
    result_stride_w,
    H,
    W,
    row_tiles,
    column_tiles,
    scale_0,  # by the result's channels, which with FLIP are the source's in reverse order
    scale_1,
    scale_2,
    shift_0,
    shift_1,
    shift_2,
    factor,  # of the derivative of the variation
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FLIP: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    WIDE: tl.constexpr,  # offsets inside one image need 64 bits
):
    program = tl.program_id(0)
    tiles = row_tiles * column_tiles
    tile = program % tiles
    index = (program // tiles).to(tl.int64)
    p = tl.arange(0, ROWS * COLUMNS)[:, None]
    row = tile // column_tiles * ROWS + p // COLUMNS
    column = tile % column_tiles * COLUMNS + p % COLUMNS
    channel = tl.arange(0, 4)[None, :]
    mask = (row < H) & (column < W) & (channel < 3)
    if WIDE:
        row, column, channel = row.to(tl.int64), column.to(tl.int64), channel.to(tl.int64)
    if partial is not None:
        here = channel * image_stride_c + (row * image_stride_h + column * image_stride_w)
        steps = (image_stride_c, image_stride_h, image_stride_w)
        value, slope = variation(image + index * image_stride_b, here, mask, row, column, (H, W), steps, ABSOLUTE)
        tl.store(partial + index * tiles + tile, tl.sum(tl.sum(value, axis=1), axis=0))
        if variation_gradient is not None:
            factor *= tl.load(variation_gradient + index * variation_gradient_stride)
        total = slope * factor
    else:
        total = tl.zeros((ROWS * COLUMNS, 4), dtype=tl.float32) + by_channel(channel, (shift_0, shift_1, shift_2))
    if result is not None:
        if source is not None:
            scale = by_channel(channel, (scale_0, scale_1, scale_2))
            if divisor is not None:
                scale *= 1.0 / tl.load(divisor)
            there = (2 - channel if FLIP else channel) * source_stride_c
            there += row * source_stride_h + column * source_stride_w
            total += tl.load(source + index * source_stride_b + there, mask=mask, other=0.0).to(tl.float32) * scale
        out = channel * result_stride_c + (row * result_stride_h + column * result_stride_w)
        tl.store(result + index * result_stride_b + out, total.to(result.dtype.element_ty), mask=mask)


def numbered(name: str, values: Sequence[float]) -> dict[str, float]:
    """Numbers as arguments of a kernel: name_0, name_1, …"""
    return {f"{name}_{index}": float(value) for index, value in enumerate(values)}


def _run(
    image: Tensor,
    *,
    source: Tensor | None = None,
    result: Tensor | None = None,
    scale: Sequence[float] = (1.0, 1.0, 1.0),
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    flip: bool = False,
    kind: str | None = None,
    factor: float = 0.0,
    weights: Tensor | None = None,
    divisor: Tensor | None = None,
) -> Tensor | None:
    """Runs `image_kernel` on dense maps of the shape of `image`. Returns the image's variation of a `kind`, (B,)."""
    batch, _, height, width = image.shape
    pixels = _PIXELS * _WARPS * launch_gpu(image.device).warp_size
    columns = min(_COLUMNS, power_of_two(width))
    rows = pixels // columns
    row_tiles, column_tiles = ceil(height / rows), ceil(width / columns)
    partial = None
    if kind is not None:
        partial = torch.empty((batch, row_tiles * column_tiles), dtype=torch.float32, device=image.device)
    arguments = {
        "image": None if kind is None else image,
        "source": source,
        "result": result,
        "partial": partial,
        "variation_gradient": weights,
        "variation_gradient_stride": 0 if weights is None else weights.stride(0),
        "divisor": divisor,
        **strides(image, "image_", crop=True),
        **strides(image if source is None else source, "source_", crop=True),
        **strides(image if result is None else result, "result_", crop=True),
        "H": height,
        "W": width,
        "row_tiles": row_tiles,
        "column_tiles": column_tiles,
        **numbered("scale", scale),
        **numbered("shift", shift),
        "factor": factor * (1.0 if kind == "absolute" else 2.0) / (height * width),
        "ROWS": rows,
        "COLUMNS": columns,
        "FLIP": flip,
        "ABSOLUTE": kind == "absolute",
        "WIDE": wide_image(image),
    }
    run(Launch(image_kernel, batch * row_tiles * column_tiles, arguments, _WARPS), image.device)
    return None if partial is None else finish_sum(partial, 1 / (height * width))


def normalise(
    image: Tensor, scale: Sequence[float], shift: Sequence[float], flip: bool, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """`eager.normalise` of a float32 image as one kernel."""
    image = dense(image)
    result = empty_map(image, channels_last, dtype=dtype)
    _run(image, source=image, result=result, scale=scale, shift=shift, flip=flip)
    return result


def normalise_backward(
    upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """`eager.normalise_backward` as one kernel; `dtype` is float32."""
    gradient = empty_map(upstream, channels_last, dtype=dtype)
    _run(gradient, source=dense(upstream), result=gradient, scale=scale[::-1] if flip else scale, flip=flip)
    return gradient


def total_variation(image: Tensor, kind: str) -> Tensor:
    """`eager.total_variation` of a float32 image."""
    if kind == "nine-point":
        return eager.total_variation(image, kind)
    return cast(Tensor, _run(dense(image), kind=kind))


def image_gradient(
    image: Tensor,
    upstream: Tensor | None,
    scale: Sequence[float],
    flip: bool,
    tv_weight: float,
    tv_gradient: Tensor | None = None,
    kind: str = "squared",
    divisor: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`eager.image_gradient` of a float32 image, in one pass but for kind "nine-point"."""
    if kind == "nine-point":
        return eager.image_gradient(
            image, upstream, scale, flip, tv_weight, tv_gradient=tv_gradient, kind=kind, divisor=divisor, out=out
        )
    image = dense(image)
    gradient = empty_map(image, dense_channels_last(image)) if out is None else out
    value = _run(
        image,
        source=None if upstream is None else dense(upstream),
        result=gradient,
        scale=scale[::-1] if flip else scale,
        flip=flip,
        kind=kind,
        factor=tv_weight,
        weights=tv_gradient,
        divisor=divisor,
    )
    return gradient, cast(Tensor, value)
