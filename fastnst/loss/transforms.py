"""Feature transforms: a layer's features moved to the style's mean, and to its covariance or deviations.

Whitening and colouring (Li et al., Universal Style Transfer via Feature Transforms, 2017) maps features F of mean μ and
covariance Σ to `μ' + Σ'^½ Σ^-½ (F - μ)`, with μ' and Σ' of the style; adaptive instance normalisation (Huang and
Belongie 2017) scales each channel alone. Both are affine, so that `blend` mixes them with the features as they were,
shares mix those of several styles, and masks those of regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastnst.loss.masks import Guidance, StyleRegions
from fastnst.loss.moments import chunks
from fastnst.loss.statistics import Moments
from fastnst.loss.targets import image_moments, in_regions, style_backbone
from fastnst.network.backbone import Backbone
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Window, levels_of
from fastnst.options.options import Options

# Directions in which features vary by less than this part of the largest eigenvalue are noise, and are left out.
_LEAST_VARIANCE = 1e-5


@dataclass(frozen=True)
class FeatureTransform:
    """The move of one layer's features in each region: a matrix (N, N) times the features plus a shift (N, 1), both
    float32, where the region's map, (1, 1, h, w) of the whole layer, is 1; None is 1 everywhere."""

    moves: Sequence[tuple[Tensor, Tensor, Tensor | None]]

    def apply_(self, features: Tensor, window: Window) -> None:
        """Transforms features (1, N, h, w) in place, those of the positions at `window` of the layer."""
        for rows, part in chunks(features):
            flat = part[0].float().flatten(1)
            result = flat.clone()
            for matrix, shift, mask in self.moves:
                move = torch.addmm(shift, matrix, flat)
                result += move if mask is None else move.mul_(mask[0, :, *window][:, rows].flatten(1))
            part.copy_(result.view(part.shape))


@torch.no_grad()
def feature_transforms(
    backbone: Backbone,
    image: Tensor,
    styles: Sequence[tuple[Tensor, float]],
    options: Options,
    runtime: Runtime,
    *,
    layers: tuple[str, ...],
    guidance: Guidance,
    regions: StyleRegions | None,
    tile: int | None,
) -> dict[str, FeatureTransform]:
    """The transform of each of `layers` that takes the features of `image` to those of the styles.

    image: (1, 3, H, W) float32 RGB in 0…1, what is transformed; `guidance` has its regions.
    styles, regions, tile: as for `style_targets`.
    """
    summed = partial(image_moments, names=layers, network=options.network, runtime=runtime, tile=tile)
    ours = summed(backbone, image, dict(enumerate(guidance.regions)))
    theirs = in_regions(styles, regions, layers, partial(summed, style_backbone(backbone, options)))
    maps = guidance.at(levels_of(options.network, layers), runtime.device)
    transforms = {}
    for name in layers:
        moves = []
        for region, pairs in enumerate(theirs[name]):
            shares = [(moments, share) for moments, share in pairs if share > 0]
            if region in ours[name] and shares:
                moves.append((*_move(ours[name][region], shares, options), maps[name].maps[region]))
        transforms[name] = FeatureTransform(moves)
    return transforms


def _move(own: Moments, styles: Sequence[tuple[Moments, float]], options: Options) -> tuple[Tensor, Tensor]:
    """The matrix and the shift that add what the transform changes, of all styles by their shares."""
    mean, covariance = _statistics(own)
    whole = sum(share for _, share in styles)
    matrix, target = torch.zeros_like(covariance), torch.zeros_like(mean)
    for moments, share in styles:
        style_mean, style_covariance = _statistics(moments)
        target += share / whole * style_mean
        if options.transfer == "adain":
            variance = covariance.diagonal().clamp_min(_LEAST_VARIANCE * covariance.amax())
            # Features that are all zero have none, and nothing to scale.
            ratio = torch.where(variance > 0, style_covariance.diagonal() / variance, 0.0)
            matrix += share / whole * ratio.clamp_min(0).sqrt().diag()
        else:
            matrix += share / whole * (_power(style_covariance, 0.5) @ _power(covariance, -0.5))
    blend = options.blend
    matrix = blend * (matrix - torch.eye(len(mean), dtype=matrix.dtype))
    shift = blend * (target - mean) - matrix @ mean
    device = own.mean.device
    return matrix.float().to(device), shift.float().to(device)


def _statistics(moments: Moments) -> tuple[Tensor, Tensor]:
    """The mean (N, 1) and the covariance (N, N), float64 on the CPU, where all GPUs have their eigenvectors from."""
    mean = moments.mean[0].double().cpu()[:, None]
    return mean, moments.gram[0].double().cpu() - mean @ mean.T


def _power(covariance: Tensor, exponent: float) -> Tensor:
    """A power of a covariance, of the directions in which there is variance."""
    variances, directions = torch.linalg.eigh(covariance)
    kept = variances > _LEAST_VARIANCE * variances[-1]
    directions = directions[:, kept]
    power: Tensor = (directions * variances[kept].pow(exponent)) @ directions.T
    return power
