"""The style's targets from images that are seen in tiles: the same sums, in the memory of a tile."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fastnst_kernels import accumulate_gram
from torch import Tensor

from fastnst.errors import FastnstError
from fastnst.loss.moments import StyleRegions
from fastnst.loss.objective import style_target
from fastnst.loss.style_moments import region_targets
from fastnst.loss.tile_taps import StyleTarget
from fastnst.network.backbone import Backbone
from fastnst.network.forward_tap import ForwardTap
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Window, cut, levels_of, make_grid, reach_of
from fastnst.options.options import Options


@torch.no_grad()
def tiled_style_targets(
    backbone: Backbone,
    styles: Sequence[tuple[Tensor, float]],
    options: Options,
    runtime: Runtime,
    tile: int,
    regions: StyleRegions | None = None,
) -> dict[str, StyleTarget]:
    """`style_targets` of images that may lie on any device, in tiles that own at most `tile` × `tile` pixels."""
    if options.style_loss == "sliced":
        raise FastnstError("sorted features cannot be summed up in parts; see the style images whole")
    if options.style_loss != "gram" or regions is not None:
        return dict(region_targets(backbone, styles, options, runtime, regions=regions, tile=tile))
    layers = options.active_style_layers
    per_image = [_grams(backbone, image, options, runtime, tile) for image, _ in styles]
    shares = [share for _, share in styles]
    return {
        name: style_target([grams[name] for grams in per_image], shares, weight, options) for name, weight in layers
    }


def _grams(backbone: Backbone, image: Tensor, options: Options, runtime: Runtime, tile: int) -> dict[str, Tensor]:
    """F Fᵀ/M of each style layer, (1, C, C) float32."""
    names = tuple(name for name, _ in options.active_style_layers)
    if not names:
        return {}
    height, width = image.shape[2:]
    levels = levels_of(options.network, names)
    sums: dict[str, Tensor] = {}
    for part in make_grid(height, width, tile, reach_of(options.network, names)):
        taps = {name: _Adding(sums, name, part.inside(level), runtime) for name, level in levels.items()}
        backbone.forward(cut(image, part).to(runtime.device).contiguous(), taps)
    return {name: found / ((height >> levels[name]) * (width >> levels[name])) for name, found in sums.items()}


@dataclass(frozen=True)
class _Adding(ForwardTap):
    """A tap that adds F Fᵀ of the positions `inside` to the layer's sums."""

    sums: dict[str, Tensor]
    name: str
    inside: Window
    runtime: Runtime

    def forward(self, features: Tensor) -> None:
        channels = features.shape[1]
        if self.name not in self.sums:
            self.sums[self.name] = torch.zeros((1, channels, channels), dtype=torch.float32, device=features.device)
        backend = "reference" if self.runtime.backend == "reference" else self.runtime.kernels
        owned = features[:, :, *self.inside]
        accumulate_gram(self.sums[self.name], owned, precision=self.runtime.dot_precision, backend=backend)
