"""The convolutions of an iteration and nothing else: what no engine over the same convolutions goes below."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.network import winograd
from fastnst.network.architecture import layers_up_to
from fastnst.network.runtime import Runtime
from fastnst.network.weights import Weights
from fastnst.options.options import Options


def floor(options: Options, weights: Weights, shape: torch.Size, runtime: Runtime) -> Callable[[], None]:
    """Every convolution from an image of `shape` (1, 3, H, W) to the deepest tap, forward and to its input's gradient.

    Direct ones are torch's in channels-last and the runtime's dtype. Winograd ones are NNPACK's, in stripes as the
    engine's; the first layer, which NNPACK is no faster at, stays direct.
    """
    calls: list[Callable[[], Tensor]] = []
    maps: dict[tuple[int, int, int], Tensor] = {}
    height, width = shape[2:]
    for layer in layers_up_to(options.network, options.taps):
        if layer.is_pool:
            height, width = height // 2, width // 2
            continue
        weight = weights.tensors[f"{layer.name}.weight"].to(runtime.device)
        for kernel in (weight, weight.flip(2, 3).transpose(0, 1)):
            if runtime.winograd and layer.in_channels > 3:
                calls += _winograd_calls(kernel.contiguous(), height, width)
            else:
                size = kernel.shape[1], height, width
                if size not in maps:
                    maps[size] = torch.rand((1, *size), device=runtime.device)
                    maps[size] = maps[size].to(runtime.dtype, memory_format=torch.channels_last)
                calls.append(_direct_call(kernel.to(runtime.dtype, memory_format=torch.channels_last), maps[size]))

    def run() -> None:
        for call in calls:
            call()

    return run


def _direct_call(kernel: Tensor, x: Tensor) -> Callable[[], Tensor]:
    return lambda: F.conv2d(x, kernel, padding=1)


def _winograd_calls(kernel: Tensor, height: int, width: int) -> list[Callable[[], Tensor]]:
    outputs, inputs = kernel.shape[:2]
    rows = [stop - start for start, stop in winograd.stripes(outputs + inputs, height, width)]
    sources = {count: torch.rand((1, inputs, count + 2, width)) for count in set(rows)}

    def call(source: Tensor) -> Callable[[], Tensor]:
        return lambda: torch._nnpack_spatial_convolution(source, kernel, None, [0, 1])

    return [call(sources[count]) for count in rows]
