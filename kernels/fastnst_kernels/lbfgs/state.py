"""The state of a fused L-BFGS: pairs in blocks of one band each, their inner products, and where each number lies."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 128
"""Elements of a channel in a block, which has a unit of its own where the pairs are in 16 bit."""
MOST_HISTORY = 32
NEAR = 0.02
"""From here to a limit of a bounded image a gradient that points there counts less and less."""

Numbers = np.ndarray[Any, Any]


def in_blocks(groups: Numbers, length: int) -> tuple[Numbers, Numbers]:
    """The places of elements by the values of `groups`, (blocks, length) int32 filled up with -1, each block of one
    group; and how many blocks each group has."""
    numbers = np.unique(groups, return_counts=True)[1]
    counts = -(-numbers // length)
    table = np.full((int(counts.sum()), length), -1, dtype=np.int32)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(numbers)[:-1])
    for first, own in zip(np.cumsum(counts) - counts, members, strict=True):
        table[first:].reshape(-1)[: len(own)] = own
    return table, counts


@dataclass(frozen=True)
class Blocks:
    """How an image's elements, or its spectrum's, are cut into blocks.

    `band` is each block's (blocks,), `place` (blocks, BLOCK // 2) the complex numbers of the spectrum (W // 2 + 1, H)
    in it, -1 where it is filled up, or None for the elements of the image as they lie. Programs sum `chunks`
    (programs, 2), the first block and how many, all of one band; `band_chunks` (bands + 1,) is the first of each band.
    """

    bands: int
    band: Tensor
    place: Tensor | None
    chunks: Tensor
    band_chunks: Tensor

    @staticmethod
    def of(elements: int, places: Numbers | None, programs: int, device: torch.device) -> "Blocks":
        """Blocks of a channel of `elements`, or of the bands `places` (H, W // 2 + 1) of its spectrum."""
        if places is None:
            counts, place = np.array([math.ceil(elements / BLOCK)]), None
        else:
            table, counts = in_blocks(places.T.ravel(), BLOCK // 2)
            place = torch.from_numpy(table).to(device)
        longest = math.ceil(counts.sum() / programs)
        chunks: list[tuple[int, int]] = []
        starts = [0]
        for first, count in zip(np.cumsum(counts) - counts, counts, strict=True):
            parts = np.array_split(np.arange(first, first + count), math.ceil(count / longest))
            chunks += [(int(part[0]), len(part)) for part in parts]
            starts.append(len(chunks))
        integers = partial(torch.tensor, dtype=torch.int32, device=device)
        band = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device, torch.int32)
        return Blocks(len(counts), band, place, chunks=integers(chunks), band_chunks=integers(starts))


@dataclass(frozen=True)
class State:
    """All that is remembered, in place; zero pairs, which have no influence, at first.

    `pairs` (blocks, 2, history, 3, BLOCK) are the `s` and the `y`, each block divided by its of `units`
    (blocks, 2, history), and each `s` by its of `lengths` (history,); `previous` (blocks, 3, BLOCK) is the last
    gradient, `slot` (1,) the pair whose `y` the next one completes. In float64: `sy` (history, history),
    `yy` (bands, 3, history, history) by bands and colours, which pairs are `curved` (history,), and (bands, 3) the
    diagonal of H₀ `h0` and what it is made of.
    """

    pairs: Tensor
    units: Tensor
    lengths: Tensor
    previous: Tensor
    slot: Tensor
    sy: Tensor
    yy: Tensor
    curved: Tensor
    h0: Tensor
    memory_steps: Tensor
    memory_changes: Tensor
    memory_both: Tensor

    @staticmethod
    def fresh(blocks: Blocks, history: int, dtype: torch.dtype) -> "State":
        number, device = len(blocks.band), blocks.band.device
        zeros = partial(torch.zeros, dtype=torch.float32, device=device)
        float64 = partial(torch.zeros, dtype=torch.float64, device=device)
        by_colour = (blocks.bands, 3)
        return State(
            pairs=zeros((number, 2, history, 3, BLOCK), dtype=dtype),
            units=zeros((number, 2, history)) + 1,
            lengths=float64(history) + 1,
            previous=zeros((number, 3, BLOCK)),
            slot=zeros(1, dtype=torch.long),
            sy=float64((history, history)),
            yy=float64((*by_colour, history, history)),
            curved=float64(history),
            h0=float64(by_colour),
            memory_steps=float64(by_colour),
            memory_changes=float64(by_colour),
            memory_both=float64(1),
        )
