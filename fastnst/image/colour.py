"""Keeping the content's colours (Gatys, Ecker, Bethge, Hertzmann and Shechtman 2017, section 5), in both their ways.

Luminance transfer: the style is learned from lightness alone, and the result's lightness gets the content's colours.
The paper works in YIQ; here it is OKLab (Ottosson 2020), in which a colour keeps its hue when its lightness changes.
CIELAB turns blues purple then, and YIQ's luma, of gamma-encoded values, is not the lightness of saturated colours.

Colour matching: before the run, the style's colours are moved so that their mean and covariance are the content's, by
the linear map that moves them least (Pitié and Kokaram 2007: optimal transport between Gaussians) in place of the image
analogies' that the paper took: its gains are lower, so that less is clamped and less noise is raised.

`prepared` and `finished` do it to a run's pictures, before it and afterwards. The other functions are pure: (3, H, W)
float tensors of sRGB in 0…1 in, new ones of the same dtype and device out.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fastnst.errors import OptionError
from fastnst.image.picture import AnyPicture, Picture, recoloured

MODES = ("none", "luminance", "histogram")
"""The values of the option `preserve_color`."""

Moments = tuple[Tensor, Tensor]
"""The mean, (C,), and the covariance, (C, C), of pixels, in float64."""

# Ottosson's matrices: linear sRGB to cone responses, and their cube roots to L, a, b.
_TO_CONES = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)
_TO_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=torch.float64,
)
_FROM_CONES, _FROM_LAB = torch.linalg.inv(_TO_CONES), torch.linalg.inv(_TO_LAB)
_PIXELS, _ROWS = 2**19, 128  # at a time
_BISECTIONS = 16  # of the chroma: to 1/65536 of it
_OUTSIDE = 1e-6  # of linear light; rounding
# Of the covariances, as in the authors' own code: a style of one grey has none to divide by.
_REGULARISATION = 1e-5
# Of moved colours in any direction: the chroma of a sepia print is noise, and its contrast that of a fog.
_MOST_GAIN = 4.0
# A picture's deviation in a direction, by its largest: below the first it is JPEG's noise, and gets no gain; from the
# second on it may get all.
_NOISE, _COLOUR = 0.12, 0.25


def prepared(content: AnyPicture, styles: Sequence[AnyPicture], mode: str) -> tuple[AnyPicture, list[AnyPicture]]:
    """The content and the opaque styles that the network sees, by one of the `MODES`; names and alpha stay.

    none: those that are given, themselves.
    luminance: greys of their lightness, the styles' brought to the mean and deviation of the content's.
    histogram: the content itself, and the styles in colours with its mean and covariance.
    """
    if mode == "none":
        return content, list(styles)
    if mode == "histogram":
        wanted = moments((part.rgb, part.alpha) for part in content.parts())
        return content, [_moved(style, lambda part: part.rgb, moved_colours, wanted) for style in styles]

    def level(part: Picture) -> Tensor:
        return lightness(part.rgb)

    wanted = moments((level(part), part.alpha) for part in content.parts())
    greys = [_moved(style, level, lambda *given: grey_of(moved_lightness(*given)), wanted) for style in styles]
    return recoloured(content, lambda part: grey_of(level(part))), greys


def _moved(
    style: AnyPicture,
    of: Callable[[Picture], Tensor],
    move: Callable[[Tensor, Moments, Moments], Tensor],
    wanted: Moments,
) -> AnyPicture:
    own = moments((of(part), None) for part in style.parts())
    return recoloured(style, lambda part: move(of(part), own, wanted))


def finished(image: Tensor, content: Picture, mode: str) -> Tensor:
    """The `image` as it is given back, (3, H, W) in 0…1; `content`, of its size, is the one that the run was given.

    none: itself.
    luminance: its lightness under the content's colours.
    histogram: its colours moved to the content's mean and covariance, as the balance of content and style has lost some
    contrast and saturation.

    Raises OptionError if the sizes differ.
    """
    if mode == "none":
        return image
    if mode == "luminance":
        return with_colours_of(image, content.rgb)
    return moved_colours(image, moments([(image, content.alpha)]), moments([(content.rgb, content.alpha)]))


def srgb_to_oklab(rgb: Tensor) -> Tensor:
    """(3, …) sRGB in 0…1 to L in 0…1, a and b within ±0.4."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055).clamp(min=0) ** 2.4)
    cones = _mixed(_TO_CONES, linear)
    return _mixed(_TO_LAB, cones.sign() * cones.abs() ** (1 / 3))


def oklab_to_srgb(lab: Tensor) -> Tensor:
    """The inverse of `srgb_to_oklab`. What sRGB cannot show loses chroma until it fits, at its lightness and hue."""
    lightness, chroma = lab[:1].clamp(0, 1), lab[1:]
    linear = _linear(lightness, chroma)
    outside = ((linear < -_OUTSIDE) | (linear > 1 + _OUTSIDE)).any(dim=0)
    if bool(outside.any()):
        linear = linear.clone()
        linear[:, outside] = _fitted(lightness[:, outside], chroma[:, outside])
    return _encoded(linear.clamp(0, 1))


def _fitted(lightness: Tensor, chroma: Tensor) -> Tensor:
    """(3, N) of linear light: as much of `chroma`, (2, N), as sRGB can show at `lightness`, (1, N): at least none."""
    least, most = torch.zeros_like(lightness), torch.ones_like(lightness)
    for _ in range(_BISECTIONS):
        middle = (least + most) / 2
        linear = _linear(lightness, middle * chroma)
        fits = ((linear >= -_OUTSIDE) & (linear <= 1 + _OUTSIDE)).all(dim=0, keepdim=True)
        least, most = torch.where(fits, middle, least), torch.where(fits, most, middle)
    return _linear(lightness, least * chroma)


def lightness(rgb: Tensor) -> Tensor:
    """(1, H, W): OKLab's L of a picture."""
    return _by_rows(lambda rows: srgb_to_oklab(rows)[:1], rgb)


def grey_of(level: Tensor) -> Tensor:
    """(3, H, W): the greys whose lightness is `level`, (1, H, W) in 0…1. For them, linear light is L³."""
    return _encoded(level.clamp(0, 1) ** 3).expand(3, *level.shape[1:]).contiguous()


def moved_lightness(own: Tensor, present: Moments, wanted: Moments) -> Tensor:
    """A lightness, (1, H, W), or rows of one, brought from the mean and deviation that the whole has at `present` to
    those that are `wanted`, of one channel:

        L' = σ_C/σ_S · (L − μ_S) + μ_C,  clamped to 0…1

    A flat one stays flat, at the mean.
    """
    (own_mean, own_covariance), (mean, covariance) = present, wanted
    variance = own_covariance[0, 0]
    # Rounding leaves a flat picture some variance, which must not be stretched to the content's.
    ratio = (covariance[0, 0] / variance).sqrt() if variance > 1e-10 else torch.zeros_like(variance)
    moved: Tensor = ratio * (own.double() - own_mean[:, None]) + mean[:, None]
    return moved.clamp(0, 1).to(own.dtype)


def with_colours_of(image: Tensor, content: Tensor) -> Tensor:
    """The lightness of `image` with the colours (a and b) of `content`, both (3, H, W); OptionError if sizes differ."""
    if image.shape != content.shape:
        raise OptionError(f"the image is {tuple(image.shape)} and the content {tuple(content.shape)}; resize one")

    def with_colours(rows: Tensor, colours: Tensor) -> Tensor:
        return oklab_to_srgb(torch.cat([srgb_to_oklab(rows)[:1], srgb_to_oklab(colours)[1:]]))

    return _by_rows(with_colours, image, content.to(image))


def moved_colours(style: Tensor, present: Moments, wanted: Moments) -> Tensor:
    """A picture, (3, H, W), or rows of one, with its colours moved from the mean and covariance that the whole has at
    `present` to those that are `wanted`:

        p' = A p + b,   A Σ_S Aᵀ = Σ_C,   b = μ_C − A μ_S,  clamped to 0…1

    with `A = Σ_S^{−1/2} (Σ_S^{1/2} Σ_C Σ_S^{1/2})^{1/2} Σ_S^{−1/2}`, which is symmetric, so that no hue is turned that
    need not be. Its gain is at most 4 in any direction, and 1 along an axis of a style by which it varies less than an
    eighth of its most, as the chroma of a tinted photograph does: it stays below the content's variance there. Σ is in
    float64, plus 1e-5 on its diagonal; sRGB values are taken as they are.
    """
    (own_mean, own_covariance), (mean, covariance) = present, wanted
    own_mean, own_covariance = own_mean.to(style.device), own_covariance.to(style.device)
    identity = _REGULARISATION * torch.eye(3, dtype=torch.float64, device=style.device)
    covariance, own_covariance = covariance.to(style.device) + identity, own_covariance + identity
    root, inverse = _power(own_covariance, 0.5), _power(own_covariance, -0.5)
    gains, directions = torch.linalg.eigh(inverse @ _power(root @ covariance @ root, 0.5) @ inverse)
    matrix = (directions * gains.clamp(max=_MOST_GAIN)) @ directions.mT
    variances, axes = torch.linalg.eigh(own_covariance)
    most = 1 + (_MOST_GAIN - 1) * (((variances / variances[-1]).sqrt() - _NOISE) / (_COLOUR - _NOISE)).clamp(0, 1)
    along = torch.linalg.vector_norm(matrix @ axes, dim=0)
    matrix = matrix @ (axes * (most / along).clamp(max=1)) @ axes.mT
    pixels, moved = style.flatten(1), torch.empty_like(style).flatten(1)
    for part, target in zip(torch.split(pixels, _PIXELS, dim=1), torch.split(moved, _PIXELS, dim=1), strict=True):
        target.copy_((matrix @ (part.double() - own_mean[:, None]) + mean.to(style.device)[:, None]).clamp(0, 1))
    return moved.reshape(style.shape)


def moments(parts: Iterable[tuple[Tensor, Tensor | None]]) -> Moments:
    """The moments of all parts' pixels, (C, h, W) each, with their weights, (1, h, W) or None where all count the same.

    Pixels that nowhere have a weight, as those of a picture that is transparent everywhere, all count. Sums are made in
    float64, which loses nothing that counts of values in 0…1. Raises OptionError where there are no pixels.
    """
    weighted = plain = torch.zeros(())
    for planes, weights in parts:
        pixels = torch.split(planes.flatten(1), _PIXELS, dim=1)
        counts = [None] * len(pixels) if weights is None else torch.split(weights.flatten(1), _PIXELS, dim=1)
        for some, count in zip(pixels, counts, strict=True):
            # With a row of ones, one product has the sums of squares, of values and of weights.
            extended = torch.cat([some.double(), torch.ones_like(some[:1], dtype=torch.float64)])
            plain = plain + extended @ extended.mT
            if count is not None:
                weighted = weighted + (extended * count.to(extended)) @ extended.mT
    sums = weighted if weighted.ndim and weighted[-1, -1] > 0 else plain
    if not sums.ndim:
        raise OptionError("no pixels were given; give a picture with at least one")
    total, mean = sums[-1, -1], sums[:-1, -1] / sums[-1, -1]
    return mean, sums[:-1, :-1] / total - torch.outer(mean, mean)


def _by_rows(function: Callable[..., Tensor], *pictures: Tensor) -> Tensor:
    """A function of pixels, some rows at a time: its temporaries are several times the picture."""
    bands = zip(*(torch.split(picture, _ROWS, dim=1) for picture in pictures), strict=True)
    return torch.cat([function(*rows) for rows in bands], dim=1)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    power: Tensor = vectors @ torch.diag(values**exponent) @ vectors.mT
    return power


def _linear(lightness: Tensor, chroma: Tensor) -> Tensor:
    return _mixed(_FROM_CONES, _mixed(_FROM_LAB, torch.cat([lightness, chroma])) ** 3)


def _encoded(linear: Tensor) -> Tensor:
    """sRGB's transfer function (IEC 61966-2-1)."""
    bright = 1.055 * torch.pow(linear.clamp(min=0), 1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, bright)


def _mixed(matrix: Tensor, planes: Tensor) -> Tensor:
    mixed: Tensor = torch.tensordot(matrix.to(planes), planes, dims=1)
    return mixed
