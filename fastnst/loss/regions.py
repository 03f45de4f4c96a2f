"""The masks of a run, loaded and checked: where each region lies in the content and in the styles, at any size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastnst.errors import ImageError, OptionError
from fastnst.image.picture import AnyPicture
from fastnst.image.read import load_image
from fastnst.image.resize import resize
from fastnst.loss.guidance import Guidance
from fastnst.loss.moments import StyleRegions
from fastnst.options.masks import Mask

# Of a side, by which a mask's aspect may be another than its picture's, besides a pixel of rounding.
_ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class GreyMask:
    """A mask: `values`, (1, 1, H, W) float32 in 0…1; its `name` and `sha256` are those of the picture."""

    values: Tensor
    name: str
    sha256: str

    @property
    def recorded(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}

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
    """Where it lies in the content, and in each of its styles, by their index; None is everywhere."""

    content: GreyMask
    styles: Mapping[int, GreyMask | None]
    named: Mapping[int, GreyMask | None]
    """Of `styles` those that were given, none where all are meant."""


def load_regions(masks: Sequence[Mask], styles: Sequence[AnyPicture], shares: Sequence[float]) -> list[Region]:
    """Reads the masks of a run with these styles and their shares.

    A picture in colour is its mean grey, and what is transparent in it is outside. Raises ImageError for a mask that
    cannot be read, shows nothing, or has other proportions than its style; OptionError for a style that is not there,
    and for a region all of whose styles have the weight 0.
    """
    regions = []
    for mask in masks:
        content = _load(mask.content)
        found: dict[int, GreyMask | None] = {}
        for number, source in mask.styles:
            if number > len(styles):
                raise OptionError(f"a mask is for style {number}, and there are {len(styles)}; count them from 1")
            found[number - 1] = None if source is None else _load(source)
        if found and not any(shares[index] for index in found):
            raise OptionError("a mask is for styles whose weights are all 0; raise one of them, or leave the mask out")
        for index, grey in found.items():
            if grey is not None:
                grey.check_aspect(styles[index].height, styles[index].width, f"style {styles[index].name!r}")
        regions.append(Region(content, found or dict.fromkeys(range(len(styles))), found))
    return regions


def _load(source: Any) -> GreyMask:
    picture = load_image(source, role="mask")
    values = picture.rgb.mean(0)[None, None]
    if picture.alpha is not None:
        values = values * picture.alpha
    if float(values.max()) == 0:
        raise ImageError(f"mask {picture.name!r} is black everywhere; paint the region white")
    return GreyMask(values, picture.name, picture.sha256)


def style_regions(
    regions: Sequence[Region] | None, sizes: Sequence[tuple[int, int]], *, plain: bool
) -> StyleRegions | None:
    """As `style_targets` takes them, of styles of these sizes (height, width); None where one region is all there is
    and its targets may be those of whole images, `plain`."""
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
    """That of an image of `size`, (height, width), whose content has this `alpha`, (1, H, W), or none."""
    masks: tuple[Tensor | None, ...] = (None,)
    if regions is not None:
        masks = tuple(resize(region.content.values, size=size) for region in regions)
    opaque = None if alpha is None or bool(alpha.min() == 1) else resize(alpha[None], size=size)
    return Guidance(size[0], size[1], masks, opaque)


def recorded_regions(regions: Sequence[Region]) -> list[dict[str, Any]]:
    """Names and hashes, as JSON can hold them."""
    return [
        {"content": region.content.recorded}
        | {f"style:{index + 1}": None if grey is None else grey.recorded for index, grey in region.named.items()}
        for region in regions
    ]
