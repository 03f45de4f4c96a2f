"""A picture in coordinates that keep inner products, grouped into bands: all pixels as one, or radial frequencies of
opponent colours; and the inverse Hessian of each band, from what pairs of steps have shown."""

import math
from functools import partial

import numpy as np
import torch
from fastnst_kernels.launch.layout import flat
from fastnst_kernels.lbfgs.state import Numbers, in_blocks
from torch import Tensor

MOST_BANDS = 10
MEMORY = 0.97
"""How much each pair counts of what the next one does."""
MOST_CONTRAST = 10.0
"""How far a band may lie from the whole, as a factor either way."""
OPPONENTS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Brightness, red against blue, and green against both, over red, green and blue; orthogonal, not normalised."""
_BLOCKS = 128


class Pixels:
    """All elements of a picture in memory order, as one band of one channel."""

    channels = 1
    bands = 1

    def __init__(self, like: Tensor) -> None:
        self.length = max(1, math.ceil(like.numel() / _BLOCKS))
        self.band = torch.zeros(math.ceil(like.numel() / self.length), dtype=torch.long, device=like.device)

    def to_blocks(self, picture: Tensor) -> Tensor:
        elements = flat(picture)
        missing = len(self.band) * self.length - len(elements)
        return torch.nn.functional.pad(elements, (0, missing)).view(1, len(self.band), self.length)

    def to_picture(self, blocks: Tensor, like: Tensor) -> Tensor:
        picture = torch.empty_like(like)
        flat(picture).copy_(blocks.view(-1)[: like.numel()])
        return picture


class RadialBands:
    """The real and imaginary parts of the orthonormal two-dimensional Fourier transform of three opponent colours, in
    which the channels of pictures are nearly uncorrelated: brightness, red against blue, and green against both.

    Half of the frequencies is enough; those that stand for two are multiplied by √2. The mean is a band of its own,
    the others lie between radii that grow evenly in the logarithm, from the picture's lowest frequency to √½ of a cycle
    per pixel; bands that hold nothing are left out.
    """

    channels = 3

    def __init__(self, like: Tensor) -> None:
        self._height, self._width = like.shape[2:]
        # Real and imaginary parts lie beside each other.
        places, weights = (x.ravel().repeat(2) for x in radial_places(self._height, self._width))
        self.length = max(1, math.ceil(len(places) / _BLOCKS))
        # The number that goes into each place of the blocks, or -1 where they are filled up.
        members, blocks = in_blocks(places, self.length)
        is_filled = members.ravel() >= 0
        position = np.empty(len(places), dtype=np.int32)
        position[members.ravel()[is_filled]] = np.flatnonzero(is_filled)
        source = np.maximum(members.ravel(), 0)

        def placed(numbers: Numbers, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(numbers).to(like.device, dtype)

        self.bands = len(blocks)
        self.band = placed(np.repeat(np.arange(self.bands), blocks), torch.long)
        self._source, self._position = placed(source, torch.int32), placed(position, torch.int32)
        self._factor = placed(np.where(is_filled, weights[source], 0.0), like.dtype)
        self._inverse_factor = placed(1 / weights, like.dtype)
        opponents = torch.tensor(OPPONENTS, dtype=torch.float64)
        self._opponents = torch.nn.functional.normalize(opponents, dim=1).to(like.device, like.dtype)

    def to_blocks(self, picture: Tensor) -> Tensor:
        colours = self._opponents @ picture[0].flatten(1)
        spectrum = torch.fft.rfft2(colours.view(picture.shape[1:]), norm="ortho")
        flat = torch.view_as_real(spectrum).flatten(1)
        return flat.index_select(1, self._source).mul_(self._factor).view(self.channels, -1, self.length)

    def to_picture(self, blocks: Tensor, like: Tensor) -> Tensor:
        flat = blocks.reshape(self.channels, -1).index_select(1, self._position).mul_(self._inverse_factor)
        spectrum = torch.view_as_complex(flat.view(self.channels, self._height, -1, 2))
        colours = torch.fft.irfft2(spectrum, s=(self._height, self._width), norm="ortho")
        picture: Tensor = (self._opponents.mT @ colours.flatten(1)).view(like.shape)
        return picture


Basis = Pixels | RadialBands
"""An isometry from pictures (1, 3, H, W) to blocks (channels, blocks, length), each within one band and filled up with
zeros, and back to a new picture. `band` is each block's, (blocks,) int64."""


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


class BandCurvature:
    """A positive number for each band and opponent colour, the diagonal of H₀, from what pairs have shown.

    `√(Σ s² / Σ y²)` is the scalar that takes gradient changes to steps of their size: `Σ s·y / Σ y·y` where the two are
    parallel, and larger where they are not. The sums are over all pairs, each divided by its `y·y` and by `MEMORY` to
    the power of its age: they look further back than the history, whose few pairs alone leave out what they did not
    move. The result is that scalar relative to the whole, limited by `MOST_CONTRAST`, times a scale that is given.
    """

    def __init__(self, bands: int, channels: int, device: torch.device) -> None:
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.steps, self.changes, self.both = zeros((bands, channels)), zeros((bands, channels)), zeros(1)

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered, by name."""
        return {"memory_steps": self.steps, "memory_changes": self.changes, "memory_both": self.both}

    def learn(self, ss: Tensor, yy: Tensor, *, s_dot_y: Tensor, y_dot_y: Tensor, wanted: Tensor) -> None:
        """Takes in a pair, where `wanted`: the squares of `s`, and of `y`, summed over each band (bands, channels), and
        their inner products, (1,) or scalars; all float64."""
        for memory, value in ((self.steps, ss), (self.changes, yy), (self.both, s_dot_y)):
            memory.copy_(torch.where(wanted, MEMORY * memory + value / y_dot_y, memory))

    def diagonal(self, scale: Tensor) -> Tensor:
        """(bands, channels) float64, on the whole `scale`, a float64 scalar."""
        tiny = torch.finfo(self.steps.dtype).tiny
        whole = self.both / self.changes.sum().clamp_min(tiny)
        contrast = (self.steps / self.changes.clamp_min(tiny)).sqrt() / whole.clamp_min(tiny)
        return scale * contrast.clamp(1 / MOST_CONTRAST, MOST_CONTRAST)
