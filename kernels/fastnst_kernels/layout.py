"""Feature maps seen as matrices: which memory layouts the kernels read without a copy."""

import torch
from torch import Tensor


def position_stride(features: Tensor) -> int | None:
    """Stride in elements between neighbouring positions of a (B, C, H, W) tensor whose H and W act as one axis of H·W.

    None where no single stride does (a cropped or transposed map).
    """
    height, width = features.shape[2:]
    row_stride, column_stride = features.stride()[2:]
    if height == 1 or width == 1:
        return column_stride if height == 1 else row_stride
    return column_stride if row_stride == width * column_stride else None


def channels_last(features: Tensor) -> bool:
    """Whether the channels of one position lie side by side, and the positions of one channel do not."""
    return features.shape[1] > 1 and features.stride(1) == 1 and position_stride(features) != 1


def empty_gradient(features: Tensor, dtype: torch.dtype) -> Tensor:
    """An uninitialised dense tensor of the shape of `features`, (B, C, H, W), channels-last if `features` is."""
    batch, channels, height, width = features.shape
    if channels_last(features):
        rows = torch.empty((batch, height, width, channels), dtype=dtype, device=features.device)
        return rows.permute(0, 3, 1, 2)
    return torch.empty((batch, channels, height, width), dtype=dtype, device=features.device)
