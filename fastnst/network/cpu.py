"""The layers without kernels of our own, as on a CPU: the way back reads the features that the way there left.

`OneDnn` runs Intel's library, in 16 bit where the CPU multiplies bfloat16 and in float32, on maps in channels-last and
on weights that it orders once: a convolution, its bias and its ReLU are one call. `Winograd` runs NNPACK's transforms
in float32 on planes, for CPUs without 16-bit units. `layers.Torch` runs on any device, such as a GPU for which Triton
does not build.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst.network import winograd
from fastnst.network.layers import Convolution, Layer, Layers, Pool, Torch

_ONES = [1, 1]


@cache
def has_onednn(dtype: torch.dtype) -> bool:
    """True where torch was built with oneDNN, as most CPUs' builds are, and it takes maps in `dtype` on this one."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class OneDnn(Torch):
    """oneDNN's convolutions, or torch's own where the build lacks it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(torch.device("cpu"), dtype)

    def pack(self, weight: Tensor) -> Tensor:
        if not has_onednn(self.dtype):
            return super().pack(weight)
        # The order suits maps of any size; this is one.
        size = [1, weight.shape[1], 64, 64]
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight.to(self.dtype).contiguous(), _ONES, _ONES, _ONES, 1, size
        )
        return packed

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool, padding: int) -> Tensor:
        if not has_onednn(self.dtype):
            return super().__call__(x, weight, bias, relu=relu, padding=padding)
        after = "relu" if relu else "none"
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, [padding] * 2, _ONES, _ONES, 1, after, [], ""
        )
        return result


class Winograd(Torch):
    """NNPACK's convolutions in float32; `winograd.available` says where they are to be had."""

    channels_last = False

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), torch.float32)

    def pack(self, weight: Tensor) -> Tensor:
        return weight.contiguous()

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool, padding: int) -> Tensor:
        return winograd.convolve(x, weight, bias, relu=relu, padding=padding)


class CpuLayers(Layers):
    """The layers in the arithmetic of `convolver`. What is recorded of a convolution is whether each activation before
    the pool is positive, 1 or 0 in integers as wide: their product with a gradient's bits takes half the time of a
    comparison of 16-bit features. A maximum pool, and a pool of its own, record the features."""

    _mean_factor = 0.25

    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        y = x
        if isinstance(layer, Convolution):
            y = self._convolved(x, layer.weight, layer.bias, padding=layer.padding, relu=True)  # (1, K, H, W)
        features = y if layer.pool is None else self._pooled(y, layer.pool)
        if not record or layer.pool == "max" or isinstance(layer, Pool):
            return features, y if record else None
        # The bits of what is positive are a positive integer.
        bits = _bits(y)
        return features, bits.clamp(0, 1) if features is y else bits.clamp_(0, 1)

    def _before_relu(self, layer: Layer, gradient: Tensor, record: Tensor, shape: torch.Size) -> Tensor:
        if layer.pool is None:
            _bits(gradient).mul_(record)
            return gradient
        if layer.pool == "max":
            _, indices = F.max_pool2d(record, 2, return_indices=True)
            spread: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
                gradient, record, [2, 2], [2, 2], [0, 0], [1, 1], False, indices
            )
            torch.ops.aten.threshold_backward.grad_input(spread, record, 0, grad_input=spread)
            return spread
        if isinstance(layer, Convolution):
            return self._spread(gradient, record)  # (1, K, H, W)
        # A pool of its own has the features of a tap, which are read again.
        return self._spread(gradient.mul_(0.25), _bits(record).clamp(0, 1))

    def _pooled(self, y: Tensor, pool: str) -> Tensor:
        if pool == "max":
            return F.max_pool2d(y, 2)
        if self.channels_last:
            return F.avg_pool2d(y, 2)
        # On planes, sums of rows and then of columns are three times as quick as torch's pool.
        height, width = (side // 2 * 2 for side in y.shape[2:])
        rows = y[:, :, 0:height:2] + y[:, :, 1:height:2]
        return (rows[..., 0:width:2] + rows[..., 1:width:2]).mul_(0.25)

    def _spread(self, gradient: Tensor, positive: Tensor) -> Tensor:
        """The gradient of each 2×2 sum, given to those of its parts that are `positive`, (1, K, H, W), in the memory of
        these."""
        height, width = gradient.shape[2:]
        spread = _bits(gradient)
        if self.channels_last:
            spread = spread.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
            whole = positive.permute(0, 2, 3, 1)[:, : 2 * height, : 2 * width]
            windows = whole.view(1, height, 2, width, 2, positive.shape[1])
        else:
            # What repeats along the innermost axis is copied: there, strides of nought are slow.
            wide = spread.new_empty((*gradient.shape, 2))
            wide[..., 0] = wide[..., 1] = spread
            spread = wide.view(1, -1, height, 1, 2 * width).expand(-1, -1, -1, 2, -1)
            windows = positive[:, :, : 2 * height, : 2 * width].view(1, -1, height, 2, 2 * width)
        windows.mul_(spread)
        positive[:, :, 2 * height :].zero_()
        positive[..., 2 * width :].zero_()
        return positive.view(gradient.dtype)


def _bits(x: Tensor) -> Tensor:
    """The bits of floating-point numbers as integers, without a copy."""
    return x.view(torch.int16 if x.element_size() == 2 else torch.int32)
