"""The first layer in naive float64 torch, straight from the formulas.

    F = max(W ∗ (x · scale + shift) + b, 0)
    ∂x = scale / divisor · Wᵀ ∗ [F > 0] (upstream + S F) + tv_weight · ∂TV

S is the style's matrix, (B, N, N), that the gradient of its loss is the product of with F.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst_kernels.first import FirstLayer
from fastnst_kernels.image import reference as image_reference
from fastnst_kernels.image.reference import normalise


def features(image: Tensor, layer: FirstLayer) -> Tensor:
    """F of an image (B, 3, H, W): (B, N, H, W) float64."""
    return before_relu(normalise(image, layer.scale, layer.shift, layer.flip), layer).relu()


def before_relu(normalised: Tensor, layer: FirstLayer) -> Tensor:
    """W ∗ x + b of a normalised image (B, 3, H, W), in its dtype."""
    padded = F.pad(normalised, (1, 1, 1, 1), mode="constant" if layer.padding == "zeros" else layer.padding)
    return F.conv2d(padded, layer.weight.to(padded.dtype), layer.bias.to(padded.dtype))


def transposed(gradient: Tensor, layer: FirstLayer) -> Tensor:
    """Wᵀ ∗ gradient, that of the normalised image, (B, 3, H, W), from that of the pre-activations, (B, N, H, W)."""
    leaf = torch.zeros_like(gradient[:, :3]).requires_grad_()
    with torch.enable_grad():
        (result,) = torch.autograd.grad(before_relu(leaf, layer), leaf, gradient)
    return result


def image_gradient(
    image: Tensor,
    layer: FirstLayer,
    upstream: Tensor | None,
    style: Tensor | None,
    tv_weight: float,
    kind: str,
    *,
    divisor: float = 1.0,
) -> Tensor:
    """∂x of an image (B, 3, H, W), with upstream (B, N, H, W) and the style's S (B, N, N), 0 where None: float64."""
    own = features(image, layer)
    above = torch.zeros_like(own) if upstream is None else upstream.double()
    if style is not None:
        above = above + (style.double() @ own.flatten(2)).view(own.shape)
    below = transposed(torch.where(own > 0, above, 0.0), layer) / divisor
    return image_reference.image_gradient(image, below, layer.scale, layer.flip, tv_weight, kind)
