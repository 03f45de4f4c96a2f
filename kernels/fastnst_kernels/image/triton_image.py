# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel at the image's edge, with its launchers: normalisation, total variation, gradient.

Pixels are taken in groups, a group to a thread (see `triton_pixels`). The nine-point variation is plain torch's.
"""

from collections.abc import Sequence
from math import ceil
from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.image import eager
from fastnst_kernels.image.triton_pixels import load_pixels, numbered, pixel_beside, store_pixels, variation
from fastnst_kernels.launch.heuristic import power_of_two
from fastnst_kernels.launch.launch import Launch, finish_sum, launch_gpu, run
from fastnst_kernels.launch.layout import dense, dense_channels_last, empty_map, wide_image

_WARPS = 4
# Groups of a row in a tile of the variation: its rows are then many, and few of them are read by two tiles.
_COLUMN_GROUPS = 16


# A multiple of V is made known inside of the kernel, which is enough for vectors.
@triton.jit(do_not_specialize=["H", "W", "row_tiles", "column_tiles", "variation_gradient_stride"])
def image_kernel(
    image,  # (B, 3, H, W) float32, planes or channels-last, or None
    source,  # (B, 3, H, W), planes or channels-last, or None
    result,  # (B, 3, H, W), planes or channels-last: source · scale + the variation's derivative or shift; or None
    partial,  # (B, tiles) float32, the image's variation; or None
    variation_gradient,  # (B,) float32 by its stride, or None
    variation_gradient_stride,
    divisor,  # (1,) float32, a power of two that the source is divided by, or None
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
    COLUMN_GROUPS: tl.constexpr,
    V: tl.constexpr,
    IMAGE_LAST: tl.constexpr,
    SOURCE_LAST: tl.constexpr,
    RESULT_LAST: tl.constexpr,
    FLIP: tl.constexpr,
    ABSOLUTE: tl.constexpr,
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
    if partial is not None:
        image += index * 3 * positions
        own = load_pixels(image, pixel, valid, positions, IMAGE_LAST, V, ALIGNED)
        above = tl.where(row > 0, valid, 0)
        below = tl.where(row + 1 < H, valid, 0)
        up = load_pixels(image, pixel - width, above, positions, IMAGE_LAST, V, ALIGNED)
        down = load_pixels(image, pixel + width, below, positions, IMAGE_LAST, V, ALIGNED)
        has_before = (valid > 0) & (col > 0)
        has_after = (valid > 0) & (col + V < W)
        if variation_gradient is not None:
            factor *= tl.load(variation_gradient + index * variation_gradient_stride)
        values = tl.zeros((GROUPS, V), dtype=tl.float32)
        terms = own[:0]  # none yet
        for c in tl.static_range(3):
            before = pixel_beside(image, pixel - 1, has_before, positions, c, IMAGE_LAST)
            after = pixel_beside(image, pixel + V, has_after, positions, c, IMAGE_LAST)
            value, slope = variation(own[c], up[c], down[c], before, after, row, col, H, W, ABSOLUTE)
            values += value
            terms += (slope * factor,)
        tl.store(partial + index * tiles + tile, tl.sum(tl.sum(values, axis=1), axis=0))
    else:
        zeros = tl.zeros((GROUPS, V), dtype=tl.float32)
        terms = (zeros + shift_0, zeros + shift_1, zeros + shift_2)
    if result is not None:
        r, g, b = terms
        if source is not None:
            x, y, z = load_pixels(source + index * 3 * positions, pixel, valid, positions, SOURCE_LAST, V, ALIGNED)
            if divisor is not None:
                inverse = 1.0 / tl.load(divisor)
                scale_0 *= inverse
                scale_1 *= inverse
                scale_2 *= inverse
            r += (z if FLIP else x) * scale_0
            g += y * scale_1
            b += (x if FLIP else z) * scale_2
        store_pixels(result + index * 3 * positions, pixel, valid, positions, (r, g, b), RESULT_LAST, ALIGNED)


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
    if kind is None:
        height, width = 1, height * width
    # 16 bytes of the narrowest side where rows keep them aligned.
    narrow = any(tensor is not None and tensor.dtype != torch.float32 for tensor in (source, result))
    pixels = 8 if narrow and width % 8 == 0 else 4
    groups = _WARPS * launch_gpu(image.device).warp_size
    column_groups = groups if kind is None else min(_COLUMN_GROUPS, power_of_two(ceil(width / pixels)))
    rows = groups // column_groups
    row_tiles = ceil(height / rows)
    column_tiles = ceil(width / (column_groups * pixels))
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
        "H": height,
        "W": width,
        "row_tiles": row_tiles,
        "column_tiles": column_tiles,
        **numbered("scale", scale),
        **numbered("shift", shift),
        "factor": factor * (1.0 if kind == "absolute" else 2.0) / (height * width),
        "ROWS": rows,
        "COLUMN_GROUPS": column_groups,
        "V": pixels,
        "IMAGE_LAST": dense_channels_last(image),
        "SOURCE_LAST": source is not None and dense_channels_last(source),
        "RESULT_LAST": result is not None and dense_channels_last(result),
        "FLIP": flip,
        "ABSOLUTE": kind == "absolute",
        "ALIGNED": width % pixels == 0,
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
