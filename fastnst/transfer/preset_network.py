"""Which network the weights of a preset's terms were chosen for."""

import warnings

from fastnst.errors import FastnstWarning
from fastnst.network.weights import Weights
from fastnst.options.options import Options


def warn_of_other_network(options: Options, weights: Weights) -> None:
    """A FastnstWarning where the terms would be far out of balance with this network.

    Content grows with the square of the features, style with their fourth power, and the total variation not at all.
    That of neural-style is for features of Caffe's VGG, which sees pixels of 0…255.
    """
    summed = options.tv_reduction == "sum" and options.tv_weight > 0
    if options.preset == "neural-style" and summed and weights.preprocessing.scale == 1 and weights.source != "random":
        warnings.warn(
            "preset neural-style weighs its terms for Caffe's VGG-19, whose features are far larger than those of "
            f"{weights.source}: the total variation will outweigh them and leave an even colour; pass that network "
            "with --weights original, or take another preset",
            FastnstWarning,
            stacklevel=2,
        )
