"""A picture in coordinates that keep inner products, grouped into bands: all pixels as one, or radial frequencies."""

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Numbers = np.ndarray[Any, Any]

MOST_BANDS = 10
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

    def __init__(self, like: Tensor) -> None:
        _, self.channels, self._height, self._width = like.shape
        places, weights = radial_places(self._height, self._width)
        values = np.unique(places)
        self._arranged = Arranged(places, weights, values, like)
        self.bands, self.band, self.length = len(values), self._arranged.band, self._arranged.length

    def to_blocks(self, picture: Tensor) -> Tensor:
        return self._arranged.to_blocks(torch.fft.rfft2(picture[0], norm="ortho"))

    def to_picture(self, blocks: Tensor, like: Tensor) -> Tensor:
        spectrum = self._arranged.to_spectrum(blocks)
        picture = torch.empty_like(like)
        picture.copy_(torch.fft.irfft2(spectrum, s=(self._height, self._width), norm="ortho")[None])
        return picture


class Arranged:
    """Complex numbers (rows, columns) of each channel as blocks of real ones, each block within one band.

    `places` are their bands and `weights` what they are multiplied by, (rows, columns); `values` are the places that
    there are, of which a block's band is the index.
    """

    def __init__(self, places: Numbers, weights: Numbers, values: Numbers, like: Tensor) -> None:
        self._shape = places.shape
        # Real and imaginary parts lie beside each other.
        places, weights = (x.ravel().repeat(2) for x in (places, weights))
        self.length = max(1, math.ceil(len(places) / _BLOCKS))
        counts = np.array([np.count_nonzero(places == value) for value in values])
        blocks = -(-counts // self.length)
        members = np.full((int(blocks.sum()), self.length), -1, dtype=np.int32)
        for value, count, end, own in zip(values, counts, np.cumsum(blocks), blocks, strict=True):
            members[end - own : end].reshape(-1)[:count] = np.flatnonzero(places == value)
        kept = members.ravel() >= 0
        position = np.empty(len(places), dtype=np.int32)
        position[members.ravel()[kept]] = np.flatnonzero(kept)
        source = np.maximum(members.ravel(), 0)

        def placed(numbers: Numbers, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(numbers).to(like.device, dtype)

        self.band = placed(np.repeat(np.arange(len(values)), blocks), torch.long)
        self._source, self._position = placed(source, torch.int32), placed(position, torch.int32)
        self._factor = placed(np.where(kept, weights[source], 0.0), like.dtype)
        self._inverse_factor = placed(1 / weights, like.dtype)

    def to_blocks(self, spectrum: Tensor) -> Tensor:
        """(channels, rows, columns) complex to (channels, blocks, length)."""
        flat = torch.view_as_real(spectrum).flatten(1)
        return flat.index_select(1, self._source).mul_(self._factor).view(len(flat), -1, self.length)

    def to_spectrum(self, blocks: Tensor) -> Tensor:
        """(channels, blocks, length) to (channels, rows, columns) complex."""
        flat = blocks.reshape(len(blocks), -1).index_select(1, self._position).mul_(self._inverse_factor)
        return torch.view_as_complex(flat.view(len(blocks), *self._shape, 2))


def radial_places(height: int, width: int, bands: int = MOST_BANDS) -> tuple[Numbers, Numbers]:
    """The band, from 0, and the weight of each frequency of a real transform, (height, width // 2 + 1)."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    lowest = 1 / max(height, width)
    span = math.log(math.sqrt(0.5) / lowest) if lowest < 0.5 else 1.0
    place = (np.log(np.maximum(radius, lowest) / lowest) / span * (bands - 1)).astype(np.int64)
    place = np.where(radius == 0, 0, 1 + np.clip(place, 0, bands - 2))
    weight = np.full((height, width // 2 + 1), math.sqrt(2))
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
