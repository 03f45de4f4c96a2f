"""How sign bits lie in memory: eight activations to a byte, along the axis whose elements lie side by side.

Channels-last activations (B, C, H, W) have bits (B, H, W, ⌈C/8⌉), contiguous (NCHW) ones (B, C, H, ⌈W/8⌉), both uint8.
Bit i of byte k is activation 8·k + i of its run; the bits that pad a run to whole bytes are 0.
"""

import torch
from torch import Tensor

POOLS = ("avg", "max")


def dense(x: Tensor) -> Tensor:
    """The (B, C, H, W) tensor itself where it is contiguous or channels-last without gaps, else a contiguous copy."""
    return x if is_dense(x) else x.contiguous()


def is_dense(x: Tensor) -> bool:
    """Whether a (B, C, H, W) tensor is contiguous or channels-last without gaps."""
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def packed_by_channels(x: Tensor) -> bool:
    """Whether the bits of dense activations (B, C, H, W) run along the channels; strides of axes of 1 do not matter."""
    return x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last)


def bits_shape(batch: int, channels: int, height: int, width: int, by_channels: bool) -> tuple[int, int, int, int]:
    """The shape of the sign bits of (B, C, H, W) activations."""
    if by_channels:
        return batch, height, width, (channels + 7) // 8
    return batch, channels, height, (width + 7) // 8


def empty_bits(x: Tensor) -> Tensor:
    """Uninitialised bits for dense activations (B, C, H, W)."""
    batch, channels, height, width = x.shape
    shape = bits_shape(batch, channels, height, width, packed_by_channels(x))
    return torch.empty(shape, dtype=torch.uint8, device=x.device)


def empty_activations(
    like: Tensor, height: int, width: int, by_channels: bool, dtype: torch.dtype | None = None
) -> Tensor:
    """An uninitialised dense (B, C, height, width) tensor with the batch, channels and device of `like`."""
    batch, channels = like.shape[:2]
    dtype = dtype or like.dtype
    if by_channels:
        return torch.empty((batch, height, width, channels), dtype=dtype, device=like.device).permute(0, 3, 1, 2)
    return torch.empty((batch, channels, height, width), dtype=dtype, device=like.device)


def in_layout(x: Tensor, by_channels: bool) -> Tensor:
    """The (B, C, H, W) tensor itself where it is dense with its channels (or its positions) side by side, else a copy
    that is."""
    return x.contiguous(memory_format=torch.channels_last if by_channels else torch.contiguous_format)
