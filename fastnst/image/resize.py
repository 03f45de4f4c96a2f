"""Pictures at other sizes: which size fits an edge, and resampling to it, whole, by rows or as an image that tiles."""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fastnst.errors import ImageError, OptionError, warn
from fastnst.image.picture import AnyPicture, Picture, StreamedPicture

# Beyond a border the bicubic kernel sees two pixels of the coarser of the two sizes.
_KERNEL_REACH = 3
_ENLARGED = 2.0


def check_fits(
    height: int,
    width: int,
    minimum: int,
    *,
    role: str = "content",
    scale: int | None = None,
    layers: Sequence[str] = (),
) -> None:
    """Raises ImageError, which names `scale` and the `layers` that need it, unless both sides have the `minimum`."""
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


def edge_beside(size: int | Fraction | tuple[int, int], content: tuple[int, int], edge: str = "long") -> int:
    """The measured edge in pixels of a result of a `size`, as `fastnst.options.parse.parse_size` has it, beside a
    `content` of (height, width): of a (width, height) it is the largest that fits, and a FastnstWarning says where
    that is not filled."""
    if isinstance(size, int):
        return size
    measured = min(content) if edge == "short" else max(content)
    if isinstance(size, Fraction):
        return int(measured * size + Fraction(1, 2))
    (width, height), factor = size, min(Fraction(size[0], content[1]), Fraction(size[1], content[0]))
    pixels = int(measured * factor + Fraction(1, 2))
    fitted = fitted_size(*content, max(1, pixels), edge)
    if max(abs(height - fitted[0]), abs(width - fitted[1])) > 1 and pixels:
        warn(
            f"the content is {content[1]}×{content[0]} pixels, so the result is {fitted[1]}×{fitted[0]} within "
            f"{width}×{height}; crop the content to those proportions to fill them",
            level=3,
        )
    return pixels


def warn_if_enlarged(style: AnyPicture, size: tuple[int, int]) -> None:
    """Says with a FastnstWarning where a style is shown at a `size`, (height, width), far larger than it is."""
    factor = max(size) / max(style.height, style.width)
    if factor > _ENLARGED:
        warn(
            f"style image {style.name!r} is {style.width}×{style.height} pixels, and is enlarged {factor:.1f} times, "
            "which leaves its texture blurred; give a larger one, or lower the size or the style scale",
            level=3,
        )


def resize(planes: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resample to `size` (height, width), or to a long edge in pixels with the aspect kept.

    planes: (C, H, W) or (B, C, H, W), float in 0…1, any device. The kernel is bicubic (a = −0.5), widened by the
    scale when shrinking, so that fine texture does not alias; it works on the sRGB values as they are, and its
    overshoot is clamped to 0…1. At the size it has already, `planes` itself is returned.

    Raises OptionError unless sides are at least 1.
    """
    height, width = planes.shape[-2:]
    target = fitted_size(height, width, size) if isinstance(size, int) else tuple(size)
    if min(target) < 1:
        raise OptionError(f"size {target} is not possible; both sides must be at least 1 pixel")
    if target == (height, width):
        return planes
    batch = planes if planes.ndim == 4 else planes[None]
    resized = interpolate(batch, size=target, mode="bicubic", antialias=True).clamp(0, 1)
    return resized if planes.ndim == 4 else resized[0]


def resize_picture(picture: Picture, size: int | tuple[int, int]) -> Picture:
    """`resize` for colour and alpha together.

    Colours are weighted by alpha while they are resampled, so that the invisible colour under transparent pixels does
    not bleed into the visible edge. Where the result is fully transparent it keeps the plain resampled colour.
    """
    plain = resize(picture.rgb, size)
    if picture.alpha is None:
        return Picture(plain, None, picture.name)
    alpha = resize(picture.alpha, size)
    if alpha is picture.alpha or bool(picture.alpha.min() == 1):
        return Picture(plain, alpha, picture.name)
    weighted = resize(picture.rgb * picture.alpha, size)
    return Picture(_weighted_colours(weighted, alpha, plain), alpha, picture.name)


def _weighted_colours(weighted: Tensor, alpha: Tensor, plain: Tensor) -> Tensor:
    """The colours (3, …) of resampled colours times alpha, resampled alpha (1, …), and plain resampled colours."""
    visible = alpha > 1 / 512  # half an 8-bit step: below it the pixel is written as transparent
    return torch.where(visible, weighted / alpha.clamp(min=1 / 512), plain).clamp_(0, 1)


class AtSizes:
    """A picture at each of some sizes, (height, width), as `resize_picture` makes it.

    A StreamedPicture is read once, now, and what it gives is kept until it is dropped.
    """

    def __init__(self, picture: AnyPicture, sizes: Sequence[tuple[int, int]]) -> None:
        self._picture = picture
        streamed = isinstance(picture, StreamedPicture)
        self._kept = dict(zip(sizes, resized(picture, sizes), strict=True)) if streamed else {}

    def at(self, size: tuple[int, int]) -> Picture:
        return self._kept[size] if size in self._kept else at_size(self._picture, size)

    def drop(self, size: tuple[int, int]) -> None:
        self._kept.pop(size, None)


def at_size(picture: AnyPicture, size: tuple[int, int]) -> Picture:
    """The picture at a size, (height, width)."""
    return resize_picture(picture, size=size) if isinstance(picture, Picture) else resized(picture, [size])[0]


def resized(picture: AnyPicture, sizes: Sequence[tuple[int, int]]) -> list[Picture]:
    """The picture at each of `sizes` (height, width), as `resize_picture` makes it up to rounding; it is read once."""
    kept: dict[tuple[int, int], list[Tensor]] = {}
    top = 0
    for part in picture.parts():
        layers = [part.rgb] if part.alpha is None else [part.rgb, part.alpha, part.rgb * part.alpha]
        for size in sizes:
            used = layers[:2] if size == (picture.height, picture.width) else layers
            if size not in kept:
                kept[size] = [layer.new_zeros((len(layer), *size)) for layer in used]
            for whole, rows in zip(kept[size], used, strict=True):
                _add_rows(whole, rows, top, picture.height)
        top += part.height
    pictures = []
    for size in sizes:
        rgb, *others = (layer.clamp_(0, 1) for layer in kept[size])
        if len(others) == 2:
            rgb = _weighted_colours(others[1], others[0], rgb)
        pictures.append(Picture(rgb, others[0] if others else None, picture.name))
    return pictures


def _add_rows(whole: Tensor, rows: Tensor, top: int, height: int) -> None:
    """Add to `whole`, (C, h, w), what the `rows`, (C, n, W) from row `top` on of a picture of `height` rows, give it.

    The kernel is that of `resize`, first along the rows, then across them.
    """
    channels, count, before = rows.shape
    _, after, width = whole.shape
    if before != width:
        flat = rows.reshape(1, channels * count, 1, before)  # each row a picture of its own
        rows = interpolate(flat, size=(1, width), mode="bicubic", antialias=True).view(channels, count, width)
    if after == height:
        whole[:, top : top + count] = rows
        return
    scale = height / after
    reach = math.ceil(2 * max(scale, 1.0))
    first = max(0, math.floor((top - reach) / scale) - 1)
    last = min(after, math.ceil((top + count + reach) / scale) + 1)
    # Of the rows that any of these is made of, those that are here; the weights of all sum to 1.
    first_place, device = max(0, top - 3 * reach), rows.device
    places = torch.arange(first_place, min(height, top + count + 3 * reach), dtype=torch.float64, device=device)
    centres = scale * (torch.arange(first, last, dtype=torch.float64, device=device) + 0.5)
    weights = _cubic((places + 0.5 - centres[:, None]) / max(scale, 1.0))
    weights /= weights.sum(dim=1, keepdim=True)
    here = weights[:, top - first_place :][:, :count].to(rows.dtype)
    whole[:, first:last] += here @ rows


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = −0.5: (|x| − 1)(1.5|x|² − |x| − 1) up to 1, −0.5(|x| − 1)(|x| − 2)² up to 2, then 0."""
    x = x.abs()
    near = (x - 1) * (1.5 * x * x - x - 1)
    far = -0.5 * (x - 1) * (x - 2) ** 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resize_wrapped(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize` of an image (B, C, H, W) that tiles: what it gives tiles too.

    It is continued beyond its borders by so many pixels that they are a whole number of the new ones, resized, and cut.
    """
    if tuple(image.shape[2:]) == tuple(size):
        return image
    larger, cut = list(size), [0, 0]
    for axis, (old, new) in enumerate(zip(image.shape[2:], size, strict=True)):
        common = math.gcd(old, new)
        times = math.ceil(_KERNEL_REACH * max(1, old / new) * common / old)
        margin, cut[axis] = times * (old // common), times * (new // common)
        image = image.index_select(2 + axis, torch.arange(-margin, old + margin, device=image.device) % old)
        larger[axis] += 2 * cut[axis]
    (top, left), (height, width) = cut, size
    return resize(image, size=(larger[0], larger[1]))[:, :, top : top + height, left : left + width].contiguous()
