"""How a network wants its pictures: the preprocessing of torchvision's networks and of the Caffe ones."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocessing:
    """How RGB values in 0…1 become the network's input: `(x[order] · scale − mean) / std`, per channel.

    `order` is RGB, or BGR if `bgr`; `mean` and `std` are in that order and in the units of `x · scale`.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    bgr: bool


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1.0, bgr=False)
CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), scale=255.0, bgr=True)
