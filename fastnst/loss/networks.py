"""The network that a run's options ask for: its weights, its backbone, and those that were used last."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import Runtime
from fastnst.network.weights import Weights, load_weights
from fastnst.options.options import Options


def weights_of(options: Options, *, progress: bool = False) -> Weights:
    """The weights that `options` ask for. Raises WeightsError as `load_weights` does."""
    taps, scaling = options.taps, options.filter_scaling
    return load_weights(options.weights, options.network, taps=taps, filter_scaling=scaling, progress=progress)


def backbone_of(weights: Weights, options: Options, runtime: Runtime) -> Backbone:
    """The backbone that `options` look through, with these weights."""
    return build_backbone(weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)


class Networks:
    """The `kept` networks that were used last. Those who share one use it one after the other, in one thread."""

    def __init__(self, kept: int = 2) -> None:
        self._kept = kept
        self._networks: OrderedDict[Hashable, tuple[Weights, Backbone]] = OrderedDict()

    def get(self, options: Options, runtime: Runtime, load: Callable[[], Weights]) -> tuple[Weights, Backbone]:
        """The network that `options` ask for, as `runtime` runs it; `load` gives its weights if it is not kept."""
        names = ("weights", "network", "taps", "filter_scaling", "pooling", "padding")
        key = (*(getattr(options, name) for name in names), runtime)
        network = self._networks.pop(key, None)
        if network is None:
            while len(self._networks) >= self._kept:
                self._networks.popitem(last=False)
            weights = load()
            network = weights, backbone_of(weights, options, runtime)
        self._networks[key] = network
        return network

    def clear(self) -> None:
        self._networks.clear()
