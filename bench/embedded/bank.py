"""The bank: all training pictures in one array, and batches of jittered crops from it, cut on the bank's device."""

import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.embedded.canvas import SIZE
from bench.embedded.pictures import picture

# How much a crop enlarges its picture, from and to.
_ZOOM = (0.5, 1.25)


@dataclass(frozen=True)
class Plan:
    """How many structures, in how many palettes each out of how many, and how many realisations of each."""

    seed: int
    structures: int
    palettes: int
    palettes_each: int
    takes: int = 1

    @property
    def count(self) -> int:
        return self.structures * self.palettes_each * self.takes

    @property
    def classes(self) -> int:
        return self.structures * self.palettes_each

    def entry(self, index: int) -> tuple[int, int, int]:
        """Structure, palette and realisation of the picture `index`."""
        structure, rest = divmod(index, self.palettes_each * self.takes)
        slot = rest // self.takes
        # A permutation for each structure: its palettes are different ones, any two structures share them by chance.
        order = np.random.default_rng([self.seed, 4, structure]).permutation(self.palettes)
        return structure, int(order[slot]), rest


@dataclass(frozen=True)
class Bank:
    """`pictures` (count, 3, S, S) uint8; `structure` and `palette` (count,) int64, all on one device."""

    pictures: Tensor
    structure: Tensor
    palette: Tensor


@dataclass(frozen=True)
class Jitter:
    """How far a crop's colours may go: relative gains of brightness and channels, an offset, a mixing of channels, and
    the share of crops in grey."""

    brightness: float
    gain: float
    offset: float
    mixing: float
    grey: float
    noise: float


def draw_bank(plan: Plan, path: Path, processes: int) -> None:
    """Draws the plan's pictures into the .npy file `path`, (count, 3, SIZE, SIZE) uint8, in parallel processes."""
    part = path.with_suffix(".part.npy")
    shape = (plan.count, 3, SIZE, SIZE)
    pictures = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    with ProcessPoolExecutor(processes) as pool:
        for index, image in enumerate(pool.map(_drawn, [plan] * plan.count, range(plan.count), chunksize=16)):
            pictures[index] = image
    pictures.flush()
    part.replace(path)


def _drawn(plan: Plan, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return picture(plan.seed, *plan.entry(index)).transpose(2, 0, 1)


def load_bank(plan: Plan, folder: Path, device: torch.device) -> Bank:
    """The plan's bank, from the folder if it was drawn before, else drawn now and kept there."""
    name = f"bank-{plan.seed}-{plan.structures}-{plan.palettes}-{plan.palettes_each}-{plan.takes}.npy"
    path = folder / name
    if not path.exists():
        draw_bank(plan, path, os.cpu_count() or 1)
    entries = [plan.entry(index) for index in range(plan.count)]
    structure, palette_index, _ = torch.tensor(entries).unbind(1)
    return Bank(
        torch.from_numpy(np.load(path)).to(device),
        structure.to(device).contiguous(),
        palette_index.to(device).contiguous(),
    )


def halved(bank: Bank) -> Bank:
    """The bank at half the size: crops of it see twice as far."""
    chunks = [F.avg_pool2d(chunk.float(), 2).round().to(torch.uint8) for chunk in torch.split(bank.pictures, 64)]
    return Bank(torch.cat(chunks), bank.structure, bank.palette)


def crops(
    bank: Bank, count: int, side: int, jitter: Jitter, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """`count` crops, (count, 3, side, side) float32 in 0…1, and their structures and palettes, (count,).

    A crop is turned by any angle in half of the cases, else by quarters; mirrored; scaled by 0.5 to 1.25.
    """
    device = bank.pictures.device
    size = bank.pictures.shape[-1]

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, device=device)

    index = torch.randint(len(bank.pictures), (count,), generator=generator, device=device)
    zoom = torch.exp(uniform(count, low=math.log(_ZOOM[0]), high=math.log(_ZOOM[1])))
    quarter = torch.floor(uniform(count, high=4.0)) * (torch.pi / 2)
    tilted = quarter + uniform(count, low=-0.15, high=0.15)
    turn = torch.where(uniform(count) < 0.5, tilted, uniform(count, high=2 * math.pi))
    mirror = torch.where(uniform(count) < 0.5, -1.0, 1.0)
    # Positions in the picture's units, −1…1. The window around the crop is what it can reach of the picture.
    half = side / (size * zoom)
    reach = (1 - half * math.sqrt(2)).clamp(min=0)
    centre = uniform(count, 2, low=-1) * reach[:, None]
    axis = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = torch.cos(turn) * half, torch.sin(turn) * half
    x = centre[:, 0, None, None] + mirror[:, None, None] * (cos[:, None, None] * u - sin[:, None, None] * v)
    y = centre[:, 1, None, None] + sin[:, None, None] * u + cos[:, None, None] * v
    # Only what the widest crop can reach is taken out of each picture.
    window = min(size, math.ceil(side * math.sqrt(2) / _ZOOM[0]) + 2)
    first = ((centre + 1) * (size / 2) - window / 2).round().clamp(0, size - window)
    position = (torch.stack([x, y], dim=-1) + 1) * (size / 2) - first[:, None, None, :]
    columns, rows = (first[:, :, None].long() + torch.arange(window, device=device)).unbind(1)
    channels = torch.arange(3, device=device)[None, :, None, None]
    source = bank.pictures[index[:, None, None, None], channels, rows[:, None, :, None], columns[:, None, None, :]]
    inside = position * (2 / window) - 1
    images = F.grid_sample(source.float() / 255, inside, padding_mode="reflection", align_corners=False)
    return _jittered(images, jitter, uniform, generator), bank.structure[index], bank.palette[index]


class _Uniform(Protocol):
    def __call__(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor: ...


def _jittered(images: Tensor, jitter: Jitter, uniform: _Uniform, generator: torch.Generator) -> Tensor:
    count = len(images)
    identity = torch.eye(3, device=images.device)
    mixing = identity + jitter.mixing * uniform(count, 3, 3, low=-1.0, high=1.0)
    # Rows that sum to one: mixing turns colours and leaves greys alone.
    mixing = mixing / mixing.sum(dim=2, keepdim=True)
    grey = torch.full((3, 3), 1 / 3, device=images.device)
    mixing = torch.where((uniform(count) < jitter.grey)[:, None, None], grey, mixing)
    gain = 1 + jitter.gain * uniform(count, 3, 1, 1, low=-1.0, high=1.0)
    brightness = 1 + jitter.brightness * uniform(count, 1, 1, 1, low=-1.0, high=1.0)
    offset = jitter.offset * uniform(count, 3, 1, 1, low=-1.0, high=1.0)
    mixed = torch.einsum("nij,njhw->nihw", mixing, images) * gain * brightness + offset
    deviation = jitter.noise * uniform(count, 1, 1, 1)
    grain = torch.randn(mixed.shape, generator=generator, device=images.device) * deviation
    return (mixed + grain).clamp(0, 1)
