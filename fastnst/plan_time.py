"""How long an evaluation of the objective takes: its operations, counted, over a rate that is measured in a moment."""

import time
from functools import cache

import torch

from fastnst.layers import Convolution, DirectLayers, Layers, WinogradLayers
from fastnst.measure import synchronise
from fastnst.plan_memory import Network, Step
from fastnst.runtime import Runtime, float32_products

# The convolution that stands for all: conv3_2 of an image of 512 pixels.
_CHANNELS, _SIDE = 256, {"cpu": 128, "cuda": 512}
_SECONDS = 0.3


def forward_flops(network: Network, height: int, width: int, through: tuple[str, ...] | None = None) -> float:
    """Multiplications and additions of the convolutions of one forward pass, to the deepest of `through` or to the end;
    the input's gradient takes as many."""
    steps = network.steps
    if through is not None:
        last = max((index for index, step in enumerate(steps) if step.name in through), default=-1)
        steps = steps[: last + 1]
    total = 0.0
    for step in steps:
        total += 2 * step.parameters * height * width
        if step.is_pooled:
            height, width = height // 2, width // 2
    return total


def first_flops(network: Network, height: int, width: int) -> float:
    """Of the first step alone."""
    return 2.0 * network.steps[0].parameters * height * width


def style_flops(network: Network, style: tuple[str, ...], height: int, width: int) -> float:
    """Of the Gram matrices of the layers `style`, one triangle each, and of their gradient."""
    total = 0.0
    for step in network.steps:
        if step.is_pooled:
            height, width = height // 2, width // 2
        if step.name in style:
            total += 3.0 * step.filters**2 * height * width
    return total


@cache
def measure_rate(runtime: Runtime) -> float:
    """FLOP per second, in the arithmetic of `runtime`, of a convolution with its ReLU, forward and back: the best of
    those that fit into a third of a second. Winograd's savings count as speed."""
    layers: Layers
    layers = WinogradLayers() if runtime.winograd else DirectLayers(runtime.device, runtime.dtype, runtime.kernels)
    memory_format = torch.channels_last if layers.channels_last else torch.contiguous_format
    side = _SIDE.get(runtime.device.type, 128)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        values: torch.Tensor = torch.randn(shape, generator=generator) / _CHANNELS**0.5
        return values.to(runtime.device, runtime.dtype).contiguous(memory_format=memory_format)

    weight, image = noise(_CHANNELS, _CHANNELS, 3, 3), noise(1, _CHANNELS, side, side)
    layer = Convolution(weight, weight, noise(1, _CHANNELS, 1, 1).flatten(), None, "zeros")
    step = Step("", _CHANNELS, _CHANNELS, True, False, False)
    operations = 2 * 2.0 * step.parameters * side**2
    best, began = float("inf"), time.perf_counter()
    with float32_products(runtime.tf32), torch.no_grad():
        for attempt in range(20):
            start = time.perf_counter()
            features, bits = layers.forward(layer, image, record=True)
            layers.release(layers.backward(layer, features, bits, image.shape))
            synchronise(runtime.device)
            layers.release(features)
            if attempt:
                best = min(best, time.perf_counter() - start)
            if attempt > 1 and time.perf_counter() - began > _SECONDS:
                break
    return operations / best
