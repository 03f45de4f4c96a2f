"""What a layer contributes to the loss of an image seen in tiles: sums over what each owns, then their gradient.

The counterpart of `taps` for tiles: the Gram matrix is that of the whole image, known once all tiles have been seen.
"""

from dataclasses import dataclass, field

import torch
from fastnst_kernels import BlendedTarget, GramDifference, accumulate_gram, finish_gram_loss, ops
from torch import Tensor

from fastnst.runtime import Runtime
from fastnst.tile_grid import Window


@dataclass
class LayerSums:
    """The terms of one layer over the whole image: `positions` M, its style target and the constant of its content.

    `grams` is Σ F Fᵀ, (1, C, C), and `content` Σ (F − P)² times its constant, (1,), both float32, of the tiles seen so
    far. After `finish`, tiles get the gradient of `content_weight · content + style_weight · style`.
    """

    runtime: Runtime
    positions: int
    style_target: BlendedTarget | None
    content_constant: float | None
    style_weight: float
    content_weight: float
    grams: Tensor | None = field(default=None, init=False)
    content: Tensor | None = field(default=None, init=False)
    style: Tensor | None = field(default=None, init=False)
    difference: GramDifference | None = field(default=None, init=False)

    def begin(self) -> None:
        """No tile has been seen."""
        self.style = self.difference = None
        if self.style_target is not None:
            self.grams = torch.zeros_like(self.style_target.matrix)
        if self.content_constant is not None:
            self.content = torch.zeros(1, device=self.runtime.device)

    @property
    def sums(self) -> list[Tensor]:
        """What is to be summed over all tiles, before `finish`."""
        return [found for found in (self.grams, self.content) if found is not None]

    def add(self, features: Tensor, content: Tensor | None) -> None:
        """Sees what a tile owns of the layer, (1, C, h, w), a view of a larger map."""
        if self.grams is not None:
            accumulate_gram(self.grams, features, precision=self.runtime.dot_precision, backend=self._loss_backend)
        if self.content is not None and self.content_constant is not None and content is not None:
            self.content += ops.content_loss(features, content, self.content_constant, self.runtime.kernels)

    def finish(self, dtype: torch.dtype) -> None:
        """All tiles have been seen; their features are of `dtype`."""
        if self.grams is not None and self.style_target is not None:
            self.style, self.difference = finish_gram_loss(
                self.grams, self.positions, self.style_target, dtype=dtype, backend=self._loss_backend
            )

    @property
    def _loss_backend(self) -> str:
        return "reference" if self.runtime.backend == "reference" else self.runtime.kernels


@dataclass
class TileTap:
    """One layer of one tile: what it owns, `inside` the crop's map, is added to `sums`; back, it gets their gradient.

    `content` is the P of the owned positions. With `seen` forward adds nothing. The gradient is multiplied by `scale`,
    (1,) float32.
    """

    sums: LayerSums
    inside: Window
    content: Tensor | None
    seen: bool
    scale: Tensor

    def forward(self, features: Tensor) -> None:
        if not self.seen:
            self.sums.add(features[:, :, *self.inside], self.content)

    def backward(self, features: Tensor, gradient: Tensor, *, accumulate: bool, relu: bool) -> None:
        runtime, difference = self.sums.runtime, self.sums.difference
        rows, columns = self.inside
        ops.tap_backward(
            gradient,
            accumulate,
            features,
            None,
            None if difference is None else difference.matrix,
            None if difference is None else difference.scale,
            None if difference is None else self.scale,
            0.0 if difference is None else self.sums.style_weight * difference.factor,
            self.content,
            None if self.content is None else self.scale,
            2 * self.sums.content_weight * (self.sums.content_constant or 0.0),
            relu,
            (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start),
            runtime.dot_precision,
            runtime.kernels,
        )
