"""What a texture is made of, locally: the energy of oriented waves, as simple and complex cells respond to them.

Portilla and Simoncelli (2000) describe textures by such energies and how they go together. The training asks the layers
for them: linear in the features, they are then in the Gram matrices that style is matched by.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ORIENTATIONS = 4
SCALES = (1, 2, 4)
# Brightness, red against green, blue against yellow.
_OPPONENTS = ((0.333, 0.333, 0.333), (0.5, -0.5, 0.0), (-0.25, -0.25, 0.5))
CHANNELS = ORIENTATIONS * len(SCALES) * len(_OPPONENTS)
_SIDE = 7
_WAVELENGTH = 4.0
_DEVIATION = 1.6
# Amplitudes below this, of normalised images, count as none.
_FLOOR = 0.02


def wavelets() -> Tensor:
    """Even and odd Gabor filters of each orientation, (2 · ORIENTATIONS, 1, 7, 7), of no response to a flat image."""
    axis = torch.arange(_SIDE) - _SIDE // 2
    y, x = torch.meshgrid(axis.float(), axis.float(), indexing="ij")
    window = torch.exp(-(x * x + y * y) / (2 * _DEVIATION**2))
    filters = []
    for index in range(ORIENTATIONS):
        angle = math.pi * index / ORIENTATIONS
        phase = 2 * math.pi / _WAVELENGTH * (math.cos(angle) * x + math.sin(angle) * y)
        for wave in (torch.cos(phase), torch.sin(phase)):
            plain = window * wave
            plain = plain - window * plain.sum() / window.sum()
            filters.append(plain / plain.norm())
    return torch.stack(filters)[:, None]


def energies(images: Tensor, cell: int) -> Tensor:
    """The log amplitude of waves in each cell of `cell` pixels (4, 8, 16), (B, CHANNELS, H / cell, W / cell).

    `images` are (B, 3, H, W); orientations, scales (wavelengths of 4, 8 and 16 pixels) and opponent colours are apart.
    """
    filters = wavelets().to(images)
    opponents = torch.einsum("oc,nchw->nohw", images.new_tensor(_OPPONENTS), images)
    count = len(opponents)
    height, width = images.shape[2] // cell, images.shape[3] // cell
    results = []
    for scale in SCALES:
        reduced = F.avg_pool2d(opponents, scale).flatten(0, 1)[:, None]
        padded = F.pad(reduced, [_SIDE // 2] * 4, mode="reflect")
        responses = F.conv2d(padded, filters)
        responses = responses.view(len(reduced), ORIENTATIONS, 2, *responses.shape[2:])
        amplitude = responses.square().sum(2).add(1e-8).sqrt()
        pooled = F.avg_pool2d(amplitude, cell // scale)[:, :, :height, :width]
        results.append(pooled.reshape(count, -1, *pooled.shape[2:]))
    return (torch.cat(results, dim=1) + _FLOOR).log()
