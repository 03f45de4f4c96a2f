"""A `Picture`: what every source is read into, and every step before the network works on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from fastnst.errors import ImageError

MIN_SIDE = 2

PART_PIXELS = 1 << 20
"""What is looked at at once of a picture that is not looked at whole."""

_RANGE_TOLERANCE = 1e-3
_DIGEST_ROWS = 64


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture in sRGB.

    rgb: (3, H, W) float32 in 0…1, contiguous, on the CPU; shares no memory with its source. Colours are not
    multiplied by alpha.
    alpha: (1, H, W) float32 in 0…1 (1 is opaque), or None where the source has none.
    name: the path, or the kind of object it came from; for messages and metadata.
    """

    rgb: torch.Tensor
    alpha: torch.Tensor | None
    name: str

    @property
    def height(self) -> int:
        return self.rgb.shape[1]

    @property
    def width(self) -> int:
        return self.rgb.shape[2]

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the shape and the float32 samples: equal pixels have equal digests, from any kind of source."""
        digest = Digest(self.height, self.width)
        for part in self.parts():
            digest.add(part)
        return digest.hexdigest()

    def parts(self, pixels: int = PART_PIXELS) -> Iterator["Picture"]:
        """Its rows from the top, each time about `pixels` pixels; they share its memory."""
        step = max(1, pixels // self.width)
        for top in range(0, self.height, step):
            rows = slice(top, top + step)
            yield Picture(self.rgb[:, rows], None if self.alpha is None else self.alpha[:, rows], self.name)


class Digest:
    """The SHA-256 of a picture whose rows come some at a time: of its size, then of each row's samples, R, G and B and
    alpha where it has one, float32."""

    def __init__(self, height: int, width: int) -> None:
        self._digest = hashlib.sha256(f"{height} {width}".encode())

    def add(self, part: Picture) -> None:
        """Takes the next rows."""
        planes = [part.rgb] if part.alpha is None else [part.rgb, part.alpha]
        for rows in zip(*(torch.split(plane, _DIGEST_ROWS, dim=1) for plane in planes), strict=True):
            self._digest.update(torch.cat(rows).transpose(0, 1).contiguous().numpy().data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def flattened(picture: Picture) -> Picture:
    """The picture made opaque: what shows through is the mean of its colours, weighted by alpha.

    `rgb · alpha + mean · (1 − alpha)` with `mean = Σ rgb · alpha / Σ alpha` per channel. The hidden colour under
    transparent pixels has no part in it, and unlike white or black the mean adds no colour that the picture lacks.
    Opaque pixels keep their exact colour; a picture without alpha is returned itself.

    Raises ImageError if the picture is transparent everywhere.
    """
    if picture.alpha is None:
        return picture
    shown = float(picture.alpha.sum(dtype=torch.float64))
    colours = (picture.rgb * picture.alpha).sum(dim=(1, 2), keepdim=True, dtype=torch.float64)
    return over(picture, mean_colour(colours, shown, picture.name))


def mean_colour(colours: torch.Tensor, shown: float, name: str) -> torch.Tensor:
    """The mean (3, 1, 1) of colours whose sum times alpha is `colours`, and the sum of alpha `shown`.

    Raises ImageError if nothing is shown.
    """
    if shown == 0:
        raise ImageError(f"image {name!r} is transparent everywhere and shows no colour; give another one")
    return (colours / shown).float()


def over(picture: Picture, colour: torch.Tensor) -> Picture:
    """The picture over one colour, (3, 1, 1), without alpha."""
    if picture.alpha is None:
        return picture
    return Picture(torch.lerp(colour, picture.rgb, picture.alpha), None, picture.name)


def to_planes(samples: npt.NDArray[np.generic], peak: float) -> torch.Tensor:
    """(H, W, C) samples to (C, H, W) float32, divided by `peak`; one pass, whatever the dtype and the strides."""
    height, width, channels = samples.shape
    planes = np.empty((channels, height, width), np.float32)
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and is found by the check of the range
        for channel in range(channels):
            np.divide(samples[:, :, channel], np.float32(peak), out=planes[channel], dtype=np.float32)
    return torch.from_numpy(planes)


def from_planes(planes: torch.Tensor, what: str, name: str) -> Picture:
    """A Picture of (C, H, W): grey (1), RGB (3) or RGB with alpha (4). Takes `planes` over.

    Values up to 1e-3 outside 0…1 are clamped. Raises ImageError for others, and for a side of less than 2 pixels.
    """
    channels, height, width = planes.shape
    check_size(height, width, what)
    return Picture(in_range(planes, what), planes[3:] if channels == 4 else None, name)


def in_range(planes: torch.Tensor, what: str) -> torch.Tensor:
    """The colours (3, H, W) of (C, H, W): grey (1), RGB (3) or RGB with alpha (4), all clamped to 0…1 in place.

    Raises ImageError for values more than 1e-3 outside.
    """
    low, high = (float(bound) for bound in torch.aminmax(planes))
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise ImageError(f"{what} {_range_problem(low, high)}")
    if low < 0 or high > 1:
        planes.clamp_(0, 1)
    return planes[:3].expand(3, -1, -1).contiguous()


def check_size(height: int, width: int, what: str) -> None:
    """Raises ImageError, which begins with `what`, for a picture with a side of less than `MIN_SIDE` pixels."""
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{what} is {width}×{height} pixels; it must be at least {MIN_SIDE}×{MIN_SIDE}")


def check_pixels(height: int, width: int, what: str, max_pixels: int) -> None:
    """Raises ImageError, which begins with `what`, for a picture of more than `max_pixels` pixels."""
    if width * height > max_pixels:
        raise ImageError(
            f"{what} is {width}×{height} = {width * height} pixels, more than the limit of {max_pixels} pixels; "
            "reduce it, or raise --max-pixels (max_pixels=…)"
        )


def _range_problem(low: float, high: float) -> str:
    if not np.isfinite((low, high)).all():
        return "has NaN or infinite values; every value must be in 0…1"
    hint = "divide them by 255" if 1 < high <= 255 and low >= 0 else "scale or clip them"
    return f"has values from {low:.6g} to {high:.6g}; they must be in 0…1: {hint}"
