"""The style's targets from the moments of its features, in regions, from whole images or in tiles."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastnst.errors import FastnstError
from fastnst.loss.guidance import style_maps
from fastnst.loss.moments import MomentSums, StyleRegions
from fastnst.loss.style_statistics import Moments, RegionTargets, moment_targets
from fastnst.network.backbone import Backbone
from fastnst.network.forward_tap import ForwardTap
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Tile, cut, levels_of, make_grid, reach_of
from fastnst.options.options import Options


@torch.no_grad()
def region_targets(
    backbone: Backbone,
    styles: Sequence[tuple[Tensor, float]],
    options: Options,
    runtime: Runtime,
    *,
    regions: StyleRegions | None = None,
    tile: int | None = None,
) -> dict[str, RegionTargets]:
    """The style layers' targets, of each region those of its styles by their shares among them.

    `styles` are (image, share): (1, 3, H, W) float32 RGB in 0…1 on any device, each of its own size. Without `regions`
    there is one, of all that there is. The images are seen in tiles that own at most `tile` × `tile` pixels.
    """
    if regions is None:
        regions = [dict.fromkeys(range(len(styles)))]
    found = [
        _moments(backbone, image, index, regions, options, runtime, tile) for index, (image, _) in enumerate(styles)
    ]
    targets = {}
    for name, weight in options.active_style_layers:
        layer = []
        for region, members in enumerate(regions):
            pairs = [(moments, styles[index][1]) for index in members if (moments := found[index][name][region])]
            whole = sum(share for _, share in pairs)
            shares = [share / whole for _, share in pairs] if whole > 0 else []
            known = [moments for moments, _ in pairs] if whole > 0 else []
            layer.append(moment_targets(options.style_loss, known, shares, weight, options.style_form) if known else ())
        targets[name] = tuple(layer)
    return targets


def _moments(
    backbone: Backbone,
    image: Tensor,
    index: int,
    regions: StyleRegions,
    options: Options,
    runtime: Runtime,
    tile: int | None,
) -> dict[str, list[Moments | None]]:
    """Of each style layer and region those of style `index`; None where the region has nothing of it there."""
    names = tuple(name for name, _ in options.active_style_layers)
    height, width = image.shape[2:]
    levels = levels_of(options.network, names)
    members = [region for region, styles in enumerate(regions) if index in styles]
    masks = [regions[region][index] for region in members]
    maps = {level: style_maps(masks, level) for level in set(levels.values())}
    taps = {name: _Adding(maps[level], level, runtime) for name, level in levels.items()}
    if names and members:
        for part in make_grid(height, width, tile or max(height, width), reach_of(options.network, names)):
            for tap in taps.values():
                tap.tile = part
            backbone.forward(cut(image, part).to(runtime.device).contiguous(), taps)
    found: dict[str, list[Moments | None]] = {name: [None] * len(regions) for name in names}
    for name, level in levels.items():
        positions = float((height >> level) * (width >> level))
        for region, sums, mask in zip(members, taps[name].sums, maps[level], strict=True):
            total = positions if mask is None else mask.square().sum(dtype=torch.float64).item()
            if total > 0:
                found[name][region] = sums.moments(total)
    return found


@dataclass
class _Adding(ForwardTap):
    """A tap that adds what the tile owns to the sums of each region, which have the masks `maps`."""

    maps: tuple[Tensor | None, ...]
    level: int
    runtime: Runtime
    tile: Tile | None = None
    sums: list[MomentSums] = field(default_factory=list)

    def forward(self, features: Tensor) -> None:
        if self.tile is None:
            raise FastnstError("no tile was named before its features came")
        inside, owned = self.tile.inside(self.level), self.tile.owned(self.level)
        if not self.sums:
            self.sums = [MomentSums.nothing(features.shape[1], features.device) for _ in self.maps]
        for sums, mask in zip(self.sums, self.maps, strict=True):
            own = None if mask is None else mask[:, :, *owned].to(features.device)
            sums.add(features[:, :, *inside], own, self.runtime)
