"""`gram`, `gram_loss` and `style_tap` against float64."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from fastnst_kernels import budget, gram, gram_loss, reference, style_tap
from torch import Tensor

from fastnst.verification.check import Expected, Operation, Site, gradient_of

WEIGHT = 0.2


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


def operations(site: Site) -> Iterator[Operation]:
    """The checks of `gram`, `gram_loss` and `style_tap` at one site."""
    noise, precision, backend = site.noise(1), site.mode.precision, site.backend
    features = features_of(site)
    channels = site.shape[1]
    target = target_near(features, noise(channels, channels))
    upstream = noise(*site.shape).to(site.mode.dtype)
    gram_gradient = noise(len(features), channels, channels) * features[0, 0].numel()
    own = reference.gram_loss_gradient(features, target, WEIGHT)
    loss_gradient = bring_to_one(own)
    scaled = loss_gradient.double()[:, None, None, None] * own

    def leaf_of(layout: torch.memory_format) -> Tensor:
        return features.to(memory_format=layout, copy=True).requires_grad_()

    def run_gram(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        leaf = leaf_of(layout)
        result = gram(leaf, precision=precision, backend=backend)
        torch.autograd.backward(result, gram_gradient)
        return {"forward": [result.detach()], "backward": [gradient_of(leaf)]}

    def run_loss(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        leaf = leaf_of(layout)
        loss = gram_loss(leaf, target, WEIGHT, precision=precision, backend=backend)
        torch.autograd.backward(loss, loss_gradient)
        return {"forward": [loss.detach()], "backward": [gradient_of(leaf)]}

    def run_tap(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        leaf, above = leaf_of(layout), upstream.to(memory_format=layout, copy=True)
        passed, loss = style_tap(leaf, target, WEIGHT, precision=precision, backend=backend)
        torch.autograd.backward([passed, loss], [above, loss_gradient])
        return {"forward": [passed.detach(), loss.detach()], "backward": [gradient_of(leaf)]}

    def tap_budget(above: Tensor) -> Tensor:
        return budget.style_tap_budget(features, target, WEIGHT, above, loss_gradient, precision)

    matrix = Expected(reference.gram(features), budget.gram_budget(features, precision))
    matrix_gradient = Expected(
        reference.gram_gradient(features, gram_gradient),
        budget.gram_gradient_budget(features, gram_gradient, precision),
    )
    loss = Expected(
        reference.gram_loss(features, target, WEIGHT), budget.gram_loss_budget(features, target, WEIGHT, precision)
    )
    loss_only = Expected(scaled, tap_budget(torch.zeros_like(upstream)))
    with_upstream = Expected(scaled + upstream.double(), tap_budget(upstream))
    yield Operation("gram", "", run_gram, {"forward": [matrix], "backward": [matrix_gradient]})
    yield Operation("gram_loss", "", run_loss, {"forward": [loss], "backward": [loss_only]})
    passed = Expected.equal(features)
    yield Operation("style_tap", "", run_tap, {"forward": [passed, loss], "backward": [with_upstream]})
