"""The layers without kernels of our own, as on a CPU: the way back reads the features that the way there left.

`OneDnn` runs Intel's library, in 16 bit where the CPU multiplies bfloat16 and in float32, on maps in channels-last and
on weights that it orders once: a convolution, its bias and its ReLU are one call. `Winograd` multiplies less
often, in float32, for CPUs without 16-bit units. `layers.Torch` runs on any device, such as a GPU for which Triton does
not build.
"""

from functools import cache

import torch
import torch.nn.functional as F
from fastnst_kernels.relu.eager import zero_inactive
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
        # Of maps near this size, which are those of the network's layers for a small picture, oneDNN wants the weights
        # in this order; of others it may have to order them anew at each call.
        channels = max(weight.shape[1], 64)
        size = [1, weight.shape[1], 12288 // channels, 16384 // channels]
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


class Winograd(OneDnn):
    """Winograd's convolutions in float32; from and to three channels, direct ones."""

    def __init__(self) -> None:
        super().__init__(torch.float32)

    def pack(self, weight: Tensor) -> Tensor:
        return super().pack(weight) if 3 in weight.shape[:2] else winograd.pack(weight)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool, padding: int) -> Tensor:
        convolve = super().__call__ if 3 in weight.shape[:2] else winograd.convolve
        return convolve(x, weight, bias, relu=relu, padding=padding)


class CpuLayers(Layers):
    """The layers in the arithmetic of `convolver`. What is recorded are the features before the pool."""

    _mean_factor = 0.25

    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        y = x
        if isinstance(layer, Convolution):
            y = self._convolved(x, layer.weight, layer.bias, padding=layer.padding, relu=True)  # (1, K, H, W)
        return y if layer.pool is None else self._pooled(y, layer.pool), y if record else None

    def _before_relu(self, layer: Layer, gradient: Tensor, record: Tensor, shape: torch.Size) -> Tensor:
        if layer.pool is None:
            zero_inactive(gradient, record, out=gradient)
            return gradient
        if layer.pool == "max":
            _, indices = F.max_pool2d(record, 2, return_indices=True)
            spread: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
                gradient, record, [2, 2], [2, 2], [0, 0], [1, 1], False, indices
            )
            zero_inactive(spread, record, out=spread)
            return spread
        if isinstance(layer, Convolution):
            return self._spread(gradient, record, out=record)  # (1, K, H, W)
        # A pool of its own has the features of a tap, which are read again.
        return self._spread(gradient.mul_(0.25), record, out=torch.empty_like(record))

    def _pooled(self, y: Tensor, pool: str) -> Tensor:
        return F.max_pool2d(y, 2) if pool == "max" else F.avg_pool2d(y, 2)

    def _spread(self, gradient: Tensor, features: Tensor, out: Tensor) -> Tensor:
        """The gradient of each 2×2 sum, given to those of its parts that are positive `features`, (1, K, H, W), in
        `out`, which may be these."""
        height, width = gradient.shape[2:]
        spread = gradient.permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
        whole = (x.permute(0, 2, 3, 1)[:, : 2 * height, : 2 * width] for x in (features, out))
        windows = [x.view(1, height, 2, width, 2, x.shape[3]) for x in whole]
        zero_inactive(spread, windows[0], out=windows[1])
        out[:, :, 2 * height :].zero_()
        out[..., 2 * width :].zero_()
        return out
