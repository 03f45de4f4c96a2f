"""The style's targets: Gram matrices, moments or sorted features of the style images, whole or seen in tiles."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from fastnst_kernels import BlendedTarget, blend_targets
from fastnst_kernels.launch.layout import exact
from torch import Tensor

from fastnst.errors import FastnstError, OptionError, counted
from fastnst.loss.masks import Guidance, StyleRegions
from fastnst.loss.moments import MomentSums
from fastnst.loss.sliced import SlicedTargets, image_projections, layer_directions, sliced_target
from fastnst.loss.statistics import Moments, RegionTargets, moment_targets
from fastnst.loss.terms import check_weights, style_factor
from fastnst.network.backbone import Backbone
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Tile, cut, levels_of, make_grid, reach_of
from fastnst.options.options import Options

T = TypeVar("T")

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
    layers, form = dict(options.active_style_layers), options.style_form
    targets: dict[str, StyleTarget] = {}
    if options.style_loss == "sliced":
        if tile is not None:
            raise FastnstError("sorted features cannot be summed in parts; do not cut the style images into tiles")
        directions = layer_directions(options, runtime.device)
        placed = [(image.to(runtime.device), share) for image, share in styles]
        project = partial(image_projections, backbone, directions=directions, network=options.network)
        for name, projections in in_regions(placed, regions, layers, project).items():
            targets[name] = sliced_target(directions[name], projections, layers[name], options)
        return targets
    names, network = tuple(layers), options.network
    summed = partial(image_moments, backbone, names=names, network=network, runtime=runtime, tile=tile)
    for name, moments in in_regions(styles, regions, names, summed).items():
        if options.style_loss == "gram" and regions is None:
            targets[name] = gram_target([(own.gram, share) for own, share in moments[0]], layers[name], form)
        else:
            targets[name] = tuple(moment_targets(options.style_loss, own, layers[name], form) for own in moments)
    return targets


def in_regions(
    styles: Sequence[tuple[Tensor, float]],
    regions: StyleRegions | None,
    names: Iterable[str],
    see: Callable[[Tensor, Mapping[int, Tensor | None]], Mapping[str, Mapping[int, T]]],
) -> dict[str, list[list[tuple[T, float]]]]:
    """For each of the layers `names` and each region, what its styles show there, and their shares.

    `see` gives it, by layer and region, of an image and the masks of the regions that it is a style of.
    """
    regions = regions or [dict.fromkeys(range(len(styles)))]
    seen = [
        see(image, {region: own[index] for region, own in enumerate(regions) if index in own})
        for index, (image, _) in enumerate(styles)
    ]
    return {
        name: [
            [(seen[index][name][region], styles[index][1]) for index in own if region in seen[index][name]]
            for region, own in enumerate(regions)
        ]
        for name in names
    }


def gram_target(styles: Sequence[tuple[Tensor, float]], weight: float, form: str) -> BlendedTarget:
    """A layer's target from the Gram matrices of several styles, (1, N, N) each, and their shares.

    Several styles cost no more than one: with `k_s` the constant of style `s` and `k = Σ k_s`,
    `Σ k_s ‖G − A_s‖² = k ‖G − Ā‖² + Σ k_s ‖A_s − Ā‖²` where `Ā = Σ k_s A_s / k`. Raises RangeError where the
    constant of the relative objective is out of range.
    """
    weights = [
        weight * share * style_factor(form, float(exact(matrix).square().sum().item()), matrix.shape[-1])
        for matrix, share in styles
    ]
    check_weights("Gram matrix is", [each for each, (_, share) in zip(weights, styles, strict=True) if share > 0])
    return blend_targets([matrix for matrix, _ in styles], weights)


def image_moments(
    backbone: Backbone,
    image: Tensor,
    masks: Mapping[int, Tensor | None],
    *,
    names: tuple[str, ...],
    network: str,
    runtime: Runtime,
    tile: int | None,
) -> dict[str, dict[int, Moments]]:
    """The moments of an image, (1, 3, H, W), at each of the layers `names` of the network, by the regions, which have
    `masks`, that show something there.

    They are summed up in the memory of a tile.
    """
    height, width = image.shape[2:]
    levels = levels_of(network, names)
    guided = Guidance(height, width, tuple(masks.values())).at(levels, runtime.device)
    sums: dict[str, list[MomentSums]] = {}

    def add(part: Tile, name: str, features: Tensor) -> None:
        inside, owned = part.inside(levels[name]), part.owned(levels[name])
        layer = sums.setdefault(name, [MomentSums(features.shape[1], features.device) for _ in masks])
        for own, mask in zip(layer, guided[name].maps, strict=True):
            own.add(features[:, :, *inside], None if mask is None else mask[:, :, *owned], runtime)

    grid = make_grid(height, width, tile or max(height, width), reach_of(network, names)) if names and masks else ()
    for part in grid:
        backbone.read(cut(image, part).to(runtime.device).contiguous(), names, partial(add, part))
    return {
        name: {
            region: own.moments(total)
            for region, own, total in zip(masks, sums.get(name, ()), guided[name].totals, strict=True)
            if total > 0
        }
        for name in names
    }
