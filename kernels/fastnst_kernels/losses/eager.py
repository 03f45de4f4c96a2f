"""The Gram matrix, its loss, the content loss and the gradient of a tap in plain torch.

The fast path on a CPU, and what runs where Triton does not. In the precision "bf16", on a CPU with 16-bit units,
bfloat16 features are multiplied as they are: Gram matrices as products of slices of positions, whose sum is float32,
and the gradient of a tap in one product that adds to what comes from above.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import accumulation_dtype, without_autocast
from fastnst_kernels.launch.layout import position_stride
from fastnst_kernels.losses.targets import ContentTerm, Owned, StyleTerm
from fastnst_kernels.relu.eager import bias_relu, zero_inactive

# Rows of G per product: blocks below the diagonal are skipped, and are not worth their own call when smaller.
_BLOCK_ROWS = 128
# Partial sums of a channels-last product: at most so many, and so many times the channels.
_MOST_PARTS = 16
_PART_CHANNELS = 2048
# Elements of features that are copied or widened to float32 at a time: they stay in the cache.
CHUNK_ELEMENTS = 1 << 19

# Positions of a 16-bit slice, and slices: each is rounded once; the more there are, the less their sum is off (of three
# by 0.1 %). A map of few positions is multiplied in float32.
_SLICE_POSITIONS, _LEAST_SLICES, _MOST_SLICES, _FEW_POSITIONS = 512, 3, 64, 512


def row_chunks(features: Tensor, parts: int = 8) -> Iterator[tuple[int, int]]:
    """The rows of (B, C, H, W) features as ranges (start, stop) of at most `CHUNK_ELEMENTS`, or of one row.

    A map is cut into as many `parts`, unless they would be small: what is copied of one is beside the map in memory.
    """
    batch, channels, height, width = features.shape
    elements = min(CHUNK_ELEMENTS, max(CHUNK_ELEMENTS // parts, features.numel() // parts))
    rows = max(1, elements // (batch * channels * width))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


@cache
def _has_16_bit_units() -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_16_bit(features: Tensor, precision: str) -> bool:
    """True for bfloat16 maps in channels-last on a CPU that may, and can, multiply them as they are."""
    by_position = features.stride(1) == 1 or features.shape[1] == 1
    return precision == "bf16" and features.dtype == torch.bfloat16 and by_position and _has_16_bit_units()


def _rows(features: Tensor) -> Tensor:
    """One map (C, H, W) in channels-last as (H·W, C), without a copy where it is whole."""
    return features.permute(1, 2, 0).reshape(-1, features.shape[0])


def _add_sliced_products(sums: Tensor, rows: Tensor) -> None:
    """Add Fᵀ F of 16-bit (M, C) rows to (C, C) float32 `sums`."""
    positions, channels = rows.shape
    if positions < _FEW_POSITIONS:
        rows = rows.float()
        sums.addmm_(rows.mT, rows)
        return
    slices = min(_MOST_SLICES, max(_LEAST_SLICES, positions // _SLICE_POSITIONS))
    length = positions // slices
    parts = rows[: slices * length].view(slices, length, channels)
    sums += torch.bmm(parts.mT, parts).sum(0, dtype=torch.float32)
    if slices * length < positions:
        rest = rows[slices * length :].float()
        sums.addmm_(rest.mT, rest)


def _add_products(sums: Tensor, matrix: Tensor) -> None:
    """Add F Fᵀ of one image's (C, M) matrix to (C, C) `sums`, on and above the diagonal blocks."""
    channels, positions = matrix.shape
    parts, length = 0, 0
    if matrix.stride(1) != 1:
        # One product of so tall a matrix whose channels are contiguous is up to nine times slower: the library does not
        # share the long axis among threads.
        parts = max(1, min(_MOST_PARTS, _PART_CHANNELS // channels, positions // (2 * channels)))
        length = positions // parts
    split = matrix[:, : parts * length].view(channels, parts, length).movedim(1, 0)
    rest = matrix[:, parts * length :]
    for row in range(0, channels, _BLOCK_ROWS):
        upper = sums[row : row + _BLOCK_ROWS, row:]
        if parts:
            upper += torch.bmm(split[:, row : row + _BLOCK_ROWS], split[:, row:].mT).sum(0)
        upper.addmm_(rest[row : row + _BLOCK_ROWS], rest[row:].mT)


def _products(features: Tensor, precision: str) -> Tensor:
    """F Fᵀ, (B, C, C) float32 (float64 for float64) and symmetric to the bit, of features (B, C, H, W)."""
    batch, channels = features.shape[:2]
    dtype = accumulation_dtype(features.dtype)
    result = torch.zeros((batch, channels, channels), dtype=dtype, device=features.device)
    whole = features.dtype == dtype and position_stride(features) is not None
    with without_autocast(features.device):
        for image, sums in zip(features, result, strict=True):
            if _is_16_bit(features, precision):
                _add_sliced_products(sums, _rows(image))
            elif whole:
                _add_products(sums, image.flatten(1))
            else:
                for start, stop in row_chunks(image[None]):
                    _add_products(sums, image[:, start:stop].to(dtype).flatten(1))
            # The product of a block on the diagonal need not be symmetric to the bit.
            sums.triu_().add_(sums.triu(1).mT)
    return result


def gram(features: Tensor, precision: str) -> Tensor:
    """G = F Fᵀ/M, (B, C, C) float32 (float64 for float64), of features (B, C, H, W), any floating dtype and layout.

    `precision`, here and below, is for "bf16" alone: else torch multiplies as its own settings say.
    """
    return _products(features, precision).div_(features.shape[2] * features.shape[3])


def accumulate_gram(sums: Tensor, features: Tensor, precision: str) -> None:
    """sums += F Fᵀ, in place in (B, C, C) float32 (float64 for float64), of features (B, C, H, W)."""
    if _is_16_bit(features, precision) and len(features) == 1:
        with without_autocast(features.device):
            _add_sliced_products(sums[0], _rows(features[0]))
    else:
        sums += _products(features, precision)


def bias_relu_gram(x: Tensor, bias: Tensor, y: Tensor, precision: str) -> Tensor:
    """Write F = max(x + bias, 0) into `y`, another dense (B, C, H, W) of the layout of `x`, and return sums of F Fᵀ, as
    `finish_gram_loss` takes them from the same backend."""
    bias_relu(x, bias, None, y, None)
    return _products(y, precision)


def gram_difference_loss(
    features: Tensor, target: Tensor, weight: float, offset: Tensor | None, offset_weight: float, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The `finish_gram_loss` of features (B, C, H, W)."""
    sums, positions = _products(features, precision), features[0, 0].numel()
    return finish_gram_loss(
        sums, positions, target, weight, offset=offset, offset_weight=offset_weight, dtype=features.dtype
    )


def finish_gram_loss(
    sums: Tensor,
    positions: int,
    target: Tensor,
    weight: float,
    offset: Tensor | None,
    offset_weight: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """`gram_difference_loss` from F Fᵀ, (B, C, C), over `positions`; `dtype` is Triton's alone."""
    difference = (sums / positions).sub_(target)
    loss = difference.square().sum((1, 2)).mul_(weight / (4 * sums.shape[1] ** 2))
    if offset is not None:
        loss.add_(offset, alpha=offset_weight)
    # Of their mean, the half is the scale.
    return loss, difference + difference.mT, torch.full_like(loss, 0.5)


def content_loss(features: Tensor, content: Tensor, weight: float) -> Tensor:
    """weight · Σ (F − P)² of features (B, C, H, W) and content (B or 1, C, H, W): (B,) float32 (float64 for it)."""
    dtype = accumulation_dtype(features.dtype)
    sums = [
        (features[:, :, start:stop].to(dtype) - content[:, :, start:stop].to(dtype)).square_().sum((1, 2, 3))
        for start, stop in row_chunks(features, parts=2)
    ]
    return torch.stack(sums).sum(0).mul_(weight)


def tap_backward(
    gradient: Tensor,
    *,
    features: Tensor,
    upstream: Tensor | None = None,
    style: StyleTerm | None = None,
    content: ContentTerm | None = None,
    relu: bool = False,
    owned: Owned | None = None,
    precision: str,
) -> None:
    """Write upstream + style term + content term, zero where `relu` and features ≤ 0, over `gradient` (B, C, H, W).

    `upstream` may be `gradient`. The two terms are added inside `owned` alone.
    """
    if upstream is None:
        gradient.zero_()
    elif upstream is not gradient:
        gradient.copy_(upstream)
    in_16_bit = _is_16_bit(features, precision) and gradient.stride(1) == 1 and len(features) == 1
    with without_autocast(features.device):
        (_add_terms_in_16_bit if in_16_bit else _add_terms)(gradient, features, style, content, owned)
    if relu:
        zero_inactive(gradient, features, out=gradient)


def _add_terms_in_16_bit(
    gradient: Tensor, features: Tensor, style: StyleTerm | None, content: ContentTerm | None, owned: Owned | None
) -> None:
    """Add the terms of one map to the gradient: each is rounded when it is added, products while they are summed."""
    top, left, height, width = owned or (0, 0, *features.shape[2:])
    inside = (slice(top, top + height), slice(left, left + width))
    own, place = features[:, :, *inside], gradient[:, :, *inside]
    if style is not None:
        low = (style.difference[0] * (style.gradient * style.scale * style.factor)).to(features.dtype)
        if owned is None and position_stride(gradient) is not None:
            _rows(gradient[0]).addmm_(_rows(own[0]), low)
        else:
            product = _rows(own[0]) @ low
            place += product.view(height, width, -1).permute(2, 0, 1)
    if content is not None:
        place += (own - content.content).mul_(content.gradient.view(()) * content.factor)


def _add_terms(
    gradient: Tensor, features: Tensor, style: StyleTerm | None, content: ContentTerm | None, owned: Owned | None
) -> None:
    """Add the terms to the gradient in chunks of rows, in the dtype of their sums."""
    dtype = accumulation_dtype(features.dtype)
    top, left, height, width = owned or (0, 0, *features.shape[2:])
    own, place = (x[:, :, top : top + height, left : left + width] for x in (features, gradient))
    for start, stop in row_chunks(own):
        f, out = own[:, :, start:stop].to(dtype), place[:, :, start:stop]
        total = out.to(dtype)
        if style is not None:
            coefficient = style.gradient * style.scale * style.factor
            total.addcmul_(_product(style.difference, f), coefficient[:, None, None, None])
        if content is not None:
            coefficient = content.gradient * content.factor
            total.addcmul_(f - content.content[:, :, start:stop], coefficient[:, None, None, None])
        if total is not out:
            out.copy_(total)


def _product(matrix: Tensor, features: Tensor) -> Tensor:
    """matrix · F of a symmetric (B, C, C) and (B, C, H, W), in the layout of the features."""
    f = features.flatten(2)
    product = torch.bmm(f.mT, matrix).mT if features.stride(1) == 1 else torch.bmm(matrix, f)
    return product.view(features.shape)
