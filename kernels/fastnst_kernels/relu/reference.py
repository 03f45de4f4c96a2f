"""The sign-bit epilogues in naive float64 torch, and their bits one by one; the gradients are autograd's.

A bit is 1 where the activation before pooling receives gradient: where max(x + b, 0) is not zero and, with the maximum,
where it is the one that is passed on. NaN is passed on and receives gradient, as in torch.
"""

import torch
from torch import Tensor
from torch.nn import functional


def bias_relu(x: Tensor, bias: Tensor | None = None, pool: str | None = None) -> Tensor:
    """max(x + bias, 0) of x (B, C, H, W) and bias (C,), or its average or maximum by 2×2 windows: float64."""
    values = x.double()
    y: Tensor = torch.relu(values if bias is None else values + bias.double()[:, None, None])
    if pool is not None:
        y = functional.max_pool2d(y, 2) if pool == "max" else functional.avg_pool2d(y, 2)
    return y


def gradient(x: Tensor, bias: Tensor | None, pool: str | None, above: Tensor | None = None) -> Tensor:
    """∂/∂x of `bias_relu`, (B, C, H, W) float64, for the gradient of its result, or ones."""
    leaf = x.detach().double().requires_grad_()
    with torch.enable_grad():
        y = bias_relu(leaf, bias, pool)
    (result,) = torch.autograd.grad(y, leaf, torch.ones_like(y) if above is None else above.double())
    return result


def mask(x: Tensor, bias: Tensor | None = None, pool: str | None = None) -> Tensor:
    """The flags of the bits, (B, C, H, W) bool: which activations receive gradient, without pooling or after `pool`."""
    return gradient(x, bias, pool) != 0


def unpack(bits: Tensor, length: int, by_channels: bool) -> Tensor:
    """The flags (B, C, H, W) bool of bits whose runs have `length` activations: flag 8·k + i is bit i of byte k."""
    flags = torch.stack([bits[..., i // 8] // 2 ** (i % 8) % 2 == 1 for i in range(length)], dim=3)
    return flags.permute(0, 3, 1, 2) if by_channels else flags
