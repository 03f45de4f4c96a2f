"""Networks that are shared: loaded once for what is the same, anew for what is not."""

from typing import Any
from unittest.mock import Mock

import pytest

from fastnst.errors import WeightsError
from fastnst.loss.networks import Networks
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import Weights, load_weights
from fastnst.options.resolve import resolve_options

SHALLOW: dict[str, Any] = {"style_layers": "conv1_1", "content_layers": "conv1_2", "device": "cpu", "precision": "fp32"}


class Shelf:
    """Networks, and how often weights were loaded for them."""

    def __init__(self) -> None:
        self.networks, self.loaded = Networks(2), 0

    def get(self, load: Any = None, **given: Any) -> Any:
        options = resolve_options(**{**SHALLOW, **given})

        def counted() -> Weights:
            self.loaded += 1
            return load_weights("random", options.network, taps=options.taps)

        runtime = resolve_runtime(options.device, options.precision, options.backend)
        return self.networks.get(options, runtime, load or counted)


@pytest.mark.parametrize(
    "given",
    [
        {"weights": "original"},
        {"network": "vgg16"},
        {"style_layers": "conv2_1"},
        {"pooling": "max"},
        {"filter_scaling": "unit-mean"},
        {"padding": "replicate"},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_what_a_network_depends_on_asks_for_another(given: dict[str, Any]) -> None:
    shelf = Shelf()
    network = shelf.get()
    assert shelf.get(seed=1, size=64, style_weight=3, style_layers="conv1_1=2", iterations=5) is network
    assert shelf.get(**given) is not network
    assert shelf.loaded == 2
    assert shelf.get() is network


def test_few_are_kept() -> None:
    shelf = Shelf()
    for pooling, padding, loaded in (
        ("avg", "zeros", 1),
        ("max", "zeros", 2),
        ("avg", "zeros", 2),
        ("avg", "replicate", 3),
        ("avg", "zeros", 3),
        ("max", "zeros", 4),
    ):
        shelf.get(pooling=pooling, padding=padding)
        assert shelf.loaded == loaded
    # Also those that could not be loaded are asked for again.
    with pytest.raises(WeightsError, match="torn"):
        shelf.get(Mock(side_effect=WeightsError("torn")), pooling="max", padding="replicate")
    shelf.networks.clear()
    shelf.get(pooling="max", padding="zeros")
    assert shelf.loaded == 5
