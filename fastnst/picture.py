"""A `Picture`: what every source is read into, and every step before the network works on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from fastnst.errors import ImageError

MIN_SIDE = 2

_RANGE_TOLERANCE = 1e-3


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
        digest = hashlib.sha256()
        for planes in (self.rgb, self.alpha):
            if planes is not None:
                digest.update(repr(tuple(planes.shape)).encode())
                digest.update(planes.contiguous().numpy().data)
        return digest.hexdigest()


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
    if shown == 0:
        raise ImageError(f"image {picture.name!r} is transparent everywhere and shows no colour; give another one")
    mean = (picture.rgb * picture.alpha).sum(dim=(1, 2), keepdim=True, dtype=torch.float64) / shown
    return Picture(torch.lerp(mean.float(), picture.rgb, picture.alpha), None, picture.name)


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
    low, high = (float(bound) for bound in torch.aminmax(planes))
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise ImageError(f"{what} {_range_problem(low, high)}")
    if low < 0 or high > 1:
        planes.clamp_(0, 1)
    return Picture(planes[:3].expand(3, -1, -1).contiguous(), planes[3:] if channels == 4 else None, name)


def check_size(height: int, width: int, what: str) -> None:
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{what} is {width}×{height} pixels; it must be at least {MIN_SIDE}×{MIN_SIDE}")


def check_pixels(height: int, width: int, what: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{what} is {width}×{height} = {width * height} pixels, more than the limit of {max_pixels} pixels; "
            "reduce it first"
        )


def _range_problem(low: float, high: float) -> str:
    if not np.isfinite((low, high)).all():
        return "has NaN or infinite values; every value must be in 0…1"
    hint = "divide them by 255" if 1 < high <= 255 and low >= 0 else "scale or clip them"
    return f"has values from {low:.6g} to {high:.6g}; they must be in 0…1: {hint}"
