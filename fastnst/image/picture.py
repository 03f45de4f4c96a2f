"""A `Picture`: what every source is read into, and every step before the network works on."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastnst.errors import ImageError
from fastnst.fork import check_fork
from fastnst.image.decode import check_size, decoding, ran_out

PART_PIXELS = 1 << 19
"""About the pixels that are looked at at once of a picture that is not looked at whole."""

_RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture in sRGB.

    rgb: (3, H, W) float32 in 0…1, contiguous, on the CPU; shares no memory with its source. Colours are not
    multiplied by alpha.
    alpha: (1, H, W) float32 in 0…1 (1 is opaque), or None where the source has none.
    name: the path, or the kind of object it came from; for messages and metadata.
    tags: what a file says of itself, as `decode.about` names it.
    """

    rgb: Tensor
    alpha: Tensor | None
    name: str
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def height(self) -> int:
        return self.rgb.shape[1]

    @property
    def width(self) -> int:
        return self.rgb.shape[2]

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the shape and the float32 samples: equal pixels have equal digests, from any kind of source."""
        digest = _digest(self)
        _add(digest, self)
        return digest.hexdigest()

    def parts(self) -> Iterator["Picture"]:
        """Its rows from the top, some at a time; they share its memory."""
        step = max(1, PART_PIXELS // self.width)
        for top in range(0, self.height, step):
            rows = slice(top, top + step)
            yield Picture(self.rgb[:, rows], None if self.alpha is None else self.alpha[:, rows], self.name)

    def mapped(self, change: Callable[["Picture"], "Picture"]) -> "Picture":
        return change(self)


def _digest(picture: "AnyPicture") -> "hashlib._Hash":
    """The SHA-256 of a picture's size, to which `_add` adds each row's samples."""
    return hashlib.sha256(f"{picture.height} {picture.width}".encode())


def _add(digest: "hashlib._Hash", part: Picture) -> None:
    planes = [plane.contiguous().numpy() for layer in (part.rgb, part.alpha) if layer is not None for plane in layer]
    for rows in zip(*planes, strict=True):
        for row in rows:
            digest.update(row.data)


@dataclass(eq=False)
class StreamedPicture:
    """A picture as rows that `read` gives, from the top, each time it is called; see `read.open_picture`.

    `height`, `width`, `name` and `tags` are those of a Picture. Raises what `read` does wherever it is looked at.
    """

    height: int
    width: int
    name: str
    read: Callable[[], Iterator[Picture]]
    tags: Mapping[str, Any] = field(default_factory=dict)
    _sha256: str | None = field(default=None, init=False)

    @property
    def sha256(self) -> str:
        """The digest of the same Picture; known once this one has been looked at to its end."""
        if self._sha256 is None:
            for _ in self.parts():
                pass
        return str(self._sha256)

    def parts(self) -> Iterator[Picture]:
        """Its rows from the top, some at a time. Raises ImageError where they are others than the last time."""
        digest = _digest(self)
        for part in self.read():
            _add(digest, part)
            yield part
        if self._sha256 not in (None, digest.hexdigest()):
            raise ImageError(f"image {self.name!r} changed while fastnst used it; start over")
        self._sha256 = digest.hexdigest()

    def whole(self) -> Picture:
        empty = partial(torch.empty, dtype=torch.float32, device="cpu")
        rgb, alpha, top = empty((3, self.height, self.width)), None, 0
        for part in self.read():
            rows = slice(top, top := top + part.height)
            rgb[:, rows] = part.rgb
            if part.alpha is not None:
                alpha = empty((1, self.height, self.width)) if alpha is None else alpha
                alpha[:, rows] = part.alpha
        return Picture(rgb, alpha, self.name, self.tags)

    def mapped(self, change: Callable[[Picture], Picture]) -> "StreamedPicture":
        """The picture whose rows are what `change` makes of the rows of this one."""
        return StreamedPicture(self.height, self.width, self.name, lambda: map(change, self.parts()))


AnyPicture: TypeAlias = Picture | StreamedPicture


def recoloured(picture: AnyPicture, colours: Callable[[Picture], Tensor]) -> AnyPicture:
    """The picture with the `colours` that are made of it, (3, h, W) of h rows; name and alpha stay."""
    return picture.mapped(lambda part: Picture(colours(part), part.alpha, part.name))


@overload
def opaque(picture: Picture) -> Picture: ...
@overload
def opaque(picture: AnyPicture) -> AnyPicture: ...
def opaque(picture: AnyPicture) -> AnyPicture:
    """The picture made opaque: `rgb · alpha + mean · (1 − alpha)` with `mean = Σ rgb · alpha / Σ alpha` per channel.

    The hidden colour under transparent pixels has no part in it, and unlike white or black the mean adds no colour that
    the picture lacks. A picture without alpha is returned itself. Raises ImageError if it is transparent everywhere.
    """
    if next(picture.parts()).alpha is None:
        return picture
    colours, weights = torch.zeros((3, 1, 1), dtype=torch.float64, device="cpu"), 0.0
    for part in picture.parts():
        if part.alpha is not None:
            colours += (part.rgb * part.alpha).sum(dim=(1, 2), keepdim=True, dtype=torch.float64)
            weights += float(part.alpha.sum(dtype=torch.float64))
    if weights == 0:
        raise ImageError(f"image {picture.name!r} is transparent everywhere and shows no colour; give another one")
    mean = (colours / weights).float()

    def over_mean(part: Picture) -> Picture:
        rgb = part.rgb if part.alpha is None else torch.lerp(mean, part.rgb, part.alpha)
        return Picture(rgb, None, part.name)

    return picture.mapped(over_mean)


def from_array(source: npt.NDArray[np.generic], what: str) -> Picture:
    """A Picture of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, or float in 0…1, in either byte order."""
    if np.ma.isMaskedArray(source):
        raise ImageError(
            f"{what} is a masked array, which has no values where it is masked; give the result of its filled()"
        )
    array = np.asarray(source)
    with decoding(what, *check_layout(array.shape, array.dtype, what)):
        return from_samples(array, what, "array")


def check_layout(shape: tuple[int, ...], dtype: np.dtype[np.generic], what: str) -> tuple[int, int]:
    """(height, width) of an array that is a picture. Raises ImageError for a shape or a dtype that is none's."""
    last = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or last not in (1, 3, 4):
        hint = "; move the channels last with transpose(1, 2, 0)" if len(shape) == 3 and shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{what} has shape {shape}; give (H, W), (H, W, 3) or (H, W, 4){hint}")
    if dtype.str[1:] not in ("u1", "u2") and dtype.kind != "f":
        raise ImageError(f"{what} has dtype {dtype}; give uint8, uint16, or float in 0…1")
    check_size(shape[0], shape[1], what)
    return shape[0], shape[1]


def from_tensor(tensor: Tensor, what: str) -> Picture:
    """A Picture of (C, H, W) or (1, C, H, W) with C 1, 3 or 4, on any device: uint8, uint16, or float in 0…1."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        kind = "nested" if tensor.is_nested else f"{tensor.layout}, {tensor.dtype}"
        raise ImageError(f"{what} is {kind} on {tensor.device}; give a dense tensor that holds its values")
    samples = tensor.detach()
    if samples.ndim == 4 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 3 or samples.shape[0] not in (1, 3, 4):
        last = samples.ndim == 3 and samples.shape[2] in (1, 3, 4)
        hint = "; move the channels first with permute(2, 0, 1)" if last else ""
        raise ImageError(
            f"{what} has shape {tuple(tensor.shape)}; give (C, H, W) or (1, C, H, W) with 1, 3 or 4 channels{hint}"
        )
    if not samples.is_floating_point() and samples.dtype not in (torch.uint8, torch.uint16):
        raise ImageError(f"{what} has dtype {tensor.dtype}; give uint8, uint16, or float in 0…1")
    _, height, width = samples.shape
    check_size(height, width, what)
    check_fork(samples.numel())
    peak = {torch.uint8: 255, torch.uint16: 65535}.get(samples.dtype, 1)
    with decoding(what, height, width):
        try:
            planes = torch.empty(samples.shape, dtype=torch.float32, device="cpu").copy_(samples).div_(peak)
        except (RuntimeError, TypeError) as error:  # packed dtypes, fake tensors and others that are no plain values
            if ran_out(error):
                raise
            raise ImageError(f"{what}, {tensor.dtype}, has no values that can be read; give float32 in 0…1") from error
        return from_planes(planes, what, "tensor")


def from_samples(samples: npt.NDArray[np.generic], what: str, name: str) -> Picture:
    """A Picture of (H, W) or (H, W, C): integers of 8 bits over 255, other integers over 65535, floats as they are."""
    peak = 1 if samples.dtype.kind == "f" else 255 if samples.dtype.itemsize == 1 else 65535
    planes = np.empty((samples.shape[2] if samples.ndim == 3 else 1, *samples.shape[:2]), np.float32)
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and the check of the range refuses it
        np.divide(np.moveaxis(np.atleast_3d(samples), 2, 0), np.float32(peak), out=planes, dtype=np.float32)
    return from_planes(torch.from_numpy(planes), what, name)


def from_planes(planes: Tensor, what: str, name: str) -> Picture:
    """A Picture of (C, H, W) in 0…1: grey (1), grey with alpha (2), RGB (3) or RGB with alpha (4). Takes `planes` over.

    Values up to 1e-3 outside 0…1 are clamped. Raises ImageError for others.
    """
    check_fork(planes.numel())
    low, high = (float(bound) for bound in torch.aminmax(planes))
    if not np.isfinite((low, high)).all():
        raise ImageError(f"{what} has NaN or infinite values; every value must be in 0…1")
    if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        hint = "divide them by 255" if 1 < high <= 255 and low >= 0 else "scale or clip them"
        raise ImageError(f"{what} has values from {low:.6g} to {high:.6g}; they must be in 0…1: {hint}")
    if low < 0 or high > 1:
        planes.clamp_(0, 1)
    colours = 1 if len(planes) < 3 else 3
    alpha = planes[colours:] if len(planes) > colours else None
    return Picture(planes[:colours].expand(3, -1, -1).contiguous(), alpha, name)
