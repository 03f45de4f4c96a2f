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


def gram_loss(features: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    """E = weight/4N² · Σ (G − A)² of features (B, C, H, W), target (C, C), (1, C, C) or (B, C, C): (B,) float64."""
    return weight / (4 * features.shape[1] ** 2) * (gram(features) - target.double()).square().sum((1, 2))


def gram_loss_gradient(features: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    """∂E/∂F = weight/(N² M) · (G − (A + Aᵀ)/2) F: (B, C, H, W) float64."""
    matrix = style_matrix(features, target, weight, torch.ones_like(features[:, 0, 0, 0]))
    return (matrix @ features.double().flatten(2)).view(features.shape)


def style_matrix(features: Tensor, target: Tensor, weight: float, loss_gradient: Tensor) -> Tensor:
    """loss_gradient_b · weight/(N² M) · (G − (A + Aᵀ)/2), the matrix that ∂E/∂F is the product of with F: (B, C, C)."""
    filters, positions = features.shape[1], features[0, 0].numel()
    symmetric_target = (target.double() + target.double().mT) / 2
    difference = gram(features) - symmetric_target
    return loss_gradient.double()[:, None, None] * (weight / (filters**2 * positions)) * difference


def content_loss(features: Tensor, content: Tensor, weight: float = 1.0) -> Tensor:
    """weight · Σ (F − P)² of features (B, C, H, W) and content (1 or B, C, H, W): (B,) float64."""
    return weight * (features.double() - content.double()).square().sum((1, 2, 3))


def tap_gradient(
    features: Tensor,
    upstream: Tensor | None,
    *,
    style: Tensor | None = None,
    content: Tensor | None = None,
    content_coefficient: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """upstream + style_b · F + content_coefficient_b · (F − content), zero where `relu` and F ≤ 0: float64.

    features and upstream are (B, C, H, W), style (B, C, C), content (1 or B, C, H, W), content_coefficient (B,).
    """
    exact = features.double()
    total = torch.zeros_like(exact) if upstream is None else upstream.double()
    if style is not None:
        total = total + (style.double() @ exact.flatten(2)).view(exact.shape)
    if content is not None and content_coefficient is not None:
        total = total + content_coefficient.double()[:, None, None, None] * (exact - content.double())
    return torch.where(exact <= 0, 0.0, total) if relu else total
