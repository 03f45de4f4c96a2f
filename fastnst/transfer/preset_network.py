"""Which network the weights of a preset's terms were chosen for."""

import warnings

from fastnst.errors import FastnstWarning
from fastnst.network.architecture import is_original
from fastnst.network.weights import Weights
from fastnst.options.options import Options


def warn_of_other_network(options: Options, weights: Weights) -> None:
    """A FastnstWarning where the terms would be far out of balance with this network.

    Content grows with the square of the features, style with their fourth power, and the total variation not at all.
    That of neural-style is for features of Caffe's VGG, which sees pixels of 0…255; the α/β of the paper for filters of
    mean activation 1. Random weights are for experiments, and warn of nothing.
    """
    if weights.source == "random":
        return
    if options.preset == "gatys" and not is_original(options.network, weights.source):
        warnings.warn(
            "preset gatys is for the original VGG-19, whose filters it scales to a mean activation of 1; those of "
            f"{weights.source} stay as they are, and the same α/β gives another balance: look at several, or pass "
            "--weights original",
            FastnstWarning,
            stacklevel=2,
        )
    summed = options.tv_reduction == "sum" and options.tv_weight > 0
    if options.preset == "neural-style" and summed and weights.preprocessing.scale == 1:
        warnings.warn(
            "preset neural-style weighs its terms for Caffe's VGG-19, whose features are far larger than those of "
            f"{weights.source}: the total variation will outweigh them and leave an even colour; pass that network "
            "with --weights original, or take another preset",
            FastnstWarning,
            stacklevel=2,
        )
