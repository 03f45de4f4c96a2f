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
from fastnst.network.layers import Convolution, Layer, Layers, Torch

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
    """The layers in the arithmetic of `convolver`; what is recorded of a layer are its features before the pool."""

    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        y = x
        if isinstance(layer, Convolution):
            y = self._convolved(x, layer.weight, layer.bias, padding=layer.padding, relu=True)  # (1, K, H, W)
        features = y if layer.pool is None else self._pooled(y, layer.pool)
        return features, y if record else None

    def _before_relu(self, layer: Layer, gradient: Tensor, record: Tensor, shape: torch.Size) -> Tensor:
        if layer.pool is None:
            torch.ops.aten.threshold_backward.grad_input(gradient, record, 0, grad_input=gradient)
            return gradient
        # A pool of its own has the features of a tap, which are read again.
        target = record if isinstance(layer, Convolution) else torch.empty_like(record)
        return self._unpooled(gradient, record, layer.pool, target)  # (1, K, H, W)

    def _pooled(self, y: Tensor, pool: str) -> Tensor:
        if pool == "max":
            return F.max_pool2d(y, 2)
        if self.channels_last:
            return F.avg_pool2d(y, 2)
        # On planes, sums of rows and then of columns are three times as quick as torch's pool.
        height, width = (side // 2 * 2 for side in y.shape[2:])
        rows = y[:, :, 0:height:2] + y[:, :, 1:height:2]
        return (rows[..., 0:width:2] + rows[..., 1:width:2]).mul_(0.25)

    def _unpooled(self, gradient: Tensor, y: Tensor, pool: str, full: Tensor) -> Tensor:
        """The gradient, in `full`, before a ReLU with features `y`, (1, K, H, W), from that of their pool."""
        height, width = gradient.shape[2:]
        if pool == "max":
            _, indices = F.max_pool2d(y, 2, return_indices=True)
            spread = torch.ops.aten.max_pool2d_with_indices_backward(
                gradient, y, [2, 2], [2, 2], [0, 0], [1, 1], False, indices
            )
            torch.ops.aten.threshold_backward.grad_input(spread, y, 0, grad_input=full)
            return full
        spread = gradient.mul_(0.25)
        if self.channels_last:
            spread = spread.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
            windows = [_windows(x.permute(0, 2, 3, 1), height, width) for x in (y, full)]  # (1, h, 2, w, 2, K)
        else:
            # What repeats along the innermost axis is copied: there, strides of nought are slow.
            wide = gradient.new_empty((*gradient.shape, 2))
            wide[..., 0] = wide[..., 1] = spread
            spread = wide.view(1, -1, height, 1, 2 * width).expand(-1, -1, -1, 2, -1)
            windows = [x[:, :, : 2 * height, : 2 * width].view(1, -1, height, 2, 2 * width) for x in (y, full)]
        torch.ops.aten.threshold_backward.grad_input(spread, windows[0], 0, grad_input=windows[1])
        full[:, :, 2 * height :].zero_()
        full[..., 2 * width :].zero_()
        return full


def _windows(x: Tensor, height: int, width: int) -> Tensor:
    """The 2×2 windows of a map (1, H, W, K) as (1, height, 2, width, 2, K), without an odd last row or column."""
    whole = x[:, : 2 * height, : 2 * width]
    return whole.view(1, height, 2, width, 2, x.shape[3])
