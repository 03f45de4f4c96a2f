"""The sign-bit epilogues in naive float64 torch, and their bits one by one, with their gradients in closed form.

A bit is 1 where the activation before pooling receives gradient: where max(x + b, 0) is not zero and, with the maximum,
where it is the one that is passed on. NaN is passed on and receives gradient, as in torch.
"""

import torch
from torch import Tensor
from torch.nn import functional


def bias_relu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """max(x + bias, 0) of x (B, C, H, W) and bias (C,): (B, C, H, W) float64."""
    values = x.double()
    return torch.relu(values if bias is None else values + bias.double()[:, None, None])


def bias_relu_pool(x: Tensor, bias: Tensor | None = None, pool: str = "avg") -> Tensor:
    """The average or maximum of each 2×2 window of max(x + bias, 0): (B, C, ⌊H/2⌋, ⌊W/2⌋) float64."""
    y = bias_relu(x, bias)
    pooled: Tensor = functional.max_pool2d(y, 2) if pool == "max" else functional.avg_pool2d(y, 2)
    return pooled


def mask(x: Tensor, bias: Tensor | None = None, pool: str | None = None) -> Tensor:
    """The flags of the bits, (B, C, H, W) bool: which activations receive gradient, without pooling or after `pool`."""
    y = bias_relu(x, bias)
    if pool is None:
        return y != 0
    passed = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    if pool == "max":
        _, places = functional.max_pool2d(y, 2, return_indices=True)
        passed.flatten(2).scatter_(2, places.flatten(2), True)
    else:
        passed[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2] = True
    return passed & (y != 0)


def unpack(bits: Tensor, length: int, by_channels: bool) -> Tensor:
    """The flags (B, C, H, W) bool of bits whose runs have `length` activations: flag 8·k + i is bit i of byte k."""
    flags = torch.stack([bits[..., i // 8] // 2 ** (i % 8) % 2 == 1 for i in range(length)], dim=3)
    return flags.permute(0, 3, 1, 2) if by_channels else flags


def relu_gradient(gradient: Tensor, flags: Tensor) -> Tensor:
    """∂/∂x of `bias_relu`: the gradient (B, C, H, W) where its flag is set, else 0, float64."""
    return torch.where(flags, gradient.double(), 0.0)


def pool_gradient(gradient: Tensor, flags: Tensor, pool: str = "avg") -> Tensor:
    """∂/∂x of `bias_relu_pool`: each window's gradient (a quarter of it for the average) where the flag is set,
    (B, C, H, W) float64, of `gradient` (B, C, ⌊H/2⌋, ⌊W/2⌋)."""
    result = torch.zeros(flags.shape, dtype=torch.float64, device=flags.device)
    spread = gradient.double().repeat_interleave(2, 2).repeat_interleave(2, 3) / (1 if pool == "max" else 4)
    result[:, :, : spread.shape[2], : spread.shape[3]] = spread
    return torch.where(flags, result, 0.0)
