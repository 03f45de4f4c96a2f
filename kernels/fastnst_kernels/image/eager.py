"""The operations at the image's edge in plain torch: the fast path on CPU, and what runs where Triton does not."""

from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels.launch.layout import dense, dense_channels_last, empty_map, flat, in_layout

# Elements whose variation is computed at a time: on a CPU a few arrays of them fit the last-level cache, a GPU is kept
# busy by a few calls.
_PIECE = 1 << 19
_GPU_PIECE = 1 << 25

# Rows and columns of an image (B, 3, H, W), as an index.
Place = tuple[EllipsisType, slice, slice]

Best = tuple[Tensor, Tensor]
"""The best image so far, dense and laid out as the present one, and whether that is better, a bool scalar."""


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
    return add_variation(dense(image), None, kind, 0.0)


def image_gradient(
    image: Tensor,
    upstream: Tensor | None,
    scale: Sequence[float],
    flip: bool,
    tv_weight: float,
    tv_gradient: Tensor | None = None,
    kind: str = "squared",
    divisor: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradient upstream · scale / divisor + tv_weight · ∂TV, (B, 3, H, W) in the image's layout, and the TV (B,).

    `divisor`, (1,) float32, is a power of two. The gradient is written into `out` if that is given.
    """
    image = dense(image)
    last = dense_channels_last(image)
    if upstream is None:
        gradient = empty_map(image, last, dtype=image.dtype).zero_()
    else:
        gradient = normalise_backward(upstream, scale, flip, dtype=image.dtype, channels_last=last)
    if divisor is not None:
        gradient.div_(divisor)
    if out is not None:
        gradient = out.copy_(gradient)
    weight = tv_weight if tv_gradient is None else (tv_gradient * tv_weight)[:, None, None, None]
    return gradient, add_variation(image, gradient, kind, weight)


def add_variation(image: Tensor, gradient: Tensor | None, kind: str, weight: float | Tensor) -> Tensor:
    """The total variation (B,) of images (B, 3, H, W); weight · its derivative is added to `gradient`."""
    positions = image[0, 0].numel()
    factor = weight * ((1.0 if kind == "absolute" else 2.0) / positions)
    adds = isinstance(weight, Tensor) or weight != 0
    sums = []
    for near, far, share in _neighbours(image, kind):
        difference = image[far] - image[near]
        if kind == "absolute":
            sums.append(difference.abs().sum((1, 2, 3)))
            difference.sgn_()
        else:
            sums.append(difference.square().sum((1, 2, 3)) * share)
        if adds and gradient is not None:
            difference *= factor * share
            # Not `+=`, which would copy what it has written.
            gradient[far].add_(difference)
            gradient[near].sub_(difference)
    return torch.stack(sums).sum(0) / positions


def _neighbours(image: Tensor, kind: str) -> Iterator[tuple[Place, Place, float]]:
    """All pairs of neighbours, in pieces: the places of the first and of the second of them, and how often their
    difference counts in a sum that is divided by H·W in the end."""
    height, width = image.shape[2:]
    step = max(1, (_PIECE if image.device.type == "cpu" else _GPU_PIECE) // image[:, :, 0].numel())
    straight, diagonal = 1.0, 0.0
    if kind == "nine-point":
        straight, diagonal = 2 / 9, height * width / (18 * (height + 1) * (width + 1))
    directions = [(0, 1, straight), (1, 0, straight)]
    if diagonal:
        directions += [(1, 1, diagonal), (1, -1, diagonal)]
    for row in range(0, height, step):
        for down, right, share in directions:
            rows, columns = (row, min(row + step, height - down)), (max(0, -right), width - max(0, right))
            yield _place(rows, columns), _place(rows, columns, down=down, right=right), share
    if diagonal:
        # Where the border is replicated, each of both diagonals is a difference along it.
        for row in (0, height - 1):
            rows, columns = (row, row + 1), (0, width - 1)
            yield _place(rows, columns), _place(rows, columns, right=1), 2 * diagonal
        for column in (0, width - 1):
            rows, columns = (0, height - 1), (column, column + 1)
            yield _place(rows, columns), _place(rows, columns, down=1), 2 * diagonal


def _place(rows: tuple[int, int], columns: tuple[int, int], *, down: int = 0, right: int = 0) -> Place:
    return (..., slice(rows[0] + down, rows[1] + down), slice(columns[0] + right, columns[1] + right))


def adam_step(
    image: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: Tensor,
    learning_rate: float,
    betas: Sequence[float],
    epsilon: float,
    limits: Sequence[float] | None,
    best: Best | None = None,
) -> None:
    """One step of Adam in place; image, first and second are dense and of one layout. Before, `keep_best`."""
    keep_best(image, best)
    gradient = in_layout(gradient, dense_channels_last(image))
    x, g, m, v = ([flat(tensor)] for tensor in (image, gradient, first, second))
    # What torch.optim.Adam(fused=True) calls: one pass, and the step is read where it lies.
    rates = dict[str, Any](lr=learning_rate, beta1=betas[0], beta2=betas[1], weight_decay=0.0, eps=epsilon)
    torch._fused_adam_(x, g, m, v, [], [step.reshape(()).float()], **rates, amsgrad=False, maximize=False)
    if limits is not None:
        image.clamp_(*limits)


def keep_best(image: Tensor, best: Best | None) -> None:
    """Copies `image` over the best one if it is better."""
    if best is not None:
        torch.where(best[1], image, best[0], out=best[0])
