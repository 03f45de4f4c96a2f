# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Kernels that are wrong for some target, each in one way."""

import triton
import triton.language as tl
from fastnst_kernels.gpu import Gpu
from fastnst_kernels.launch import Launch
from torch import Tensor


@triton.jit
def copy_kernel(features, gradient, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(features + i + SHIFT)
    tl.store(gradient + i, x)


@triton.jit
def product_kernel(features, gradient, ROWS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr):
    r = tl.arange(0, ROWS)
    k = tl.arange(0, DEPTH)
    x = tl.load(features + r[:, None] * DEPTH + k[None, :])
    if UPCAST:
        x = x.to(tl.float32)
    y = tl.dot(x, tl.trans(x), input_precision="ieee")
    tl.store(gradient + r[:, None] * ROWS + r[None, :], y.to(gradient.dtype.element_ty))


@triton.jit
def border_kernel(features, gradient, BLOCK: tl.constexpr):
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(features + group[:, None] * 8 + tl.arange(0, 8)[None, :])
    after = tl.load(features + group * 8 + 8)
    tl.store(gradient + group[:, None] * 8 + tl.arange(0, 8)[None, :], x + after[:, None])


def example_launches(features: Tensor, precision: str, gpu: Gpu) -> list[Launch]:
    arguments = {"features": features, "gradient": features}
    return [
        Launch(copy_kernel, 1, arguments, {"SHIFT": 0, "BLOCK": 4096}),
        Launch(copy_kernel, 1, arguments, {"SHIFT": 1, "BLOCK": 4096}),
        Launch(product_kernel, 1, arguments, {"ROWS": 64, "DEPTH": 32, "UPCAST": False}),
        Launch(product_kernel, 1, arguments, {"ROWS": 64, "DEPTH": 32, "UPCAST": True}),
        Launch(product_kernel, 1, arguments, {"ROWS": 128, "DEPTH": 32, "UPCAST": False}, num_warps=1),
        Launch(product_kernel, 1, arguments, {"ROWS": 48, "DEPTH": 64, "UPCAST": False}),
        Launch(border_kernel, 1, arguments, {"BLOCK": 128}),
    ]
