"""The operations at the image's edge in naive torch, straight from the formulas, with autograd's gradient of them.

Images are (B, 3, H, W). x_{i,j} is a pixel of one channel; differences are taken to the right and down, where there is
a neighbour; in the nine-point form also along both diagonals, in the image with a replicated border of one.
Adam: Kingma and Ba, Adam: A Method for Stochastic Optimization (2015), algorithm 1. All is computed in `dtype`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def normalise(
    image: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    flip: bool = False,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """x · scale_c + shift_c by the channels c of the result, which are the image's in reverse order with `flip`."""
    channels = image.to(dtype).flip(1) if flip else image.to(dtype)
    return channels * by_channel(scale, channels) + by_channel(shift, channels)


def normalise_gradient(
    upstream: Tensor, scale: Sequence[float], flip: bool = False, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """upstream · scale_c, in the image's order of channels."""
    gradient = upstream.to(dtype) * by_channel(scale, upstream.to(dtype))
    return gradient.flip(1) if flip else gradient


def differences(image: Tensor, kind: str) -> tuple[Tensor, ...]:
    """The differences to the right and down; for "nine-point" of all pixels, and along both diagonals."""
    if kind != "nine-point":
        return image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
    x = F.pad(image, (1, 1, 1, 1), mode="replicate")
    inside = x[..., 1:-1, 1:-1]
    straight = x[..., 1:-1, 2:] - inside, x[..., 2:, 1:-1] - inside
    return *straight, x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]


def total_variation(image: Tensor, kind: str = "squared", *, dtype: torch.dtype = torch.float64) -> Tensor:
    """1/(H·W) Σ |x_{i,j+1} − x_{i,j}|ᵖ + |x_{i+1,j} − x_{i,j}|ᵖ, p = 2 for "squared", 1 for "absolute": (B,).

    "nine-point" is 2 · (d₁/3 + d₂/3 + d₃/12 + d₄/12): the mean squared differences, over positions and channels, to the
    right, down, and along the two diagonals.
    """
    every = differences(image.to(dtype), kind)
    if kind == "nine-point":
        means = [difference.square().mean((1, 2, 3)) for difference in every]
        return 2 * (means[0] / 3 + means[1] / 3 + means[2] / 12 + means[3] / 12)
    right, down = (difference.abs().pow(2 if kind == "squared" else 1).sum((1, 2, 3)) for difference in every)
    return (right + down) / image[0, 0].numel()


def slopes(image: Tensor, kind: str) -> list[Tensor]:
    """The derivative of `total_variation` by each of its `differences`, with sign(0) = 0 for "absolute"."""
    every, positions = differences(image, kind), image[0, 0].numel()
    if kind != "nine-point":
        return [(2 * d if kind == "squared" else d.sign()) / positions for d in every]
    return [d * ((4 if index < 2 else 1) / (3 * d[0].numel())) for index, d in enumerate(every)]


def image_gradient(
    image: Tensor,
    upstream: Tensor | None,
    scale: Sequence[float],
    flip: bool = False,
    tv_weight: float | Tensor = 0.0,
    kind: str = "squared",
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """upstream · scale_c (none: 0) + tv_weight · ∂TV, with one weight or (B,) of them: (B, 3, H, W)."""
    weights = torch.as_tensor(tv_weight, dtype=dtype, device=image.device).expand(len(image))
    slope: Tensor = torch.func.grad(lambda x: total_variation(x, kind, dtype=dtype).sum())(image.to(dtype))
    gradient = weights[:, None, None, None] * slope
    return gradient if upstream is None else gradient + normalise_gradient(upstream, scale, flip, dtype=dtype)


def adam_step(
    image: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    limits: tuple[float, float] | None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Image, first and second moment after step `step` = 1, 2, …; the image clamped to the limits, if any."""
    g = gradient.to(dtype)
    m = betas[0] * first.to(dtype) + (1 - betas[0]) * g
    v = betas[1] * second.to(dtype) + (1 - betas[1]) * g.square()
    deviation = (v / (1 - betas[1] ** step)).sqrt() + epsilon
    x = image.to(dtype) - learning_rate / (1 - betas[0] ** step) * m / deviation
    return x if limits is None else x.clamp(*limits), m, v


def by_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """One value for each channel, (3, 1, 1) in the dtype of `like`."""
    return torch.tensor(list(values), dtype=like.dtype, device=like.device)[:, None, None]
