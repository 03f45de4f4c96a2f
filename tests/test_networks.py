"""Networks that are shared: loaded once for what is the same, anew for what is not."""

from typing import Any

import pytest

from fastnst.errors import WeightsError
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import Weights, load_weights
from fastnst.options.options import resolve_options
from fastnst.transfer.stylizer import Networks

SHALLOW: dict[str, Any] = {"style_layers": "conv1_1", "content_layers": "conv1_2", "device": "cpu", "precision": "fp32"}


class Shelf:
    """Networks, and how often weights were loaded for them."""

    def __init__(self, kept: int = 2) -> None:
        self.networks, self.loaded = Networks(kept), 0

    def get(self, **given: Any) -> Any:
        options = resolve_options(**{**SHALLOW, **given})

        def load() -> Weights:
            self.loaded += 1
            return load_weights("random", options.network, taps=options.taps)

        return self.networks.get(options, resolve_runtime(options.device, options.precision, options.backend), load)


def test_what_a_network_does_not_depend_on_shares_it() -> None:
    shelf = Shelf()
    network = shelf.get()
    assert shelf.get(seed=1, size=64, style_weight=3, style_layers="conv1_1=2", iterations=5) is network
    assert shelf.loaded == 1


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
    assert shelf.get(**given) is not network
    assert shelf.loaded == 2
    assert shelf.get() is network


def test_few_are_kept() -> None:
    shelf = Shelf(kept=2)
    for pooling, padding in (("avg", "zeros"), ("max", "zeros"), ("avg", "zeros"), ("avg", "replicate")):
        shelf.get(pooling=pooling, padding=padding)
    assert shelf.loaded == 3
    shelf.get(pooling="avg", padding="zeros")
    assert shelf.loaded == 3
    shelf.get(pooling="max", padding="zeros")
    assert shelf.loaded == 4
    shelf.networks.clear()
    shelf.get(pooling="max", padding="zeros")
    assert shelf.loaded == 5


def test_one_that_cannot_be_loaded_is_asked_for_again() -> None:
    networks, options = Networks(), resolve_options(**SHALLOW)

    def broken() -> Weights:
        raise WeightsError("torn")

    for _ in range(2):
        with pytest.raises(WeightsError, match="torn"):
            networks.get(options, resolve_runtime(options.device, options.precision, options.backend), broken)
