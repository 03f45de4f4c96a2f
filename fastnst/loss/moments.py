"""Moments of a layer's features in regions, as sums over positions, and the gradient of what is made of them.

With `m` the region's mask the sums are Σ m² F Fᵀ and Σ m² F, which the kernels make of m·F; and where a loss has the
gradient `D` by G and `d` by μ, that of the features is m² (2 D F + d) / Σ m², which the kernels make too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from fastnst_kernels import GramDifference, accumulate_gram, direct
from fastnst_kernels.losses.targets import StyleTerm, difference_dtype, normalised
from torch import Tensor

from fastnst.loss.masks import LayerGuidance
from fastnst.loss.statistics import Moments, MomentTarget, moment_loss
from fastnst.network.runtime import Runtime
from fastnst.network.tiles import Window

CHUNK_ELEMENTS = 1 << 22
"""Elements of features of which a copy is made at a time."""


class MomentSums:
    """Σ m² F Fᵀ, (1, N, N), and Σ m² F, (1, N), of one region, both float32, of the positions that were added."""

    def __init__(self, filters: int, device: torch.device) -> None:
        self.gram = torch.zeros((1, filters, filters), dtype=torch.float32, device=device)
        self.mean = torch.zeros((1, filters), dtype=torch.float32, device=device)

    def add(self, features: Tensor, mask: Tensor | None, runtime: Runtime) -> None:
        """Adds features (1, N, h, w), a view of a larger map, with their mask (1, 1, h, w)."""
        backend = loss_backend(runtime)
        if mask is None:
            accumulate_gram(self.gram, features, precision=runtime.dot_precision, backend=backend)
            self.mean += features.sum((2, 3), dtype=torch.float32)
            return
        for rows, part in chunks(features):
            here = mask[:, :, rows].to(part.dtype)
            masked = part * here
            accumulate_gram(self.gram, masked, precision=runtime.dot_precision, backend=backend)
            self.mean += masked.mul_(here).sum((2, 3), dtype=torch.float32)

    def moments(self, total: float) -> Moments:
        """The moments of the positions seen so far, whose m² are `total` in all."""
        return Moments(self.gram / total, self.mean / total)


@dataclass
class RegionSums:
    """The style term of one layer in `regions`, over the whole image. For each: its targets, its mask's map `m`, the
    sum of m², and its share of the area.

    Between `begin` and `finish` the positions are seen; after it `loss` is the term, (1,), and `add_gradient` gives
    back that of `style_weight` times it.
    """

    runtime: Runtime
    regions: Sequence[tuple[Sequence[MomentTarget], Tensor | None, float, float]]
    style_weight: float
    loss: Tensor | None = field(default=None, init=False)
    _seen: list[MomentSums] = field(default_factory=list, init=False)
    _gradients: list[tuple[GramDifference, Tensor]] = field(default_factory=list, init=False)

    def begin(self) -> None:
        """Starts anew: no position has been seen."""
        self.loss = None
        self._seen = [MomentSums(targets[0].mean.shape[1], self.runtime.device) for targets, *_ in self.regions]

    @property
    def sums(self) -> list[Tensor]:
        """The sums over positions, which several processes add up before `finish`."""
        return [tensor for sums in self._seen for tensor in (sums.gram, sums.mean)]

    def add(self, features: Tensor, window: Window) -> None:
        """Adds features (1, N, h, w), a view of a larger map, of the positions at `window` of the image."""
        for sums, (_, mask, _, _) in zip(self._seen, self.regions, strict=True):
            sums.add(features, None if mask is None else mask[:, :, *window], self.runtime)

    def finish(self, dtype: torch.dtype) -> None:
        """Makes the loss and its gradient of the sums over all positions; the features are of `dtype`."""
        self._gradients = []
        self.loss = torch.zeros(1, dtype=torch.float32, device=self.runtime.device)
        kept = difference_dtype(dtype, self.runtime.kernels)
        for sums, (targets, _, total, area) in zip(self._seen, self.regions, strict=True):
            moments = sums.moments(total)
            matrix, mean = torch.zeros_like(moments.gram), torch.zeros_like(moments.mean)
            for target in targets:
                loss, gradient = moment_loss(target, moments)
                self.loss = self.loss + area * loss
                matrix, mean = matrix + gradient.gram, mean + gradient.mean
            factor = self.style_weight * area / total
            difference, scale = normalised(matrix, kept)
            self._gradients.append((GramDifference(difference, scale, 2 * factor), mean * factor))

    def add_gradient(self, gradient: Tensor, features: Tensor, window: Window, scale: Tensor) -> StyleTerm | None:
        """Adds `scale`, (1,), times the gradient of features (1, N, h, w) at `window` of the image to `gradient`. Where
        the whole image is one region, D F is not in it: its term is returned, for a kernel that adds it."""
        for (difference, mean), (_, mask, _, _) in zip(self._gradients, self.regions, strict=True):
            term = StyleTerm(difference.matrix, difference.scale, scale, difference.factor)
            shift = (mean * scale)[:, :, None, None]
            if mask is None and len(self.regions) == 1:
                gradient += shift
                return term
            for rows, part in chunks(features):
                own = torch.empty_like(part, memory_format=torch.channels_last)
                precision = self.runtime.dot_precision
                direct.tap_backward(self.runtime.kernels, own, features=part, style=term, precision=precision)
                own.add_(shift)
                if mask is not None:
                    own.mul_(mask[:, :, *window][:, :, rows].square())
                gradient[:, :, rows] += own
        return None


def region_sums(
    runtime: Runtime, targets: Sequence[Sequence[MomentTarget]], guidance: LayerGuidance, style_weight: float
) -> RegionSums:
    """The sums of a layer whose regions have `targets`; regions that its resolution leaves nothing of have no part."""
    regions = zip(targets, guidance.maps, guidance.totals, guidance.areas, strict=True)
    return RegionSums(runtime, [region for region in regions if region[0] and region[2] > 0], style_weight)


def loss_backend(runtime: Runtime) -> str:
    """The backend of a Gram matrix: the reference, or that of the other kernels."""
    return "reference" if runtime.backend == "reference" else runtime.kernels


def chunks(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Splits a map into rows and the features there, no more elements at a time than a copy of them may take."""
    height = features.shape[2]
    step = max(1, CHUNK_ELEMENTS // (features.shape[1] * features.shape[3]))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield rows, features[:, :, rows]
