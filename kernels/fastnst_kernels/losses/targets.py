"""Targets of the losses, several of them as one, and the terms that they give the gradient of a layer's features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import accumulation_dtype
from fastnst_kernels.launch.layout import exact


@dataclass(frozen=True)
class BlendedTarget:
    """Several targets as one: E = weight/4N² · Σ (G − matrix)² + offset. `blend_targets` makes it.

    `matrix` is (1 or B, C, C) float32 (float64 where a target is), `offset` (1 or B,) float32 on its device.
    """

    matrix: Tensor
    weight: float
    offset: Tensor


@dataclass(frozen=True)
class GramDifference:
    """The gradient of a Gram-difference loss with respect to any part of its features: factor · scale · matrix · F.

    `matrix` · `scale` is G − (A + Aᵀ)/2: (B, C, C), symmetric, in the dtype that the features' product takes, and (B,)
    float32. `factor` is weight/(N² M), with the M positions of the whole.
    """

    matrix: Tensor
    scale: Tensor
    factor: float


@dataclass(frozen=True)
class StyleTerm:
    """factor · gradient_b · scale_b · difference_b · F.

    difference is (B, C, C), symmetric, in the dtype of `difference_dtype`; scale (B,) and gradient (B,) in that of
    the sums.
    """

    difference: Tensor
    scale: Tensor
    gradient: Tensor
    factor: float


@dataclass(frozen=True)
class ContentTerm:
    """factor · gradient_b · (F − content_b).

    content is (B or 1, C, h, w) in the features' dtype, with h and w those of the owned positions; gradient (B,).
    """

    content: Tensor
    gradient: Tensor
    factor: float


# The top and left edge, the height and the width of the positions that a tile owns.
Owned = tuple[int, int, int, int]


def blend_targets(targets: Sequence[Tensor], weights: Sequence[float]) -> BlendedTarget:
    """Blends several targets into one that gives their loss, Σ_s w_s/4N² · Σ (G − A_s)², at the cost of one.

    This is exact. With w = Σ w_s and Ā = Σ w_s A_s / w,

        Σ w_s ‖G − A_s‖² = w ‖G − Ā‖² + Σ w_s ‖A_s − Ā‖²

    in float64, for each image. `targets` are Gram matrices (C, C), (1, C, C) or (B, C, C), floating, on one device;
    `weights` are as many finite numbers of 0 or more, not all of them 0.

    Raises ValueError for targets or weights of other shapes, numbers or signs.
    """
    if not targets or len(targets) != len(weights):
        raise ValueError(f"{len(targets)} targets and {len(weights)} weights were given; give one weight for each")
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"target weight {weight} is out of range; give a finite number of 0 or more")
    total = math.fsum(weights)
    if total == 0:
        raise ValueError("all target weights are 0; give at least one above 0")
    matrices = [target.unsqueeze(0) if target.ndim == 2 else target for target in targets]
    channels = matrices[0].shape[-1]
    batch = max(matrix.shape[0] for matrix in matrices)
    for target, matrix in zip(targets, matrices, strict=True):
        if matrix.ndim != 3 or matrix.shape[1:] != (channels, channels) or matrix.shape[0] not in (1, batch):
            raise ValueError(
                f"target of shape {tuple(target.shape)} does not match the others; give ({channels}, {channels}) or "
                f"({batch}, {channels}, {channels}) for each"
            )
        if not target.is_floating_point():
            raise ValueError(f"target is {target.dtype}; give a floating-point Gram matrix")
    doubled = [exact(matrix.detach()) for matrix in matrices]
    mean = torch.zeros_like(doubled[0])
    for matrix, weight in zip(doubled, weights, strict=True):
        mean = mean + matrix * (weight / total)
    spread = torch.zeros_like(mean[:, 0, 0])
    for matrix, weight in zip(doubled, weights, strict=True):
        spread = spread + (matrix - mean).square().sum((1, 2)) * (weight / (4 * channels**2))
    dtype = torch.float64 if any(matrix.dtype == torch.float64 for matrix in matrices) else torch.float32
    device = matrices[0].device
    return BlendedTarget(mean.to(device, dtype), total, spread.to(device, torch.float32))


def difference_dtype(dtype: torch.dtype, backend: str) -> torch.dtype:
    """The dtype of the difference G − A for backward: the tensor cores take it in the features' own."""
    return dtype if backend == "triton" else accumulation_dtype(dtype)


def normalised(difference: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A (B, C, C) difference as (normalised, scale): difference = normalised · scale, `normalised` in `dtype`, with its
    largest magnitude in 16384 … 32768 for a 16-bit `dtype` (less below 2⁻¹¹²) and unscaled otherwise."""
    scale = torch.ones_like(difference[:, 0, 0])
    if difference.dtype == dtype:
        return difference.contiguous(), scale
    peak = difference.abs().amax((1, 2))
    usable = (peak > 0) & torch.isfinite(peak)
    # Down to where the scale is still a normal number.
    exponent = torch.where(usable, peak, scale).log2().floor().clamp(-112, 127) - 14
    scale = torch.where(usable, exponent.exp2(), scale)
    return (difference / scale[:, None, None]).to(dtype), scale
