# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernel of Adam's step with a clamp, with its launcher: each tensor is read once and written once."""

import math
from collections.abc import Sequence
from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.image.eager import Best
from fastnst_kernels.launch.launch import Launch, launch_gpu, run
from fastnst_kernels.launch.layout import dense_channels_last, in_layout

_WARPS = 4
# 16 bytes a thread.
_ELEMENTS = 4


@triton.jit
def _one_minus_power(steps, log_beta):
    """1 − β^t to float32 rounding: the plain difference has lost half of its digits while β^t is near 1."""
    z = -steps * log_beta
    small = tl.minimum(z, 0.5)
    series = 1.0
    for i in tl.static_range(8):
        series = 1.0 - small * (1.0 / (9 - i)) * series
    return tl.where(z < 0.5, small * series, 1.0 - tl.exp(-z))


@triton.jit
def adam_kernel(
    image,  # (N,) float32, and so are the others but `step`
    gradient,
    first,
    second,
    step,  # () int64, int32 or float32
    best,  # gets the image of before if it is `better`, or None
    better,  # () uint8
    N,
    learning_rate,
    first_rest,  # 1 − β₁
    beta_2,
    second_rest,  # 1 − β₂
    log_beta_1,
    log_beta_2,
    epsilon,
    minimum,  # None for no limits
    maximum,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,  # N needs 64 bits
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    steps = tl.load(step).to(tl.float32)
    rate = tl.div_rn(learning_rate, _one_minus_power(steps, log_beta_1))
    correction = _one_minus_power(steps, log_beta_2)
    offsets = program * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    x = tl.load(image + offsets, mask=mask)
    g = tl.load(gradient + offsets, mask=mask)
    m = tl.load(first + offsets, mask=mask)
    v = tl.load(second + offsets, mask=mask)
    if best is not None:
        tl.store(best + offsets, x, mask=offsets < tl.where(tl.load(better) != 0, N, 0))
    m += first_rest * (g - m)
    v = v * beta_2 + second_rest * (g * g)
    x -= rate * tl.div_rn(m, tl.sqrt_rn(tl.div_rn(v, tl.zeros_like(v) + correction)) + epsilon)
    if minimum is not None:
        x = tl.clamp(x, minimum, maximum, propagate_nan=tl.PropagateNan.ALL)
    tl.store(image + offsets, x, mask=mask)
    tl.store(first + offsets, m, mask=mask)
    tl.store(second + offsets, v, mask=mask)


def adam_step(
    image: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: Tensor,
    learning_rate: float,
    betas: Sequence[float],
    epsilon: float,
    limits: Sequence[float] | None,
    best: Best | None = None,
) -> None:
    """`eager.adam_step` as one kernel."""
    elements = image.numel()
    block = _WARPS * launch_gpu(image.device).warp_size * _ELEMENTS
    blocks = ceil(elements / block)
    minimum, maximum = (None, None) if limits is None else map(float, limits)
    arguments = {
        "image": image,
        "gradient": in_layout(gradient, dense_channels_last(image)),
        "first": first,
        "second": second,
        "step": step,
        "best": None if best is None else best[0],
        "better": None if best is None else best[1].view(torch.uint8),
        "N": elements,
        "learning_rate": float(learning_rate),
        "first_rest": 1.0 - betas[0],
        "beta_2": float(betas[1]),
        "second_rest": 1.0 - betas[1],
        "log_beta_1": math.log(betas[0]) if betas[0] > 0 else -math.inf,
        "log_beta_2": math.log(betas[1]) if betas[1] > 0 else -math.inf,
        "epsilon": float(epsilon),
        "minimum": minimum,
        "maximum": maximum,
        "BLOCK": block,
        "WIDE": blocks * block >= 2**31,
    }
    run(Launch(adam_kernel, blocks, arguments, _WARPS), image.device)
