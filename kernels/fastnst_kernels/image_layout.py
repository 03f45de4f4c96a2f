"""Memory layouts of an image: dense planes (NCHW) or dense pixels (channels-last)."""

import torch
from torch import Tensor


def is_channels_last(image: Tensor) -> bool:
    """Whether a dense (B, C, H, W) image is channels-last; one that is both, as with one channel, is not."""
    return not image.is_contiguous()


def dense(image: Tensor) -> Tensor:
    """The tensor itself where it is contiguous or channels-last, else a contiguous copy."""
    return image if image.is_contiguous(memory_format=torch.channels_last) else image.contiguous()


def empty_image(like: Tensor, dtype: torch.dtype, *, channels_last: bool) -> Tensor:
    """An uninitialised dense tensor of the shape and device of `like`, (B, C, H, W)."""
    batch, channels, height, width = like.shape
    if channels_last:
        return torch.empty((batch, height, width, channels), dtype=dtype, device=like.device).permute(0, 3, 1, 2)
    return torch.empty((batch, channels, height, width), dtype=dtype, device=like.device)
