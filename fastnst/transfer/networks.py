"""Networks that are loaded already, for stylizers to share."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

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
