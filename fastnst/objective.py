"""The objective of Gatys, Ecker and Bethge (2016) and its gradient with respect to the image.

`F` (N filters × M positions) are the features of the image at a layer, `P` those of the content image, `G = F Fᵀ / M`
the Gram matrix and `A` that of the style image (over the style image's own positions).

`objective="paper"`, to the letter::

    content = Σ_l v_l · ½ Σ (F − P)²
    style   = Σ_l w_l · 1/(4 N²) Σ (G − A)²

`objective="relative"`, each layer's term divided by its target's own energy, so that 1 means "as far from the target as
nothing at all", with any network and at any size::

    content = Σ_l v_l · Σ (F − P)² / Σ P²
    style   = Σ_l w_l · Σ (G − A)² / Σ A²

In both, `tv = 1/(H·W) Σ ((x_{i,j+1} − x_{i,j})² + (x_{i+1,j} − x_{i,j})²)` over the pixels and channels of the image in
0…1, and `total = α · content + β · style + γ · tv`. Several styles with weights `ω_s` (Σ ω_s = 1) make
`style = Σ_s ω_s style_s`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from fastnst_kernels import gram, style_tap
from torch import Tensor

from fastnst.backbone import Backbone, Tap
from fastnst.errors import FastnstError
from fastnst.options import LayerWeights, Options
from fastnst.runtime import Runtime


@dataclass(frozen=True)
class ContentTarget:
    """`weight · Σ (F − features)²` is this layer's share of the content term; features are (1, C, H, W)."""

    features: Tensor
    weight: float


@dataclass(frozen=True)
class StyleTarget:
    """`weight · 1/(4 N²) Σ (G − gram)² + constant` is this layer's share of the style term.

    gram is (1, C, C) float32.
    """

    gram: Tensor
    weight: float
    constant: float


@dataclass(frozen=True)
class Loss:
    """The terms before their weights and the total after, float32 scalars on the image's device."""

    total: Tensor
    content: Tensor
    style: Tensor
    tv: Tensor


@dataclass(frozen=True)
class Objective:
    """The total loss as a function of the image. Make one with `make_objective`."""

    backbone: Backbone
    content: dict[str, ContentTarget]
    style: dict[str, StyleTarget]
    content_weight: float
    style_weight: float
    tv_weight: float
    runtime: Runtime

    def loss(self, image: Tensor) -> Loss:
        """The loss of `image`, (1, 3, H, W) float32 in 0…1; differentiable."""
        content_terms: list[Tensor] = []
        style_terms: list[Tensor] = []
        taps: dict[str, Tap] = {}
        for name in {**self.style, **self.content}:
            taps[name] = partial(
                self._tap, self.style.get(name), self.content.get(name), content_terms.append, style_terms.append
            )
        self.backbone(image, taps)
        content = _total(content_terms, image)
        style = _total(style_terms, image)
        tv = total_variation(image)
        total = self.content_weight * content + self.style_weight * style + self.tv_weight * tv
        return Loss(total, content, style, tv)

    def loss_and_gradient(self, image: Tensor) -> tuple[Loss, Tensor]:
        """The loss, and the gradient of its total: (1, 3, H, W) float32, contiguous."""
        leaf = image.detach().requires_grad_()
        loss = self.loss(leaf)
        if self.runtime.dtype == torch.float16:
            gradient = _scaled_gradient(loss.total, leaf)
        else:
            (gradient,) = torch.autograd.grad(loss.total, leaf)
        detached = Loss(loss.total.detach(), loss.content.detach(), loss.style.detach(), loss.tv.detach())
        return detached, gradient.contiguous()

    def _tap(
        self,
        style: StyleTarget | None,
        content: ContentTarget | None,
        add_content: Callable[[Tensor], None],
        add_style: Callable[[Tensor], None],
        features: Tensor,
    ) -> Tensor:
        if style is not None:
            features, loss = style_tap(
                features,
                style.gram,
                style.weight,
                precision=self.runtime.dot_precision,
                backend=self.runtime.backend,
            )
            add_style(loss.sum() + style.constant)
        if content is not None:
            add_content(content.weight * _squared_distance(features, content.features))
        return features


def make_objective(
    backbone: Backbone, content: Tensor, style: dict[str, StyleTarget], options: Options, runtime: Runtime
) -> Objective:
    """The objective for an image of the size of `content`, (1, 3, H, W) float32 RGB in 0…1, with `style_targets`."""
    return Objective(
        backbone,
        content_targets(backbone, content, options),
        style,
        options.content_weight,
        options.style_weight,
        options.tv_weight,
        runtime,
    )


@torch.no_grad()
def content_targets(backbone: Backbone, content: Tensor, options: Options) -> dict[str, ContentTarget]:
    """The content layers' features of `content`, (1, 3, H, W), with the constants of the chosen objective."""
    features = _features(backbone, content, options.active_content_layers)
    targets = {}
    for name, weight in options.active_content_layers:
        energy = features[name].float().square().sum().item()
        constant = 0.5 if options.objective == "paper" else 1 / max(energy, math.ulp(1.0))
        targets[name] = ContentTarget(features[name], weight * constant)
    return targets


@torch.no_grad()
def style_targets(
    backbone: Backbone, styles: Sequence[tuple[Tensor, float]], options: Options, runtime: Runtime
) -> dict[str, StyleTarget]:
    """The style layers' Gram targets, with the constants of the chosen objective.

    `styles` are (image, weight): (1, 3, H, W) float32 RGB in 0…1, each of its own size, and weights that sum to 1.
    Several styles cost no more than one: with `k_s` the constant of style `s` and `k = Σ k_s`,
    `Σ k_s ‖G − A_s‖² = k ‖G − Ā‖² + Σ k_s ‖A_s − Ā‖²` where `Ā = Σ k_s A_s / k`.
    """
    layers = options.active_style_layers
    grams: dict[str, list[Tensor]] = {name: [] for name, _ in layers}
    for image, _ in styles:
        features = _features(backbone, image, layers)
        for name, found in features.items():
            grams[name].append(gram(found, precision=runtime.dot_precision, backend=runtime.backend))
    shares = [share for _, share in styles]
    return {name: _style_target(grams[name], shares, weight, options) for name, weight in layers}


def _style_target(grams: list[Tensor], shares: list[float], weight: float, options: Options) -> StyleTarget:
    exact = [matrix.double() for matrix in grams]
    per_filter = 4 * exact[0].shape[-1] ** 2
    constants = [
        weight * share * (1.0 if options.objective == "paper" else per_filter / max(_energy(matrix), math.ulp(1.0)))
        for matrix, share in zip(exact, shares, strict=True)
    ]
    total = sum(constants)
    if not all(0 < constant < math.inf for constant, share in zip(constants, shares, strict=True) if share > 0):
        raise FastnstError(
            "the style's Gram matrix is out of float32's range; check the network's weights, and lower the weights of "
            "the style layers"
        )
    mean = sum((constant / total * matrix for constant, matrix in zip(constants, exact, strict=True)), exact[0] * 0)
    spread = sum(
        constant / per_filter * _energy(matrix - mean) for constant, matrix in zip(constants, exact, strict=True)
    )
    return StyleTarget(mean.to(grams[0].dtype), total, spread)


def _energy(matrix: Tensor) -> float:
    return float(matrix.square().sum().item())


def total_variation(image: Tensor) -> Tensor:
    """`1/(H·W) Σ ((x_{i,j+1} − x_{i,j})² + (x_{i+1,j} − x_{i,j})²)`, summed over the channels of (1, 3, H, W)."""
    height, width = image.shape[-2:]
    across = (image[..., :, 1:] - image[..., :, :-1]).square().sum()
    down = (image[..., 1:, :] - image[..., :-1, :]).square().sum()
    return (across + down) / (height * width)


def _squared_distance(features: Tensor, target: Tensor) -> Tensor:
    return (features.float() - target.float()).square().sum()


def _features(backbone: Backbone, image: Tensor, layers: LayerWeights) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str, features: Tensor) -> Tensor:
        found[name] = features
        return features

    backbone(image, {name: partial(keep, name) for name, _ in layers})
    return found


def _total(terms: list[Tensor], image: Tensor) -> Tensor:
    return torch.stack(terms).sum() if terms else image.new_zeros(())


def _scaled_gradient(total: Tensor, leaf: Tensor) -> Tensor:
    """The gradient through float16 features, of a loss scaled up so that small gradients do not vanish.

    The scale is the largest power of two tried that overflows nothing.
    """
    for exponent in range(24, -25, -4):
        (gradient,) = torch.autograd.grad(total * 2.0**exponent, leaf, retain_graph=True)
        if bool(gradient.isfinite().all()):
            return gradient * 2.0**-exponent
    return gradient
