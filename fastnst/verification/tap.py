"""`tap` with each of its terms against float64: content, style, blended styles, the ReLU, in place or not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from fastnst_kernels import BlendedTarget, blend_targets, budget, reference, tap
from torch import Tensor

from fastnst.verification.check import Expected, Operation, Site, gradient_of
from fastnst.verification.gram import WEIGHT, bring_to_one, features_of, target_near

CONTENT_WEIGHT = 0.5
BLEND = (0.4, 1.5)


@dataclass(frozen=True)
class _Switches:
    style: str
    content: bool
    relu: bool
    inplace: bool

    @property
    def name(self) -> str:
        words = (self.style, "content" * self.content, "ReLU" * self.relu, "in place" * self.inplace)
        return ", ".join(word for word in words if word)


_VARIANTS = (
    _Switches(style="", content=True, relu=False, inplace=False),
    _Switches(style="", content=True, relu=True, inplace=True),
    _Switches(style="style", content=True, relu=True, inplace=False),
    _Switches(style="blended styles", content=False, relu=True, inplace=True),
)


def content_of(features: Tensor, noise: Tensor) -> Tensor:
    """Content features of one image, in the dtype of the features and of about their size."""
    return noise[:1].relu().to(features.dtype)


def blended_loss(
    features: Tensor, targets: Sequence[Tensor], blended: BlendedTarget, weight: float, precision: str
) -> Expected:
    """Σ_s weight · w_s/4N² · Σ (G − A_s)², from the targets one by one.

    To the budget of the loss of the blended target alone, what rounding that target and its offset adds.
    """
    exact = sum(
        (reference.gram_loss(features, target, weight * share) for target, share in zip(targets, BLEND, strict=True)),
        start=torch.zeros(len(features), dtype=torch.float64, device=features.device),
    )
    total, matrix = weight * blended.weight, blended.matrix.double()
    alone = reference.gram_loss(features, matrix, total)
    carried = ((reference.gram(features) - matrix) * matrix).square().sum((1, 2)).sqrt()
    carried = total / (2 * features.shape[1] ** 2) * carried
    unit = torch.finfo(torch.float32).eps / 2
    rounding = 2 * unit * (carried + weight * blended.offset.double() + exact)
    allowed = budget.gram_loss_budget(features, blended.matrix, total, precision)
    return Expected(exact, (allowed * alone + rounding) / exact)


def operations(site: Site) -> Iterator[Operation]:
    """The checks of `tap` in its variants at one site."""
    noise = site.noise(2)
    features = features_of(site)
    channels = site.shape[1]
    targets = [target_near(features, noise(channels, channels)) for _ in BLEND]
    content = content_of(features, noise(*site.shape))
    upstream = noise(*site.shape).to(site.mode.dtype)
    for switches in _VARIANTS:
        yield _operation(site, switches, features, targets, content, upstream)


def _operation(
    site: Site, switches: _Switches, features: Tensor, targets: Sequence[Tensor], content: Tensor, upstream: Tensor
) -> Operation:
    precision = site.mode.precision
    blended = blend_targets(targets, BLEND)
    matrix, weight, target = targets[0], WEIGHT, targets[0] if switches.style == "style" else blended
    if switches.style == "blended styles":
        matrix, weight = blended.matrix, WEIGHT * blended.weight
    forward, gradients = [Expected.equal(features)], [upstream]
    style = style_gradient = coefficient = content_gradient = None
    if switches.style:
        style_gradient = bring_to_one(reference.gram_loss_gradient(features, matrix, weight))
        style = reference.style_matrix(features, matrix, weight, style_gradient)
        gradients.append(style_gradient)
        if switches.style == "style":
            allowed = budget.gram_loss_budget(features, matrix, weight, precision)
            forward.append(Expected(reference.gram_loss(features, matrix, weight), allowed))
        else:
            forward.append(blended_loss(features, targets, blended, WEIGHT, precision))
    if switches.content:
        content_gradient = bring_to_one(2 * CONTENT_WEIGHT * (features.double() - content.double()))
        coefficient = 2 * CONTENT_WEIGHT * content_gradient
        gradients.append(content_gradient)
        allowed = budget.content_loss_budget(features, content, CONTENT_WEIGHT)
        forward.append(Expected(reference.content_loss(features, content, CONTENT_WEIGHT), allowed))
    exact = reference.tap_gradient(
        features, upstream, style=style, content=content, content_coefficient=coefficient, relu=switches.relu
    )
    allowed = budget.tap_budget(
        features,
        upstream,
        target=matrix if switches.style else None,
        weight=weight,
        style_gradient=style_gradient,
        content=content if switches.content else None,
        content_weight=CONTENT_WEIGHT,
        content_gradient=content_gradient,
        relu=switches.relu,
        precision=precision,
    )
    # What a ReLU makes the features of.
    below = torch.where(features > 0, features, -upstream.abs()) if switches.relu else features

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        leaf = below.to(memory_format=layout, copy=True).requires_grad_()
        passed, style_loss, content_loss = tap(
            leaf.clone() if switches.inplace else leaf,
            target=target if switches.style else None,
            weight=WEIGHT,
            content=content if switches.content else None,
            content_weight=CONTENT_WEIGHT,
            relu=switches.relu,
            inplace=switches.inplace,
            precision=precision,
            backend=site.backend,
        )
        outputs = [passed, *(loss for loss in (style_loss, content_loss) if loss is not None)]
        torch.autograd.backward(outputs, [upstream.to(memory_format=layout, copy=True), *gradients[1:]])
        return {"forward": [output.detach() for output in outputs], "backward": [gradient_of(leaf)]}

    return Operation("tap", switches.name, run, {"forward": forward, "backward": [Expected(exact, allowed)]})
