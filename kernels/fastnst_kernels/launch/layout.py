"""Memory layouts of feature maps and images: which of them the kernels read without a copy, and how sign bits lie.

A map (B, C, H, W) is dense as NCHW, where a channel's positions lie side by side, or as channels-last, where a
position's channels do. As a matrix (C, M) it has M = H·W positions; a crop of a larger map has no single stride from
each position to the next.
"""

import torch
from torch import Tensor

# Elements that a block of the kernels may reach beyond the end of an axis.
_OVERHANG = 127


def exact_device(device: torch.device) -> torch.device:
    """The device on which float64 goes with `device`: the CPU where it has none, as Apple's."""
    return device if device.type in ("cpu", "cuda", "meta") else torch.device("cpu")


def exact(tensor: Tensor) -> Tensor:
    """The tensor in float64, on the `exact_device` of its own."""
    return tensor.to(exact_device(tensor.device), torch.float64)


def position_stride(features: Tensor) -> int | None:
    """Stride in elements between neighbouring positions of a (B, C, H, W) map whose H and W act as one axis of H·W.

    None where no single stride does (a cropped or transposed map).
    """
    height, width = features.shape[2:]
    row_stride, column_stride = features.stride()[2:]
    if height == 1 or width == 1:
        return column_stride if height == 1 else row_stride
    return column_stride if row_stride == width * column_stride else None


def position_strides(features: Tensor) -> tuple[int, int]:
    """Strides of the rows and of the positions in a row; (0, the position stride) where H and W act as one axis."""
    stride = position_stride(features)
    return (0, stride) if stride is not None else (features.stride(2), features.stride(3))


def strides(features: Tensor, prefix: str = "", *, crop: bool = False) -> dict[str, int]:
    """The strides of features (B, C, H, W) as arguments of a kernel, in elements: of images (0 where there is but one),
    channels, rows and positions; those of rows are 0 where H and W act as one axis, unless `crop` asks for both."""
    stride_h, stride_w = features.stride()[2:] if crop else position_strides(features)
    return {
        f"{prefix}stride_b": 0 if features.shape[0] == 1 else features.stride(0),
        f"{prefix}stride_c": features.stride(1),
        f"{prefix}stride_h": stride_h,
        f"{prefix}stride_w": stride_w,
    }


def strides_of_one_axis(features: Tensor, prefix: str = "") -> dict[str, int]:
    """`strides` of features whose H and W act as one axis, without that of rows."""
    return {name: stride for name, stride in strides(features, prefix).items() if not name.endswith("_h")}


def flat(x: Tensor) -> Tensor:
    """The elements of a dense tensor in memory order, without a copy. Raises ValueError for another layout."""
    if x.is_contiguous():
        return x.view(-1)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).view(-1)
    raise ValueError(f"image with strides {x.stride()} is neither contiguous nor channels-last; make it contiguous")


def is_crop(features: Tensor) -> bool:
    """True if no single stride leads from each position of a (B, C, H, W) map to the next."""
    return position_stride(features) is None


def channels_last(features: Tensor) -> bool:
    """True if the channels of one position lie side by side, and the positions of one channel do not."""
    return features.shape[1] > 1 and features.stride(1) == 1 and position_stride(features) != 1


def as_readable(features: Tensor) -> Tensor:
    """Features whose channels, or positions of a row, are contiguous, as in crops too: themselves, or a copy."""
    if features.stride(1) == 1 or features.stride(3) == 1 or position_stride(features) == 1:
        return features
    return features.contiguous()


def as_one_axis(features: Tensor) -> Tensor:
    """Readable features whose H and W act as one axis: themselves, or a dense copy in their layout."""
    stride = position_stride(features)
    if stride is not None and (stride == 1 or features.stride(1) == 1):
        return features
    return in_layout(features, channels_last(features))


def wide(*maps: Tensor) -> bool:
    """True if an offset inside one image of a readable map, or a block beyond its end, can need more than 31 bits."""
    return any(_span(features) >= 2**31 for features in maps)


def _span(features: Tensor) -> int:
    channels, height, width = features.shape[1:]
    stride_h, stride_w = position_strides(features)
    if not is_crop(features):
        height, width = 0, height * width
    sizes = ((channels, features.stride(1)), (height, stride_h), (width, stride_w))
    return sum((size + _OVERHANG) * stride for size, stride in sizes)


def wide_image(image: Tensor) -> bool:
    """True if an offset inside one dense image (B, 3, H, W), or a tile beyond its end, can need more than 31 bits."""
    height, width = image.shape[2:]
    return 3 * (height + 512) * (width + 4096) >= 2**31


def aligned(features: Tensor) -> bool:
    """True if a readable map is read in vectors of 16 bytes: each row of its matrix starts at a multiple of them."""
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


def is_dense(x: Tensor) -> bool:
    """True if a (B, C, H, W) tensor is contiguous or channels-last without gaps."""
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def dense(x: Tensor) -> Tensor:
    """The (B, C, H, W) tensor itself where it is dense, else a contiguous copy."""
    return x if is_dense(x) else x.contiguous()


def in_layout(x: Tensor, last: bool) -> Tensor:
    """The (B, C, H, W) tensor itself where it is dense, channels-last if `last`, NCHW if not; else a copy that is."""
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def dense_channels_last(x: Tensor) -> bool:
    """True if a dense (B, C, H, W) tensor is channels-last; one that is both, as with one channel, is not."""
    return not x.is_contiguous()


def empty_map(
    like: Tensor, last: bool, *, dtype: torch.dtype | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """An uninitialised map as `like`, (B, C, H, W), or of another `size` (H, W); channels-last if `last`, else NCHW."""
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (*like.shape[:2], *(size or like.shape[2:]))
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def packed_by_channels(x: Tensor) -> bool:
    """True if the sign bits of dense activations (B, C, H, W) run along the channels: of channels-last ones (B, H, W,
    ⌈C/8⌉), of NCHW ones (B, C, H, ⌈W/8⌉), both uint8.

    Bit i of byte k is activation 8·k + i of its run; the bits that pad a run to whole bytes are 0. Strides of axes of
    one do not matter, and one channel alone is NCHW.
    """
    return x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last)


def empty_bits(x: Tensor, by_channels: bool | None = None) -> Tensor:
    """Uninitialised bits for dense activations (B, C, H, W), in their layout unless `by_channels` says."""
    by_channels = packed_by_channels(x) if by_channels is None else by_channels
    *outer, run = x.permute(0, 2, 3, 1).shape if by_channels else x.shape
    return torch.empty((*outer, (run + 7) // 8), dtype=torch.uint8, device=x.device)
