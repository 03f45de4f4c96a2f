# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels at the image's edge, with their launchers: normalisation, total variation, gradient.

Pixels are taken in groups, a group to a thread (see `triton_pixels`). The nine-point variation is plain torch's.
"""

from collections.abc import Sequence
from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.image import eager
from fastnst_kernels.image.triton_pixels import load_pixels, pixel_beside, store_pixels, variation
from fastnst_kernels.launch.heuristic import power_of_two
from fastnst_kernels.launch.launch import Launch, finish_sum, launch_gpu, run, stored
from fastnst_kernels.launch.layout import dense, dense_channels_last, empty_map, wide_image

_WARPS = 4
# Groups of a row in a tile of the gradient: its rows are then many, and few of them are read by two tiles.
_COLUMN_GROUPS = 16


# A multiple of V is made known inside of the kernel, which is enough for vectors.
@triton.jit(do_not_specialize=["M", "blocks"])
def normalise_kernel(
    image,  # (B, 3, M) float32, planes or channels-last
    result,  # (B, 3, M), planes or channels-last
    M,
    blocks,
    scale_0,  # by the image's channels
    scale_1,
    scale_2,
    shift_0,
    shift_1,
    shift_2,
    GROUPS: tl.constexpr,
    V: tl.constexpr,
    IMAGE_LAST: tl.constexpr,
    RESULT_LAST: tl.constexpr,
    FLIP: tl.constexpr,
    ALIGNED: tl.constexpr,  # M is a multiple of V
    WIDE: tl.constexpr,  # offsets inside one image need 64 bits
):
    program = tl.program_id(0)
    index = (program // blocks).to(tl.int64)
    if ALIGNED:
        M = M // V * V
    pixel = (program % blocks * GROUPS + tl.arange(0, GROUPS)) * V
    valid = tl.minimum(tl.maximum(M - pixel, 0), V)
    image += index * 3 * M
    result += index * 3 * M
    positions = M
    if WIDE:
        pixel = pixel.to(tl.int64)
        positions = tl.cast(M, tl.int64)
    r, g, b = load_pixels(image, pixel, valid, positions, IMAGE_LAST, V, ALIGNED)
    r = r * scale_0 + shift_0
    g = g * scale_1 + shift_1
    b = b * scale_2 + shift_2
    if FLIP:
        store_pixels(result, pixel, valid, positions, b, g, r, RESULT_LAST, ALIGNED)
    else:
        store_pixels(result, pixel, valid, positions, r, g, b, RESULT_LAST, ALIGNED)


@triton.jit(do_not_specialize=["H", "W", "row_tiles", "column_tiles", "variation_gradient_stride"])
def image_gradient_kernel(
    image,  # (B, 3, H, W) float32, planes or channels-last, read if VARIATION
    upstream,  # (B, 3, H, W), planes or channels-last, read if UPSTREAM
    gradient,  # (B, 3, H, W) float32 in the image's layout, written if GRADIENT
    partial,  # (B, tiles) float32, written if VARIATION
    variation_gradient,  # (B,) float32 by its stride, read if WEIGHTED
    variation_gradient_stride,
    divisor,  # (1,) float32, a power of two, read if DIVIDED
    H,
    W,
    row_tiles,
    column_tiles,
    scale_0,  # by the image's channels
    scale_1,
    scale_2,
    factor,  # of the derivative of the variation
    ROWS: tl.constexpr,
    COLUMN_GROUPS: tl.constexpr,
    V: tl.constexpr,
    IMAGE_LAST: tl.constexpr,
    UPSTREAM_LAST: tl.constexpr,
    FLIP: tl.constexpr,
    UPSTREAM: tl.constexpr,
    VARIATION: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    DIVIDED: tl.constexpr,  # the upstream
    ALIGNED: tl.constexpr,  # W is a multiple of V
    WIDE: tl.constexpr,  # offsets inside one image need 64 bits
):
    GROUPS: tl.constexpr = ROWS * COLUMN_GROUPS
    program = tl.program_id(0)
    tiles = row_tiles * column_tiles
    tile = program % tiles
    index = (program // tiles).to(tl.int64)
    if ALIGNED:
        W = W // V * V
    group = tl.arange(0, GROUPS)
    row = tile // column_tiles * ROWS + group // COLUMN_GROUPS
    col = (tile % column_tiles * COLUMN_GROUPS + group % COLUMN_GROUPS) * V
    valid = tl.where(row < H, tl.minimum(tl.maximum(W - col, 0), V), 0)
    if WIDE:
        width = tl.cast(W, tl.int64)
        pixel = row.to(tl.int64) * width + col
    else:
        width = W
        pixel = row * W + col
    positions = H * width
    image += index * 3 * positions
    upstream += index * 3 * positions
    gradient += index * 3 * positions

    if VARIATION:
        r, g, b = load_pixels(image, pixel, valid, positions, IMAGE_LAST, V, ALIGNED)
        above = tl.where(row > 0, valid, 0)
        below = tl.where(row + 1 < H, valid, 0)
        r_up, g_up, b_up = load_pixels(image, pixel - width, above, positions, IMAGE_LAST, V, ALIGNED)
        r_down, g_down, b_down = load_pixels(image, pixel + width, below, positions, IMAGE_LAST, V, ALIGNED)
        before = (valid > 0) & (col > 0)
        after = (valid > 0) & (col + V < W)
        r_before = pixel_beside(image, pixel - 1, before, positions, 0, IMAGE_LAST)
        g_before = pixel_beside(image, pixel - 1, before, positions, 1, IMAGE_LAST)
        b_before = pixel_beside(image, pixel - 1, before, positions, 2, IMAGE_LAST)
        r_after = pixel_beside(image, pixel + V, after, positions, 0, IMAGE_LAST)
        g_after = pixel_beside(image, pixel + V, after, positions, 1, IMAGE_LAST)
        b_after = pixel_beside(image, pixel + V, after, positions, 2, IMAGE_LAST)
        r_value, r_slope = variation(r, r_up, r_down, r_before, r_after, row, col, H, W, ABSOLUTE)
        g_value, g_slope = variation(g, g_up, g_down, g_before, g_after, row, col, H, W, ABSOLUTE)
        b_value, b_slope = variation(b, b_up, b_down, b_before, b_after, row, col, H, W, ABSOLUTE)
        values = tl.sum(tl.sum((r_value + g_value) + b_value, axis=1), axis=0)
        tl.store(partial + index * tiles + tile, values)
    if GRADIENT:
        if VARIATION:
            if WEIGHTED:
                factor *= tl.load(variation_gradient + index * variation_gradient_stride)
            r_sum = r_slope * factor
            g_sum = g_slope * factor
            b_sum = b_slope * factor
        else:
            r_sum = tl.zeros((GROUPS, V), dtype=tl.float32)
            g_sum = tl.zeros((GROUPS, V), dtype=tl.float32)
            b_sum = tl.zeros((GROUPS, V), dtype=tl.float32)
        if UPSTREAM:
            x, y, z = load_pixels(upstream, pixel, valid, positions, UPSTREAM_LAST, V, ALIGNED)
            if DIVIDED:
                inverse = 1.0 / tl.load(divisor)
                scale_0 *= inverse
                scale_1 *= inverse
                scale_2 *= inverse
            if FLIP:
                r_sum += z * scale_0
                b_sum += x * scale_2
            else:
                r_sum += x * scale_0
                b_sum += z * scale_2
            g_sum += y * scale_1
        store_pixels(gradient, pixel, valid, positions, r_sum, g_sum, b_sum, IMAGE_LAST, ALIGNED)


def _group_pixels(dtype: torch.dtype, width: int) -> int:
    """V: 16 bytes of the narrower side where rows of `width` pixels keep them aligned, else of float32."""
    return 8 if dtype != torch.float32 and width % 8 == 0 else 4


def _by_image_channel(values: Sequence[float], name: str, flip: bool) -> dict[str, float]:
    ordered = reversed(values) if flip else values
    return {f"{name}_{channel}": float(value) for channel, value in enumerate(ordered)}


def normalise(
    image: Tensor, scale: Sequence[float], shift: Sequence[float], flip: bool, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """`eager.normalise` of a float32 image as one kernel."""
    image = dense(image)
    batch, _, height, width = image.shape
    result = empty_map(image, channels_last, dtype=stored(dtype))
    pixels = _group_pixels(result.dtype, height * width)
    groups = _WARPS * launch_gpu(image.device).warp_size
    blocks = ceil(height * width / (groups * pixels))
    arguments = {
        "image": image,
        "result": result,
        "M": height * width,
        "blocks": blocks,
        **_by_image_channel(scale, "scale", flip),
        **_by_image_channel(shift, "shift", flip),
    }
    constants = {
        "GROUPS": groups,
        "V": pixels,
        "IMAGE_LAST": dense_channels_last(image),
        "RESULT_LAST": dense_channels_last(result),
        "FLIP": flip,
        "ALIGNED": height * width % pixels == 0,
        "WIDE": wide_image(image),
    }
    run(Launch(normalise_kernel, batch * blocks, arguments, constants, num_warps=_WARPS), image.device)
    return result.to(dtype)


def _gradient(
    image: Tensor,
    *,
    gradient: Tensor | None = None,
    upstream: Tensor | None = None,
    scale: Sequence[float] = (1.0, 1.0, 1.0),
    flip: bool = False,
    kind: str | None = None,
    factor: float = 0.0,
    weights: Tensor | None = None,
    divisor: Tensor | None = None,
) -> Tensor:
    """Runs `image_gradient_kernel`; `kind` None is no variation. Returns the variation, (B,)."""
    batch, _, height, width = image.shape
    if kind is None:
        height, width = 1, height * width
    pixels = 4 if upstream is None else _group_pixels(upstream.dtype, width)
    groups = _WARPS * launch_gpu(image.device).warp_size
    column_groups = groups if kind is None else min(_COLUMN_GROUPS, power_of_two(ceil(width / pixels)))
    rows = groups // column_groups
    row_tiles = ceil(height / rows)
    column_tiles = ceil(width / (column_groups * pixels))
    partial = torch.empty((batch, row_tiles * column_tiles), dtype=torch.float32, device=image.device)
    above = partial if weights is None else weights
    written = image if gradient is None else gradient
    arguments = {
        "image": image,
        "upstream": written if upstream is None else upstream,
        "gradient": written,
        "partial": partial,
        "variation_gradient": above,
        "variation_gradient_stride": above.stride(0),
        "divisor": partial if divisor is None else divisor,
        "H": height,
        "W": width,
        "row_tiles": row_tiles,
        "column_tiles": column_tiles,
        **_by_image_channel(scale, "scale", flip),
        "factor": factor * (1.0 if kind == "absolute" else 2.0) / (height * width),
    }
    constants = {
        "ROWS": rows,
        "COLUMN_GROUPS": column_groups,
        "V": pixels,
        "IMAGE_LAST": dense_channels_last(image),
        "UPSTREAM_LAST": upstream is not None and dense_channels_last(upstream),
        "FLIP": flip,
        "UPSTREAM": upstream is not None,
        "VARIATION": kind is not None,
        "ABSOLUTE": kind == "absolute",
        "GRADIENT": gradient is not None,
        "WEIGHTED": weights is not None,
        "DIVIDED": divisor is not None,
        "ALIGNED": width % pixels == 0,
        "WIDE": wide_image(image),
    }
    grid = batch * row_tiles * column_tiles
    run(Launch(image_gradient_kernel, grid, arguments, constants, num_warps=_WARPS), image.device)
    return partial if kind is None else finish_sum(partial, 1 / (height * width))


def normalise_backward(
    upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """`eager.normalise_backward` as one kernel; `dtype` is float32."""
    gradient = empty_map(upstream, channels_last, dtype=dtype)
    _gradient(gradient, gradient=gradient, upstream=dense(upstream), scale=scale, flip=flip)
    return gradient


def total_variation(image: Tensor, kind: str) -> Tensor:
    """`eager.total_variation` of a float32 image."""
    return eager.total_variation(image, kind) if kind == "nine-point" else _gradient(dense(image), kind=kind)


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
    value = _gradient(
        image,
        gradient=gradient,
        upstream=None if upstream is None else dense(upstream),
        scale=scale,
        flip=flip,
        kind=kind,
        factor=tv_weight,
        weights=tv_gradient,
        divisor=divisor,
    )
    return gradient, value
