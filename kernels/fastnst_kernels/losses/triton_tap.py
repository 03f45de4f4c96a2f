# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel of the gradient of a tap: the style's product, the content term, the gradient from above and the
ReLU's mask in one pass."""

from dataclasses import replace
from math import ceil

import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.gpu import Gpu
from fastnst_kernels.launch.heuristic import BackwardConfig, backward_heuristic
from fastnst_kernels.launch.launch import Launch, input_precision, launch_gpu, plain_block, problem_of, run
from fastnst_kernels.launch.layout import (
    aligned,
    as_one_axis,
    as_readable,
    channels_last,
    empty_map,
    is_crop,
    strides,
    strides_of_one_axis,
    wide,
)
from fastnst_kernels.losses.targets import ContentTerm, Owned, StyleTerm

# Elements of a product's block for each warp that fill its registers.
_FULL_WARP = 2048


@triton.jit
def _channels(x, LAST: tl.constexpr):
    """x as the axis of the channels in a block (positions, channels) if LAST, else (channels, positions)."""
    return x[None, :] if LAST else x[:, None]


@triton.jit
def _positions(x, LAST: tl.constexpr):
    """x as the other axis of such a block."""
    return x[:, None] if LAST else x[None, :]


@triton.jit
def _style_product(
    features,
    difference,
    axes,
    masks,
    strides,
    C,
    channels,
    K: tl.constexpr,
    LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """difference · F, a sum over `channels`, K at a time; `axes`, `masks` and `strides` are those of c and m."""
    c, m = axes
    c_mask, m_mask = masks
    stride_c, stride_w = strides
    value = tl.zeros((c_mask & m_mask).shape, dtype=tl.float32)
    k = tl.arange(0, K)
    k_step = C if LAST else 1
    c_step = 1 if LAST else C
    difference += _positions(k, LAST) * k_step + _channels(c, LAST) * c_step
    features += _positions(m, LAST) * stride_w + _channels(k.to(m.dtype), LAST) * stride_c
    for offset in range(0, channels, K):
        f = tl.load(features, mask=m_mask & (_channels(k, LAST) < C - offset), other=0.0)
        d = tl.load(difference, mask=c_mask & (_positions(k, LAST) < C - offset), other=0.0)
        if LAST:
            value = tl.dot(f, d, value, input_precision=PRECISION)
        else:
            value = tl.dot(d, f, value, input_precision=PRECISION)
        difference += K * k_step
        features += tl.cast(K, tl.int64) * stride_c
    return value


@triton.jit(
    do_not_specialize=[
        "m_blocks",
        "style_gradient_stride",
        "content_gradient_stride",
        "W",
        "top",
        "left",
        "bottom",
        "right",
    ]
)
def tap_backward_kernel(
    features,  # (B, C, M) by its strides
    difference,  # (B, C, C) symmetric, in the features' dtype; it and the next two may be None
    scale,  # (B,) float32
    style_gradient,  # (B,) float32 by its stride
    content,  # (B or 1, C, h, w) by its strides; its h and w are one axis unless OWNED; it and the next may be None
    content_gradient,  # (B,) float32 by its stride
    upstream,  # (B, C, M) by its strides, or None; may be `gradient`
    gradient,  # (B, C, M) by its strides
    stride_b,
    stride_c,
    stride_w,
    content_stride_b,
    content_stride_c,
    content_stride_h,
    content_stride_w,
    upstream_stride_b,
    upstream_stride_c,
    upstream_stride_w,
    gradient_stride_b,
    gradient_stride_c,
    gradient_stride_w,
    style_gradient_stride,
    content_gradient_stride,
    C,
    M,
    W,  # positions of a row, used if OWNED
    top,  # of the owned positions, used if OWNED
    left,
    bottom,
    right,
    m_blocks,
    style_factor,  # weight / (N² M)
    content_factor,  # 2 · weight
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,  # offsets inside one image need 64 bits
    LAST: tl.constexpr,  # channels-last: the accumulator is (positions, channels), so that it is stored as it lies
    RELU: tl.constexpr,  # the gradient is zero where the features are
    OWNED: tl.constexpr,  # the style and the content term only where top ≤ row < bottom and left ≤ column < right
    PRECISION: tl.constexpr,
):
    program = tl.program_id(0)
    c_blocks = tl.cdiv(C, BLOCK_C)
    image = (program // c_blocks // m_blocks).to(tl.int64)
    c = program % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    m = (program // c_blocks % m_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    features += image * stride_b
    c_mask = _channels(c, LAST) < C
    m_mask = _positions(m, LAST) < M
    mask = m_mask & c_mask
    channels = C
    if OWNED:
        row = m // W
        column = m % W
        inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        # A block of the halo alone has no product.
        channels = tl.where(tl.max(inside.to(tl.int32), axis=0) > 0, C, 0)
        inside = _positions(inside, LAST)

    if WIDE:
        m = m.to(tl.int64)
    if difference is not None:
        difference += image * C * C
        value = _style_product(
            features, difference, (c, m), (c_mask, m_mask), (stride_c, stride_w), C, channels, BLOCK_K, LAST, PRECISION
        )
        value *= tl.load(style_gradient + image * style_gradient_stride) * (tl.load(scale + image) * style_factor)
    else:
        value = tl.zeros(mask.shape, dtype=tl.float32)

    c = _channels(c.to(m.dtype), LAST)
    m = _positions(m, LAST)
    if content is not None or RELU:
        own = tl.load(features + (c * stride_c + m * stride_w), mask=mask, other=0.0).to(tl.float32)
    if content is not None:
        content += image * content_stride_b
        if OWNED:
            row = _positions((row - top).to(m.dtype), LAST)
            column = _positions((column - left).to(m.dtype), LAST)
            offsets = c * content_stride_c + (row * content_stride_h + column * content_stride_w)
            p = tl.load(content + offsets, mask=mask & inside, other=0.0)
        else:
            p = tl.load(content + (c * content_stride_c + m * content_stride_w), mask=mask, other=0.0)
        coefficient = tl.load(content_gradient + image * content_gradient_stride) * content_factor
        value += (own - p.to(tl.float32)) * coefficient
    if OWNED:
        value = tl.where(inside, value, 0.0)
    if upstream is not None:
        above = upstream + image * upstream_stride_b + (c * upstream_stride_c + m * upstream_stride_w)
        value += tl.load(above, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        value = tl.where(own <= 0.0, 0.0, value)
    below = gradient + image * gradient_stride_b + (c * gradient_stride_c + m * gradient_stride_w)
    tl.store(below, value.to(gradient.dtype.element_ty), mask=mask)


def _config(
    features: Tensor, style: StyleTerm | None, content: ContentTerm | None, dot_precision: str, gpu: Gpu
) -> BackwardConfig:
    """The blocks of the product, or of a pass over the elements."""
    if style is None:
        return BackwardConfig(*plain_block(features, aligned(features)), block_k=16, num_warps=4, num_stages=1)
    config = backward_heuristic(problem_of(features, dot_precision), gpu)
    # The features and the content of a block wait in registers beside its sums: half of a block that fills them.
    full = config.block_c * config.block_m >= _FULL_WARP * config.num_warps
    return replace(config, block_m=config.block_m // 2) if full and content is not None else config


def tap_backward(
    gradient: Tensor,
    *,
    features: Tensor,
    upstream: Tensor | None = None,
    style: StyleTerm | None = None,
    content: ContentTerm | None = None,
    relu: bool = False,
    owned: Owned | None = None,
    precision: str,
) -> None:
    """`eager.tap_backward` as one kernel."""
    features = as_one_axis(features)
    if content is not None:
        content = ContentTerm(as_readable(content.content), content.gradient, content.factor)
    if upstream is not None and is_crop(upstream):
        upstream = upstream.contiguous()
    written = empty_map(features, channels_last(features)) if is_crop(gradient) else gradient
    batch, channels, height, width = features.shape
    if owned is None and content is not None and is_crop(content.content):
        owned = (0, 0, height, width)
    top, left, owned_height, owned_width = owned or (0, 0, height, width)
    gpu = launch_gpu(features.device)
    dot_precision = input_precision(features.dtype, precision, gpu)
    config = _config(features, style, content, dot_precision, gpu)
    c_blocks, m_blocks = ceil(channels / config.block_c), ceil(height * width / config.block_m)
    added = written if upstream is None else upstream
    target = features if content is None else content.content
    arguments = {
        "features": features,
        "difference": None if style is None else style.difference,
        "scale": None if style is None else style.scale,
        "style_gradient": None if style is None else style.gradient,
        "content": None if content is None else target,
        "content_gradient": None if content is None else content.gradient,
        "upstream": upstream,
        "gradient": written,
        **strides_of_one_axis(features),
        **strides(target, "content_", crop=owned is not None),
        **strides_of_one_axis(added, "upstream_"),
        **strides_of_one_axis(written, "gradient_"),
        "style_gradient_stride": 0 if style is None else style.gradient.stride(0),
        "content_gradient_stride": 0 if content is None else content.gradient.stride(0),
        "C": channels,
        "M": height * width,
        "W": width,
        "top": top,
        "left": left,
        "bottom": top + owned_height,
        "right": left + owned_width,
        "m_blocks": m_blocks,
        "style_factor": 0.0 if style is None else style.factor,
        "content_factor": 0.0 if content is None else content.factor,
        "BLOCK_C": config.block_c,
        "BLOCK_M": config.block_m,
        "BLOCK_K": config.block_k,
        "WIDE": wide(features, added, written, target),
        "LAST": channels_last(features),
        "RELU": relu,
        "OWNED": owned is not None and (style is not None or content is not None),
        "PRECISION": dot_precision,
    }
    grid = batch * m_blocks * c_blocks
    run(Launch(tap_backward_kernel, grid, arguments, config.num_warps, config.num_stages), features.device)
    if written is not gradient:
        gradient.copy_(written)
