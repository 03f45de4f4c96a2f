"""The network as a `torch.nn.Module` under autograd, for people who train networks with its features.

The engine's own `backbone` writes forward and backward out for one image; this is the same network over the same
weights, layer names and preprocessing, for batches, autocast and torch.compile.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.errors import ImageError, OptionError, check_choice
from fastnst.fork import check_fork
from fastnst.network.architecture import canonical_layer, layers_up_to
from fastnst.network.frozen import Frozen
from fastnst.network.weights import Weights, load_weights

Tap = Callable[[Tensor], Tensor]


class FeatureExtractor(Frozen):
    """Computes VGG's features of a batch of images. The weights move with the module, and are neither trained nor
    saved.

        extractor = FeatureExtractor("imagenet", layers=["conv1_1", "conv4_2"])
        extractor(images)["conv4_2"]                       # (B, 512, H/8, W/8)

    Args:
        weights: a `spec` for `load_weights`, or the `Weights` that it returned.
        network: "vgg19" or "vgg16"; `Weights` have their own.
        layers: the layers whose features you want, such as `conv4_2` or `relu4_2` (both mean the features after the
            ReLU).
        pooling: "avg" or "max".
        padding: the padding of the first convolution, "zeros" or "replicate".

    Raises OptionError for an unknown network, layer, pooling or padding; WeightsError as `load_weights` does.
    """

    _scale: Tensor
    _shift: Tensor

    @torch.inference_mode(False)
    def __init__(
        self,
        weights: str | os.PathLike[str] | Weights = "auto",
        network: str = "vgg19",
        *,
        layers: Sequence[str],
        pooling: str = "avg",
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        check_fork()
        check_choice("pooling", pooling, ("avg", "max"))
        check_choice("padding", padding, ("zeros", "replicate"))
        if isinstance(layers, str) or not layers:
            raise OptionError(f"layers {layers!r} is not a list of layers; give at least one, as in ['conv4_2']")
        network = weights.network if isinstance(weights, Weights) else network
        self.layers = tuple(dict.fromkeys(canonical_layer(layer, network) for layer in layers))
        loaded = weights if isinstance(weights, Weights) else load_weights(weights, network, taps=self.layers)
        self.source, self.sha256 = loaded.source, loaded.sha256
        self.pooling, self.padding = pooling, padding
        self._names = tuple(layer.name for layer in layers_up_to(network, self.layers))
        for name in self._names:
            if not name.startswith("pool"):
                for part in ("weight", "bias"):
                    self.keep(f"{name}_{part}", loaded.tensors[f"{name}.{part}"].clone())
        preparation = loaded.preprocessing
        self._bgr = preparation.bgr
        for name, numbers in zip(("_scale", "_shift"), preparation.affine, strict=True):
            self.keep(name, torch.tensor(numbers, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The features of each of `layers`, (B, C, h, w), in the order in which the network computes them.

        images: (B, 3, H, W), floating, RGB in 0…1 (which is not checked: a network that is being trained may go
        beyond). Under autocast the features are in its dtype, else in the weights'.
        """
        return self.features(images, self.layers)

    def features(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """The features of some of the layers, by their canonical names; it computes nothing beyond them."""
        kept: dict[str, Tensor] = {}

        def keep(name: str, features: Tensor) -> Tensor:
            kept[name] = features
            return features

        self.through(images, {name: partial(keep, name) for name in layers})
        return kept

    def through(self, images: Tensor, taps: Mapping[str, Tap]) -> None:
        """Runs the network over the images as far as the deepest of `taps`, which are by the canonical layer name.

        A tap is given its layer's features and returns the next layer's input: the same, or an output that passes
        their gradient on, such as those of `fastnst_kernels.tap`.
        """
        self._check(images, taps)
        check_fork()
        x = images.flip(1) if self._bgr else images
        x = x * self._scale + self._shift  # (B, 3, H, W)
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.kept("conv1_1_weight").dtype)
        waiting = set(taps)
        for name in self._names:
            if not waiting:
                break
            x = self._pooled(x) if name.startswith("pool") else self._convolved(x, name).relu()
            if name in waiting:
                waiting.remove(name)
                x = taps[name](x)

    def _convolved(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.kept(f"{name}_weight"), self.kept(f"{name}_bias")
        if name == "conv1_1" and self.padding == "replicate":
            return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, bias)
        return F.conv2d(x, weight, bias, padding=1)

    def _pooled(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.pooling == "avg" else F.max_pool2d(x, 2)

    def _check(self, images: Tensor, taps: Mapping[str, Tap]) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ImageError(f"images are {tuple(images.shape)} {images.dtype}; give (B, 3, H, W), float in 0…1")
        if missing := [name for name in taps if name not in self.layers]:
            raise OptionError(f"layers {', '.join(missing)} are not in this extractor; it has {self.layers}")
        deepest = max([0, *(self._names.index(name) for name in taps)])
        smallest = 2 ** sum(name.startswith("pool") for name in self._names[: deepest + 1])
        if min(images.shape[2:]) < smallest:
            raise ImageError(
                f"images of {images.shape[3]}×{images.shape[2]} pixels are too small for {self._names[deepest]}; "
                f"each side must be at least {smallest}"
            )

    def extra_repr(self) -> str:
        return (
            f"layers={list(self.layers)}, pooling={self.pooling!r}, padding={self.padding!r}, weights={self.source!r}"
        )
