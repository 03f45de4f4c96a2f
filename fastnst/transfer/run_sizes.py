"""The sizes in pixels of a run's images, scale by scale, and the pictures that they are too small for."""

from collections.abc import Sequence

from fastnst.errors import ImageError, OptionError
from fastnst.image.picture import AnyPicture, Picture
from fastnst.image.resize import check_fits, fitted_size
from fastnst.network.architecture import pools_before
from fastnst.network.tiles import check_on_grid
from fastnst.options.options import Options
from fastnst.transfer.canvas import Canvas
from fastnst.transfer.pyramid import scale_edges


def smallest_side(options: Options) -> int:
    """The least side of what the network is shown, 2ⁿ pixels for the n pools before its deepest tap: the grid that the
    sides of a result that tiles lie on."""
    return 1 << pools_before(options.network, options.taps)


def style_size(style: AnyPicture | Canvas, edge: int, options: Options) -> tuple[int, int]:
    """The (height, width) at which a style is shown at the scale whose measured edge is `edge`."""
    scaled = max(1, round(edge * options.style_scale))
    return fitted_size(style.height, style.width, scaled, options.edge)


def image_size(content: AnyPicture | Canvas, edge: int, options: Options) -> tuple[int, int]:
    """The (height, width) with the measured edge `edge`, or near it on the pooling grid where the image is to tile."""
    height, width = fitted_size(content.height, content.width, edge, options.edge)
    if not options.wraps:
        return height, width
    grid = smallest_side(options)
    return max(grid, round(height / grid) * grid), max(grid, round(width / grid) * grid)


def run_scales(
    content: AnyPicture | Canvas, styles: Sequence[AnyPicture], options: Options
) -> dict[int, tuple[int, int]]:
    """The scales of a run in order: from the measured edge in pixels to the (height, width) of the image.

    Raises ImageError where the content shows nothing, or it or a style would be too small for the network at one of
    them; OptionError where a `Canvas` is not what the options ask for, or the image could not tile.
    """
    role = "content"
    if isinstance(content, Canvas):
        _check_contentless(options)
        role = "output"
    edges = scale_edges(
        options.scales, options.size, content.height, content.width, edge=options.edge, factor=options.scale_factor
    )
    sizes = {edge: image_size(content, edge, options) for edge in edges}
    if isinstance(content, Picture) and content.alpha is not None and float(content.alpha.max()) == 0:
        raise ImageError(f"content image {content.name!r} is transparent everywhere; give one that shows something")
    if options.wraps:
        _check_tiles(content, options)
    smallest = smallest_side(options)
    for edge, size in sizes.items():
        check_fits(*size, smallest, role=role, scale=edge, layers=options.taps)
        for style in styles:
            check_fits(*style_size(style, edge, options), smallest, role="style", scale=edge, layers=options.taps)
    return sizes


def _check_contentless(options: Options) -> None:
    """Raises OptionError for options that need a content picture."""
    if options.content_weight > 0:
        raise OptionError(
            f"content weight {options.content_weight:g} needs a content picture, and there is none; give one, or 0"
        )
    if options.init in ("content", "recoloured"):
        raise OptionError("there is no content picture to start from; give noise or a picture as init")
    if options.edge == "short":
        raise OptionError("edge short was given for an image without a content, whose size is given by both sides")
    if options.preserve_color != "none":
        raise OptionError(f"preserve color {options.preserve_color} needs a content picture, and there is none")


def _check_tiles(content: AnyPicture | Canvas, options: Options) -> None:
    """Raises OptionError where the result would not have the size that was asked for, for it is to tile. Of a content's
    sides that is the measured edge alone."""
    asked = fitted_size(content.height, content.width, options.size, options.edge)
    if not isinstance(content, Canvas):
        near = image_size(content, options.size, options)
        by_height = (asked[0] >= asked[1]) == (options.edge == "long")
        asked = (asked[0], near[1]) if by_height else (near[0], asked[1])
    check_on_grid(*asked, smallest_side(options))
