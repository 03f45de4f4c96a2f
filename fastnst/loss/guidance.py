"""Where in the image a loss looks: the regions of a style and the opaque part of the content, at each layer.

A mask is brought to a layer's resolution as the network brings the image there, by means of 2×2 positions (Gatys et al.
2017 call the result guidance channels). What a region has of the style term is its share of the image's area, so that a
place is stylised as strongly as without masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerGuidance:
    """Of one layer of `positions` in the whole image: for each region its map `m`, (1, 1, h, w) float32 in 0…1 or None
    for 1 everywhere, of the positions that are seen here; the sum of m² over the whole image; its share of the area.
    `opaque` is the map of the content term, `None` where all of it counts."""

    positions: int
    maps: tuple[Tensor | None, ...]
    totals: tuple[float, ...]
    areas: tuple[float, ...]
    opaque: Tensor | None


@dataclass(frozen=True)
class Guidance:
    """`masks` are one for each region, (1, 1, H, W) float32 in 0…1, or None for the whole image; `opaque` is the
    content's alpha, (1, 1, H, W), or None. They are of the whole image; `rows` are the first and
    the end of those that are seen here, which begin on the grid of the deepest pool; None for all."""

    height: int
    width: int
    masks: tuple[Tensor | None, ...] = (None,)
    opaque: Tensor | None = None
    rows: tuple[int, int] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all of the image counts, as one region."""
        return self.masks == (None,) and self.opaque is None

    def at(self, levels: Mapping[str, int], device: torch.device) -> dict[str, LayerGuidance]:
        """That of the layers, by their names and the pools on the way to them; maps are on `device`."""
        found = {level: self._at_level(level, device) for level in set(levels.values())}
        return {name: found[level] for name, level in levels.items()}

    def _at_level(self, level: int, device: torch.device) -> LayerGuidance:
        maps, totals = [], []
        positions = (self.height >> level) * (self.width >> level)
        for mask in self._regions:
            pooled = None if mask is None else halved(mask, level)
            totals.append(float(positions) if pooled is None else pooled.square().sum(dtype=torch.float64).item())
            maps.append(self._seen(pooled, level, device))
        opaque = None if self.opaque is None else self._seen(halved(self.opaque, level), level, device)
        return LayerGuidance(positions, tuple(maps), tuple(totals), self._areas, opaque)

    @property
    def _regions(self) -> list[Tensor | None]:
        """The regions' masks with nothing of what is transparent."""
        if self.opaque is None:
            return list(self.masks)
        return [self.opaque if mask is None else mask * self.opaque for mask in self.masks]

    @property
    def _areas(self) -> tuple[float, ...]:
        """Of the opaque part of the image."""
        whole = self.height * self.width if self.opaque is None else self.opaque.sum(dtype=torch.float64).item()
        regions = self._regions
        return tuple(1.0 if one is None else one.sum(dtype=torch.float64).item() / max(whole, 1e-30) for one in regions)

    def _seen(self, pooled: Tensor | None, level: int, device: torch.device) -> Tensor | None:
        if pooled is None:
            return None
        start, stop = self.rows or (0, self.height)
        return pooled[:, :, start >> level : stop >> level].to(device).contiguous()


def halved(mask: Tensor, times: int) -> Tensor:
    """(1, 1, H, W) after so many means of 2×2, as pools make them: ⌊H/2ⁿ⌋ × ⌊W/2ⁿ⌋."""
    for _ in range(times):
        mask = torch.nn.functional.avg_pool2d(mask, 2)
    return mask


def style_maps(masks: Sequence[Tensor | None], level: int) -> tuple[Tensor | None, ...]:
    """Those of a style image at a layer, one for each region."""
    return tuple(None if mask is None else halved(mask, level) for mask in masks)
