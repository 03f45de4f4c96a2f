"""Images that tile, left to right and top to bottom: what lies beyond a border is the other side."""

import math

import torch
from torch import Tensor

from fastnst.errors import OptionError
from fastnst.resizing import resize

# Beyond a border the bicubic kernel sees two pixels of the coarser of the two sizes.
_KERNEL_REACH = 3


def bordered(x: Tensor, padding: str) -> Tensor:
    """A map (B, C, H, W) with a border of one, (B, C, H + 2, W + 2), in its memory format: from its other sides
    ("circular") or from the nearest pixels ("replicate")."""
    by_position = x.stride(1) == 1 and x.shape[1] > 1
    layout = torch.channels_last if by_position else torch.contiguous_format
    height, width = x.shape[2:]
    padded = torch.empty((*x.shape[:2], height + 2, width + 2), dtype=x.dtype, device=x.device, memory_format=layout)
    padded[:, :, 1:-1, 1:-1] = x
    first, last = (-1, 0) if padding == "circular" else (0, -1)
    padded[:, :, 0, 1:-1] = x[:, :, first]
    padded[:, :, -1, 1:-1] = x[:, :, last]
    fill_columns_(padded, padding)
    return padded


def fill_columns_(padded: Tensor, padding: str) -> None:
    """Fills the first and the last column of a map (B, C, H, W + 2) as `bordered` does."""
    first, last = (-2, 1) if padding == "circular" else (1, -2)
    padded[..., 0] = padded[..., first]
    padded[..., -1] = padded[..., last]


def resize_wrapped(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize` of an image (B, C, H, W) that tiles: what it gives tiles too.

    The image is continued beyond its borders by so many pixels that they are a whole number of the new ones, resized,
    and cut to `size`. Raises OptionError as `resize` does.
    """
    if tuple(image.shape[2:]) == tuple(size):
        return image
    if min(size) < 1:
        raise OptionError(f"size {size} is not possible; both sides must be at least 1 pixel")
    margins = [_margin(old, new) for old, new in zip(image.shape[2:], size, strict=True)]
    rows, columns = (
        torch.arange(-margin, side + margin, device=image.device) % side
        for (margin, _), side in zip(margins, image.shape[2:], strict=True)
    )
    (_, top), (_, left) = margins
    larger = resize(image[:, :, rows][..., columns], size=(size[0] + 2 * top, size[1] + 2 * left))
    return larger[:, :, top : top + size[0], left : left + size[1]].contiguous()


def _margin(old: int, new: int) -> tuple[int, int]:
    """How far to continue an axis, in the old pixels and in the new ones."""
    common = math.gcd(old, new)
    step, new_step = old // common, new // common
    times = math.ceil(_KERNEL_REACH * max(1, old / new) / step)
    return times * step, times * new_step


def seam_variation(image: Tensor, gradient: Tensor | None = None, weight: float = 0.0, kind: str = "squared") -> Tensor:
    """What the total variation of an image that tiles has beyond that of one that ends: its part across the seams.

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
