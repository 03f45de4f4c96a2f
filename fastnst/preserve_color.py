"""What the option `preserve_color` does to a run's pictures before it, and to its image afterwards."""

from collections.abc import Sequence

from torch import Tensor

from fastnst.colour import grey_of, lightness, matched_colours, matched_lightness, with_colours_of
from fastnst.errors import OptionError
from fastnst.picture import Picture

MODES = ("none", "luminance", "histogram")


def prepared(content: Picture, styles: Sequence[Picture], mode: str) -> tuple[Picture, list[Picture]]:
    """The content and the styles that the network is shown; names and alpha stay.

    none: those that are given, themselves.
    luminance: greys of their lightness, the styles' brought to the mean and deviation of the content's.
    histogram: the content itself, and the styles in colours with its mean and covariance.

    The content counts as far as its alpha shows it; styles are opaque. Raises OptionError for an unknown mode.
    """
    _check(mode)
    if mode == "none":
        return content, list(styles)
    if mode == "histogram":
        moved = [matched_colours(style.rgb, content.rgb, content.alpha) for style in styles]
        return content, [_with_colours(style, rgb) for style, rgb in zip(styles, moved, strict=True)]
    levels = [matched_lightness(style.rgb, content.rgb, content.alpha) for style in styles]
    greys = [_with_colours(style, grey_of(level)) for style, level in zip(styles, levels, strict=True)]
    return _with_colours(content, grey_of(lightness(content.rgb))), greys


def finished(image: Tensor, content: Tensor, mode: str) -> Tensor:
    """The image as it is given back: with `luminance` its lightness under the content's colours, else itself.

    image, content: (3, H, W) float in 0…1, of one size; `content` is the one that the run was given, not the grey one.
    Raises OptionError for an unknown mode, or if the sizes differ.
    """
    _check(mode)
    return with_colours_of(image, content) if mode == "luminance" else image


def _with_colours(picture: Picture, rgb: Tensor) -> Picture:
    return Picture(rgb, picture.alpha, picture.name)


def _check(mode: str) -> None:
    if mode not in MODES:
        raise OptionError(f"unknown preserve color {mode!r}; choose one of: {', '.join(MODES)}")
