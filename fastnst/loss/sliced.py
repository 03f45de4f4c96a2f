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
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from fastnst_kernels import GramDifference
from fastnst_kernels.launch.layout import exact
from torch import Tensor

from fastnst.errors import RangeError
from fastnst.loss.masks import LayerGuidance, StyleRegions, style_maps
from fastnst.loss.statistics import RELATIVE_FACTORS
from fastnst.network.backbone import Backbone, Tap
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


@torch.no_grad()
def sliced_targets(
    backbone: Backbone, styles: Sequence[tuple[Tensor, float]], options: Options, regions: StyleRegions | None = None
) -> dict[str, SlicedTargets]:
    """The style layers' targets of images (1, 3, H, W) float32 RGB in 0…1 on the backbone's device, by their shares.

    `regions` are as for `style_targets`. Raises RangeError where a constant is out of range.
    """
    if regions is None:
        regions = [dict.fromkeys(range(len(styles)))]
    taps = [_sorted(backbone, image, index, regions, options) for index, (image, _) in enumerate(styles)]
    targets = {}
    for name, weight in options.active_style_layers:
        layer = []
        for region, members in enumerate(regions):
            values = [(taps[index][name].values[region], styles[index][1]) for index in members]
            pairs = [(own, share) for own, share in values if own is not None]
            whole = sum(share for _, share in pairs)
            layer.append(
                tuple((own, _weight(own, weight * share / whole, options)) for own, share in pairs if share > 0)
            )
        targets[name] = SlicedTargets(taps[0][name].directions, tuple(layer))
    return targets


def _weight(values: Tensor, weight: float, options: Options) -> float:
    if options.style_form == "relative":
        weight *= RELATIVE_FACTORS["sliced"] / max(exact(values).square().mean().item(), math.ulp(1.0))
    if not 0 < weight < math.inf:
        raise RangeError(
            "the style's features are out of float32's range; check the network's weights, and lower the weights of "
            "the style layers"
        )
    return weight


def _sorted(
    backbone: Backbone, image: Tensor, index: int, regions: StyleRegions, options: Options
) -> dict[str, "_Sorting"]:
    """The sorted projections of style `index` at each style layer, in each region."""
    levels = levels_of(options.network, tuple(name for name, _ in options.active_style_layers))
    masks = [region.get(index) for region in regions]
    wanted = [index in region for region in regions]
    taps = {
        name: _Sorting(name, options.seed, wanted, [_inside(mask) for mask in style_maps(masks, level)])
        for name, level in levels.items()
    }
    if taps:
        backbone.forward(image, taps)
    return taps


@dataclass
class _Sorting(Tap):
    """A tap that keeps a layer's sorted projections, (N, M), in each region that it is `among`, or None."""

    name: str
    seed: int
    among: list[bool]
    inside: list[Tensor | None]
    directions: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32))
    values: list[Tensor | None] = field(default_factory=list)

    def forward(self, features: Tensor) -> None:
        self.directions = unit_vectors(self.name, features.shape[1], self.seed).to(features.device)
        projected = self.directions @ features[0].float().flatten(1)
        for is_member, inside in zip(self.among, self.inside, strict=True):
            own = projected if inside is None else projected[:, inside.to(features.device)]
            self.values.append(own.sort(dim=1).values if is_member and own.numel() else None)


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

    @property
    def plain_gradient(self) -> tuple[GramDifference, Tensor] | None:
        """None: the gradient is no matrix's."""
        return None

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
