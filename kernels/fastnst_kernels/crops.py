"""Feature maps that are crops of larger ones, whose H and W do not act as one axis: they are read without a copy."""

import torch
from torch import Tensor

from fastnst_kernels.layout import channels_last, position_stride

# Elements that a block of the kernels may reach beyond the end of an axis.
_OVERHANG = 127


def as_readable(features: Tensor) -> Tensor:
    """(B, C, H, W) features themselves where their channels or the positions of a row are contiguous, which crops of
    such maps are too, else a contiguous copy."""
    if features.stride(1) == 1 or features.stride(3) == 1 or position_stride(features) == 1:
        return features
    return features.contiguous()


def as_one_axis(features: Tensor) -> Tensor:
    """(B, C, H, W) features themselves where they are readable and H and W act as one axis, else a dense copy in their
    layout."""
    stride = position_stride(features)
    if stride is not None and (stride == 1 or features.stride(1) == 1):
        return features
    layout = torch.channels_last if channels_last(features) else torch.contiguous_format
    return features.contiguous(memory_format=layout)


def is_crop(features: Tensor) -> bool:
    """Whether no single stride leads from each position of a (B, C, H, W) map to the next."""
    return position_stride(features) is None


def position_strides(features: Tensor) -> tuple[int, int]:
    """Strides of the rows and of the positions in a row; (0, the position stride) where H and W act as one axis."""
    stride = position_stride(features)
    return (0, stride) if stride is not None else (features.stride(2), features.stride(3))


def wide(features: Tensor) -> bool:
    """Whether an offset inside one image of a readable map, or a block beyond its end, can need more than 31 bits."""
    channels, height, width = features.shape[1:]
    stride_h, stride_w = position_strides(features)
    if not is_crop(features):
        height, width = 0, height * width
    sizes = ((channels, features.stride(1)), (height, stride_h), (width, stride_w))
    return sum((size + _OVERHANG) * stride for size, stride in sizes) >= 2**31


def aligned(features: Tensor) -> bool:
    """Whether a readable map is read in vectors of 16 bytes: each row of its matrix starts at a multiple of them."""
    stride_h, stride_w = position_strides(features)
    steps = [features.storage_offset(), features.stride(0), stride_h]
    if channels_last(features):
        steps.append(stride_w)
    else:
        steps.append(features.stride(1))
        # A vector must not run over the end of a row: 16 is what the compiler is told of a number.
        if is_crop(features) and (features.shape[3] % 16 or stride_h % 16):
            return False
    return all(step * features.element_size() % 16 == 0 for step in steps)
