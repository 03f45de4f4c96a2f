"""A network whose arithmetic is rounded as a GPU's would be, computed in float32: for what cannot be run here.

`bf16` and `fp16`: weights, features and gradients are stored in that format, products are exact and sums are float32's,
as on tensor cores. `tf32`: stored in float32, the operands of each convolution have ten bits of mantissa.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.layers import Convolution, DirectLayers, Layer
from fastnst.network.runtime import Runtime
from fastnst.network.weights import Weights

Rounding = Literal["tf32", "bf16", "fp16"]


def rounded(x: Tensor, kind: Rounding) -> Tensor:
    """float32 values rounded to the nearest of the format; beyond float16's range they are infinite."""
    if kind == "tf32":
        return ((x.view(torch.int32) + 0x0FFF + ((x.view(torch.int32) >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    return x.to(torch.bfloat16 if kind == "bf16" else torch.float16).float()


class RoundedLayers:
    """`DirectLayers` in float32 with the rounding of another arithmetic."""

    channels_last = True
    dtype = torch.float32

    def __init__(self, kind: Rounding) -> None:
        self._layers = DirectLayers(torch.device("cpu"), torch.float32, "torch")
        self._kind: Rounding = kind

    def begin(self, shape: torch.Size) -> None:
        self._layers.begin(shape)

    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        y, bits = self._layers.forward(layer, rounded(x, self._kind), record=record)
        return self._stored(y), bits

    def backward(self, layer: Layer, gradient: Tensor, bits: Tensor | None, shape: torch.Size) -> Tensor:
        return self._stored(self._layers.backward(layer, rounded(gradient, self._kind), bits, shape))

    def empty(self, shape: Sequence[int]) -> Tensor:
        return self._layers.empty(shape)

    def release(self, x: Tensor) -> None:
        self._layers.release(x)

    def forget(self) -> None:
        self._layers.forget()

    def _stored(self, x: Tensor) -> Tensor:
        return x if self._kind == "tf32" else rounded(x, self._kind)


def rounded_backbone(weights: Weights, taps: tuple[str, ...], runtime: Runtime, kind: Rounding) -> Backbone:
    """The backbone of a float32 `runtime` on the CPU, its arithmetic rounded as `kind` says."""
    backbone = build_backbone(weights, taps, runtime)

    def stored(layer: Layer) -> Layer:
        if not isinstance(layer, Convolution):
            return layer
        weight, transposed, bias = (rounded(x, kind) for x in (layer.weight, layer.transposed, layer.bias))
        return replace(layer, weight=weight, transposed=transposed, bias=layer.bias if kind == "tf32" else bias)

    steps = {name: stored(layer) for name, layer in backbone.steps.items()}
    return replace(backbone, steps=steps, layers=RoundedLayers(kind))
