"""Where in the image a loss looks: the masks of a run, loaded and checked, and their maps at each layer.

A mask is brought to a layer's resolution as the network brings the image there, by means of 2×2 positions (Gatys et al.
2017 call the result guidance channels). What a region has of the style term is its share of the image's area, so that a
place is stylised as strongly as without masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastnst.errors import ImageError, OptionError, counted, warn
from fastnst.image.picture import AnyPicture, Picture
from fastnst.image.read import load_image
from fastnst.image.resize import resize
from fastnst.options.masks import Mask

StyleRegions = Sequence[Mapping[int, Tensor | None]]
"""For each region, which styles it has, by their index, and where in them: a mask (1, 1, H, W) of the style's size,
float32 in 0…1, or None for all of it."""

# The part of a side by which a mask's aspect may be another than its picture's, besides a pixel of rounding.
_ASPECT_TOLERANCE = 0.01
# How far apart a grey's channels may be, and in which part of a picture they may be further: JPEG's edges are tinted.
_TINT, _TINTED_SHARE = 0.1, 0.005
# Masks whose brightest spot is below this are no masks, but numbers of regions; below the second they are weak.
_NEARLY_BLACK, _WEAK = 1 / 16, 0.5


@dataclass(frozen=True)
class LayerGuidance:
    """The regions at one layer of `positions`.

    For each region: its map `m`, (1, 1, h, w) float32 in 0…1 or None for 1 everywhere; the sum of m²; its share of the
    opaque part of the image. `opaque` is the map of the content term, None where all of it counts.
    """

    positions: int
    maps: tuple[Tensor | None, ...]
    totals: tuple[float, ...]
    areas: tuple[float, ...]
    opaque: Tensor | None


@dataclass(frozen=True)
class Guidance:
    """The regions of an image: a mask for each, (1, 1, H, W) float32 in 0…1, or None for the whole image; `opaque` is
    the content's alpha, (1, 1, H, W), or None."""

    height: int
    width: int
    masks: tuple[Tensor | None, ...] = (None,)
    opaque: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """True where all of the image counts, as one region."""
        return self.masks == (None,) and self.opaque is None

    def at(self, levels: Mapping[str, int], device: torch.device) -> dict[str, LayerGuidance]:
        """The guidance of layers, by their names and the pools on the way to them; maps are on `device`."""
        regions, by_level = self.regions, {}
        whole = self.height * self.width if self.opaque is None else _sum(self.opaque)
        areas = tuple(1.0 if mask is None else _sum(mask) / max(whole, 1e-30) for mask in regions)
        for level in set(levels.values()):
            positions = (self.height >> level) * (self.width >> level)
            maps, opaque = [halved(mask, level) for mask in regions], halved(self.opaque, level)
            by_level[level] = LayerGuidance(
                positions,
                maps=tuple(None if mask is None else mask.to(device) for mask in maps),
                totals=tuple(float(positions) if mask is None else _sum(mask.square()) for mask in maps),
                areas=areas,
                opaque=None if opaque is None else opaque.to(device),
            )
        return {name: by_level[level] for name, level in levels.items()}

    @property
    def regions(self) -> list[Tensor | None]:
        """The regions' masks with nothing of what is transparent."""
        if self.opaque is None:
            return list(self.masks)
        return [self.opaque if mask is None else mask * self.opaque for mask in self.masks]


def halved(mask: Tensor | None, times: int) -> Tensor | None:
    """A mask, (1, 1, H, W), after so many means of 2×2, as pools make them: (1, 1, ⌊H/2ⁿ⌋, ⌊W/2ⁿ⌋); None stays."""
    for _ in range(times):
        mask = None if mask is None else torch.nn.functional.avg_pool2d(mask, 2)
    return mask


def _sum(mask: Tensor) -> float:
    return mask.sum(dtype=torch.float64).item()


@dataclass(frozen=True, eq=False)
class GreyMask:
    """A mask: `values`, (1, 1, H, W) float32 in 0…1, and the name and hash of its picture."""

    values: Tensor
    name: str
    sha256: str

    @property
    def recorded(self) -> dict[str, Any]:
        """Its name and hash, and the share of its picture that it covers, in 0…1."""
        covers = round(float(self.values.mean(dtype=torch.float64)), 4)
        return {"name": self.name, "sha256": self.sha256, "covers": covers}

    def check_aspect(self, height: int, width: int, what: str) -> None:
        """Raises ImageError unless it has the proportions of `what`, of `height` × `width`."""
        own_height, own_width = self.values.shape[2:]
        wanted = own_width * height / width
        if abs(wanted - own_height) > max(1.0, _ASPECT_TOLERANCE * own_height):
            raise ImageError(
                f"mask {self.name!r} is {own_width}×{own_height} pixels, and {what} {width}×{height}; give a mask of "
                "the same proportions"
            )


@dataclass(frozen=True, eq=False)
class Region:
    """A region: where it lies in the content, and in each of its styles, by their index; None is everywhere. `named`
    are the styles that were given, none where all are meant."""

    content: GreyMask
    styles: Mapping[int, GreyMask | None]
    named: Mapping[int, GreyMask | None]


def load_regions(masks: Sequence[Mask], styles: Sequence[AnyPicture], shares: Sequence[float]) -> list[Region]:
    """Reads the masks of a run with these styles and their shares.

    What is transparent in a picture is outside; bools, and pictures of 0 and 1, are what they mean. Raises ImageError
    for a mask that cannot be read, is in colour, shows nothing, or has other proportions than its style; OptionError
    for a style that is not there,
    and for a region all of whose styles have the weight 0.
    """
    regions = []
    for mask in masks:
        for number, _ in mask.styles:
            if number > len(styles):
                raise OptionError(
                    f"a mask names style {number}, and you gave {counted(len(styles), 'style')}; count them from 1"
                )
        content = _load(mask.content)
        greys = {number - 1: None if source is None else _load(source) for number, source in mask.styles}
        if greys and not any(shares[index] for index in greys):
            raise OptionError("all styles of a mask have the weight 0; raise one of them, or leave the mask out")
        for index, grey in greys.items():
            if grey is not None:
                grey.check_aspect(styles[index].height, styles[index].width, f"style {styles[index].name!r}")
        regions.append(Region(content, greys or dict.fromkeys(range(len(styles))), greys))
    return regions


def _load(source: Any) -> GreyMask:
    picture = load_image(_as_floats(source), role="mask")
    values = _grey(picture)[None, None]
    brightest = float(values.max())
    if brightest == 0:
        raise ImageError(f"mask {picture.name!r} is black everywhere; paint the region white")
    if brightest < 1.5 / 255:
        # Ones of 8 bits, or 8 bits kept in 16.
        values = values / brightest
    elif brightest < _NEARLY_BLACK:
        raise ImageError(
            f"mask {picture.name!r} is nearly black: its brightest value is {brightest * 255:.0f} of 255; paint the "
            "region white; for a map that numbers its regions, give a black and white picture for each region"
        )
    elif brightest < _WEAK:
        warn(
            f"mask {picture.name!r} is grey even where it is brightest ({brightest:.0%} of white), "
            "which weakens its region as much; paint it white if you do not want that",
        )
    return GreyMask(values, picture.name, picture.sha256)


def _as_floats(source: Any) -> Any:
    """The source of a mask that `load_image` takes: arrays and tensors of bools, or of integers that are no more than
    0 and 1, become floats, those of up to 255 uint8."""
    if isinstance(source, Tensor) and source.layout == torch.strided and not source.is_nested:
        samples = source.detach()[None] if source.ndim == 2 else source.detach()
        integers = samples.dtype == torch.bool or not (samples.is_floating_point() or samples.is_complex())
        if integers and not (samples.is_meta or samples.is_quantized):
            return torch.from_numpy(_unit(samples.cpu().numpy()))
        return samples
    if isinstance(source, np.ndarray) and source.dtype.kind in "biu" and not np.ma.isMaskedArray(source):
        return _unit(source)
    return source


def _unit(samples: Any) -> Any:
    if samples.size == 0 or samples.min() < 0 or samples.max() > 255:
        return samples
    return samples.astype(np.float32 if samples.max() <= 1 else np.uint8)


def _grey(picture: Picture) -> Tensor:
    """A mask's values, (H, W) in 0…1: its grey where it is opaque; of one colour on nothing, how opaque it is there.

    Raises ImageError for another picture in colour.
    """
    rgb, alpha = picture.rgb, picture.alpha
    visible = torch.ones_like(rgb[0]) if alpha is None else alpha[0]
    colours = rgb[:, visible > 0]
    if colours.numel() == 0:
        return visible
    low, high = torch.aminmax(colours, dim=0)
    if float((high - low > _TINT).float().mean()) <= _TINTED_SHARE:
        return rgb.mean(0) * visible
    spread = torch.aminmax(colours, dim=1)
    if float(visible.min()) < 1 and float((spread.max - spread.min).max()) <= _TINT:
        return visible
    raise ImageError(
        f"mask {picture.name!r} is in colour; a mask is white inside and black outside: give a black and white picture "
        "for each region"
    )


def style_regions(
    regions: Sequence[Region] | None, sizes: Sequence[tuple[int, int]], *, plain: bool
) -> StyleRegions | None:
    """The regions that `style_targets` takes, of styles of these sizes (height, width); None where one region is all
    there is and its targets may be those of whole images, `plain`."""
    if regions is None:
        return None if plain else [dict.fromkeys(range(len(sizes)))]
    return [
        {
            index: None if grey is None else resize(grey.values, size=sizes[index])
            for index, grey in region.styles.items()
        }
        for region in regions
    ]


def guidance_of(regions: Sequence[Region] | None, alpha: Tensor | None, size: tuple[int, int]) -> Guidance:
    """The guidance of an image of `size`, (height, width), whose content has this `alpha`, (1, H, W), or none."""
    masks: tuple[Tensor | None, ...] = (None,)
    if regions is not None:
        masks = tuple(resize(region.content.values, size=size) for region in regions)
    opaque = None if alpha is None or bool(alpha.min() == 1) else resize(alpha[None], size=size)
    return Guidance(size[0], size[1], masks, opaque)


def recorded_regions(regions: Sequence[Region]) -> list[dict[str, Any]]:
    """Names and hashes of the masks, as JSON can hold them."""
    return [
        {"content": region.content.recorded}
        | {f"style:{index + 1}": None if grey is None else grey.recorded for index, grey in region.named.items()}
        for region in regions
    ]
