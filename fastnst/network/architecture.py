"""The networks by the field's layer names, conv1_1 … conv5_4 and pool1 … pool5 (Simonyan and Zisserman, 2015), and the
preprocessing of their pictures: torchvision's or Caffe's."""

import difflib
from dataclasses import dataclass

from fastnst.errors import OptionError, check_choice


@dataclass(frozen=True)
class Layer:
    """One layer. A convolution is 3×3, stride 1, padding 1, followed by a ReLU; a pool is 2×2, stride 2."""

    name: str
    in_channels: int
    out_channels: int

    @property
    def is_pool(self) -> bool:
        """True for a pool, False for a convolution."""
        return self.name.startswith("pool")


def _vgg(convolutions_per_block: tuple[int, ...]) -> tuple[Layer, ...]:
    layers = []
    channels = 3
    for block, (count, width) in enumerate(zip(convolutions_per_block, (64, 128, 256, 512, 512), strict=True), start=1):
        for index in range(1, count + 1):
            layers.append(Layer(f"conv{block}_{index}", channels, width))
            channels = width
        layers.append(Layer(f"pool{block}", width, width))
    return tuple(layers)


NETWORKS: dict[str, tuple[Layer, ...]] = {"vgg16": _vgg((2, 2, 3, 3, 3)), "vgg19": _vgg((2, 2, 4, 4, 4))}


ORIGINAL_NETWORK = "vgg19"
"""The network of the paper, which the weights `original` belong to."""
ATTRIBUTION = "VGG-19 of K. Simonyan and A. Zisserman (2015), University of Oxford, CC BY 4.0"
"""The credit to be given wherever the original weights were used."""

PAPER_STYLE_LAYERS = tuple(f"conv{block}_1" for block in range(1, 6))
"""The layers whose Gram matrices Gatys et al. match: the first of each block."""

FILTER_SCALINGS = ("none", "unit-mean")
"""Values of the option `filter_scaling`."""


@dataclass(frozen=True)
class Preprocessing:
    """The way from RGB values in 0…1 to the network's input: `(x[order] · scale − mean) / std`, per channel.

    `order` is RGB, or BGR if `bgr`; `mean` and `std` are in that order and in the units of `x · scale`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    bgr: bool

    @property
    def affine(self) -> tuple[list[float], list[float]]:
        """Scale and shift of `x · scale + shift`, which is `(x · self.scale − mean) / std`, in the network's order of
        channels."""
        scale = [self.scale / std for std in self.std]
        return scale, [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1.0, bgr=False)
CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), scale=255.0, bgr=True)


def is_original(network: str, weights: str) -> bool:
    """True where `weights` means the original ones of `network`."""
    return network == ORIGINAL_NETWORK and weights in ("auto", "original")


def check_filter_scaling(scaling: str, network: str, weights: str) -> None:
    """Raises OptionError for an unknown `scaling`, or where the means that it needs are not known of `weights`."""
    check_choice("filter scaling", scaling, FILTER_SCALINGS)
    if scaling != "none" and not is_original(network, weights):
        raise OptionError(
            f"filter scaling {scaling} needs the mean activation of each filter, which only {ORIGINAL_NETWORK} with "
            f"the original weights has, and you chose {network} with weights {weights}; choose those, or filter "
            "scaling none"
        )


def layers_of(network: str) -> tuple[Layer, ...]:
    """The layers of `network` in order. Raises OptionError for an unknown network."""
    check_choice("network", network, NETWORKS)
    return NETWORKS[network]


def canonical_layer(name: str, network: str) -> str:
    """The layer's own name; `relu4_2`, as many papers write the same activation, means `conv4_2`.

    Raises OptionError if `network` has no such layer.
    """
    names = [layer.name for layer in layers_of(network)]
    canonical = name.replace("relu", "conv", 1) if name.startswith("relu") else name
    if canonical not in names:
        # One letter beside another; conv5_5 is near many.
        near = difflib.get_close_matches(canonical.lower(), names, n=1, cutoff=0.9)
        hint = f"did you mean {near[0]}?" if near else f"its layers are: {', '.join(names)}"
        raise OptionError(f"unknown layer {name!r} of {network}; {hint}")
    return canonical


def layers_up_to(network: str, taps: tuple[str, ...]) -> tuple[Layer, ...]:
    """The layers from the image to the deepest of `taps` (canonical names), which is included."""
    layers = layers_of(network)
    deepest = max(index for index, layer in enumerate(layers) if layer.name in taps)
    return layers[: deepest + 1]


def pools_before(network: str, taps: tuple[str, ...]) -> int:
    """The number of pools up to the deepest of `taps`; with n of them each side of the image is at least 2^n."""
    return sum(layer.is_pool for layer in layers_up_to(network, taps))
