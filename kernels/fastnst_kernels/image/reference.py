"""The operations at the image's edge in naive float64 torch, straight from the formulas, with their derivatives.

Images are (B, 3, H, W). x_{i,j} is a pixel of one channel; differences are taken to the right and down, where there is
a neighbour; in the nine-point form also along both diagonals, in the image with a replicated border of one.
Adam: Kingma and Ba, Adam: A Method for Stochastic Optimization (2015), algorithm 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def normalise(image: Tensor, scale: Sequence[float], shift: Sequence[float], flip: bool = False) -> Tensor:
    """x · scale_c + shift_c by the channels c of the result, which are the image's in reverse order with `flip`."""
    channels = image.double().flip(1) if flip else image.double()
    return channels * _by_channel(scale, image) + _by_channel(shift, image)


def normalise_gradient(upstream: Tensor, scale: Sequence[float], flip: bool = False) -> Tensor:
    """upstream · scale_c, in the image's order of channels."""
    gradient = upstream.double() * _by_channel(scale, upstream)
    return gradient.flip(1) if flip else gradient


def total_variation(image: Tensor, kind: str = "squared") -> Tensor:
    """1/(H·W) Σ |x_{i,j+1} − x_{i,j}|ᵖ + |x_{i+1,j} − x_{i,j}|ᵖ, p = 2 for "squared", 1 for "absolute": (B,).

    "nine-point" is 2 · (d₁/3 + d₂/3 + d₃/12 + d₄/12): the mean squared differences, over positions and channels, to the
    right, down, and along the two diagonals.
    """
    if kind == "nine-point":
        return nine_point(image.double())
    power = 2 if kind == "squared" else 1
    right, down = _differences(image.double())
    return (right.abs().pow(power).sum((1, 2, 3)) + down.abs().pow(power).sum((1, 2, 3))) / image[0, 0].numel()


def total_variation_gradient(image: Tensor, kind: str = "squared") -> Tensor:
    """The derivative of `total_variation`, with sign(0) = 0 for "absolute": (B, 3, H, W)."""
    if kind == "nine-point":
        return nine_point_gradient(image.double())
    right, down = (2 * d if kind == "squared" else d.sign() for d in _differences(image.double()))
    gradient = torch.zeros_like(image, dtype=torch.float64)
    gradient[..., 1:] += right
    gradient[..., :-1] -= right
    gradient[..., 1:, :] += down
    gradient[..., :-1, :] -= down
    return gradient / image[0, 0].numel()


def nine_point(image: Tensor) -> Tensor:
    """The nine-point form of `total_variation` in the image's dtype, (B,)."""
    means = [difference.square().mean((1, 2, 3)) for difference in nine_point_differences(image)]
    return 2 * (means[0] / 3 + means[1] / 3 + means[2] / 12 + means[3] / 12)


def nine_point_gradient(image: Tensor) -> Tensor:
    """The derivative of `nine_point` in the image's dtype, (B, 3, H, W)."""
    right, down, falling, rising = nine_point_differences(image)
    straight, diagonal = 4 / (3 * right[0].numel()), 1 / (3 * falling[0].numel())
    padded = F.pad(torch.zeros_like(image), (1, 1, 1, 1))
    padded[..., 1:-1, 2:] += straight * right
    padded[..., 1:-1, 1:-1] -= straight * right
    padded[..., 2:, 1:-1] += straight * down
    padded[..., 1:-1, 1:-1] -= straight * down
    padded[..., 1:, 1:] += diagonal * falling
    padded[..., :-1, :-1] -= diagonal * falling
    padded[..., 1:, :-1] += diagonal * rising
    padded[..., :-1, 1:] -= diagonal * rising
    padded[..., 1, :] += padded[..., 0, :]
    padded[..., -2, :] += padded[..., -1, :]
    padded[..., 1] += padded[..., 0]
    padded[..., -2] += padded[..., -1]
    return padded[..., 1:-1, 1:-1]


def nine_point_differences(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """To the right and down, (B, 3, H, W) each, and along the falling and the rising diagonal, (B, 3, H + 1, W + 1)."""
    x = F.pad(image, (1, 1, 1, 1), mode="replicate")
    inside = x[..., 1:-1, 1:-1]
    straight = x[..., 1:-1, 2:] - inside, x[..., 2:, 1:-1] - inside
    return *straight, x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]


def image_gradient(
    image: Tensor,
    upstream: Tensor | None,
    scale: Sequence[float],
    flip: bool = False,
    tv_weight: float | Tensor = 0.0,
    kind: str = "squared",
) -> Tensor:
    """upstream · scale_c (none: 0) + tv_weight · ∂TV, with one weight or (B,) of them: (B, 3, H, W)."""
    weights = torch.as_tensor(tv_weight, dtype=torch.float64, device=image.device).expand(len(image))
    gradient = weights[:, None, None, None] * total_variation_gradient(image, kind)
    return gradient if upstream is None else gradient + normalise_gradient(upstream, scale, flip)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Image, first and second moment after step `step` = 1, 2, …; the image clamped to the limits, if any."""
    g = gradient.double()
    m = betas[0] * first.double() + (1 - betas[0]) * g
    v = betas[1] * second.double() + (1 - betas[1]) * g.square()
    deviation = (v / (1 - betas[1] ** step)).sqrt() + epsilon
    x = image.double() - learning_rate / (1 - betas[0] ** step) * m / deviation
    return x if limits is None else x.clamp(*limits), m, v


def _differences(image: Tensor) -> tuple[Tensor, Tensor]:
    return image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]


def _by_channel(values: Sequence[float], image: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64, device=image.device)[:, None, None]
