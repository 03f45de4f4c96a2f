"""How strong the network's first filters are along the axes and along the diagonals, `python -m bench.first_filters`.

For each frequency, the summed squared gains of conv1_1 for grey waves along the two axes, over that for the two
diagonals of the same wavelength.
"""

import math

import torch
from torch import Tensor

from fastnst.network.weights import load_weights

FREQUENCIES = (0.1, 0.2, 0.3, 0.4, 0.5)  # cycles per pixel


def main() -> None:
    filters = load_weights("original", "vgg19", taps=("conv1_1",)).tensors["conv1_1.weight"]
    print("cycles per pixel | axes / diagonals")
    for frequency in FREQUENCIES:
        print(f"{frequency:g} | {anisotropy(filters, frequency):.3g}")


def anisotropy(filters: Tensor, frequency: float) -> float:
    """The ratio for `filters`, (K, 3, 3, 3), at `frequency` in cycles per pixel."""
    part = frequency * math.sqrt(0.5)
    axes = _power(filters, frequency, 0.0) + _power(filters, 0.0, frequency)
    return axes / (_power(filters, part, part) + _power(filters, part, -part))


def _power(filters: Tensor, across: float, down: float) -> float:
    offsets = torch.arange(-1, 2, dtype=torch.float64)
    phase = -2 * math.pi * (across * offsets[None] + down * offsets[:, None])  # (3, 3)
    wave = torch.polar(torch.ones_like(phase), phase)
    grey = filters.double().sum(1)  # (K, 3, 3)
    return float((grey * wave).sum((1, 2)).abs().square().sum())


if __name__ == "__main__":
    main()
