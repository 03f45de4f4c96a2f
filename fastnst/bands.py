"""A picture in coordinates that keep inner products, grouped into bands: all pixels as one, or radial frequencies."""

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

_BLOCKS = 128


class Basis(Protocol):
    """An isometry from pictures (1, C, H, W) to blocks (channels, blocks, length), each block within one band.

    Blocks are filled up with zeros. `band` is each block's, (blocks,) int64.
    """

    channels: int
    bands: int
    band: Tensor
    length: int

    def to_blocks(self, picture: Tensor) -> Tensor: ...

    def to_picture(self, blocks: Tensor, like: Tensor) -> Tensor:
        """A new picture of the layout of `like`."""


class Pixels:
    """All elements of a picture in memory order, as one band of one channel."""

    channels = 1
    bands = 1

    def __init__(self, like: Tensor) -> None:
        self.length = max(1, math.ceil(like.numel() / _BLOCKS))
        self.band = torch.zeros(math.ceil(like.numel() / self.length), dtype=torch.long, device=like.device)

    def to_blocks(self, picture: Tensor) -> Tensor:
        flat = flat_view(picture)
        missing = len(self.band) * self.length - len(flat)
        return torch.nn.functional.pad(flat, (0, missing)).view(1, len(self.band), self.length)

    def to_picture(self, blocks: Tensor, like: Tensor) -> Tensor:
        picture = torch.empty_like(like)
        flat_view(picture).copy_(blocks.view(-1)[: like.numel()])
        return picture


class RadialBands:
    """The real and imaginary parts of the orthonormal two-dimensional Fourier transform, each channel by itself.

    Half of the frequencies is enough; those that stand for two are multiplied by √2. The mean is a band of its own,
    the others lie between radii that grow evenly in the logarithm, from the picture's lowest frequency to √½ of a cycle
    per pixel; bands that hold nothing are left out.
    """

    def __init__(self, like: Tensor, bands: int = 10) -> None:
        _, self.channels, self._height, self._width = like.shape
        place, weight = _frequencies(self._height, self._width, bands)
        # Real and imaginary parts lie beside each other.
        places, weights = (x.ravel().repeat(2) for x in (place, weight))
        found, counts = np.unique(places, return_counts=True)
        self.bands = len(found)
        self.length = max(1, math.ceil(len(places) / _BLOCKS))
        blocks = -(-counts // self.length)
        members = np.full((int(blocks.sum()), self.length), -1, dtype=np.int32)
        for value, count, end, own in zip(found, counts, np.cumsum(blocks), blocks, strict=True):
            members[end - own : end].reshape(-1)[:count] = np.flatnonzero(places == value)
        kept = members.ravel() >= 0
        position = np.empty(len(places), dtype=np.int32)
        position[members.ravel()[kept]] = np.flatnonzero(kept)
        source = np.maximum(members.ravel(), 0)

        def placed(values: "np.ndarray[Any, Any]", dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(values).to(like.device, dtype)

        self.band = placed(np.repeat(np.arange(self.bands), blocks), torch.long)
        self._source, self._position = placed(source, torch.int32), placed(position, torch.int32)
        self._factor = placed(np.where(kept, weights[source], 0.0), like.dtype)
        self._inverse_factor = placed(1 / weights, like.dtype)

    def to_blocks(self, picture: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft2(picture[0], norm="ortho")).flatten(1)
        return spectrum.index_select(1, self._source).mul_(self._factor).view(self.channels, -1, self.length)

    def to_picture(self, blocks: Tensor, like: Tensor) -> Tensor:
        flat = blocks.reshape(self.channels, -1).index_select(1, self._position).mul_(self._inverse_factor)
        spectrum = torch.view_as_complex(flat.view(self.channels, self._height, self._width // 2 + 1, 2))
        picture = torch.empty_like(like)
        picture.copy_(torch.fft.irfft2(spectrum, s=(self._height, self._width), norm="ortho")[None])
        return picture


def _frequencies(height: int, width: int, bands: int) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """The band, from 0, and the weight of each frequency of a real transform, (height, width // 2 + 1)."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    lowest = 1 / max(height, width)
    span = math.log(math.sqrt(0.5) / lowest) if lowest < 0.5 else 1.0
    place = (np.log(np.maximum(radius, lowest) / lowest) / span * (bands - 1)).astype(np.int64)
    place = np.where(radius == 0, 0, 1 + np.clip(place, 0, bands - 2))
    weight = np.full(radius.shape, math.sqrt(2))
    weight[:, 0] = 1.0
    if width % 2 == 0:
        weight[:, -1] = 1.0
    return place, weight


def flat_view(picture: Tensor) -> Tensor:
    """All elements as one dimension in memory order, without a copy for either memory format.

    Raises ValueError for another layout.
    """
    if picture.is_contiguous():
        return picture.view(-1)
    if picture.dim() == 4 and picture.is_contiguous(memory_format=torch.channels_last):
        return picture.permute(0, 2, 3, 1).view(-1)
    strides = picture.stride()
    raise ValueError(f"image with strides {strides} is neither contiguous nor channels-last; make it contiguous")
