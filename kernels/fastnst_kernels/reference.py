"""The operations in naive float64 torch, straight from the formulas, with their gradients in closed form.

N is the number of filters (C), M of positions (H·W), F the N×M matrix of one image's responses; A is any N×N matrix.
Gatys, Ecker, Bethge: A Neural Algorithm of Artistic Style (2015), equations 3 to 6, with G and A divided by M.
"""

import torch
from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """G = F Fᵀ/M of features (B, C, H, W): (B, C, C) float64."""
    responses = features.double().flatten(2)
    return responses @ responses.mT / responses.shape[2]


def gram_gradient(features: Tensor, gram_gradient: Tensor) -> Tensor:
    """∂/∂F Σ G·W = (W + Wᵀ) F/M for W = `gram_gradient` (B, C, C): (B, C, H, W) float64."""
    responses = features.double().flatten(2)
    weights = gram_gradient.double()
    return ((weights + weights.mT) @ responses / responses.shape[2]).view(features.shape)


def gram_loss(features: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    """E = weight/4N² · Σ (G − A)² of features (B, C, H, W), target (C, C), (1, C, C) or (B, C, C): (B,) float64."""
    return weight / (4 * features.shape[1] ** 2) * (gram(features) - target.double()).square().sum((1, 2))


def gram_loss_gradient(features: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    """∂E/∂F = weight/(N² M) · (G − (A + Aᵀ)/2) F: (B, C, H, W) float64."""
    responses = features.double().flatten(2)
    filters, positions = responses.shape[1:]
    symmetric_target = (target.double() + target.double().mT) / 2
    gradient = weight / (filters**2 * positions) * (gram(features) - symmetric_target) @ responses
    return gradient.view(features.shape)


def style_tap(features: Tensor, target: Tensor, weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """The features as they are, and their `gram_loss`."""
    return features.view_as(features), gram_loss(features, target, weight)


def style_tap_gradient(
    features: Tensor, target: Tensor, weight: float, upstream: Tensor, loss_gradient: Tensor
) -> Tensor:
    """upstream + loss_gradient_b · ∂E_b/∂F, (B, C, H, W) float64: `upstream` has that shape, `loss_gradient` (B,)."""
    own = gram_loss_gradient(features, target, weight)
    return upstream.double() + loss_gradient.double()[:, None, None, None] * own


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of Gram matrices and losses for features of `dtype`: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
