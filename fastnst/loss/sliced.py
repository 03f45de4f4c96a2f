"""The sliced Wasserstein distance of a layer's features from the style's (Heitz, Vanhoey, Chambon, Belcour 2021).

With `F` (N filters × M positions) and N random unit vectors `v`, drawn once from the seed,

    distance = 1/N Σ_v 1/M |sort(vᵀ F) − sort(vᵀ F_A)|²

which is 0 only where all of the distribution is the style's, not its first moments alone. Where the style has another
number of positions its sorted values are read at the quantiles (i + ½)/M, linearly between them. `objective="paper"`
takes the distance as it is; "relative" divides it by that of no features at all, 1/(N M) Σ_v |vᵀ F_A|², and multiplies
it by its place in `statistics.RELATIVE_FACTORS`. Several styles make the sum of their terms by their shares.

A region has the positions whose mask is ½ or more. All positions have to be sorted together, so that there are no tiles
of it.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from fastnst_kernels.launch.layout import exact
from torch import Tensor

from fastnst.loss.masks import LayerGuidance, halved
from fastnst.loss.statistics import RELATIVE_FACTORS
from fastnst.loss.terms import check_weights
from fastnst.network.architecture import layers_of
from fastnst.network.backbone import Backbone
from fastnst.network.tiles import Window, levels_of
from fastnst.options.options import Options

_HALF = 0.5


@dataclass(frozen=True)
class SlicedTargets:
    """A layer's targets: `directions` v, (N, N) float32, and of each region its styles' sorted vᵀ F_A, (N, M) float32,
    with the weights of their distances."""

    directions: Tensor
    regions: tuple[tuple[tuple[Tensor, float], ...], ...]


def unit_vectors(name: str, filters: int, seed: int) -> Tensor:
    """The directions of a layer: (filters, filters) float32 on the CPU, each row of length 1."""
    generator = torch.Generator().manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
    drawn = torch.randn((filters, filters), generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1).float()


def layer_directions(options: Options, device: torch.device) -> dict[str, Tensor]:
    """The directions of each style layer, (N, N) float32."""
    filters = {layer.name: layer.out_channels for layer in layers_of(options.network)}
    return {name: unit_vectors(name, filters[name], options.seed).to(device) for name, _ in options.active_style_layers}


def image_projections(
    backbone: Backbone,
    image: Tensor,
    masks: Mapping[int, Tensor | None],
    *,
    directions: Mapping[str, Tensor],
    network: str,
) -> dict[str, dict[int, Tensor]]:
    """The sorted projections, (N, M) float32, of an image (1, 3, H, W) on the backbone's device, at the layers that
    have `directions`, by the regions, which have `masks`, that show something there."""
    levels = levels_of(network, tuple(directions))
    values: dict[str, dict[int, Tensor]] = {name: {} for name in directions}

    def keep(name: str, features: Tensor) -> None:
        projected = directions[name] @ features[0].float().flatten(1)
        for region, mask in masks.items():
            inside = _inside(halved(mask, levels[name]))
            own = projected if inside is None else projected[:, inside.to(features.device)]
            if own.numel():
                values[name][region] = own.sort(dim=1).values

    backbone.read(image, directions, keep)
    return values


def sliced_target(
    directions: Tensor, regions: Sequence[Sequence[tuple[Tensor, float]]], weight: float, options: Options
) -> SlicedTargets:
    """A layer's target: of the sorted projections of each region's styles, by their shares, and the layer's weight.
    Raises RangeError where a constant is out of range."""
    layer = []
    for styles in regions:
        whole = sum(share for _, share in styles)
        layer.append(tuple((own, _weight(own, weight * share / whole, options)) for own, share in styles if share > 0))
    return SlicedTargets(directions, tuple(layer))


def _weight(values: Tensor, weight: float, options: Options) -> float:
    if options.style_form == "relative":
        weight *= RELATIVE_FACTORS["sliced"] / max(exact(values).square().mean().item(), math.ulp(1.0))
    check_weights("features are", [weight])
    return weight


def _inside(mask: Tensor | None) -> Tensor | None:
    """The positions of a region, as indices; None for all."""
    return None if mask is None else (mask.flatten() >= _HALF).nonzero()[:, 0]


def resampled(values: Tensor, count: int) -> Tensor:
    """Sorted values (N, M) at the quantiles (i + ½)/count, (N, count)."""
    if values.shape[1] == count:
        return values
    read: Tensor = torch.nn.functional.interpolate(values[None], size=count, mode="linear", align_corners=False)[0]
    return read


@dataclass(frozen=True)
class _Region:
    """`weight` times the mean square of sorted projections less `values`, (N, M), plus `offset`: several styles as one.
    `inside` are its positions, or None."""

    inside: Tensor | None
    values: Tensor
    weight: float
    offset: Tensor


@dataclass
class SlicedSums:
    """The style term of one layer, as `RegionSums`, of a map that is seen whole, once between `begin` and `finish`."""

    directions: Tensor
    regions: Sequence[_Region]
    style_weight: float
    loss: Tensor | None = field(default=None, init=False)
    _slopes: list[Tensor] = field(default_factory=list, init=False)

    def begin(self) -> None:
        self.loss = None
        self._slopes = []

    @property
    def sums(self) -> list[Tensor]:
        """None: what is sorted in parts is not sorted."""
        return []

    def add(self, features: Tensor, window: Window) -> None:
        """Sees all of the features, (1, N, h, w)."""
        matrix = features[0].float().flatten(1)
        loss = torch.zeros(1, dtype=torch.float32, device=matrix.device)
        for region in self.regions:
            own = matrix if region.inside is None else matrix[:, region.inside]
            values, order = (self.directions @ own).sort(dim=1, stable=True)
            values -= region.values
            loss += region.weight * values.square().mean() + region.offset
            values *= 2 * region.weight * self.style_weight / values.numel()
            self._slopes.append(torch.empty_like(values).scatter_(1, order, values))
        self.loss = loss

    def finish(self, dtype: torch.dtype) -> None:
        """All is known already."""

    def add_gradient(self, gradient: Tensor, features: Tensor, window: Window, scale: Tensor) -> None:
        """Adds `scale`, (1,), times the gradient of all of the features to `gradient`, (1, N, h, w)."""
        for region, slopes in zip(self.regions, self._slopes, strict=True):
            own = (self.directions.mT @ slopes).mul_(scale)
            if region.inside is not None:
                whole = own.new_zeros((own.shape[0], gradient.shape[2] * gradient.shape[3]))
                own = whole.index_copy_(1, region.inside, own)
            gradient += own.view(gradient.shape)
        self._slopes = []


def sliced_sums(target: SlicedTargets, guidance: LayerGuidance, style_weight: float) -> SlicedSums:
    """The term of a layer; regions that its resolution leaves nothing of have no part."""
    regions = []
    for styles, mask, area in zip(target.regions, guidance.maps, guidance.areas, strict=True):
        inside = _inside(mask)
        count = guidance.positions if inside is None else len(inside)
        if not styles or not count:
            continue
        total = math.fsum(weight for _, weight in styles)
        parts = [(resampled(values, count), weight) for values, weight in styles]
        mean = parts[0][0]
        if len(parts) > 1:
            mean = torch.zeros_like(mean)
            for values, weight in parts:
                mean += values * (weight / total)
        offset = torch.zeros(1, dtype=torch.float32, device=mean.device)
        for values, weight in parts:
            offset += area * weight * (values - mean).square().mean()
        regions.append(_Region(inside, mean, area * total, offset))
    return SlicedSums(target.directions, regions, style_weight)
