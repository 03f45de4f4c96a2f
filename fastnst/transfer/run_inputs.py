"""The pictures of a run beside its content: read, checked, and recorded as JSON can hold them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from fastnst.errors import OptionError
from fastnst.image.files import pictures_at
from fastnst.image.picture import AnyPicture, Picture, StreamedPicture, opaque
from fastnst.image.read import Source, open_picture
from fastnst.loss.masks import Region, load_regions, recorded_regions
from fastnst.options.options import START_WORDS, Options
from fastnst.transfer.canvas import Canvas

Styles = Source | AnyPicture | Sequence[Source | AnyPicture]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a run is made of beside its content. Make one with `load_inputs`.

    Attributes:
        styles: the style pictures, opaque.
        shares: their weights, which sum to 1.
        init: the picture that it starts from; None where the option `init` is one of `START_WORDS`.
        regions: those of the option `masks`, or None.
    """

    styles: Sequence[AnyPicture]
    shares: tuple[float, ...]
    init: AnyPicture | None
    regions: Sequence[Region] | None

    def places(self, content: AnyPicture | Canvas) -> dict[str, Any]:
        """Where the pictures were read: absolute paths, or None for what was no file; masks as `parse_masks` takes
        them again."""
        return {
            "content": None if isinstance(content, Canvas) else _absolute(content.name),
            "styles": [_absolute(style.name) for style in self.styles],
            "init": None if self.init is None else _absolute(self.init.name),
            "masks": None
            if self.regions is None
            else [
                {name: None if one is None else _absolute(one["name"]) for name, one in region.items()}
                for region in recorded_regions(self.regions)
            ],
        }

    def record(
        self, content: AnyPicture | Canvas, scales: Mapping[int, tuple[int, int]], options: Options
    ) -> dict[str, Any]:
        """What is known of a run before its network is loaded: its pictures by name and hash, the sizes of its
        `scales`, the options."""
        values = {option.name: getattr(options, option.name) for option in fields(Options)}
        values["init"] = options.init if self.init is None else self.init.name
        values["content_layers"] = dict(options.content_layers)
        values["style_layers"] = dict(options.style_layers)
        masks = None if self.regions is None else recorded_regions(self.regions)
        if masks is not None:
            values["masks"] = [{name: one and one["name"] for name, one in region.items()} for region in masks]
        return {
            "content": None if isinstance(content, Canvas) else _named(content),
            "styles": [
                {**_named(style), "weight": share} for style, share in zip(self.styles, self.shares, strict=True)
            ],
            "init": None if self.init is None else _named(self.init),
            "masks": masks,
            "sizes": [{"width": width, "height": height} for height, width in scales.values()],
            "options": values,
        }


def load_inputs(style: Styles, options: Options) -> Inputs:
    """Reads a style, a sequence of them or a folder of pictures, and the pictures that `options` name.

    Raises OptionError where there are none, or not as many as weights; ImageError for one that cannot be read; and both
    as `load_regions` does.
    """
    styles = _load_styles(style, options)
    shares = _style_shares(options.style_weights, len(styles))
    is_word = isinstance(options.init, str) and options.init in START_WORDS
    init = None if is_word else open_picture(options.init, role="init", max_pixels=options.max_pixels)
    regions = None if options.masks is None else load_regions(options.masks, styles, shares)
    return Inputs(styles, shares, init, regions)


def _load_styles(style: Styles, options: Options) -> list[AnyPicture]:
    given: list[Source | AnyPicture] = list(style) if isinstance(style, list | tuple) else [style]  # type: ignore[list-item]
    sources: list[Source | AnyPicture] = []
    for each in given:
        sources += pictures_at(each, "style") if isinstance(each, str | os.PathLike) else [each]
    read = partial(open_picture, role="style", max_pixels=options.max_pixels)
    if not sources and (options.last_style_weight > 0 or options.init == "style-mean"):
        raise OptionError("no style image given; give at least one")
    if options.style_weights is not None and len(options.style_weights) != len(sources):
        raise OptionError(
            f"{len(options.style_weights)} style weights for {len(sources)} style images; give one for each image"
        )
    return [opaque(each if isinstance(each, Picture | StreamedPicture) else read(each)) for each in sources]


def _style_shares(weights: tuple[float, ...] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / max(count, 1),) * count
    # By the largest first: the sum of finite weights need not be finite.
    relative = [weight / max(weights) for weight in weights]
    return tuple(weight / sum(relative) for weight in relative)


def _named(picture: AnyPicture) -> dict[str, Any]:
    return {"name": picture.name, "sha256": picture.sha256}


def _absolute(name: str) -> str | None:
    return os.path.abspath(name) if os.path.isfile(name) else None  # noqa: PTH100, PTH113
