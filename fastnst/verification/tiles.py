"""The operations on tiles against float64: sums over crops, the loss from them, and backward inside the owned part."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from fastnst_kernels import (
    GramDifference,
    accumulate_gram,
    blend_targets,
    budget,
    finish_gram_loss,
    ops,
    reference,
    tap_gradient,
    tile_tap,
)
from torch import Tensor

from fastnst.verification.check import Expected, Operation, Site, gradient_of
from fastnst.verification.gram import WEIGHT, bring_to_one, features_of, target_near
from fastnst.verification.tap import BLEND, CONTENT_WEIGHT, blended_loss, content_of

_UNIT = torch.finfo(torch.float32).eps / 2


def operations(site: Site) -> Iterator[Operation]:
    """The checks of the operations on tiles at one site."""
    features = features_of(site)
    yield _accumulate(site, features)
    yield _finish(site, features)
    yield from _backward(site, features)


def _accumulate(site: Site, features: Tensor) -> Operation:
    """The sums of four crops, which meet at no block's edge, over those of the whole."""
    batch, channels, height, width = features.shape
    row, column = height // 3 + 1, width // 2 + 1
    rows = [part for part in (slice(0, row), slice(row, height)) if part.start < part.stop]
    columns = [part for part in (slice(0, column), slice(column, width)) if part.start < part.stop]

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        given = features.contiguous(memory_format=layout)
        sums = torch.zeros((batch, channels, channels), device=site.device)
        for vertical in rows:
            for horizontal in columns:
                crop = given[:, :, vertical, horizontal]
                accumulate_gram(sums, crop, precision=site.mode.precision, backend=site.backend)
        return {"forward": [sums]}

    # Each crop's sum is added to those before it, and rounded.
    allowed = budget.gram_budget(features, site.mode.precision) + 2 * _UNIT * (len(rows) * len(columns)) ** 0.5
    exact = reference.gram(features) * (height * width)
    return Operation("accumulate_gram", "crops", run, {"forward": [Expected(exact, allowed)]})


def _finish(site: Site, features: Tensor) -> Operation:
    """The loss of blended targets and the difference for backward, from the sums that float64 gives."""
    noise, channels, positions = site.noise(3), features.shape[1], features[0, 0].numel()
    targets = [target_near(features, noise(channels, channels)) for _ in BLEND]
    blended = blend_targets(targets, BLEND)
    matrix = reference.gram(features)
    sums = (matrix * positions).float()
    symmetric = (blended.matrix.double() + blended.matrix.double().mT) / 2
    exact = (matrix - symmetric) * (WEIGHT * blended.weight / (channels**2 * positions))

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        loss, difference = finish_gram_loss(
            sums.clone(), positions, blended, WEIGHT, dtype=site.mode.dtype, backend=site.backend
        )
        scale = (difference.scale.double() * difference.factor)[:, None, None]
        return {"forward": [loss, difference.matrix.double() * scale]}

    # The sums, their division and the target's symmetric part are rounded, and then the difference itself.
    size = (matrix - symmetric).flatten(1).norm(dim=1)
    carried = _UNIT * (2 * matrix.square() + symmetric.square()).sum((1, 2)).sqrt() / size
    kept = ops.difference_dtype(site.mode.dtype, site.backend)
    allowed = 2 * (carried + torch.finfo(kept).eps / 2)
    loss = blended_loss(features, targets, blended, WEIGHT, site.mode.precision)
    return Operation("finish_gram_loss", "blended styles", run, {"forward": [loss, Expected(exact, allowed)]})


def _backward(site: Site, features: Tensor) -> Iterator[Operation]:
    """Backward through a tile whose owned part is a whole picture, and whose halo has the upstream alone."""
    noise, precision, backend = site.noise(4), site.mode.precision, site.backend
    channels, height, width = features.shape[1:]
    owned = (height // 4, width // 3, (height + 1) // 2, (width + 1) // 2)
    inside = (..., slice(owned[0], owned[0] + owned[2]), slice(owned[1], owned[1] + owned[3]))
    inner = features[inside]
    target = target_near(inner, noise(channels, channels))
    upstream = noise(*site.shape).to(site.mode.dtype)
    content = content_of(inner, noise(*inner.shape))
    style_gradient = bring_to_one(reference.gram_loss_gradient(inner, target, WEIGHT))
    content_gradient = bring_to_one(2 * CONTENT_WEIGHT * (inner.double() - content.double()))
    positions = inner[0, 0].numel()
    sums = (reference.gram(inner) * positions).float()
    style = reference.style_matrix(inner, target, WEIGHT, style_gradient)

    def difference() -> GramDifference:
        return finish_gram_loss(sums, positions, target, WEIGHT, dtype=site.mode.dtype, backend=backend)[1]

    def split(gradient: Tensor) -> list[Tensor]:
        halo = gradient.clone()
        halo[inside] = 0
        return [gradient[inside], halo]

    def expected(relu: bool) -> list[Expected]:
        exact = reference.tap_gradient(
            features,
            upstream,
            style=style,
            content=content,
            content_coefficient=2 * CONTENT_WEIGHT * content_gradient,
            relu=relu,
            owned=owned,
        )
        allowed = budget.tap_budget(
            inner,
            upstream[inside],
            target=target,
            weight=WEIGHT,
            style_gradient=style_gradient,
            content=content,
            content_weight=CONTENT_WEIGHT,
            content_gradient=content_gradient,
            relu=relu,
            precision=precision,
        )
        own, halo = split(exact)
        return [Expected(own, allowed), Expected.equal(halo)]

    def run_gradient(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        gradient = tap_gradient(
            features.contiguous(memory_format=layout),
            upstream=upstream.to(memory_format=layout, copy=True),
            difference=difference(),
            style_gradient=style_gradient,
            content=content,
            content_weight=CONTENT_WEIGHT,
            content_gradient=content_gradient,
            owned=owned,
            relu=True,
            into_upstream=True,
            precision=precision,
            backend=backend,
        )
        return {"backward": split(gradient)}

    def run_tap(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        leaf = features.to(memory_format=layout, copy=True).requires_grad_()
        passed = tile_tap(
            leaf,
            difference=difference(),
            style_gradient=style_gradient,
            content=content,
            content_weight=CONTENT_WEIGHT,
            content_gradient=content_gradient,
            owned=owned,
            precision=precision,
            backend=backend,
        )
        torch.autograd.backward(passed, upstream.to(memory_format=layout, copy=True))
        return {"forward": [passed.detach()], "backward": split(gradient_of(leaf))}

    passed = Expected.equal(features)
    yield Operation("tile_tap", "owned", run_tap, {"forward": [passed], "backward": expected(False)})
    yield Operation("tap_gradient", "owned, ReLU, into upstream", run_gradient, {"backward": expected(True)})
