"""The operations at the image's edge in plain torch: the fast path on CPU, and what runs where Triton does not.

All of them work through the image in pieces that stay in the cache, so that memory is read and written about once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnst_kernels.launch.layout import dense, dense_channels_last, empty_map, in_layout

# Elements of a piece: on a CPU a few arrays of it fit the last-level cache, and each call on it outweighs starting the
# threads; a GPU is kept busy by a few calls.
_PIECE = 1 << 19
_GPU_PIECE = 1 << 25


def normalise(
    image: Tensor, scale: Sequence[float], shift: Sequence[float], flip: bool, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """x · scale + shift in `dtype`, (B, 3, H, W), of an image (B, 3, H, W) float32 or float64."""
    result = empty_map(image, channels_last, dtype=image.dtype)
    for channel, (a, b) in enumerate(zip(scale, shift, strict=True)):
        x = image[:, 2 - channel if flip else channel]
        torch.add(torch.full((), b, dtype=image.dtype, device=image.device), x, alpha=a, out=result[:, channel])
    return result.to(dtype)


def normalise_backward(
    upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    """upstream · scale, (B, 3, H, W) in `dtype`, planes or channels-last."""
    gradient = empty_map(upstream, channels_last, dtype=dtype)
    for channel, a in enumerate(scale):
        target = gradient[:, 2 - channel if flip else channel]
        if upstream.dtype == dtype:
            torch.mul(upstream[:, channel], a, out=target)
        else:
            target.copy_(upstream[:, channel]).mul_(a)
    return gradient


def total_variation(image: Tensor, kind: str) -> Tensor:
    """The total variation of an image (B, 3, H, W), (B,) in its dtype."""
    return torch.stack([_add_variation(x, None, kind, 0.0) for x in dense(image)])


def image_gradient(
    image: Tensor,
    upstream: Tensor | None,
    scale: Sequence[float],
    flip: bool,
    tv_weight: float,
    tv_gradient: Tensor | None,
    kind: str,
) -> tuple[Tensor, Tensor]:
    """The gradient upstream · scale + tv_weight · ∂TV, (B, 3, H, W) in the image's layout, and the TV (B,)."""
    image = dense(image)
    last = dense_channels_last(image)
    if upstream is None:
        gradient = empty_map(image, last, dtype=image.dtype).zero_()
    else:
        gradient = normalise_backward(upstream, scale, flip, dtype=image.dtype, channels_last=last)
    weights: Sequence[float | Tensor] = [tv_weight] * len(image)
    if tv_gradient is not None:
        weights = list(tv_gradient * tv_weight)
    values = [_add_variation(x, g, kind, weight) for x, g, weight in zip(image, gradient, weights, strict=True)]
    return gradient, torch.stack(values)


def _add_variation(image: Tensor, gradient: Tensor | None, kind: str, weight: float | Tensor) -> Tensor:
    """The total variation of one image (3, H, W); weight · its derivative is added to `gradient`."""
    rows = 1
    if not image.is_contiguous():
        rows, image = 0, image.permute(1, 2, 0)
        gradient = None if gradient is None else gradient.permute(1, 2, 0)
    columns = rows + 1
    height, width = image.shape[rows], image.shape[columns]
    factor = weight * ((1.0 if kind == "absolute" else 2.0) / (height * width))
    step = max(1, (_PIECE if image.device.type == "cpu" else _GPU_PIECE) // (3 * width))
    buffers = image.new_empty((2, 3 * max(min(step, height) * width, height)))
    sums = [image.new_zeros(())]

    def part(x: Tensor, row: int, column: int, pairs: _Pairs) -> Tensor:
        return x.narrow(rows, row, pairs.height).narrow(columns, column, pairs.width)

    for pairs in _pairs(kind, height, width, step):
        near = part(image, pairs.row, pairs.column, pairs)
        far = part(image, pairs.row + pairs.down, pairs.column + pairs.right, pairs)
        difference = buffers[0][: near.numel()].view(near.shape)
        torch.sub(far, near, out=difference)
        terms = buffers[1][: near.numel()].view(near.shape)
        if kind == "absolute":
            sums.append(torch.abs(difference, out=terms).sum())
            difference.sgn_()
        else:
            sums.append(torch.mul(difference, difference, out=terms).sum() * pairs.share)
        if gradient is not None:
            difference *= factor * pairs.share
            part(gradient, pairs.row + pairs.down, pairs.column + pairs.right, pairs).add_(difference)
            part(gradient, pairs.row, pairs.column, pairs).sub_(difference)
    return torch.stack(sums).sum() / (height * width)


@dataclass(frozen=True)
class _Pairs:
    """Neighbours: each pixel of a block, and the one `down` rows below and `right` columns beside it. Their differences
    count `share` times."""

    row: int
    height: int
    column: int
    width: int
    down: int
    right: int
    share: float


def _pairs(kind: str, height: int, width: int, step: int) -> Iterator[_Pairs]:
    """All pairs of neighbours, in blocks of at most `step` rows, or of one column. The shares are those of a sum that
    is divided by H·W in the end."""
    straight, diagonal = 1.0, 0.0
    if kind == "nine-point":
        straight, diagonal = 2 / 9, height * width / (18 * (height + 1) * (width + 1))
    directions = [(0, 1, straight), (1, 0, straight)]
    if diagonal:
        directions += [(1, 1, diagonal), (1, -1, diagonal)]
    for row in range(0, height, step):
        for down, right, share in directions:
            rows, columns = min(step, height - row - down), width - abs(right)
            if rows > 0 and columns > 0:
                yield _Pairs(
                    row=row, height=rows, column=max(0, -right), width=columns, down=down, right=right, share=share
                )
    if not diagonal:
        return
    # Where the border is replicated, each of both diagonals is a difference along it.
    for row in (0, height - 1):
        if width > 1:
            yield _Pairs(row=row, height=1, column=0, width=width - 1, down=0, right=1, share=2 * diagonal)
    for column in (0, width - 1):
        if height > 1:
            yield _Pairs(row=0, height=height - 1, column=column, width=1, down=1, right=0, share=2 * diagonal)


def adam_step(
    image: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: Tensor,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    limits: tuple[float, float] | None,
) -> None:
    """One step of Adam in place; image, first and second are dense and of one layout."""
    tensors = [_flat(x) for x in (image, in_layout(gradient, dense_channels_last(image)), first, second)]
    piece = min(_PIECE, image.numel()) if image.device.type == "cpu" else image.numel()
    steps = [step.reshape(()).float()]
    # What torch.optim.Adam(fused=True) calls: one pass, and the step is read where it lies.
    for x, g, m, v in zip(*(torch.split(tensor, piece) for tensor in tensors), strict=True):
        torch._fused_adam_(
            [x],
            [g],
            [m],
            [v],
            [],
            steps,
            lr=learning_rate,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=epsilon,
            amsgrad=False,
            maximize=False,
        )
        if limits is not None:
            x.clamp_(*limits)


def _flat(image: Tensor) -> Tensor:
    """The elements of a dense tensor in memory order."""
    return image.view(-1) if image.is_contiguous() else image.permute(0, 2, 3, 1).view(-1)
