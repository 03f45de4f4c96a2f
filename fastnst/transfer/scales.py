"""Coarse to fine: the scales that a run goes through, their sizes and steps, and the pictures too small for them."""

from collections.abc import Sequence
from typing import Any, TypeVar

from fastnst.errors import ImageError, OptionError
from fastnst.image.picture import AnyPicture, Picture
from fastnst.image.resize import check_fits, fitted_size
from fastnst.network.architecture import pools_before
from fastnst.network.tiles import check_on_grid
from fastnst.options.options import Options
from fastnst.options.parse import Scales, scale_count
from fastnst.transfer.inputs import Canvas, Scale, style_size

Value = TypeVar("Value", int, float)

SMALLEST_EDGE = 64
"""Scales that are only counted, not named, go no lower than this short edge: below it there is nothing left to see."""


# Of a transfer of features, the levels that are made at each scale but the first.
_FINE_LEVELS = 3


def scale_edges(
    scales: Scales, size: int, height: int, width: int, *, edge: str = "long", factor: float = 2.0
) -> tuple[int, ...]:
    """The scales' edges in pixels, long or short ones, coarse first, the last one `size`, for `scales` of `Options`.

    A counted pyramid leaves out the scales whose short edge would be under `SMALLEST_EDGE`.
    """
    if isinstance(scales, tuple):
        return scales
    if scales == "auto":
        factor = 2.0
    levels = range(scale_count(scales, size) - 1, 0, -1)
    pixels = dict.fromkeys(round(size / factor**level) for level in levels)
    aspect = 1.0 if edge == "short" else min(height, width) / max(height, width)
    return (*(each for each in pixels if each * aspect >= SMALLEST_EDGE and each < size), size)


def by_scale(value: Value | tuple[Value, ...], scales: int) -> tuple[Value, ...]:
    """The value at each of `scales` scales, coarse first: of one for all, or of a list that ends with the last scale's.

    The first of a list also goes for the scales before those that it has; values of scales that a picture is too small
    for are not used.
    """
    values = value if isinstance(value, tuple) else (value,)
    return (values[0],) * (scales - len(values)) + values[-scales:]


def smallest_side(options: Options) -> int:
    """The least side of what the network is shown, 2ⁿ pixels for the n pools before its deepest tap: the grid that the
    sides of a result that tiles lie on."""
    return 1 << pools_before(options.network, options.taps)


def image_size(content: AnyPicture | Canvas, edge: int, options: Options) -> tuple[int, int]:
    """The (height, width) with the measured edge `edge`, or near it on the pooling grid where the image is to tile."""
    height, width = fitted_size(content.height, content.width, edge, options.edge)
    if not options.wraps:
        return height, width
    grid = smallest_side(options)
    return max(grid, round(height / grid) * grid), max(grid, round(width / grid) * grid)


def run_scales(content: AnyPicture | Canvas, styles: Sequence[AnyPicture], options: Options) -> tuple[Scale, ...]:
    """The scales of a run, coarse first. Raises ImageError where the content shows nothing, or a picture is too small
    for the network at one of them; OptionError where the options need a content, or it could not tile."""
    role = "content"
    if isinstance(content, Canvas):
        _check_contentless(options)
        role = "output"
    edges = scale_edges(
        options.scales, options.size, content.height, content.width, edge=options.edge, factor=options.scale_factor
    )
    if isinstance(content, Picture) and content.alpha is not None and float(content.alpha.max()) == 0:
        raise ImageError(f"content image {content.name!r} is transparent everywhere; give one that shows something")
    if options.wraps:
        _check_tiles(content, options)
    smallest = smallest_side(options)
    sizes = [image_size(content, edge, options) for edge in edges]
    for edge, size in zip(edges, sizes, strict=True):
        check_fits(*size, smallest, role=role, scale=edge, layers=options.taps)
        for style in styles:
            check_fits(*style_size(style, edge, options), smallest, role="style", scale=edge, layers=options.taps)
    steps, betas = by_scale(options.iterations, len(edges)), by_scale(options.style_weight, len(edges))
    facts: list[tuple[Any, ...]] = [*zip(edges, sizes, steps, betas, strict=True)]
    if options.transfer != "none":
        # What the deepest layers see is there from the first scale on.
        levels = [options.levels] + [options.levels[-_FINE_LEVELS:]] * (len(facts) - 1)
        facts = [(*fact, layer) for fact, layers in zip(facts, levels, strict=True) for layer in layers]
    return tuple(Scale(index, *fact) for index, fact in enumerate(facts))


def _check_contentless(options: Options) -> None:
    """Raises OptionError for options that need a content picture."""
    if options.content_weight > 0:
        raise OptionError(
            f"content weight {options.content_weight:g} needs a content picture, and there is none; give a picture, or "
            "content weight 0"
        )
    if options.transfer != "none":
        raise OptionError(f"transfer {options.transfer} needs a content picture, and there is none; leave it out")
    if options.init in ("content", "recoloured", "network"):
        raise OptionError("there is no content picture to start from; choose noise or a picture with init")
    if options.edge == "short":
        raise OptionError("edge short needs a content picture; without one, give both sides as the size")
    if options.preserve_color != "none":
        raise OptionError(
            f"preserve color {options.preserve_color} needs a content picture, and there is none; leave it out"
        )


def _check_tiles(content: AnyPicture | Canvas, options: Options) -> None:
    """Raises OptionError where a result that tiles would not have its size; a content's other side may be rounded."""
    height, width = fitted_size(content.height, content.width, options.size, options.edge)
    if not isinstance(content, Canvas):
        near_height, near_width = image_size(content, options.size, options)
        measures_height = (height >= width) == (options.edge == "long")
        height, width = (height, near_width) if measures_height else (near_height, width)
    check_on_grid(height, width, smallest_side(options))
