"""The network that sees the image: VGG's convolutions and pools, only as deep as the deepest layer that is tapped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.architecture import layers_up_to
from fastnst.errors import FastnstError
from fastnst.weights import Preprocessing, Weights

Tap = Callable[[Tensor], Tensor]
"""Sees a layer's features (B, C, H, W) and returns what the next layer goes on from: the same values."""


@dataclass(frozen=True)
class Convolution:
    name: str
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Pool:
    name: str


@dataclass(frozen=True)
class Backbone:
    """VGG with frozen weights. Call it with an image and a tap for each layer of interest.

    A layer's features are those after its ReLU. Weights and features are channels-last in `dtype`.
    """

    layers: tuple[Convolution | Pool, ...]
    preprocessing: Preprocessing
    pooling: str
    padding: str
    dtype: torch.dtype

    def __call__(self, image: Tensor, taps: Mapping[str, Tap]) -> None:
        """Shows `image` to the network and each tapped layer's features to its tap, in order.

        Args:
            image: (B, 3, H, W) float32, RGB in 0…1, on the backbone's device.
            taps: by layer name; nothing is computed beyond the deepest of them.
        """
        missing = taps.keys() - {layer.name for layer in self.layers}
        if missing:
            raise FastnstError(f"layers {sorted(missing)} are deeper than this backbone was built; name them as taps")
        features = preprocess(image, self.preprocessing).to(self.dtype, memory_format=torch.channels_last)
        waiting = set(taps)
        for layer in self.layers:
            if not waiting:
                return
            features = self._apply(layer, features)
            if layer.name in waiting:
                features = taps[layer.name](features)
                waiting.remove(layer.name)

    def _apply(self, layer: Convolution | Pool, features: Tensor) -> Tensor:
        if isinstance(layer, Pool):
            return F.avg_pool2d(features, 2) if self.pooling == "avg" else F.max_pool2d(features, 2)
        if layer.name == "conv1_1" and self.padding == "replicate":
            features = F.conv2d(F.pad(features, (1, 1, 1, 1), mode="replicate"), layer.weight, layer.bias)
        else:
            features = F.conv2d(features, layer.weight, layer.bias, padding=1)
        return F.relu_(features)


def build_backbone(
    weights: Weights,
    taps: tuple[str, ...],
    *,
    pooling: str = "avg",
    padding: str = "zeros",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """The backbone from the image to the deepest of `taps`, on `device` in `dtype`, channels-last."""
    layers: list[Convolution | Pool] = []
    for layer in layers_up_to(weights.network, taps):
        if layer.is_pool:
            layers.append(Pool(layer.name))
            continue
        weight, bias = (weights.tensors[f"{layer.name}.{part}"] for part in ("weight", "bias"))
        layers.append(
            Convolution(
                layer.name,
                weight.to(device, dtype, memory_format=torch.channels_last),
                bias.to(device, dtype),
            )
        )
    return Backbone(tuple(layers), weights.preprocessing, pooling, padding, dtype)


def preprocess(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """RGB in 0…1, (B, 3, H, W), to what the weights were trained on: `(x · scale − mean) / std`, as BGR if they are."""
    mean = image.new_tensor(preprocessing.mean).view(1, 3, 1, 1)
    std = image.new_tensor(preprocessing.std).view(1, 3, 1, 1)
    channels = image.flip(1) if preprocessing.bgr else image
    return (channels * preprocessing.scale - mean) / std
