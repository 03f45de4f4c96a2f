"""How long an iteration takes: its operations and what it moves, counted, over rates that are measured in a moment."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from math import inf

import torch

from fastnst.network.backbone import make_layers
from fastnst.network.runtime import Runtime
from fastnst.network.settings import float32_products, kept_heap
from fastnst.network.trial import clocks, elapsed, seconds_per_giga
from fastnst.plan.memory import Network

# Convolutions that stand for the network's blocks: channels, the pool of most of their operations, the side of the map
# on a CPU and on a GPU, and the share of VGG-19's operations. At full resolution fewer channels make for a lower rate.
_SAMPLES = (
    (64, "avg", 160, 1024, 0.11),
    (128, "avg", 112, 512, 0.16),
    (256, None, 80, 256, 0.36),
    (512, None, 40, 128, 0.37),
)
# The first layer, pools, losses and the optimiser take time beside these: on a GPU a tenth of theirs, which is a guess,
# on a CPU that of copying so many elements of the maps' dtype, at any size and for each pixel (seen in bf16 and fp32).
_BESIDE = 1.1
_COPIES, _COPIES_PER_PIXEL = 125_000_000, 4250
_COPIED, _ATTEMPTS = 1 << 24, 4


@dataclass(frozen=True)
class Speed:
    """Operations of convolutions, and elements that are copied, in a second."""

    flops: float
    elements: float

    def seconds(self, flops: float, pixels: float) -> float:
        """The time of an iteration of so many operations, on an image of so many pixels."""
        return flops / self.flops + (_COPIES + _COPIES_PER_PIXEL * pixels) / self.elements


@lru_cache(4096)
def forward_flops(network: Network, height: int, width: int, through: tuple[str, ...] | None = None) -> float:
    """Operations of the convolutions forward, to the deepest of `through` or to the end; as many go back."""
    names = [step.name for step in network.steps]
    count = len(names) if through is None else max((names.index(name) + 1 for name in through), default=0)
    walk = islice(network.walk(height, width), count)
    return sum((2.0 * step.parameters * rows * columns for step, rows, columns in walk), 0.0)


def style_flops(network: Network, style: Collection[str], height: int, width: int) -> float:
    """Operations of the Gram matrices of the layers `style`, one triangle each, and of their gradient."""
    return sum(3.0 * filters**2 * rows * columns for filters, rows, columns in network.features(style, height, width))


@cache
def measure_speed(runtime: Runtime) -> Speed:
    """The speed in the arithmetic of `runtime`: from convolutions with their ReLU and pool, forward and back, in
    VGG-19's proportions, and from copies, which takes half a second on a CPU. Winograd's savings count as speed."""
    device = runtime.device
    on_cuda = device.type == "cuda"
    samples = [(channels, pool, gpu if on_cuda else cpu, share) for channels, pool, cpu, gpu, share in _SAMPLES]
    with float32_products(runtime.tf32), kept_heap(device):
        seconds = seconds_per_giga({runtime.precision: make_layers(runtime)}, device, samples)
        flops = 1e9 / seconds[runtime.precision]
        return Speed(flops, _copied_in_a_second(runtime.dtype)) if device.type == "cpu" else Speed(flops / _BESIDE, inf)


def _copied_in_a_second(dtype: torch.dtype) -> float:
    source, best = torch.zeros(_COPIED, dtype=dtype), inf
    target = torch.zeros_like(source)
    for _ in range(_ATTEMPTS):
        began = clocks(source.device)
        target.copy_(source)
        best = min(best, elapsed(began, source.device))
    return _COPIED / best
