"""A layer's contribution to the loss: sums over the positions that tiles own, then the gradient of what they make.

The loss depends on a layer's features through sums alone. A `LayerTerms` adds them up over all tiles, or over the one
that is the whole image, and then knows the terms and their gradient; a `LayerTap` shows it one layer of one tile.
"""

from dataclasses import dataclass

import torch
from fastnst_kernels import BlendedTarget, GramDifference, accumulate_gram, direct, finish_gram_loss
from fastnst_kernels.launch.capture import Branch
from fastnst_kernels.losses.targets import ContentTerm, StyleTerm
from torch import Tensor

from fastnst.loss.masks import LayerGuidance
from fastnst.loss.moments import RegionSums, chunks, loss_backend, region_sums
from fastnst.loss.sliced import SlicedSums, SlicedTargets, sliced_sums
from fastnst.loss.targets import StyleTarget
from fastnst.network.backbone import Tap
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Window
from fastnst.options.options import Options


class LayerTerms:
    """The terms of one layer over the whole image: where it counts, its style target, the constant of its content.

    Tiles add Σ F Fᵀ, (1, C, C), and Σ (F − P)² times its constant, (1,), both float32; after `finish`, `style` and
    `content` are the terms, (1,) or None, and tiles get the gradient of `content_weight · content + style_weight ·
    style`. With `is_whole` one tile, the whole image, is all that is seen. A style of other moments than the Gram
    matrix of all positions, `target`, is that of `regions`, and content that is transparent in places has the map
    `opaque` a, (1, 1, h, w): Σ a² (F − P)².
    """

    def __init__(
        self,
        runtime: Runtime,
        guidance: LayerGuidance,
        options: Options,
        *,
        style_target: StyleTarget | None,
        content_constant: float | None,
        is_whole: bool,
    ) -> None:
        self.runtime, self.guidance, self.opaque, self.is_whole = runtime, guidance, guidance.opaque, is_whole
        self.style_weight, self.content_weight = options.last_style_weight, options.content_weight
        self.content_constant = content_constant
        self.target = style_target if isinstance(style_target, BlendedTarget) else None
        self.regions: RegionSums | SlicedSums | None = None
        if isinstance(style_target, SlicedTargets):
            self.regions = sliced_sums(style_target, guidance, self.style_weight)
        elif style_target is not None and not isinstance(style_target, BlendedTarget):
            self.regions = region_sums(runtime, style_target, guidance, self.style_weight)
        self._branch = Branch(runtime.device)
        self.begin()

    def begin(self) -> None:
        """Starts anew: no tile has been seen."""
        self.style: Tensor | None = None
        self.content: Tensor | None = None
        self.difference: GramDifference | None = None
        self._grams: Tensor | None = None
        if self.regions is not None:
            self.regions.begin()

    @property
    def has_style(self) -> bool:
        return self.target is not None or self.regions is not None

    @property
    def _gram_sums(self) -> Tensor | None:
        """Σ F Fᵀ so far: memory is taken when the layer's first tile comes."""
        if self._grams is None and self.target is not None:
            self._grams = torch.zeros_like(self.target.matrix)
        return self._grams

    @property
    def sums(self) -> list[Tensor]:
        """The sums over positions, which several processes add up before `finish`."""
        if self.content is None and self.content_constant is not None:
            self.content = torch.zeros(1, dtype=torch.float32, device=self.runtime.device)
        own = [tensor for tensor in (self._gram_sums, self.content) if tensor is not None]
        return own if self.regions is None else own + self.regions.sums

    @property
    def wanted(self) -> str | None:
        """The precision of the sums F Fᵀ that a layer may make as it writes the features."""
        is_made = self.target is not None and self.is_whole and self.runtime.backend != "reference"
        return self.runtime.dot_precision if is_made else None

    def add(self, features: Tensor, content: Tensor | None, window: Window, made: Tensor | None) -> None:
        """Adds what a tile owns of the layer, (1, C, h, w), a view of a larger map: the positions at `window`. The sums
        that were `wanted` are there already if they are `made`."""
        if made is not None:
            self._grams = made
            # In a captured graph while the network goes on.
            with self._branch.work(made):
                self._finish_style(features.dtype)
        elif (grams := self._gram_sums) is not None:
            backend, precision = loss_backend(self.runtime), self.runtime.dot_precision
            accumulate_gram(grams, features, precision=precision, backend=backend)
        if self.regions is not None:
            self.regions.add(features, window)
        if self.content_constant is None or content is None:
            return
        if self.opaque is None:
            term = direct.content_loss(self.runtime.kernels, features, content, self.content_constant)
        else:
            term = _masked_square(features, content, self.opaque[:, :, *window]) * self.content_constant
        self.content = term if self.content is None else self.content + term

    def finish(self, dtype: torch.dtype) -> None:
        """Makes the terms of the sums over all tiles, whose features are of `dtype`."""
        self._finish_style(dtype)
        if self.regions is not None:
            self.regions.finish(dtype)
            self.style = self.regions.loss
        self._branch.join()

    def _finish_style(self, dtype: torch.dtype) -> None:
        if self.difference is not None or self.target is None or (grams := self._gram_sums) is None:
            return
        target, positions, backend = self.target, self.guidance.positions, loss_backend(self.runtime)
        self._grams = None
        if backend == "reference":
            self.style, self.difference = finish_gram_loss(grams, positions, target, dtype=dtype, backend=backend)
            return
        # A layer may have made its sums in parts, which the checked function does not take.
        self.style, difference, scale = direct.finish_gram_loss(
            backend,
            grams,
            positions,
            target.matrix,
            weight=target.weight,
            offset=target.offset,
            offset_weight=1.0,
            dtype=dtype,
        )
        factor = target.weight / (target.matrix.shape[1] ** 2 * positions)
        self.difference = GramDifference(difference, scale, factor)


@dataclass
class LayerTap(Tap):
    """One layer of one tile, which owns the positions `inside` the crop's map, at `window` of the image's.

    Forward `adds` them to `terms`, unless it is a second pass; backward gives them their gradient, times `scale`, (1,)
    float32. `content` is the P of the owned positions, (1, C, h, w).
    """

    terms: LayerTerms
    inside: Window
    window: Window
    content: Tensor | None
    adds: bool
    scale: Tensor

    @property
    def wanted(self) -> str | None:
        return self.terms.wanted if self.adds else None

    @property
    def is_plain(self) -> bool:
        terms = self.terms
        is_gram = terms.target is not None and terms.regions is None and self.content is None
        return is_gram and terms.is_whole and terms.runtime.backend != "reference"

    def style_term(self) -> StyleTerm | None:
        if (difference := self.terms.difference) is None:
            return None
        factor = self.terms.style_weight * difference.factor
        return StyleTerm(difference.matrix, difference.scale, self.scale, factor)

    def forward(self, features: Tensor, sums: Tensor | None) -> None:
        if self.adds:
            self.terms.add(features[:, :, *self.inside], self.content, self.window, sums)

    def backward(self, features: Tensor, gradient: Tensor, *, accumulate: bool, relu: bool) -> None:
        runtime, style, content = self.terms.runtime, self.style_term(), self.content
        constant = 2 * self.terms.content_weight * (self.terms.content_constant or 0.0)
        regions, opaque = self.terms.regions, self.terms.opaque
        if regions is not None or (opaque is not None and content is not None):
            if not accumulate:
                gradient.zero_()
                accumulate = True
            own, place = features[:, :, *self.inside], gradient[:, :, *self.inside]
            if regions is not None:
                style = regions.add_gradient(place, own, self.window, self.scale)
            if opaque is not None and content is not None:
                mask, factor = opaque[:, :, *self.window], constant * self.scale
                for rows, part in chunks(own):
                    place[:, :, rows] += (part - content[:, :, rows]) * (mask[:, :, rows].square() * factor)
                content = None
        direct.tap_backward(
            runtime.kernels,
            gradient,
            features=features,
            upstream=gradient if accumulate else None,
            style=style,
            content=None if content is None else ContentTerm(content, self.scale, constant),
            relu=relu,
            owned=self._owned(features),
            precision=runtime.dot_precision,
        )

    def _owned(self, features: Tensor) -> tuple[int, int, int, int] | None:
        """The owned positions as (top, left, height, width); None for all of the map, which is quicker."""
        rows, columns = self.inside
        owned = (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        return None if owned == (0, 0, *features.shape[2:]) else owned


def _masked_square(features: Tensor, content: Tensor, mask: Tensor) -> Tensor:
    """Σ a² (F − P)², (1,) float32, of features and content (1, C, h, w) and the mask a, (1, 1, h, w)."""
    total = torch.zeros(1, dtype=torch.float32, device=features.device)
    for rows, part in chunks(features):
        total += ((part - content[:, :, rows]) * mask[:, :, rows]).square().sum(dtype=torch.float32)
    return total
