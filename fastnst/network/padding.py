"""Maps with a border of one, and images that tile: what lies beyond a border is the other side."""

import torch
from torch import Tensor


def bordered(x: Tensor, padding: str) -> Tensor:
    """A map (B, C, H, W) with a border of one, (B, C, H + 2, W + 2), in the same memory format: its other sides
    ("circular") or its nearest pixels ("replicate")."""
    by_position = x.stride(1) == 1 and x.shape[1] > 1
    layout = torch.channels_last if by_position else torch.contiguous_format
    height, width = x.shape[2:]
    padded = torch.empty((*x.shape[:2], height + 2, width + 2), dtype=x.dtype, device=x.device, memory_format=layout)
    padded[:, :, 1:-1, 1:-1] = x
    first, last = (-1, 0) if padding == "circular" else (0, -1)
    padded[:, :, 0, 1:-1] = x[:, :, first]
    padded[:, :, -1, 1:-1] = x[:, :, last]
    first, last = (-2, 1) if padding == "circular" else (1, -2)
    padded[..., 0] = padded[..., first]
    padded[..., -1] = padded[..., last]
    return padded


def unbordered(gradient: Tensor) -> Tensor:
    """The gradient (1, C, H, W) of a map, from `gradient`, that of the map `bordered` by its nearest pixels, (1, C,
    H + 2, W + 2), whose border's part is added to the positions that it was taken from, in place."""
    for near, border in ((1, 0), (-2, -1)):
        gradient[:, :, near] += gradient[:, :, border]
    for near, border in ((1, 0), (-2, -1)):
        gradient[..., near] += gradient[..., border]
    return gradient[:, :, 1:-1, 1:-1]


def seam_variation(image: Tensor, gradient: Tensor | None = None, weight: float = 0.0, kind: str = "squared") -> Tensor:
    """The total variation across the seams of an image that tiles, which one that ends does not have.

        1/(H·W) Σ |x_{1,j} − x_{H,j}|ᵖ + |x_{i,1} − x_{i,W}|ᵖ,    p = 2 for kind "squared", 1 for "absolute"

    image: (1, 3, H, W) float; returns (1,). `weight` times its derivative is added to `gradient`, of the image's shape.
    """
    positions = image.shape[2] * image.shape[3]
    total = image.new_zeros(1)
    for axis in (2, 3):
        end = image.shape[axis] - 1
        difference = image.select(axis, 0) - image.select(axis, end)
        squared = kind == "squared"
        total = total + (difference.square() if squared else difference.abs()).sum() / positions
        if gradient is not None and weight:
            slope = difference * (2 * weight / positions) if squared else difference.sign() * (weight / positions)
            gradient.select(axis, 0).add_(slope)
            gradient.select(axis, end).sub_(slope)
    return total
