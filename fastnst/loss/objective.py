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
0…1 (with `padding="circular"` across its seams too), and `total = α · content + β · style + γ · tv`. Several styles
with weights `ω_s` (Σ ω_s = 1) make `style = Σ_s ω_s style_s`.

`content_reduction` and `style_reduction` choose other constants for one of the terms (see `reductions`). `tv_kind`
chooses another variation (see `fastnst_kernels.total_variation`), and `tv_reduction="sum"` multiplies it by H·W.

That is the style term with `style_loss="gram"`; `style_statistics` and `sliced` have the others. With masks it is
the sum of those of the regions, each by its share of the image's area, and where the content is transparent nothing
counts: with `a` its alpha at a layer, content = Σ_l v_l · ½ Σ a² (F − P)² (or over Σ a² P²).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from fastnst_kernels import BlendedTarget, blend_targets, gram, image_ops
from torch import Tensor

from fastnst.errors import FastnstError
from fastnst.loss.guidance import Guidance, LayerGuidance
from fastnst.loss.moments import StyleRegions, loss_backend
from fastnst.loss.reductions import content_factor, style_factor
from fastnst.loss.scale import LossScale
from fastnst.loss.sliced import SlicedTargets, sliced_targets
from fastnst.loss.style_moments import region_targets
from fastnst.loss.taps import ContentTarget, LayerTap, SummedTap
from fastnst.loss.tile_taps import LayerSums, StyleTarget, layer_sums
from fastnst.network.backbone import Backbone
from fastnst.network.forward_tap import ForwardTap
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import levels_of
from fastnst.options.options import Options
from fastnst.options.parse import LayerWeights
from fastnst.wrapping import seam_variation


@dataclass(frozen=True)
class Loss:
    """The terms before their weights and the total after, float32 scalars on the image's device."""

    total: Tensor
    content: Tensor
    style: Tensor
    tv: Tensor


@dataclass(frozen=True)
class Variation:
    """The total variation of the image, of a `kind` of `fastnst_kernels.total_variation`: the term is `factor` times
    that, and the total has `weight` times that."""

    kind: str
    factor: float
    weight: float

    def added(self, loss: Loss, found: Tensor) -> Loss:
        """The loss with the variation `found`, (1,) or a scalar."""
        tv = found.sum() * self.factor
        return Loss(loss.total + self.weight * found.sum(), loss.content, loss.style, tv)


def variation_of(options: Options, height: int, width: int) -> Variation:
    """That of an image of this size in pixels."""
    factor = float(height * width) if options.tv_reduction == "sum" else 1.0
    return Variation(options.tv_kind, factor, options.tv_weight * factor)


class Evaluation(Protocol):
    """The total loss as a function of the image, however it is computed."""

    @property
    def runtime(self) -> Runtime: ...

    @property
    def loss_scale(self) -> LossScale: ...

    @property
    def is_tiled(self) -> bool:
        """Whether it moves and allocates memory as no captured graph may."""

    def loss(self, image: Tensor) -> Loss:
        """The loss of `image`, (1, 3, H, W) float32 in 0…1, without a gradient."""

    def loss_and_gradient(self, image: Tensor) -> tuple[Loss, Tensor]:
        """The loss, and the gradient of its total: (1, 3, H, W) float32, contiguous."""


@dataclass(frozen=True)
class Objective:
    """The total loss as a function of the image. Make one with `make_objective`."""

    backbone: Backbone
    content: dict[str, ContentTarget]
    style: Mapping[str, StyleTarget]
    content_weight: float
    style_weight: float
    variation: Variation
    runtime: Runtime
    loss_scale: LossScale
    wraps: bool = False
    guidance: Mapping[str, LayerGuidance] = field(default_factory=dict)
    _sums: dict[str, LayerSums] = field(default_factory=dict, init=False, repr=False)

    @property
    def is_tiled(self) -> bool:
        # What torch allocates to sort is its own affair.
        return any(isinstance(target, SlicedTargets) for target in self.style.values())

    def loss(self, image: Tensor) -> Loss:
        """The loss of `image`, (1, 3, H, W) float32 in 0…1, without a gradient."""
        taps = self._taps()
        self.backbone.forward(image, taps)
        tv = image_ops.total_variation(image, self.variation.kind, self.runtime.kernels)
        return self._loss(taps, tv + seam_variation(image, kind=self.variation.kind) if self.wraps else tv)

    def loss_and_gradient(self, image: Tensor) -> tuple[Loss, Tensor]:
        """The loss, and the gradient of its total: (1, 3, H, W) float32, contiguous.

        Nothing is read back to the host. In float16 the gradient is not finite where `loss_scale` is too large.
        """
        taps = self._taps()
        traces = self.backbone.forward(image, taps, record=True)
        scale = None
        if self.loss_scale.needed:
            self.loss_scale.follow(self._loss(taps, image.new_zeros((1,))).total)
            scale = self.loss_scale.factor
        gradient, tv = self.backbone.backward(
            image, traces, taps, tv_weight=self.variation.weight, tv_kind=self.variation.kind, scale=scale
        )
        if self.wraps:
            tv = tv + seam_variation(image, gradient, self.variation.weight, self.variation.kind)
        return self._loss(taps, tv), gradient.contiguous()

    def _taps(self) -> dict[str, LayerTap | SummedTap]:
        return {name: self._tap(name) for name in {**self.style, **self.content}}

    def _tap(self, name: str) -> LayerTap | SummedTap:
        """The fused tap of a Gram matrix and a content term of all positions; sums for what else there is."""
        style, content, guidance = self.style.get(name), self.content.get(name), self.guidance.get(name)
        scale = self.loss_scale.factor
        whole = guidance is None or guidance.opaque is None
        if whole and (style is None or isinstance(style, BlendedTarget)):
            return LayerTap(self.runtime, style, content, self.style_weight, self.content_weight, scale)
        if guidance is None:
            raise FastnstError("a style of regions needs to know where they are; give make_objective its guidance")
        if name not in self._sums:
            constant = None if content is None else content.weight
            self._sums[name] = layer_sums(
                self.runtime, style, constant, guidance, self.style_weight, self.content_weight
            )
        return SummedTap(self._sums[name], content, scale)

    def _loss(self, taps: Mapping[str, LayerTap | SummedTap], tv: Tensor) -> Loss:
        zero = torch.zeros_like(tv)
        style = sum((tap.style for tap in taps.values() if tap.style is not None), zero).sum()
        content = sum((tap.content for tap in taps.values() if tap.content is not None), zero).sum()
        total = self.content_weight * content + self.style_weight * style
        return self.variation.added(Loss(total, content, style, zero.sum()), tv)


def make_objective(
    backbone: Backbone,
    content: Tensor,
    style: Mapping[str, StyleTarget],
    options: Options,
    runtime: Runtime,
    guidance: Guidance | None = None,
) -> Objective:
    """The objective for an image of the size of `content`, (1, 3, H, W) float32 RGB in 0…1, with `style_targets`.

    With a `guidance` that is not plain, which is of the same size, the style's targets are those of its regions.
    """
    guidance = guidance or Guidance(content.shape[2], content.shape[3])
    layers = guidance.at(levels_of(options.network, options.taps), runtime.device)
    return Objective(
        backbone,
        content_targets(backbone, content, options, layers),
        style,
        options.content_weight,
        options.last_style_weight,
        variation_of(options, *content.shape[2:]),
        runtime,
        LossScale(runtime),
        options.wraps,
        layers,
    )


@torch.no_grad()
def content_targets(
    backbone: Backbone, content: Tensor, options: Options, guidance: Mapping[str, LayerGuidance] | None = None
) -> dict[str, ContentTarget]:
    """The content layers' features of `content`, (1, 3, H, W), with the constants of the chosen objective."""
    features = _features(backbone, content, options.active_content_layers)
    targets = {}
    for name, weight in options.active_content_layers:
        opaque = None if guidance is None else guidance[name].opaque
        seen = features[name].float() if opaque is None else features[name].float() * opaque
        energy = seen.square().sum().item()
        factor = content_factor(options.content_form, energy, features[name].numel())
        targets[name] = ContentTarget(features[name], weight * factor)
    return targets


@torch.no_grad()
def style_targets(
    backbone: Backbone,
    styles: Sequence[tuple[Tensor, float]],
    options: Options,
    runtime: Runtime,
    regions: StyleRegions | None = None,
) -> dict[str, StyleTarget]:
    """The style layers' targets, with the constants of the chosen objective.

    `styles` are (image, weight): (1, 3, H, W) float32 RGB in 0…1, each of its own size, and weights that sum to 1.
    `regions` are as for `region_targets`, which makes the targets of all but the Gram matrices of whole images. Of
    these several styles cost no more than one: with `k_s` the constant of style `s` and `k = Σ k_s`,
    `Σ k_s ‖G − A_s‖² = k ‖G − Ā‖² + Σ k_s ‖A_s − Ā‖²` where `Ā = Σ k_s A_s / k`.
    """
    if options.style_loss == "sliced":
        return dict(sliced_targets(backbone, styles, options, regions))
    if options.style_loss != "gram" or regions is not None:
        return dict(region_targets(backbone, styles, options, runtime, regions=regions))
    layers = options.active_style_layers
    grams: dict[str, list[Tensor]] = {name: [] for name, _ in layers}
    for image, _ in styles:
        features = _features(backbone, image, layers)
        for name, found in features.items():
            grams[name].append(gram(found, precision=runtime.dot_precision, backend=loss_backend(runtime)))
    shares = [share for _, share in styles]
    return {name: style_target(grams[name], shares, weight, options) for name, weight in layers}


def style_target(grams: list[Tensor], shares: list[float], weight: float, options: Options) -> BlendedTarget:
    """One layer's target: of the Gram matrices of several styles, (1, N, N) each, by their shares.

    Raises FastnstError where the constant of the relative objective is out of range.
    """
    weights = [
        weight * share * style_factor(options.style_form, _energy(matrix), matrix.shape[-1])
        for matrix, share in zip(grams, shares, strict=True)
    ]
    if not all(0 < each < math.inf for each, share in zip(weights, shares, strict=True) if share > 0):
        raise FastnstError(
            "the style's Gram matrix is out of float32's range; check the network's weights, and lower the weights of "
            "the style layers"
        )
    return blend_targets(grams, weights)


def _energy(matrix: Tensor) -> float:
    return float(matrix.double().square().sum().item())


@dataclass
class _Copy(ForwardTap):
    """A tap that keeps its layer's features."""

    features: Tensor | None = None

    def forward(self, features: Tensor) -> None:
        self.features = features.clone()


def _features(backbone: Backbone, image: Tensor, layers: LayerWeights) -> dict[str, Tensor]:
    taps = {name: _Copy() for name, _ in layers}
    backbone.forward(image, taps)
    return {name: tap.features for name, tap in taps.items() if tap.features is not None}
