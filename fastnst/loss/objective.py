"""The loss as a function of the image, and its gradient: `terms` has the formulas.

The loss depends on the image through sums over positions alone. A first pass shows each tile to the network and adds
what it owns to the Grams and to the content term; then the gradient of each term is known for any position, and a
second pass goes back through each tile and adds its image's gradient to the whole (see `network.tiles` for what a tile
sees). The second pass takes what the first one kept, or computes it again. The whole image is its own one tile, with
neither halo nor a second way forward.

Several processes share the tiles: each takes every n-th, and they add up the sums and then the gradient.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from fastnst_kernels import direct
from torch import Tensor

from fastnst.errors import FastnstError
from fastnst.loss.content import ContentTarget
from fastnst.loss.layer import LayerTap, LayerTerms
from fastnst.loss.masks import Guidance
from fastnst.loss.sliced import SlicedTargets
from fastnst.loss.targets import StyleTarget
from fastnst.loss.terms import Loss, seam_variation
from fastnst.loss.transforms import FeatureTransform
from fastnst.network.backbone import Backbone, Trace
from fastnst.network.runtime import Runtime
from fastnst.network.settings import give_back
from fastnst.network.tiles import TileGrid, add_crop, cut, levels_of, make_grid, reach_of
from fastnst.options.options import Options

LEVELS = ("kept", "recompute")
"""Levels of what the first pass keeps for the second: what the layers recorded, or nothing."""

# Of the factor of float16: its first and its last power of two, and by how much it is lowered.
_FIRST, _LAST, _STEP = 24, -24, 4
# Powers of two kept free above the gradients of the first image.
_MARGIN = 6
# The loss of a leap may be a million times the first one's.
_SMALLEST_RATIO = 2.0**-40


class LossScale:
    """The factor of a float16 run's loss, so that small gradients do not vanish nor large ones overflow: a power of two
    on the device. Other runs have 1, for bfloat16 has float32's range.

    `factor` is a tensor, (1,) float32, so that a captured graph sees it change. It is 2 to the power of `exponent`,
    which begins at 24 and which `lower` brings down to −24; and less by as much as the loss is above that of the first
    image, for which see `anchor`: L-BFGS without a line search leaps, and gradients grow no faster than losses.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.needed = runtime.dtype == torch.float16
        self.exponent = _FIRST if self.needed else 0
        self.factor: Tensor = torch.full((1,), 2.0**self.exponent, dtype=torch.float32, device=runtime.device)
        self.reference: Tensor = torch.full((1,), torch.inf, dtype=torch.float32, device=runtime.device)
        self._base = self.factor.clone()

    def set_exponent(self, exponent: int) -> None:
        """Makes the factor 2 to the power of `exponent`, until the next `follow`."""
        self.exponent = exponent
        self._base.fill_(2.0**exponent)
        self.factor.copy_(self._base)

    def lower(self) -> bool:
        """Divides the factor by 2⁴; False where that is not allowed any more."""
        if not self.needed or self.exponent <= _LAST:
            return False
        self.set_exponent(self.exponent - _STEP)
        return True

    def anchor(self, loss: Tensor) -> None:
        """After the first image, whose gradients just fit: keeps a margin above them, and follows its `loss`."""
        if self.needed:
            # One of 0, or of no number, is nothing to compare with.
            self.reference.copy_(torch.where(loss > 0, loss, torch.inf))
            self.set_exponent(max(self.exponent - _MARGIN, _LAST))

    def follow(self, loss: Tensor) -> None:
        """Fits the factor to the loss of the image whose gradient is next; nothing is read back to the host."""
        if self.needed:
            ratio = (self.reference / loss).clamp_(_SMALLEST_RATIO, 1)
            # Its exponent's bits alone: the power of two at or below it.
            power = ratio.view(torch.int32).bitwise_and_(0x7F800000).view(torch.float32)
            torch.mul(self._base, power, out=self.factor)


class Evaluation(Protocol):
    """The total loss as a function of the image, however it is computed."""

    @property
    def loss_scale(self) -> LossScale: ...

    @property
    def is_tiled(self) -> bool:
        """True where it moves and allocates memory as no captured graph may."""

    def loss(self, image: Tensor) -> Loss:
        """The loss of `image`, (1, 3, H, W) float32 in 0…1, without a gradient."""

    def loss_and_gradient(self, image: Tensor, out: Tensor | None = None) -> tuple[Loss, Tensor]:
        """The loss, and the gradient of its total: (1, 3, H, W) float32, contiguous; or written into `out`, which has
        the memory format of the image.

        Nothing is read back to the host. In float16 the gradient is not finite where `loss_scale` is too large.
        """


@dataclass(frozen=True)
class Share:
    """The tiles of one process among several: every `size`-th, from the `rank`-th on. `add_up` adds the other
    processes' tensors to its own, in place."""

    rank: int = 0
    size: int = 1
    add_up: Callable[[Sequence[Tensor]], None] = lambda tensors: None


class Objective:
    """The total loss as a function of an image of the size of `content`, (1, 3, H, W) float32 RGB in 0…1 on any device.

    Args:
        style: the layers' `style_targets`; of the regions of `guidance` where that is not plain.
        guidance: the regions of the image, and where it is opaque; None for all of it.
        grid: its tiles; None for the whole image.
        level: what the first pass keeps, one of `LEVELS`.
        redone_steps: how many steps the second pass computes again in the level "kept", the last of which is tapped; by
            default, in tiles, the first convolution, whose features are cheaper to compute than to keep.
        content_is_kept: whether the content's features are kept, or computed anew in each pass.
        loss_scale: that of a run that goes on; None for a new one.
        share: the tiles of this process; None for all.
        is_tight: give what is free of a CPU's heap back to the system before each pass over a tile.
        transforms: of content layers, whose content term is then of what they make of the content's features.
    """

    def __init__(
        self,
        backbone: Backbone,
        content: Tensor,
        style: Mapping[str, StyleTarget],
        options: Options,
        runtime: Runtime,
        *,
        guidance: Guidance | None = None,
        grid: TileGrid | None = None,
        level: str = "kept",
        redone_steps: int | None = None,
        content_is_kept: bool = True,
        loss_scale: LossScale | None = None,
        share: Share | None = None,
        is_tight: bool = False,
        transforms: Mapping[str, FeatureTransform] | None = None,
    ) -> None:
        height, width = content.shape[2:]
        if grid is None:
            reach = reach_of(options.network, options.taps, options.padding)
            grid = make_grid(height, width, max(height, width), reach)
        self.backbone, self.runtime, self.share = backbone, runtime, share or Share()
        self.loss_scale, self.level = loss_scale or LossScale(runtime), level
        is_sliced = any(isinstance(target, SlicedTargets) for target in style.values())
        is_shared = self.share.size > 1
        # The image is its own one tile.
        self._is_whole = len(grid) == 1
        if is_sliced and (is_shared or not self._is_whole):
            raise FastnstError("sorted features cannot be summed in parts; use one process, without tiles")
        self._is_tight = is_tight and runtime.device.type == "cpu"
        # What torch allocates to sort is its own affair.
        self.is_tiled = is_shared or not self._is_whole or is_sliced
        self.wraps, self.tv_kind = options.wraps, options.tv_kind
        # The term is so many times the mean over the positions.
        self.tv_factor = float(height * width) if options.tv_reduction == "sum" else 1.0
        self.tv_weight = options.tv_weight * self.tv_factor
        self.levels = levels_of(options.network, options.taps)
        guided = (guidance or Guidance(height, width)).at(self.levels, runtime.device)
        self.content = ContentTarget(
            backbone,
            content,
            tuple(grid)[self.share.rank :: self.share.size],
            options,
            device=runtime.device,
            guidance=guided,
            is_kept=content_is_kept,
            add_up=self.share.add_up,
            transforms=transforms or {},
        )
        self.layers = {
            name: LayerTerms(
                runtime,
                layer,
                options,
                style_target=style.get(name),
                content_constant=self.content.weights.get(name),
                is_whole=self._is_whole and not is_shared,
            )
            for name, layer in guided.items()
            if name in style or name in self.content.weights
        }
        # (3, terms): the shares of the layers' terms in total, content and style.
        self.weights = _weights(self.layers.values(), options).to(runtime.device)
        if redone_steps is None:
            redone_steps = 0 if self._is_whole else least_redone(backbone.steps, self.layers)
        self.redone_steps = redone_steps if level == "kept" else 0

    def loss(self, image: Tensor) -> Loss:
        """See `Evaluation`."""
        self._forward(image, record=False)
        tv = direct.total_variation(self.runtime.kernels, image, self.tv_kind)
        terms = self._terms()
        return self._loss(terms, tv + seam_variation(image, kind=self.tv_kind) if self.wraps else tv)

    def loss_and_gradient(self, image: Tensor, out: Tensor | None = None) -> tuple[Loss, Tensor]:
        """See `Evaluation`."""
        kept = self._forward(image, record=self.level == "kept")
        terms = self._terms()
        self.loss_scale.follow(terms[0])
        leads, kind = self.share.rank == 0, self.tv_kind
        # The variation is the first process's, so that it is added once.
        weight = self.tv_weight if leads else 0.0
        check = None
        if self._is_whole and leads:
            gradient, tv, check = self._backward(image, 0, kept.pop(0, None), tv_weight=weight, out=out)
        else:
            gradient, tv = direct.image_gradient(
                self.runtime.kernels, image, None, [1.0] * 3, flip=False, tv_weight=weight, kind=kind, out=out
            )
        if out is None:
            gradient = gradient.contiguous()
        if self.wraps:
            tv = tv + seam_variation(image, gradient, weight, kind)
        if not self._is_whole:
            for index in reversed(range(len(self.content.tiles))):
                part, _, _ = self._backward(image, index, kept.pop(index, None), tv_weight=0.0)
                add_crop(gradient, self.content.tiles[index], part)
        if self.share.size > 1:
            tv, check = tv if leads else torch.zeros_like(tv), None
            self.share.add_up([gradient, tv])
        return self._loss(terms, tv, check), gradient

    def _forward(self, image: Tensor, *, record: bool) -> dict[int, list[Trace]]:
        """The first pass: the terms of all tiles. Returns what is kept of each, if `record`."""
        for layer in self.layers.values():
            layer.begin()
        kept = {}
        for index in range(len(self.content.tiles)):
            taps, crop = self._taps(index, adds=True), self._crop(image, index)
            # Nothing here holds the traces: what is not kept makes room for the next tile's.
            if record:
                kept[index] = self.backbone.forward(crop, taps, record=True)[self.redone_steps :]
            else:
                self.backbone.forward(crop, taps)
        if self.share.size > 1:
            self.share.add_up([sums for layer in self.layers.values() for sums in layer.sums])
        for layer in self.layers.values():
            layer.finish(self.backbone.layers.dtype)
        return kept

    def _backward(
        self, image: Tensor, index: int, kept: list[Trace] | None, *, tv_weight: float, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The second pass of one tile: what `Backbone.backward` has of its crop, (1, 3, h, w)."""
        crop, taps = self._crop(image, index), self._taps(index, adds=False)
        if kept is None:
            traces = self.backbone.forward(crop, taps, record=True)
        else:
            first = {name: taps[name] for name in list(self.backbone.steps)[: self.redone_steps] if name in taps}
            traces = (self.backbone.forward(crop, first, record=True) if first else []) + kept
            kept.clear()
        scale = self.loss_scale.factor if self.loss_scale.needed else None
        return self.backbone.backward(
            crop, traces, taps, tv_weight=tv_weight, tv_kind=self.tv_kind, scale=scale, out=out
        )

    def _taps(self, index: int, *, adds: bool) -> dict[str, LayerTap]:
        content = self.content.features(index)
        tile = self.content.tiles[index]
        return {
            name: LayerTap(
                terms=layer,
                inside=tile.inside(self.levels[name]),
                window=tile.owned(self.levels[name]),
                content=content.get(name),
                adds=adds,
                scale=self.loss_scale.factor,
            )
            for name, layer in self.layers.items()
        }

    def _crop(self, image: Tensor, index: int) -> Tensor:
        """Cuts the tile `index`, with its halo, from the image for a pass over it: (1, 3, h, w)."""
        if self._is_tight:
            give_back()
        return image if self._is_whole else cut(image, self.content.tiles[index]).contiguous()

    def _terms(self) -> Tensor:
        """Total, content and style of all tiles, without the variation: (3,)."""
        terms = [term for layer in self.layers.values() for term in (layer.style, layer.content) if term is not None]
        if not terms:
            return self.weights.new_zeros(3)
        return self.weights @ torch.cat([term.view(1) for term in terms])

    def _loss(self, terms: Tensor, tv: Tensor, check: Tensor | None = None) -> Loss:
        """The loss of the `terms` of all tiles and `tv`, (1,), the total variation."""
        total, content, style, variation = torch.cat((terms, tv)).unbind()
        total.add_(variation, alpha=self.tv_weight)
        if self.tv_factor != 1:
            variation.mul_(self.tv_factor)
        return Loss(total, content, style, variation, check)


def _weights(layers: Iterable[LayerTerms], options: Options) -> Tensor:
    columns = []
    for layer in layers:
        columns += [(options.last_style_weight, 0.0, 1.0)] if layer.has_style else []
        columns += [(options.content_weight, 1.0, 0.0)] if layer.content_constant is not None else []
    return torch.tensor(columns, dtype=torch.float32).view(-1, 3).T


def least_redone(steps: Iterable[str], taps: Container[str]) -> int:
    """The steps that are always computed again in tiles: the first, if it is tapped and a convolution alone."""
    first = next(iter(steps))
    return int(first in taps and not first.startswith("pool"))
