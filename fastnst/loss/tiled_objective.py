"""The objective of an image that is seen in tiles: the same loss and gradient as `objective`, up to rounding.

The loss depends on the image through sums over positions alone. A first pass shows each tile to the network and adds
what it owns to the Grams and to the content term; then the gradient of each term is known for any position, and a
second pass goes back through each tile and adds its image's gradient to the whole (see `tiles` for what a tile
sees). The second pass takes what the first one kept, on the device or on the host, or computes it again. It begins with
the last tile: that is where the first one ended, and what it kept need not go anywhere.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from fastnst_kernels import direct
from torch import Tensor

from fastnst.errors import FastnstError, OptionError
from fastnst.loss.content import TileContent, make_tile_content
from fastnst.loss.guidance import Guidance, LayerGuidance
from fastnst.loss.objective import Loss, Variation, variation_of
from fastnst.loss.scale import LossScale
from fastnst.loss.side_copies import SideCopier, TileStore
from fastnst.loss.tile_taps import LayerSums, StyleTarget, TileTap, layer_sums
from fastnst.network.backbone import Backbone, Trace
from fastnst.network.padding import seam_variation
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Tile, TileGrid, add_crop, cut, levels_of
from fastnst.options.options import Options

LEVELS = ("kept", "kept-host", "recompute")
"""What the first pass keeps for the second: bits and tapped features, on the device or on the host, or nothing."""


def _alone(sums: Sequence[Tensor]) -> None:
    """All tiles are here: nothing is to be added."""


@dataclass(frozen=True)
class TiledObjective:
    """The total loss as a function of the image. Make one with `make_tiled_objective`.

    `tiles` are those of `grid` that are computed here: `content` has the same order. `reduce` adds the sums of those
    that are computed elsewhere, in place, before anything is made of them. Where the first pass keeps something, the
    second computes the first `again` steps of the backbone once more, the last of which is tapped: by default the first
    convolution, whose features are cheaper to compute than to keep. With a `store` what is kept lies there, in main
    memory, and not on the device.
    """

    backbone: Backbone
    grid: TileGrid
    tiles: Sequence[Tile]
    layers: Mapping[str, LayerSums]
    levels: Mapping[str, int]
    content: TileContent
    content_weight: float
    style_weight: float
    variation: Variation
    level: str
    runtime: Runtime
    loss_scale: LossScale
    reduce: Callable[[Sequence[Tensor]], None] = _alone
    again: int | None = None
    wraps: bool = False
    store: TileStore | None = None

    def loss(self, image: Tensor) -> Loss:
        """The loss of `image`, (1, 3, H, W) float32 in 0…1 on any device, without a gradient."""
        self._check(image)
        self._sum(image, record=False)
        tv = direct.total_variation(self._image_backend(image), image, self.variation.kind)
        return self._loss(tv + seam_variation(image, kind=self.variation.kind) if self.wraps else tv)

    def loss_and_gradient(self, image: Tensor) -> tuple[Loss, Tensor]:
        """The loss, and the gradient of its total: (1, 3, H, W) float32, contiguous, on the image's device."""
        self._check(image)
        kept = self._sum(image, record=self.level != "recompute")
        self.loss_scale.follow(self._loss(torch.zeros((), dtype=torch.float32, device=self.runtime.device)).total)
        variation = self.variation
        gradient, tv = direct.image_gradient(
            self._image_backend(image),
            image,
            None,
            [1.0] * 3,
            flip=False,
            tv_weight=variation.weight,
            tv_gradient=None,
            kind=variation.kind,
        )
        gradient = gradient.contiguous()
        if self.wraps:
            tv = tv + seam_variation(image, gradient, variation.weight, variation.kind)
        for index in reversed(range(len(self.tiles))):
            part = self._backward(image, index, kept.pop(index, None))
            add_crop(gradient, self.tiles[index], part.to(image.device))
        return self._loss(tv), gradient

    def _sum(self, image: Tensor, *, record: bool) -> dict[int, list[Trace]]:
        """The first pass: sums over all tiles. Returns what is kept of each, if `record`."""
        for layer in self.layers.values():
            layer.begin()
        kept = {}
        for index in range(len(self.tiles)):
            taps = self._taps(index, min(index + 1, len(self.tiles) - 1), seen=False)
            crop = self._crop(image, index)
            # Nothing here holds the traces: what is not kept makes room for the next tile's.
            if record:
                kept[index] = self._put_away(index, self.backbone.forward(crop, taps, record=True))
            else:
                self.backbone.forward(crop, taps)
        self.reduce([sums for layer in self.layers.values() for sums in layer.sums])
        for layer in self.layers.values():
            layer.finish(self.backbone.layers.dtype)
        return kept

    def _backward(self, image: Tensor, index: int, kept: list[Trace] | None) -> Tensor:
        """The second pass of one tile: its gradient of the crop, (1, 3, h, w), on the network's device."""
        crop, taps = self._crop(image, index), self._taps(index, max(index - 1, 0), seen=True)
        forward = self.backbone.forward
        traces = forward(crop, taps, record=True) if kept is None else self._taken_back(index, crop, kept, taps)
        scale = self.loss_scale.factor if self.loss_scale.needed else None
        gradient, _ = self.backbone.backward(crop, traces, taps, tv_weight=0.0, scale=scale)
        return gradient

    def _put_away(self, index: int, traces: list[Trace]) -> list[Trace]:
        """What is kept of a tile's traces: those of the steps that are not computed again."""
        again = self._steps_again
        self.backbone.release(traces[:again])
        kept = traces[again:]
        if self.store is None or self._is_last(index):
            return kept
        self.store.put(index, _tensors(kept))
        return [_with_tensors(trace, lambda tensor: torch.empty_like(tensor, device="meta")) for trace in kept]

    def _taken_back(self, index: int, crop: Tensor, kept: list[Trace], taps: Mapping[str, TileTap]) -> list[Trace]:
        """The traces of a tile as `backward` needs them: what was put away, and before it what is computed again."""
        if self.store is not None:
            if not self._is_last(index):
                tensors = iter(self.store.fetch(index))
                kept = [_with_tensors(trace, lambda _: next(tensors)) for trace in kept]
            if index > 0:
                self.store.send(index - 1)
        names = list(self.backbone.steps)[: self._steps_again]
        first = {name: taps[name] for name in names if name in taps}
        if not first:
            return kept
        traces = self.backbone.forward(crop, first, record=True) + kept
        kept.clear()
        return traces

    def _is_last(self, index: int) -> bool:
        return index == len(self.tiles) - 1

    @property
    def _steps_again(self) -> int:
        return least_again(self.backbone.steps, self.layers) if self.again is None else self.again

    def _taps(self, index: int, following: int, *, seen: bool) -> dict[str, TileTap]:
        content = self.content.features(index, following)
        tile = self.tiles[index]
        return {
            name: TileTap(
                layer,
                tile.inside(self.levels[name]),
                tile.owned(self.levels[name]),
                content.get(name),
                seen,
                self.loss_scale.factor,
            )
            for name, layer in self.layers.items()
        }

    def _crop(self, image: Tensor, index: int) -> Tensor:
        return cut(image, self.tiles[index]).to(self.runtime.device).contiguous()

    def _image_backend(self, image: Tensor) -> str:
        return "torch" if image.device.type == "cpu" else self.runtime.kernels

    def _check(self, image: Tensor) -> None:
        expected = (1, 3, self.grid.height, self.grid.width)
        if image.shape != expected:
            raise FastnstError(f"image of shape {tuple(image.shape)} is not the tiled one; give {expected}")

    def _loss(self, tv: Tensor) -> Loss:
        device = tv.device
        zero = torch.zeros((), dtype=torch.float32, device=device)
        layers = self.layers.values()
        style = sum((layer.style.sum().to(device) for layer in layers if layer.style is not None), zero)
        content = sum((layer.content.sum().to(device) for layer in layers if layer.content is not None), zero)
        total = self.content_weight * content + self.style_weight * style
        return self.variation.added(Loss(total, content, style, zero), tv)


def make_tiled_objective(
    backbone: Backbone,
    content: Tensor,
    style: Mapping[str, StyleTarget],
    options: Options,
    runtime: Runtime,
    grid: TileGrid,
    *,
    guidance: Guidance | None = None,
    level: str = "kept",
    content_place: str = "device",
    again: int | None = None,
) -> TiledObjective:
    """The objective for an image of the size of `content`, (1, 3, H, W) float32 RGB in 0…1, in the tiles of `grid`.

    `content` may lie on any device; `guidance` is that of `make_objective`. `level` is one of `LEVELS`,
    `content_place` as in `make_tile_content`, `again` as in `TiledObjective`.
    """
    if level not in LEVELS:
        raise OptionError(f"unknown level {level!r} of tiles; choose one of: {', '.join(LEVELS)}")
    if again and list(backbone.steps)[again - 1] not in options.taps:
        raise OptionError(f"the last of {again} steps that are computed again is not tapped; choose another")
    if content.shape[2:] != (grid.height, grid.width):
        raise OptionError(
            f"tiles of {grid.height}×{grid.width} pixels do not fit {tuple(content.shape)}; make new ones"
        )
    guided = (guidance or Guidance(grid.height, grid.width)).at(
        levels_of(options.network, options.taps), runtime.device
    )
    variation = variation_of(options, grid.height, grid.width)
    return assembled(
        backbone,
        content,
        style,
        options,
        runtime,
        grid,
        guided,
        variation,
        LossScale(runtime),
        level=level,
        content_place=content_place,
        again=again,
    )


def assembled(
    backbone: Backbone,
    content: Tensor,
    style: Mapping[str, StyleTarget],
    options: Options,
    runtime: Runtime,
    grid: TileGrid,
    guided: Mapping[str, LayerGuidance],
    variation: Variation,
    loss_scale: LossScale,
    *,
    level: str,
    content_place: str,
    again: int | None,
    total: Callable[[Tensor], Tensor] = torch.clone,
    reduce: Callable[[Sequence[Tensor]], None] = _alone,
) -> TiledObjective:
    """The objective of the tiles of `grid`, which may be some of those of an image: `guided` are its layers' guidance
    where these tiles lie, `variation` is what of it is computed here. `total` is that of `make_tile_content`, other
    arguments are those of `make_tiled_objective` and `TiledObjective`."""
    levels = levels_of(options.network, options.taps)
    tiles = tuple(grid)
    opaque = {name: layer.opaque for name, layer in guided.items()}
    target = make_tile_content(
        backbone, content, tiles, levels, options, runtime.device, content_place, total, opaque=opaque
    )
    layers = {
        name: layer_sums(
            runtime,
            style.get(name),
            target.weights.get(name),
            guided[name],
            options.last_style_weight,
            options.content_weight,
        )
        for name in levels
        if name in style or name in target.weights
    }
    return TiledObjective(
        backbone,
        grid,
        tiles,
        layers,
        levels,
        target,
        options.content_weight,
        options.last_style_weight,
        variation,
        level,
        runtime,
        loss_scale,
        reduce,
        again,
        options.wraps,
        store_of(level, runtime),
    )


def store_of(level: str, runtime: Runtime) -> TileStore | None:
    """Where a `TiledObjective` of this level keeps what it keeps; None for the device."""
    # Layers that hand out their own memory are in main memory anyway, and would take the store's for theirs.
    if level != "kept-host" or runtime.winograd:
        return None
    return TileStore(runtime.device, SideCopier(runtime.device))


def _tensors(traces: Iterable[Trace]) -> list[Tensor]:
    return [tensor for trace in traces for tensor in (trace.features, trace.bits) if tensor is not None]


def _with_tensors(trace: Trace, change: Callable[[Tensor], Tensor]) -> Trace:
    """The trace with its tensors, in the order of `_tensors`, changed."""
    features, bits = (None if one is None else change(one) for one in (trace.features, trace.bits))
    return trace._replace(features=features, bits=bits)


def least_again(steps: Iterable[str], taps: Container[str]) -> int:
    """The steps that are always computed again: the first, if it is tapped and a convolution alone."""
    first = next(iter(steps))
    return int(first in taps and not first.startswith("pool"))
