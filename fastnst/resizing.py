"""Pictures at other sizes: which size fits an edge, and resampling to it."""

from collections.abc import Sequence

import torch

from fastnst.errors import ImageError, OptionError
from fastnst.picture import Picture


def check_fits(
    height: int,
    width: int,
    minimum: int,
    *,
    role: str = "content",
    scale: int | None = None,
    layers: Sequence[str] = (),
) -> None:
    """Raise ImageError unless both sides, in pixels, are at least `minimum`.

    scale: the edge, in pixels, at which the image has this size; None where it has it from the start.
    layers: those that need this minimum.
    """
    if min(height, width) < minimum:
        at_scale = f" at scale {scale}" if scale is not None else ""
        needed_by = f" for the layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}" if layers else ""
        raise ImageError(
            f"{role} image would be {width}×{height} pixels{at_scale}, but each side must be at least "
            f"{minimum}{needed_by}; use a larger size, a less narrow picture or shallower layers"
        )


def fitted_size(height: int, width: int, pixels: int, edge: str = "long") -> tuple[int, int]:
    """(height, width) scaled, up or down, so that the longer side, or with `edge` "short" the shorter one, is `pixels`;
    rounded half up, each at least 1.

    Raises OptionError if `pixels` is less than 1.
    """
    if pixels < 1:
        raise OptionError(f"size {pixels} is not possible; the {edge} edge must be at least 1 pixel")
    measured = min(height, width) if edge == "short" else max(height, width)
    # In integers: half a pixel is decided by the sizes alone, not by floating-point rounding.
    fitted_height, fitted_width = ((2 * side * pixels + measured) // (2 * measured) for side in (height, width))
    return max(1, fitted_height), max(1, fitted_width)


def resize(planes: torch.Tensor, long_edge: int | None = None, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Resample to `size` (height, width), or to a long edge in pixels with the aspect kept.

    planes: (C, H, W) or (B, C, H, W), float in 0…1, any device. The kernel is bicubic (a = −0.5), widened by the
    scale when shrinking, so that fine texture does not alias; it works on the sRGB values as they are, and its
    overshoot is clamped to 0…1. At the size it has already, `planes` itself is returned.

    Raises OptionError unless exactly one of `long_edge` and `size` is given, with sides of at least 1.
    """
    height, width = planes.shape[-2:]
    if (long_edge is None) == (size is None):
        raise OptionError("resize needs either a long edge or a size (height, width)")
    target = fitted_size(height, width, long_edge) if long_edge is not None else size
    if target is None or min(target) < 1:
        raise OptionError(f"size {target} is not possible; both sides must be at least 1 pixel")
    if tuple(target) == (height, width):
        return planes
    batch = planes if planes.ndim == 4 else planes[None]
    resized = torch.nn.functional.interpolate(batch, size=target, mode="bicubic", antialias=True).clamp(0, 1)
    return resized if planes.ndim == 4 else resized[0]


def resize_picture(picture: Picture, long_edge: int | None = None, size: tuple[int, int] | None = None) -> Picture:
    """`resize` for colour and alpha together.

    Colours are weighted by alpha while they are resampled, so that the invisible colour under transparent pixels does
    not bleed into the visible edge. Where the result is fully transparent it keeps the plain resampled colour.
    """
    if picture.alpha is None:
        return Picture(resize(picture.rgb, long_edge, size), None, picture.name)
    alpha = resize(picture.alpha, long_edge, size)
    plain = resize(picture.rgb, long_edge, size)
    if alpha is picture.alpha or bool(picture.alpha.min() == 1):
        return Picture(plain, alpha, picture.name)
    weighted = resize(picture.rgb * picture.alpha, long_edge, size)
    return Picture(weighted_colours(weighted, alpha, plain), alpha, picture.name)


def weighted_colours(weighted: torch.Tensor, alpha: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """The colours (3, …) of resampled colours times alpha, resampled alpha (1, …), and plain resampled colours."""
    visible = alpha > 1 / 512  # half an 8-bit step: below it the pixel is written as transparent
    return torch.where(visible, weighted / alpha.clamp(min=1 / 512), plain).clamp_(0, 1)
