"""The network in training: VGG-19 to conv5_1 with batch norm and average pooling, and what its layers must answer."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.embedded.energy import CHANNELS, energies
from fastnst.network.architecture import layers_up_to

# Layers that name the structure and the palette, and the weight of their answer.
NAMING: Mapping[str, float] = {"conv2_1": 0.15, "conv3_1": 0.3, "conv4_1": 0.3, "conv5_1": 1.0}
# Layers that paint what they see: each position its cell of the crop, the side of the cell in pixels.
PAINTING: Mapping[str, int] = {"conv4_2": 8, "conv5_1": 16}
# Layers that tell the energy of waves around each position, and the side of its cell in pixels.
FEELING: Mapping[str, int] = {"conv3_1": 4, "conv4_1": 8, "conv5_1": 16}
# A cell is painted as 4 × 4 means of RGB.
_PAINTED = 4


class Trunk(nn.Module):
    """The convolutions, each with batch norm and ReLU: crops (B, 3, S, S), normalised, to features by layer name."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict()
        self.order = [(layer.name, layer.is_pool) for layer in layers_up_to("vgg19", ("conv5_1",))]
        for layer in layers_up_to("vgg19", ("conv5_1",)):
            if not layer.is_pool:
                convolution = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                self.blocks[layer.name] = nn.Sequential(
                    convolution, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)
                )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for name, is_pool in self.order:
            x = F.avg_pool2d(x, 2) if is_pool else self.blocks[name](x)
            if name in NAMING or name in PAINTING or name in FEELING:
                features[name] = x
        return features


class Heads(nn.Module):
    """Linear answers: of the mean and deviation of each channel, structure and palette; of a position, its cell, as
    colours and as the energy of waves."""

    def __init__(self, channels: Mapping[str, int], structures: int, palettes: int) -> None:
        super().__init__()
        self.structures = structures
        self.naming = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.BatchNorm1d(2 * channels[name]), nn.Linear(2 * channels[name], structures + palettes)
                )
                for name in NAMING
            }
        )
        self.painting = nn.ModuleDict(
            {name: nn.Conv2d(channels[name], 3 * _PAINTED * _PAINTED, 1) for name in PAINTING}
        )
        self.feeling = nn.ModuleDict({name: nn.Conv2d(channels[name], CHANNELS, 1) for name in FEELING})

    def name(self, layer: str, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the structures and of the palettes, (B, structures) and (B, palettes)."""
        positions = features.flatten(2).float()
        mean = positions.mean(2)
        deviation = (positions.var(2, correction=0) + 1e-4).sqrt()
        scores = self.naming[layer](torch.cat([mean, deviation], dim=1))
        return scores[:, : self.structures], scores[:, self.structures :]

    def paint(self, layer: str, features: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The painted cells and the true ones, each (B, 48, h, w)."""
        cell = PAINTING[layer]
        painted = self.painting[layer](features)
        height, width = features.shape[2:]
        whole = image[:, :, : height * cell, : width * cell]
        means = F.avg_pool2d(whole, cell // _PAINTED)
        return painted, F.pixel_unshuffle(means, _PAINTED)

    def feel(self, layer: str, features: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The energies told and the true ones, of mean 0 and deviation 1 in the batch, each (B, CHANNELS, h, w)."""
        told = self.feeling[layer](features)
        true = energies(image, FEELING[layer])[:, :, : told.shape[2], : told.shape[3]]
        return told, F.batch_norm(true, None, None, training=True)
