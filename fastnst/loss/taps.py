"""What a layer contributes to the loss: its style and content terms, forward and back, over the kernels' operations."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from fastnst_kernels import BlendedTarget, direct
from fastnst_kernels.losses import reference
from fastnst_kernels.losses.targets import ContentTerm, StyleTerm
from torch import Tensor

from fastnst.loss.tile_taps import LayerSums, TileTap
from fastnst.network.runtime import Runtime


@dataclass(frozen=True)
class ContentTarget:
    """`weight · Σ (F − features)²` is this layer's share of the content term; features are (1, C, H, W)."""

    features: Tensor
    weight: float


@dataclass
class LayerTap:
    """The terms of one layer. `content` and `style` are its shares of them after a forward pass, (1,) or None.

    The gradient is that of `content_weight · content + style_weight · style`, times `scale`, (1,) float32.
    """

    runtime: Runtime
    style_target: BlendedTarget | None
    content_target: ContentTarget | None
    style_weight: float
    content_weight: float
    scale: Tensor
    style: Tensor | None = field(default=None, init=False)
    content: Tensor | None = field(default=None, init=False)
    _difference: Sequence[Tensor] = field(default=(), init=False)

    def forward(self, features: Tensor) -> None:
        backend, precision = self.runtime.kernels, self.runtime.dot_precision
        if self.style_target is not None:
            matrix, weight, offset = self.style_target.matrix, self.style_target.weight, self.style_target.offset
            if self.runtime.backend == "reference":
                self.style = reference.gram_loss(features, matrix, weight).float() + offset
            else:
                self.style, *self._difference = direct.gram_difference_loss(
                    backend, features, matrix, weight=weight, offset=offset, offset_weight=1.0, precision=precision
                )
        if self.content_target is not None:
            target, weight = self.content_target.features, self.content_target.weight
            self.content = direct.content_loss(backend, features, target, weight)

    def backward(self, features: Tensor, gradient: Tensor, *, accumulate: bool, relu: bool) -> None:
        style = content = None
        if self.style_target is not None:
            filters, height, width = features.shape[1:]
            factor = self.style_weight * self.style_target.weight / (filters**2 * height * width)
            if self.runtime.backend == "reference":
                difference = self._reference_difference(features, self.style_target.matrix)
                style = StyleTerm(difference, torch.ones_like(self.scale), self.scale, factor)
            else:
                difference, scale = self._difference
                style = StyleTerm(difference, scale, self.scale, factor)
        if self.content_target is not None:
            factor = self.content_weight * 2 * self.content_target.weight
            content = ContentTerm(self.content_target.features, self.scale, factor)
        direct.tap_backward(
            self.runtime.kernels,
            gradient,
            features=features,
            upstream=gradient if accumulate else None,
            style=style,
            content=content,
            relu=relu,
            owned=None,
            precision=self.runtime.dot_precision,
        )

    def _reference_difference(self, features: Tensor, target: Tensor) -> Tensor:
        difference = reference.gram(features) - (target.double() + target.double().mT) / 2
        return difference.float()


@dataclass
class SummedTap:
    """The terms of one layer as sums over positions, of a map that is seen whole; as `LayerTap`, with `sums` for the
    style of regions and the content that is transparent in places."""

    sums: LayerSums
    content_target: ContentTarget | None
    scale: Tensor

    @property
    def style(self) -> Tensor | None:
        return self.sums.style

    @property
    def content(self) -> Tensor | None:
        return self.sums.content

    def forward(self, features: Tensor) -> None:
        self.sums.begin()
        self._tile(features).forward(features)
        self.sums.finish(features.dtype)

    def backward(self, features: Tensor, gradient: Tensor, *, accumulate: bool, relu: bool) -> None:
        self._tile(features).backward(features, gradient, accumulate=accumulate, relu=relu)

    def _tile(self, features: Tensor) -> TileTap:
        whole = (slice(0, features.shape[2]), slice(0, features.shape[3]))
        content = None if self.content_target is None else self.content_target.features
        return TileTap(self.sums, whole, whole, content, False, self.scale)
