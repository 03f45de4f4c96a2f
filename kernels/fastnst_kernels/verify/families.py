"""The families of operations, and the shapes that each is checked at: the layers' own, and small ones to interpret."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fastnst_kernels.verify import image, losses, relu
from fastnst_kernels.verify.check import LAYOUTS, Operation, Shape, Site

SMALLEST_SIZE = 16
LARGEST_SIZE = 2048
STYLE_LAYERS = {"conv1_1": 64, "conv2_1": 128, "conv3_1": 256, "conv4_1": 512, "conv5_1": 512}

# Channels and positions that no block size divides, and more than one image.
ODD_SHAPE = (2, 65, 37, 53)
ODD_IMAGE = (2, 3, 37, 53)


@dataclass(frozen=True)
class Interpreted:
    """A shape that the interpreter gets through, in its layouts, and its share of the work: about seconds on a core."""

    shape: Shape
    work: float
    layouts: tuple[str, ...] = tuple(LAYOUTS)


@dataclass(frozen=True)
class Family:
    """Operations that share their data, the names of the shapes that they run at, and those that are interpreted.

    `products` says that there are some, for which TF32 is a mode of its own.
    """

    operations: Callable[[Site], Iterator[Operation]]
    layers: tuple[str, ...]
    products: bool
    interpreted: Mapping[str, Interpreted]


# The interpreted Gram matrices have the layers' channels: conv2_1 takes the large tiles, "odd" no whole one. The
# interpreter runs for long where there are many channels, so the layers that have them share the layouts.
FAMILIES: Mapping[str, Family] = {
    "gram": Family(
        losses.gram_operations,
        (*STYLE_LAYERS, "odd"),
        products=True,
        interpreted={
            "conv1_1": Interpreted((1, 64, 29, 23), 6),
            "conv2_1": Interpreted((1, 128, 32, 24), 14),
            "conv3_1": Interpreted((1, 256, 17, 13), 9, ("channels-last",)),
            "conv4_1": Interpreted((1, 512, 9, 7), 24, ("nchw",)),
            "conv5_1": Interpreted((1, 512, 3, 5), 23, ("channels-last",)),
            "odd": Interpreted((2, 65, 7, 11), 12),
        },
    ),
    "tap": Family(
        losses.tap_operations,
        ("conv1_1", "conv4_1", "odd"),
        products=True,
        interpreted={"conv1_1": Interpreted((1, 64, 11, 13), 6), "odd": Interpreted((2, 33, 5, 7), 6)},
    ),
    "tiles": Family(
        losses.tile_operations,
        ("conv1_1", "conv4_1", "odd"),
        products=True,
        interpreted={"conv1_1": Interpreted((1, 64, 11, 13), 4), "odd": Interpreted((2, 33, 7, 9), 7)},
    ),
    "relu": Family(
        relu.operations,
        ("conv1_1", "conv4_1", "odd"),
        products=False,
        interpreted={
            "conv1_1": Interpreted((1, 64, 4, 6), 4, ("channels-last",)),
            "odd channels": Interpreted((2, 65, 3, 5), 3, ("channels-last",)),
            "odd rows": Interpreted((2, 3, 5, 19), 7, ("nchw",)),
        },
    ),
    "image": Family(
        image.operations,
        ("image", "odd image"),
        products=False,
        interpreted={"image": Interpreted((1, 3, 16, 48), 3), "odd image": Interpreted((2, 3, 9, 13), 4)},
    ),
}


def layer_shapes(size: int) -> dict[str, Shape]:
    """The features of the five style layers for a square image of `size` pixels, (1, C, H, W), by layer name.

    Raises ValueError for a size that the network's pools leave nothing of, or that is too large to check.
    """
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ValueError(f"size {size} is out of range; give {SMALLEST_SIZE} to {LARGEST_SIZE} pixels")
    return {
        name: (1, channels, size >> index, size >> index) for index, (name, channels) in enumerate(STYLE_LAYERS.items())
    }


def all_shapes(size: int) -> dict[str, Shape]:
    """The shapes of `layer_shapes`, the image itself, and two odd ones, by the names that families go by."""
    return {**layer_shapes(size), "odd": ODD_SHAPE, "image": (1, 3, size, size), "odd image": ODD_IMAGE}
