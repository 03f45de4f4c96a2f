"""Networks and images that the tests of objectives have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.network.weights import Weights, load_weights
from fastnst.options.options import Options
from fastnst.options.resolve import resolve_options


def biased_network(network: str = "vgg19", deepest: str = "conv5_1") -> Weights:
    """A random network with random biases, so that every ReLU and every border counts."""
    return with_biases(load_weights("random", network, taps=(deepest,)))


def with_biases(weights: Weights) -> Weights:
    """The weights with random biases: no feature lies where the ReLU turns."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: 0.3 * torch.randn(tensor.shape, generator=generator) if name.endswith("bias") else tensor
        for name, tensor in weights.tensors.items()
    }
    return replace(weights, tensors=tensors)


def noise(seed: int, height: int, width: int) -> Tensor:
    """White noise in 0…1: (1, 3, height, width)."""
    return torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(seed))


def patches(seed: int, height: int, width: int) -> Tensor:
    """Patches with some grain, in 0…1, (1, 3, height, width): features whose spread is no less than their mean."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 7, 7), generator=generator) ** 2
    large = torch.nn.functional.interpolate(coarse, (height, width))
    return (large + 0.3 * torch.rand((1, 3, height, width), generator=generator)).clamp(0, 1)


def smooth_and_rough(seed: int, height: int, width: int) -> Tensor:
    """An image with smooth and rough parts, in 0…1: (1, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 5, 6), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (0.7 * smooth + 0.3 * torch.rand((1, 3, height, width), generator=generator)).contiguous()


@contextmanager
def rounded_products() -> Iterator[None]:
    """A caller whose float32 products may be rounded; the settings are then as before, which one call does not do."""
    places = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def prepared(weights: Weights | None = None, /, **given: Any) -> tuple[Options, Runtime, Backbone]:
    """A run's options, its runtime and its backbone, in float32 and with random weights where nothing else is given."""
    options = resolve_options(**{"precision": "fp32"} | given)
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    weights = weights or load_weights("random", options.network, taps=options.taps)
    backbone = build_backbone(weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)
    return options, runtime, backbone


def relative_error(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact.double()).norm() / exact.double().norm())
