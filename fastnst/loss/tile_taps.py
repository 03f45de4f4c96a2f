"""What a layer contributes to the loss of an image seen in tiles: sums over what each owns, then their gradient.

The counterpart of `taps` for tiles: the Gram matrix is that of the whole image, known once all tiles have been seen.
"""

from dataclasses import dataclass, field

import torch
from fastnst_kernels import BlendedTarget, GramDifference, accumulate_gram, direct, finish_gram_loss
from fastnst_kernels.losses.targets import ContentTerm, StyleTerm
from torch import Tensor

from fastnst.errors import FastnstError
from fastnst.loss.guidance import LayerGuidance
from fastnst.loss.moments import RegionSums, chunks, loss_backend, region_sums
from fastnst.loss.sliced import SlicedSums, SlicedTargets, sliced_sums
from fastnst.loss.style_statistics import RegionTargets
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Window

StyleTarget = BlendedTarget | RegionTargets | SlicedTargets
"""That of the Gram matrix of all positions, or those of regions."""


@dataclass
class LayerSums:
    """The terms of one layer over the whole image: `positions` M, its style target and the constant of its content.

    `grams` is Σ F Fᵀ, (1, C, C), and `content` Σ (F − P)² times its constant, (1,), both float32, of the tiles seen so
    far. After `finish`, tiles get the gradient of `content_weight · content + style_weight · style`. A style of other
    moments than the Gram matrix of all positions is that of `regions`, and content that is transparent in places has
    the map `opaque` a, (1, 1, h, w), of what is seen here: Σ a² (F − P)².
    """

    runtime: Runtime
    positions: int
    style_target: BlendedTarget | None
    content_constant: float | None
    style_weight: float
    content_weight: float
    regions: RegionSums | SlicedSums | None = None
    opaque: Tensor | None = None
    grams: Tensor | None = field(default=None, init=False)
    content: Tensor | None = field(default=None, init=False)
    style: Tensor | None = field(default=None, init=False)
    difference: GramDifference | None = field(default=None, init=False)

    def begin(self) -> None:
        """No tile has been seen."""
        self.style = self.difference = None
        if self.style_target is not None:
            self.grams = torch.zeros_like(self.style_target.matrix)
        if self.regions is not None:
            self.regions.begin()
        if self.content_constant is not None:
            self.content = torch.zeros(1, dtype=torch.float32, device=self.runtime.device)

    @property
    def sums(self) -> list[Tensor]:
        """What is to be summed over all tiles, before `finish`."""
        own = [found for found in (self.grams, self.content) if found is not None]
        return own if self.regions is None else own + self.regions.sums

    def add(self, features: Tensor, content: Tensor | None, window: Window) -> None:
        """Sees what a tile owns of the layer, (1, C, h, w), a view of a larger map: the positions at `window`."""
        if self.grams is not None:
            backend = loss_backend(self.runtime)
            accumulate_gram(self.grams, features, precision=self.runtime.dot_precision, backend=backend)
        if self.regions is not None:
            self.regions.add(features, window)
        if self.content is None or self.content_constant is None or content is None:
            return
        if self.opaque is None:
            self.content += direct.content_loss(self.runtime.kernels, features, content, self.content_constant)
        else:
            self.content += masked_square(features, content, self.opaque[:, :, *window]) * self.content_constant

    def finish(self, dtype: torch.dtype) -> None:
        """All tiles have been seen; their features are of `dtype`."""
        if self.grams is not None and self.style_target is not None:
            self.style, self.difference = finish_gram_loss(
                self.grams, self.positions, self.style_target, dtype=dtype, backend=loss_backend(self.runtime)
            )
        if self.regions is not None:
            self.regions.finish(dtype)
            self.style = self.regions.loss


def layer_sums(
    runtime: Runtime,
    style: StyleTarget | None,
    content_constant: float | None,
    guidance: LayerGuidance,
    style_weight: float,
    content_weight: float,
) -> LayerSums:
    """The sums of a layer, with whatever its style's target asks for."""
    plain = style if isinstance(style, BlendedTarget) else None
    regions: RegionSums | SlicedSums | None = None
    if isinstance(style, SlicedTargets):
        regions = sliced_sums(style, guidance, style_weight)
    elif style is not None and not isinstance(style, BlendedTarget):
        regions = region_sums(runtime, style, guidance, style_weight)
    return LayerSums(
        runtime, guidance.positions, plain, content_constant, style_weight, content_weight, regions, guidance.opaque
    )


def sums_of(style: StyleTarget, guidance: LayerGuidance) -> int:
    """How many numbers the style term of a layer is summed up in."""
    if isinstance(style, BlendedTarget):
        return style.matrix.numel()
    if isinstance(style, SlicedTargets):
        raise FastnstError("sorted features cannot be summed up in parts; see the image whole, in one process")
    regions = zip(style, guidance.totals, strict=True)
    return sum(one[0].matrix.numel() + one[0].mean.numel() for one, total in regions if one and total > 0)


@dataclass
class TileTap:
    """One layer of one tile: what it owns, `inside` the crop's map and at `window` of what is seen here, is added to
    `sums`; back, it gets their gradient.

    `content` is the P of the owned positions. With `seen` forward adds nothing. The gradient is multiplied by `scale`,
    (1,) float32.
    """

    sums: LayerSums
    inside: Window
    window: Window
    content: Tensor | None
    seen: bool
    scale: Tensor

    def forward(self, features: Tensor) -> None:
        if not self.seen:
            self.sums.add(features[:, :, *self.inside], self.content, self.window)

    def backward(self, features: Tensor, gradient: Tensor, *, accumulate: bool, relu: bool) -> None:
        runtime, difference = self.sums.runtime, self.sums.difference
        factor = 0.0 if difference is None else self.sums.style_weight * difference.factor
        content = self.content
        constant = 2 * self.sums.content_weight * (self.sums.content_constant or 0.0)
        regions, opaque = self.sums.regions, self.sums.opaque
        if regions is not None or (opaque is not None and content is not None):
            if not accumulate:
                gradient.zero_()
                accumulate = True
            own, place = features[:, :, *self.inside], gradient[:, :, *self.inside]
            if regions is not None and (plain := regions.plain_gradient) is not None:
                difference, factor = plain[0], plain[0].factor
                place += plain[1] * self.scale
            elif regions is not None:
                regions.add_gradient(place, own, self.window, self.scale)
            if opaque is not None and content is not None:
                add_masked_difference(place, own, content, opaque[:, :, *self.window], constant * self.scale)
                content = None
        rows, columns = self.inside
        direct.tap_backward(
            runtime.kernels,
            gradient,
            features=features,
            upstream=gradient if accumulate else None,
            style=None if difference is None else StyleTerm(difference.matrix, difference.scale, self.scale, factor),
            content=None if content is None else ContentTerm(content, self.scale, constant),
            relu=relu,
            owned=(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start),
            precision=runtime.dot_precision,
        )


def masked_square(features: Tensor, content: Tensor, mask: Tensor) -> Tensor:
    """Σ a² (F − P)², (1,) float32, of features and content (1, C, h, w) and the mask a, (1, 1, h, w)."""
    found = torch.zeros(1, dtype=torch.float32, device=features.device)
    for rows, part in chunks(features):
        found += ((part - content[:, :, rows]) * mask[:, :, rows]).square().sum(dtype=torch.float32)
    return found


def add_masked_difference(gradient: Tensor, features: Tensor, content: Tensor, mask: Tensor, factor: Tensor) -> None:
    """Adds `factor` · a² (F − P) to `gradient`, (1, C, h, w)."""
    for rows, part in chunks(features):
        gradient[:, :, rows] += (part - content[:, :, rows]) * (mask[:, :, rows].square() * factor)
