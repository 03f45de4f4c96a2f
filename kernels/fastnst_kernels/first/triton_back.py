# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel of the first layer's way back to the image, and its launcher.

A program walks down a strip of BLOCK columns, the outer two of which are its neighbours', and row by row computes the
features anew, the gradient before the ReLU, and what that sends to the image: the rows above, beside and below wait in
three accumulators, and columns are shifted once a row is complete. Nothing of N channels is written.
"""

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.first import FirstLayer
from fastnst_kernels.first.triton_first import activated, filters, layer_arguments, patches, run_layer, wrapped
from fastnst_kernels.image.eager import add_variation
from fastnst_kernels.image.triton_image import by_channel, variation
from fastnst_kernels.launch.launch import finish_sum, launch_gpu
from fastnst_kernels.launch.layout import dense, dense_channels_last, empty_map, in_layout
from fastnst_kernels.losses.targets import StyleTerm

_BLOCK = 64
# Programs for each multiprocessor, and rows of one at least: two more of each strip are computed twice.
_PROGRAMS, _LEAST_ROWS = 4, 8


@triton.jit
def _transposed_filters(weight, KY: tl.constexpr, FLIP: tl.constexpr, C: tl.constexpr):
    """A row of the filters as a matrix (N, 16): the image's channel times 4 + the column, zeros where there is none."""
    t = tl.arange(0, 16)
    kx = t % 4
    channel = t // 4
    k = (KY * 3 + kx) * 3 + (2 - channel if FLIP else channel)
    mask = (kx < 3) & (channel < 3)
    return tl.load(weight + (tl.arange(0, C) * 27)[:, None] + k[None, :], mask=mask[None, :], other=0.0)


@triton.jit(do_not_specialize=["row_tiles", "column_tiles", "rows", "style_gradient_stride"])
def first_backward_kernel(
    image,  # (B, 3, H, W) float32 by its strides
    weight,  # (C, 3, 3, 3) channels-last
    bias,  # (C,)
    upstream,  # (B, H, W, C), or None
    difference,  # (B, C, C) symmetric, in the weight's dtype; it and the next two may be None
    style_scale,  # (B,) float32
    style_gradient,  # (B,) float32 by its stride
    gradient,  # (B, 3, H, W) float32 in the image's layout
    partial,  # (2, B, row_tiles · column_tiles) float32: the variation if VARIATION, and with a divisor the gradient
    divisor,  # (1,) float32, a power of two that all but the variation is divided by, or None
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    style_gradient_stride,
    H,
    W,
    row_tiles,
    column_tiles,
    rows,  # of one program
    scale_0,  # by the network's channels
    scale_1,
    scale_2,
    shift_0,
    shift_1,
    shift_2,
    style_factor,  # weight / (N² M)
    tv_factor,  # of the derivative of the variation
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDING: tl.constexpr,
    FLIP: tl.constexpr,
    VARIATION: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    WIDE: tl.constexpr,  # offsets inside one image need 64 bits
    PRECISION: tl.constexpr,
):
    program = tl.program_id(0)
    column_tile = program % column_tiles
    row_tile = program // column_tiles % row_tiles
    index = (program // column_tiles // row_tiles).to(tl.int64)
    first = row_tile * rows
    stop = tl.minimum(first + rows, H)
    image += index * stride_b
    gradient += index * stride_b

    strides, size = (stride_c, stride_h, stride_w), (H, W)
    scale, shift = (scale_0, scale_1, scale_2), (shift_0, shift_1, shift_2)
    dtype = weight.dtype.element_ty
    n = tl.arange(0, C)
    p = tl.arange(0, BLOCK)
    j = column_tile * (BLOCK - 2) - 1 + p
    matrix = filters(weight, bias, C).to(dtype)
    above_filters = _transposed_filters(weight, 0, FLIP, C).to(dtype)
    beside_filters = _transposed_filters(weight, 1, FLIP, C).to(dtype)
    below_filters = _transposed_filters(weight, 2, FLIP, C).to(dtype)
    if difference is not None:
        d = tl.load(difference + index * (C * C) + (n[:, None] * C + n[None, :])).to(dtype)
        coefficient = tl.load(style_gradient + index * style_gradient_stride) * (
            tl.load(style_scale + index) * style_factor
        )

    t = tl.arange(0, 16)[None, :]
    source = tl.minimum(tl.maximum(p[:, None] + 1 - t % 4, 0), BLOCK - 1)
    at_the_edge = ((t % 4 == 0) & (j == 0)[:, None]) | ((t % 4 == 2) & (j == W - 1)[:, None])
    channel = tl.arange(0, 4)[None, :]
    own = ((p > 0) & (p < BLOCK - 1) & (j < W))[:, None] & (channel < 3)
    out_scale = by_channel(channel, (scale_2, scale_1, scale_0) if FLIP else scale)
    if divisor is not None:
        out_scale *= 1.0 / tl.load(divisor)
    column = j[:, None]
    if WIDE:
        column = column.to(tl.int64)
    places = channel * stride_c + column * stride_w

    beside = tl.zeros((BLOCK, 16), dtype=tl.float32)
    below = tl.zeros((BLOCK, 16), dtype=tl.float32)
    values = tl.zeros((BLOCK, 4), dtype=tl.float32)
    total = tl.zeros((BLOCK, 4), dtype=tl.float32)
    for step in range(0, stop - first + 2):
        row = first - 1 + step
        seen_row = tl.zeros((BLOCK,), dtype=tl.int32) + row
        seen_column = j
        if PADDING == "circular":
            seen_row = wrapped(seen_row, H)
            seen_column = wrapped(j, W)
        inside = (seen_row >= 0) & (seen_row < H) & (seen_column >= 0) & (seen_column < W)
        x = patches(image, seen_row, seen_column, inside, strides, size, scale, shift, PADDING, FLIP, WIDE)
        # Zero outside the image, and so is the gradient there.
        f = activated(tl.dot(tl.trans(x.to(dtype)), matrix, input_precision=PRECISION), dtype)
        g = tl.zeros((BLOCK, C), dtype=tl.float32)
        if upstream is not None:
            above = upstream + ((index * H + seen_row) * W + seen_column)[:, None] * C + n[None, :]
            g = tl.load(above, mask=inside[:, None], other=0.0).to(tl.float32)
        if difference is not None:
            g += tl.dot(f, d, input_precision=PRECISION) * coefficient
        g = tl.where(f <= 0.0, 0.0, g).to(dtype)
        done = tl.dot(g, above_filters, beside, input_precision=PRECISION)
        # What a replicated border gets is the nearest pixel's.
        if PADDING == "replicate":
            done = tl.where(row == H, done + below, done)
        beside = tl.dot(g, beside_filters, below, input_precision=PRECISION)
        if PADDING == "replicate":
            beside = tl.where(row == 0, beside + done, beside)
        below = tl.dot(g, below_filters, input_precision=PRECISION)

        shifted = tl.gather(done, source, 0)
        if PADDING == "replicate":
            shifted = tl.where(at_the_edge, shifted + done, shifted)
        result = tl.sum(tl.reshape(shifted, (BLOCK, 4, 4)), axis=2) * out_scale
        i = tl.zeros((BLOCK, 4), dtype=tl.int64 if WIDE else tl.int32) + (row - 1)
        mask = own & (i >= first)
        here = i * stride_h + places
        if VARIATION:
            value, slope = variation(image, here, mask, i, column, size, strides, ABSOLUTE)
            values += value
            result += slope * tv_factor
        tl.store(gradient + here, result, mask=mask)
        if divisor is not None:
            total += tl.where(mask, result, 0.0)
    if VARIATION:
        tl.store(partial + program, tl.sum(tl.sum(values, axis=1), axis=0))
    if divisor is not None:
        tl.store(partial + tl.num_programs(0) + program, tl.sum(tl.sum(total, axis=1), axis=0))


def first_backward(
    image: Tensor,
    layer: FirstLayer,
    upstream: Tensor | None,
    style: StyleTerm | None,
    tv_weight: float,
    kind: str,
    precision: str,
    divisor: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`eager.first_backward` as one kernel and its sums; the variation of kind "nine-point" is torch's."""
    image = dense(image)
    batch, _, height, width = image.shape
    varies = kind != "nine-point"
    gradient = empty_map(image, dense_channels_last(image)) if out is None else out
    column_tiles = ceil(width / (_BLOCK - 2))
    wanted = max(1, _PROGRAMS * launch_gpu(image.device).multiprocessors // (batch * column_tiles))
    rows = max(min(_LEAST_ROWS, height), ceil(height / wanted))
    row_tiles = ceil(height / rows)
    partial = torch.empty((2, batch, row_tiles * column_tiles), dtype=torch.float32, device=image.device)
    arguments = {
        **layer_arguments(image, layer, precision),
        "upstream": None if upstream is None else in_layout(upstream, True),
        "difference": None if style is None else style.difference,
        "style_scale": None if style is None else style.scale,
        "style_gradient": None if style is None else style.gradient,
        "style_gradient_stride": 0 if style is None else style.gradient.stride(0),
        "gradient": gradient,
        "partial": partial,
        "divisor": divisor,
        "row_tiles": row_tiles,
        "column_tiles": column_tiles,
        "rows": rows,
        "style_factor": 0.0 if style is None else style.factor,
        "tv_factor": tv_weight * (1.0 if kind == "absolute" else 2.0) / (height * width),
        "BLOCK": _BLOCK,
        "VARIATION": varies,
        "ABSOLUTE": kind == "absolute",
    }
    run_layer(first_backward_kernel, batch * row_tiles * column_tiles, arguments, layer)
    summed = partial[int(not varies) : 1 + int(divisor is not None)]
    sums = list(finish_sum(summed.flatten(0, 1), 1 / (height * width)).view(-1, batch)) if len(summed) else []
    check = None if divisor is None else sums.pop()
    return gradient, sums[0] if varies else add_variation(image, gradient, kind, tv_weight), check
