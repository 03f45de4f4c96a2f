# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels of the content loss weight · Σ (F − P)²: sums of ranges, then their sum in a fixed order.

The gradient is a term of `triton_tap`.
"""

from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.heuristic import split_evenly
from fastnst_kernels.launch.launch import Launch, finish_sum, launch_gpu, plain_block, run
from fastnst_kernels.launch.layout import aligned, as_readable, is_crop, strides, wide

# Programs for each multiprocessor: loads of several hide each other's latency.
_PROGRAMS = 4


@triton.jit(do_not_specialize=["c_blocks", "splits"])
def partial_content_kernel(
    features,  # (B, C, H, W) by its strides
    content,  # (B or 1, C, H, W) by its strides
    partial,  # (B, c_blocks · splits) float32
    stride_b,
    stride_c,
    stride_h,  # used if CROP
    stride_w,  # of neighbouring positions
    content_stride_b,
    content_stride_c,
    content_stride_h,
    content_stride_w,
    C,
    M,
    W,  # used if CROP
    c_blocks,
    splits,
    split_length,  # positions of one split, a multiple of BLOCK_M
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDE: tl.constexpr,  # offsets inside one image need 64 bits
    CROP: tl.constexpr,  # H and W of one of the maps do not act as one axis
):
    program = tl.program_id(0)
    c_block = program % c_blocks
    split = program // c_blocks % splits
    image = (program // c_blocks // splits).to(tl.int64)
    c = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    start = split.to(tl.int64) * split_length
    length = tl.minimum(M - start, split_length).to(tl.int32)
    m = tl.arange(0, BLOCK_M)
    c_mask = c[:, None] < C
    if WIDE:
        c = c.to(tl.int64)
        first = start
    else:
        first = start.to(tl.int32)
    features += image * stride_b + c[:, None] * stride_c
    content += image * content_stride_b + c[:, None] * content_stride_c
    sums = tl.zeros((BLOCK_C, BLOCK_M), dtype=tl.float32)
    for offset in range(0, length, BLOCK_M):
        mask = c_mask & (m[None, :] < length - offset)
        position = (first + offset) + m
        if CROP:
            row = position // W
            column = position % W
            f_offsets = row * stride_h + column * stride_w
            p_offsets = row * content_stride_h + column * content_stride_w
        else:
            f_offsets = position * stride_w
            p_offsets = position * content_stride_w
        f = tl.load(features + f_offsets[None, :], mask=mask, other=0.0).to(tl.float32)
        p = tl.load(content + p_offsets[None, :], mask=mask, other=0.0).to(tl.float32)
        sums += (f - p) * (f - p)
    tl.store(partial + program, tl.sum(tl.sum(sums, axis=1), axis=0))


def content_loss(features: Tensor, content: Tensor, weight: float) -> Tensor:
    """weight · Σ (F − P)² of features (B, C, H, W) and content (B or 1, C, H, W): (B,) float32."""
    features, content = as_readable(features), as_readable(content)
    batch, channels, height, width = features.shape
    positions = height * width
    block_c, block_m = plain_block(features, aligned(features) and aligned(content))
    c_blocks = ceil(channels / block_c)
    wanted = max(1, launch_gpu(features.device).multiprocessors * _PROGRAMS // (batch * c_blocks))
    splits, split_length = split_evenly(positions, block_m, wanted, longest=positions + block_m)
    crop = is_crop(features) or is_crop(content)
    partial = torch.empty((batch, c_blocks * splits), dtype=torch.float32, device=features.device)
    arguments = {
        "features": features,
        "content": content,
        "partial": partial,
        **strides(features, crop=crop),
        **strides(content, "content_", crop=crop),
        "C": channels,
        "M": positions,
        "W": width if crop else 0,
        "c_blocks": c_blocks,
        "splits": splits,
        "split_length": split_length,
        "BLOCK_C": block_c,
        "BLOCK_M": block_m,
        "WIDE": wide(features, content),
        "CROP": crop,
    }
    run(Launch(partial_content_kernel, batch * c_blocks * splits, arguments), features.device)
    return finish_sum(partial, weight)
