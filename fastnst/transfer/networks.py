"""Networks that are loaded already, for stylizers to share, and what presets expect of them."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable

from fastnst.errors import FastnstWarning
from fastnst.network.architecture import is_original
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import Runtime
from fastnst.network.weights import Weights
from fastnst.options.options import Options


class Networks:
    """The `kept` networks that were used last. Those who share one use it one after the other, in one thread."""

    def __init__(self, kept: int = 2) -> None:
        self._kept = kept
        self._networks: OrderedDict[Hashable, tuple[Weights, Backbone]] = OrderedDict()

    def get(self, options: Options, runtime: Runtime, load: Callable[[], Weights]) -> tuple[Weights, Backbone]:
        """The network that `options` ask for, as `runtime` runs it; `load` gives its weights if it is not among those
        that are kept. Raises what `load` raises."""
        weights_key = (options.weights, options.network, options.taps, options.filter_scaling)
        key = (*weights_key, options.pooling, options.padding, runtime)
        network = self._networks.pop(key, None)
        if network is None:
            while len(self._networks) >= self._kept:
                self._networks.popitem(last=False)
            weights = load()
            pooling, padding = options.pooling, options.padding
            network = weights, build_backbone(weights, options.taps, runtime, pooling=pooling, padding=padding)
        self._networks[key] = network
        return network

    def clear(self) -> None:
        """Gives them all up."""
        self._networks.clear()


def warn_of_other_network(options: Options, weights: Weights) -> None:
    """Warns where the preset's terms would be far out of balance with this network.

    Content grows with the square of the features, style with their fourth power, and the total variation not at all.
    That of neural-style is for features of Caffe's VGG, which sees pixels of 0…255; the α/β of the paper for filters of
    mean activation 1. Random weights are for experiments, and warn of nothing.
    """
    message = None
    summed = options.tv_reduction == "sum" and options.tv_weight > 0
    if options.preset == "gatys" and not is_original(options.network, weights.source):
        message = (
            "preset gatys is for the original VGG-19, whose filters it scales to a mean activation of 1; those of "
            f"{weights.source} stay as they are, and the same α/β gives another balance: look at several, or pass "
            "--weights original"
        )
    elif options.preset == "neural-style" and summed and weights.preprocessing.scale == 1:
        message = (
            "preset neural-style weighs its terms for Caffe's VGG-19, whose features are far larger than those of "
            f"{weights.source}: the total variation will outweigh them and leave an even colour; pass that network "
            "with --weights original, or take another preset"
        )
    if message is not None and weights.source != "random":
        warnings.warn(message, FastnstWarning, stacklevel=2)
