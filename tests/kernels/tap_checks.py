"""The comparison of a whole tap, and of the tiles of a picture with the whole, against float64 within their budgets."""

from collections.abc import Iterator
from typing import Any

import torch
from fastnst_kernels import direct
from fastnst_kernels.launch.backends import accumulation_dtype
from fastnst_kernels.losses import GramDifference, accumulate_gram, finish_gram_loss, reference, tap
from fastnst_kernels.losses.targets import ContentTerm, Owned, StyleTerm
from fastnst_kernels.verify import budget
from kernel_checks import assert_expected, make_target
from torch import Tensor


def make_content(features: Tensor, *, batch: int = 1, channels_last: bool = False) -> Tensor:
    """Content features of the shape of the features, of one image or of as many."""
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(features.shape, generator=generator)[:batch].relu().to(features.device, features.dtype)
    values = values * features.abs().amax().clamp_min(1e-3) / 2
    return values.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def before_relu(features: Tensor) -> Tensor:
    """Features before a ReLU that leaves `features`, which are not negative."""
    generator = torch.Generator().manual_seed(5)
    below = -torch.rand(features.shape, generator=generator).to(features.device, features.dtype)
    return torch.where(features > 0, features, below)


def check_tap(
    features: Tensor,
    *,
    backend: str,
    style: bool,
    content: Tensor | None,
    relu: bool,
    weight: float = 1.0,
    content_weight: float = 0.5,
    upstream: Tensor | None = None,
    precision: str = "ieee",
) -> None:
    """Both losses of `tap`, and its gradient, within their budgets, for non-negative `features` after the ReLU."""
    target = make_target(features) if style else None
    dtype = accumulation_dtype(features.dtype)
    gradients: list[Tensor] = []
    outputs: list[Tensor] = []
    own = torch.zeros(features.shape, dtype=torch.float64, device=features.device)
    if target is not None:
        own = reference.gram_loss_gradient(features, target, weight)
    style_gradient = (1.0 / own.abs().mean((1, 2, 3)).clamp_min(1e-30)).to(dtype) if style else None
    content_gradient = None
    if content is not None:
        size = (features.double() - content.double()).abs().mean((1, 2, 3)).clamp_min(1e-30)
        content_gradient = (1.0 / size).to(dtype)
    generator = torch.Generator().manual_seed(2)
    if upstream is None:
        upstream = torch.randn(features.shape, generator=generator).to(features.device, features.dtype)
    leaf = (before_relu(features) if relu else features.detach().clone()).requires_grad_()
    passed, style_loss, content_loss = tap(
        leaf,
        target=target,
        weight=weight,
        content=content,
        content_weight=content_weight,
        relu=relu,
        precision=precision,
        backend=backend,
    )
    assert torch.equal(passed, features)
    assert (style_loss is None, content_loss is None) == (target is None, content is None)
    for loss, gradient in ((passed, upstream), (style_loss, style_gradient), (content_loss, content_gradient)):
        if loss is not None and gradient is not None:
            outputs.append(loss)
            gradients.append(gradient)
    torch.autograd.backward(outputs, gradients)
    assert leaf.grad is not None
    if target is not None and style_loss is not None:
        assert_expected(style_loss, budget.gram_loss(features, target, weight, precision), "style loss")
    if content is not None and content_loss is not None:
        assert_expected(content_loss, budget.content_loss(features, content, content_weight), "content loss")
    expected = budget.tap_gradient(
        features,
        upstream,
        target=target,
        weight=weight,
        style_gradient=style_gradient,
        content=content,
        content_weight=content_weight,
        content_gradient=content_gradient,
        relu=relu,
        precision=precision,
    )
    assert_expected(leaf.grad, expected, "gradient")
    if relu:
        assert leaf.grad[features <= 0].count_nonzero() == 0


def tiles_of(height: int, width: int, side: int, halo: int) -> Iterator[tuple[tuple[slice, slice], Owned]]:
    """The tiles of a map: the rows and columns of each with its halo, and the positions that it owns inside of them."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            bottom, right = min(top + side, height), min(left + side, width)
            first, before = max(0, top - halo), max(0, left - halo)
            region = slice(first, min(height, bottom + halo)), slice(before, min(width, right + halo))
            yield region, (top - first, left - before, bottom - top, right - left)


def tile_gradient(
    features: Tensor,
    *,
    upstream: Tensor,
    difference: GramDifference | None = None,
    style_gradient: Tensor | None = None,
    content: Tensor | None = None,
    content_weight: float = 1.0,
    owned: Owned | None = None,
    relu: bool = True,
    gradient: Tensor | None = None,
    precision: str = "ieee",
    backend: str,
) -> Tensor:
    """The gradient of a tile, in `gradient`, which may be `upstream`, or in a tensor of its own."""
    ones = torch.ones(len(features), dtype=accumulation_dtype(features.dtype), device=features.device)
    style = None
    if difference is not None:
        above = ones if style_gradient is None else style_gradient
        style = StyleTerm(difference.matrix, difference.scale, above, difference.factor)
    result = torch.empty_like(features) if gradient is None else gradient
    direct.tap_backward(
        backend,
        result,
        features=features,
        upstream=upstream,
        style=style,
        content=None if content is None else ContentTerm(content, ones, 2 * content_weight),
        relu=relu,
        owned=owned,
        precision=precision,
    )
    return result


def check_tiles(
    features: Tensor,
    *,
    backend: str,
    relu: bool,
    with_content: bool = True,
    side: int = 5,
    halo: int = 2,
    precision: str = "ieee",
) -> None:
    """The loss and the gradient by tiles are those of the whole, and each tile's halo has the upstream alone."""
    batch, channels, height, width = features.shape
    dtype = accumulation_dtype(features.dtype)
    target = make_target(features)
    layout = features.stride(1) == 1 and channels > 1
    content = make_content(features, batch=batch, channels_last=layout) if with_content else None
    sums = torch.zeros((batch, channels, channels), dtype=dtype, device=features.device)
    tiles = list(tiles_of(height, width, side, halo))
    for (rows, columns), (top, left, own_height, own_width) in tiles:
        tile = features[:, :, rows, columns]
        owned = tile[:, :, top : top + own_height, left : left + own_width]
        accumulate_gram(sums, owned, precision=precision, backend=backend)
    assert torch.equal(sums, sums.mT)
    positions = height * width
    assert_expected(sums / positions, budget.gram(features, precision), "Gram matrix by tiles", budgets=2)
    size = reference.gram_loss_gradient(features, target).abs().mean((1, 2, 3)).clamp_min(1e-30)
    style_gradient = (1.0 / size).to(dtype)
    loss, difference = finish_gram_loss(sums, positions, target, dtype=features.dtype, backend=backend)
    assert_expected(loss, budget.gram_loss(features, target, 1.0, precision), "loss by tiles", budgets=2)
    generator = torch.Generator().manual_seed(6)
    upstream = torch.randn(features.shape, generator=generator).to(features.device, features.dtype)
    assembled = torch.full_like(features, float("nan"))
    for (rows, columns), owned_positions in tiles:
        top, left, own_height, own_width = owned_positions
        tile = features[:, :, rows, columns]
        tile = tile.contiguous(memory_format=torch.channels_last if layout else torch.contiguous_format)
        above = upstream[:, :, rows, columns]
        inner = (..., slice(top, top + own_height), slice(left, left + own_width))
        first, column = rows.start + top, columns.start + left
        outer = (..., slice(first, first + own_height), slice(column, column + own_width))
        options: dict[str, Any] = {
            "difference": difference,
            "style_gradient": style_gradient,
            "content": None if content is None else content[outer],
            "owned": owned_positions,
            "relu": relu,
            "precision": precision,
            "backend": backend,
        }
        gradient = tile_gradient(tile, upstream=above, **options)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            buffer = above.clone(memory_format=memory_format)
            assert torch.equal(tile_gradient(tile, upstream=buffer, gradient=buffer, **options), gradient)
        assembled[outer] = gradient[inner]
        outside = torch.ones_like(gradient, dtype=torch.bool)
        outside[inner] = False
        alone = torch.where(tile <= 0, 0.0, above) if relu else above
        assert torch.equal(gradient[outside], alone[outside])
    expected = budget.tap_gradient(
        features,
        upstream,
        target=target,
        style_gradient=style_gradient,
        content=content,
        relu=relu,
        precision=precision,
    )
    assert_expected(assembled, expected, "gradient by tiles", budgets=2)


def _repeated(block: Tensor, height: int, width: int, channels_last: bool, batch: int) -> Tensor:
    """A map of `batch` images made of equal blocks, (1, C, h, w) each; h and w divide its height and width."""
    result = torch.empty(
        (batch, block.shape[1], height, width),
        dtype=block.dtype,
        device=block.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    row = block.repeat(1, 1, 1, width // block.shape[3])
    for top in range(0, height, block.shape[2]):
        result[:, :, top : top + block.shape[2]] = row
    return result


def check_repeated(
    block: Tensor, height: int, width: int, *, batch: int, channels_last: bool, backend: str, precision: str = "ieee"
) -> None:
    """A picture of equal blocks has the Gram matrix and the gradient of one, at sizes that float64 does not fit.

    Forward by the sums of two tiles, backward over the memory of the upstream, with each term, at the picture's end.
    """
    channels, side = block.shape[1], block.shape[2]
    target, content = make_target(block), make_content(block)
    generator = torch.Generator().manual_seed(7)
    upstream = torch.randn(block.shape, generator=generator).to(block.device, block.dtype)
    features = _repeated(block, height, width, channels_last, batch)
    sums = torch.zeros((batch, channels, channels), device=block.device)
    for tile in (features[:, :, :side], features[:, :, side:]):
        accumulate_gram(sums, tile, precision=precision, backend=backend)
    positions = height * width
    assert_expected(sums / positions, budget.gram(block, precision), "Gram matrix of equal blocks", budgets=10)
    loss, difference = finish_gram_loss(sums, positions, target, dtype=block.dtype, backend=backend)
    assert torch.isfinite(loss).all()
    own = reference.gram_loss_gradient(block, target)
    factor = side * block.shape[3] / positions
    style_gradient = (1.0 / own.abs().mean() / factor).float().expand(batch).contiguous()
    above = _repeated(upstream, height, width, channels_last, batch)
    gradient = tile_gradient(
        features,
        upstream=above,
        gradient=above,
        difference=difference,
        style_gradient=style_gradient,
        content=_repeated(content, height, width, channels_last, 1),
        content_weight=0.25,
        relu=True,
        precision=precision,
        backend=backend,
    )
    expected = budget.tap_gradient(
        block,
        upstream,
        target=target,
        style_gradient=style_gradient[:1] * factor,
        content=content,
        content_weight=0.25,
        relu=True,
        precision=precision,
    )
    width_of_block = block.shape[3]
    for last in (gradient[-1:, :, -side:, -width_of_block:], gradient[:1, :, :side, :width_of_block]):
        assert_expected(last, expected, "gradient of equal blocks", budgets=10)


def check_equal_runs(features: Tensor, *, backend: str, runs: int) -> None:
    """Losses, gradient and sums are equal to the bit, run after run."""
    target, content = make_target(features), make_content(features)
    size = features.shape[1]

    def run() -> tuple[Tensor, ...]:
        leaf = features.detach().clone().requires_grad_()
        passed, style, distance = tap(leaf, target=target, content=content, relu=True, backend=backend)
        assert style is not None
        assert distance is not None
        (gradient,) = torch.autograd.grad(passed.float().sum() + style.sum() + distance.sum(), leaf)
        sums = torch.zeros((len(features), size, size), device=features.device)
        accumulate_gram(sums, features[:, :, 1:, 1:], backend=backend)
        accumulate_gram(sums, features, backend=backend)
        return style.detach(), distance.detach(), gradient, sums

    first = run()
    for _ in range(runs):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))
