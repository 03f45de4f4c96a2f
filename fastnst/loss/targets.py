"""The style's targets: Gram matrices, moments or sorted features of the style images, whole or seen in tiles."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from fastnst_kernels import BlendedTarget, blend_targets
from fastnst_kernels.launch.layout import exact
from torch import Tensor

from fastnst.errors import FastnstError, OptionError, RangeError, counted
from fastnst.loss.masks import StyleRegions, style_maps
from fastnst.loss.moments import MomentSums
from fastnst.loss.sliced import SlicedTargets, sliced_targets
from fastnst.loss.statistics import Moments, MomentTarget, RegionTargets, moment_targets
from fastnst.loss.terms import style_factor
from fastnst.network.backbone import Backbone, Tap
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Tile, cut, levels_of, make_grid, reach_of
from fastnst.options.options import Options

StyleTarget = BlendedTarget | RegionTargets | SlicedTargets
"""A layer's target: the Gram matrix of all positions, or the moments or sorted features of regions."""


def style_backbone(backbone: Backbone, options: Options) -> Backbone:
    """The network as styles are shown to it: they do not tile, and their seams are not to be imitated."""
    return backbone.repadded("replicate") if options.wraps else backbone


def style_shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """The shares of styles, which sum to 1. Raises OptionError for another number of weights."""
    if weights is None:
        return (1 / max(count, 1),) * count
    if len(weights) != count:
        raise OptionError(
            f"you gave {counted(len(weights), 'style weight')} for {counted(count, 'style image')}; give one for each"
        )
    # By the largest first: the sum of finite weights need not be finite.
    relative = [weight / max(weights) for weight in weights]
    return tuple(weight / sum(relative) for weight in relative)


@torch.no_grad()
def style_targets(
    backbone: Backbone,
    styles: Sequence[tuple[Tensor, float]],
    options: Options,
    runtime: Runtime,
    regions: StyleRegions | None = None,
    *,
    tile: int | None = None,
) -> dict[str, StyleTarget]:
    """The style layers' targets, with the constants of the chosen objective.

    Args:
        styles: (image, share): (1, 3, H, W) float32 RGB in 0…1 on any device, each of its own size, and shares that
            sum to 1.
        regions: for each region its styles, whose shares count among themselves; None for one region of all.
        tile: the images are seen in tiles that own at most `tile` × `tile` pixels, to the same sums; None for whole.

    Raises FastnstError for sorted features in tiles, RangeError where a constant is out of range.
    """
    if options.style_loss == "sliced":
        if tile is not None:
            raise FastnstError("sorted features cannot be summed in parts; do not cut the style images into tiles")
        placed = [(image.to(runtime.device), share) for image, share in styles]
        return dict(sliced_targets(backbone, placed, options, regions))
    plain = options.style_loss == "gram" and regions is None
    regions = regions or [dict.fromkeys(range(len(styles)))]
    names = tuple(name for name, _ in options.active_style_layers)
    moments = []
    for index, (image, _) in enumerate(styles):
        members = {region: own[index] for region, own in enumerate(regions) if index in own}
        moments.append(image_moments(backbone, image, members, names, options.network, runtime, tile=tile))
    shares = [share for _, share in styles]
    targets: dict[str, StyleTarget] = {}
    for name, weight in options.active_style_layers:
        if plain:
            grams = [known[name][0].gram for known in moments]
            targets[name] = gram_target(grams, shares, weight, options.style_form)
        else:
            layer = [
                _region_target([(moments[index][name].get(region), shares[index]) for index in own], weight, options)
                for region, own in enumerate(regions)
            ]
            targets[name] = tuple(layer)
    return targets


def gram_target(grams: Sequence[Tensor], shares: Sequence[float], weight: float, form: str) -> BlendedTarget:
    """A layer's target from the Gram matrices of several styles, (1, N, N) each, by their shares.

    Several styles cost no more than one: with `k_s` the constant of style `s` and `k = Σ k_s`,
    `Σ k_s ‖G − A_s‖² = k ‖G − Ā‖² + Σ k_s ‖A_s − Ā‖²` where `Ā = Σ k_s A_s / k`. Raises RangeError where the
    constant of the relative objective is out of range.
    """
    weights = [
        weight * share * style_factor(form, float(exact(matrix).square().sum().item()), matrix.shape[-1])
        for matrix, share in zip(grams, shares, strict=True)
    ]
    if not all(0 < each < math.inf for each, share in zip(weights, shares, strict=True) if share > 0):
        raise RangeError(
            "the style's Gram matrix is out of float32's range; check the network's weights, and lower the weights of "
            "the style layers"
        )
    return blend_targets(list(grams), weights)


def _region_target(
    pairs: Sequence[tuple[Moments | None, float]], weight: float, options: Options
) -> tuple[MomentTarget, ...]:
    """The targets of one region of a layer, from its styles' moments there, by their shares; none where it has none."""
    known = [(moments, share) for moments, share in pairs if moments is not None]
    whole = sum(share for _, share in known)
    if whole <= 0:
        return ()
    shares = [share / whole for _, share in known]
    return moment_targets(
        options.style_loss, [moments for moments, _ in known], shares, weight, form=options.style_form
    )


def image_moments(
    backbone: Backbone,
    image: Tensor,
    masks: Mapping[int, Tensor | None],
    names: tuple[str, ...],
    network: str,
    runtime: Runtime,
    *,
    tile: int | None,
) -> dict[str, dict[int, Moments]]:
    """The moments of an image, (1, 3, H, W), at each of the layers `names` of the network, by the regions, which have
    `masks`, that show something there.

    They are summed up in the memory of a tile.
    """
    height, width = image.shape[2:]
    levels = levels_of(network, names)
    maps = {level: style_maps(list(masks.values()), level) for level in set(levels.values())}
    taps = {name: _Adding(maps[level], level, runtime) for name, level in levels.items()}
    if names and masks:
        for part in make_grid(height, width, tile or max(height, width), reach_of(network, names)):
            for tap in taps.values():
                tap.tile = part
            backbone.forward(cut(image, part).to(runtime.device).contiguous(), taps)
    moments: dict[str, dict[int, Moments]] = {name: {} for name in names}
    for name, level in levels.items():
        positions = float((height >> level) * (width >> level))
        for region, sums, mask in zip(masks, taps[name].sums, maps[level], strict=True):
            total = positions if mask is None else mask.square().sum(dtype=torch.float64).item()
            if total > 0:
                moments[name][region] = sums.moments(total)
    return moments


@dataclass
class _Adding(Tap):
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
            self.sums = [MomentSums(features.shape[1], features.device) for _ in self.maps]
        for sums, mask in zip(self.sums, self.maps, strict=True):
            own = None if mask is None else mask[:, :, *owned].to(features.device)  # (1, 1, h, w)
            sums.add(features[:, :, *inside], own, self.runtime)
