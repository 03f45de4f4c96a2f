"""The losses against float64: Gram matrices, taps with each of their terms, and the sums and gradients of tiles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import BlendedTarget, GramDifference, blend_targets, direct, style_tap, tap, tap_gradient
from fastnst_kernels.losses import accumulate_gram, finish_gram_loss, gram, gram_loss, reference
from fastnst_kernels.losses.targets import ContentTerm, StyleTerm, difference_dtype
from fastnst_kernels.verify import budget
from fastnst_kernels.verify.budget import Expected
from fastnst_kernels.verify.check import Operation, Site, differentiated

WEIGHT = 0.2
CONTENT_WEIGHT = 0.5
BLEND = (0.4, 1.5)
_UNIT = budget.unit(torch.float32)


def features_of(site: Site) -> Tensor:
    """Features as after a ReLU: not negative, part of them zero, with a mean of their own."""
    features: Tensor = (site.noise(0)(*site.shape) + 0.3).relu().to(site.mode.dtype)
    return features


def target_near(features: Tensor, noise: Tensor) -> Tensor:
    """A style target (C, C) float32 of the size of the first image's Gram matrix, and not symmetric."""
    return (reference.gram(features[:1])[0] * (1 + 0.5 * noise)).float()


def bring_to_one(gradient: Tensor) -> Tensor:
    """The loss gradient (B,) that brings the features' gradient to the size of noise, and into the range of 16 bit."""
    return (1 / gradient.abs().mean((1, 2, 3))).float()


def gram_operations(site: Site) -> Iterator[Operation]:
    noise, precision = site.noise(1), site.mode.precision
    options: dict[str, Any] = {"precision": precision, "backend": site.backend}
    features = features_of(site)
    channels = site.shape[1]
    target = target_near(features, noise(channels, channels))
    upstream = noise(*site.shape).to(site.mode.dtype)
    above = noise(len(features), channels, channels) * features[0, 0].numel()
    forward, backward = [budget.gram(features, precision)], budget.gram_gradient(features, above, precision)
    function: Callable[..., Any] = partial(gram, **options)
    yield differentiated("gram", "", features, function, gradients=[above], forward=forward, backward=backward)

    loss_gradient = bring_to_one(reference.gram_loss_gradient(features, target, WEIGHT))
    terms: dict[str, Any] = {"target": target, "weight": WEIGHT, "style_gradient": loss_gradient}
    forward, gradients = [budget.gram_loss(features, target, WEIGHT, precision)], [loss_gradient]
    backward = budget.tap_gradient(features, torch.zeros_like(upstream), precision=precision, **terms)
    function = partial(gram_loss, target=target, weight=WEIGHT, **options)
    yield differentiated("gram_loss", "", features, function, gradients=gradients, forward=forward, backward=backward)

    forward, gradients = [Expected.equal(features), *forward], [upstream, loss_gradient]
    backward = budget.tap_gradient(features, upstream, precision=precision, **terms)
    function = partial(style_tap, target=target, weight=WEIGHT, **options)
    yield differentiated("style_tap", "", features, function, gradients=gradients, forward=forward, backward=backward)
    if site.backend != "reference":
        yield _activated(site, features, target)


def _activated(site: Site, features: Tensor, target: Tensor) -> Operation:
    """The features and their loss from what is before bias and ReLU; their sum is exact."""
    precision = site.mode.precision
    bias = torch.linspace(-0.5, 0.5, site.shape[1], device=site.device).to(site.mode.dtype)
    before = torch.where(features > 0, features, -1.0) - bias[:, None, None]
    exact = (before.double() + bias.double()[:, None, None]).relu().to(site.mode.dtype)

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        given = before.contiguous(memory_format=layout)
        written = torch.empty_like(given)
        sums = direct.bias_relu_gram(site.backend, given, bias, written, precision)
        positions, terms = given[0, 0].numel(), (target[None], WEIGHT, None, 1.0)
        loss, _, _ = direct.finish_gram_loss(site.backend, sums, positions, *terms, dtype=given.dtype)
        return {"forward": [written, loss]}

    forward = [Expected.equal(exact), budget.gram_loss(exact, target, WEIGHT, precision)]
    return Operation("bias_relu_gram", "", run, {"forward": forward})


_VARIANTS = ("content", "content, ReLU, in place", "style, content, ReLU", "blended styles, ReLU, in place")


def content_of(features: Tensor, noise: Tensor) -> Tensor:
    """Content features of one image, in the dtype of the features and of about their size."""
    return noise[:1].relu().to(features.dtype)


def blended_loss(features: Tensor, targets: Sequence[Tensor], blended: BlendedTarget, precision: str) -> Expected:
    """Σ_s WEIGHT · w_s/4N² · Σ (G − A_s)², from the targets one by one.

    To the budget of the loss of the blended target alone, what rounding that target and its offset adds.
    """
    exact = sum(
        (reference.gram_loss(features, target, WEIGHT * share) for target, share in zip(targets, BLEND, strict=True)),
        start=torch.zeros(len(features), dtype=torch.float64, device=features.device),
    )
    total, matrix = WEIGHT * blended.weight, blended.matrix.double()
    alone = reference.gram_loss(features, matrix, total)
    carried = ((reference.gram(features) - matrix) * matrix).square().sum((1, 2)).sqrt()
    carried = total / (2 * features.shape[1] ** 2) * carried
    rounding = 2 * _UNIT * (carried + WEIGHT * blended.offset.double() + exact)
    allowed = budget.gram_loss(features, blended.matrix, total, precision).budget
    return Expected(exact, (allowed * alone + rounding) / exact)


def tap_operations(site: Site) -> Iterator[Operation]:
    noise = site.noise(2)
    features = features_of(site)
    channels = site.shape[1]
    targets = [target_near(features, noise(channels, channels)) for _ in BLEND]
    content = content_of(features, noise(*site.shape))
    upstream = noise(*site.shape).to(site.mode.dtype)
    for variant in _VARIANTS:
        yield _tap(site, variant, features=features, targets=targets, content=content, upstream=upstream)


def _tap(
    site: Site, variant: str, *, features: Tensor, targets: Sequence[Tensor], content: Tensor, upstream: Tensor
) -> Operation:
    precision, switches = site.mode.precision, variant.split(", ")
    relu, inplace = "ReLU" in switches, "in place" in switches
    given: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    forward, gradients = [Expected.equal(features)], [upstream]
    if "content" not in switches[0]:
        target: Tensor | BlendedTarget = targets[0]
        matrix, weight, loss = targets[0], WEIGHT, budget.gram_loss(features, targets[0], WEIGHT, precision)
        if switches[0] == "blended styles":
            target = blended = blend_targets(targets, BLEND)
            matrix, weight = blended.matrix, WEIGHT * blended.weight
            loss = blended_loss(features, targets, blended, precision)
        forward.append(loss)
        gradients.append(bring_to_one(reference.gram_loss_gradient(features, matrix, weight)))
        given |= {"target": target, "weight": WEIGHT}
        exact |= {"target": matrix, "weight": weight, "style_gradient": gradients[-1]}
    if "content" in switches:
        gradients.append(bring_to_one(2 * CONTENT_WEIGHT * (features.double() - content.double())))
        forward.append(budget.content_loss(features, content, CONTENT_WEIGHT))
        terms = {"content": content, "content_weight": CONTENT_WEIGHT}
        given |= terms
        exact |= {**terms, "content_gradient": gradients[-1]}
    # The input of the ReLU that leaves the features.
    below = torch.where(features > 0, features, -upstream.abs()) if relu else features
    given |= {"relu": relu, "inplace": inplace, "precision": precision, "backend": site.backend}
    backward = budget.tap_gradient(features, upstream, relu=relu, precision=precision, **exact)

    def function(leaf: Tensor) -> Sequence[Tensor | None]:
        return tap(leaf.clone() if inplace else leaf, **given)

    return differentiated("tap", variant, below, function, gradients=gradients, forward=forward, backward=backward)


def tile_operations(site: Site) -> Iterator[Operation]:
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
    crops = list(product(rows, columns))

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        given = features.contiguous(memory_format=layout)
        sums = torch.zeros((batch, channels, channels), device=site.device)
        for part in crops:
            accumulate_gram(sums, given[(..., *part)], precision=site.mode.precision, backend=site.backend)
        return {"forward": [sums]}

    # Each crop's sum is added to those before it, and rounded.
    matrix = budget.gram(features, site.mode.precision)
    allowed = matrix.budget + 2 * _UNIT * len(crops) ** 0.5
    expected = Expected(matrix.exact * (height * width), allowed)
    return Operation("accumulate_gram", "crops", run, {"forward": [expected]})


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
    kept = difference_dtype(site.mode.dtype, site.backend)
    allowed = 2 * (carried + torch.finfo(kept).eps / 2)
    loss = blended_loss(features, targets, blended, site.mode.precision)
    return Operation("finish_gram_loss", "blended styles", run, {"forward": [loss, Expected(exact, allowed)]})


def _backward(site: Site, features: Tensor) -> Iterator[Operation]:
    """The gradient of a tile whose owned part is a whole picture, and whose halo has the upstream alone."""
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

    def difference(weight: float) -> GramDifference:
        return finish_gram_loss(sums, positions, target, weight, dtype=site.mode.dtype, backend=backend)[1]

    def run_gradient(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        given, above = (tensor.contiguous(memory_format=layout) for tensor in (inner, upstream[inside]))
        # The weight of the loss takes its gradient's place: one number for all images.
        style = difference(WEIGHT * same)
        return {"backward": [tap_gradient(given, style, above, precision=precision, backend=backend)]}

    def run_backward(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        gradient, style = upstream.to(memory_format=layout, copy=True), difference(WEIGHT)
        direct.tap_backward(
            backend,
            gradient,
            features=features.contiguous(memory_format=layout),
            upstream=gradient,
            style=StyleTerm(style.matrix, style.scale, style_gradient, style.factor),
            content=ContentTerm(content, content_gradient, 2 * CONTENT_WEIGHT),
            relu=True,
            owned=owned,
            precision=precision,
        )
        own = gradient[inside].clone()
        gradient[inside] = 0
        return {"backward": [own, gradient]}

    same = float(style_gradient[0])
    terms: dict[str, Any] = {"target": target, "weight": WEIGHT, "precision": precision}
    whole = budget.tap_gradient(inner, upstream[inside], style_gradient=torch.full_like(style_gradient, same), **terms)
    yield Operation("tap_gradient", "", run_gradient, {"backward": [whole]})
    terms |= {"content": content, "content_weight": CONTENT_WEIGHT, "content_gradient": content_gradient}
    own = budget.tap_gradient(inner, upstream[inside], style_gradient=style_gradient, relu=True, **terms)
    halo = reference.tap_gradient(features, upstream, relu=True)
    halo[inside] = 0
    expected = {"backward": [own, Expected.equal(halo)]}
    yield Operation("tap_backward", "owned, ReLU, into upstream", run_backward, expected)
