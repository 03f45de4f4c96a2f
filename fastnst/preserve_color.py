"""What the option `preserve_color` does to a run's pictures before it, and to its image afterwards."""

from collections.abc import Sequence

from torch import Tensor

from fastnst.colour import Moments, grey_of, lightness, moments, moved_colours, moved_lightness, with_colours_of
from fastnst.errors import OptionError
from fastnst.picture import Picture
from fastnst.streamed_picture import AnyPicture, changed

MODES = ("none", "luminance", "histogram")


def prepared(content: AnyPicture, styles: Sequence[AnyPicture], mode: str) -> tuple[AnyPicture, list[AnyPicture]]:
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
        wanted = moments((part.rgb, part.alpha) for part in content.parts())
        return content, [_in_colours(style, wanted) for style in styles]
    wanted = moments((lightness(part.rgb), part.alpha) for part in content.parts())
    return changed(content, lambda part: grey_of(lightness(part.rgb))), [_in_greys(style, wanted) for style in styles]


def _in_colours(style: AnyPicture, wanted: Moments) -> AnyPicture:
    own = moments((part.rgb, None) for part in style.parts())
    return changed(style, lambda part: moved_colours(part.rgb, own, wanted))


def _in_greys(style: AnyPicture, wanted: Moments) -> AnyPicture:
    own = moments((lightness(part.rgb), None) for part in style.parts())
    return changed(style, lambda part: grey_of(moved_lightness(lightness(part.rgb), own, wanted)))


def finished(image: Tensor, content: Picture, mode: str) -> Tensor:
    """The image as it is given back, (3, H, W) in 0…1.

    none: itself.
    luminance: its lightness under the content's colours.
    histogram: its colours moved to the content's mean and covariance, of which the balance of content and style, which
    is never the style alone, has lost some contrast and saturation.

    image: (3, H, W) float in 0…1; `content`, of its size, is the one that the run was given, not the grey one.
    Raises OptionError for an unknown mode, or if the sizes differ.
    """
    _check(mode)
    if mode == "none":
        return image
    if mode == "luminance":
        return with_colours_of(image, content.rgb)
    return moved_colours(image, moments([(image, content.alpha)]), moments([(content.rgb, content.alpha)]))


def _check(mode: str) -> None:
    if mode not in MODES:
        raise OptionError(f"unknown preserve color {mode!r}; choose one of: {', '.join(MODES)}")
