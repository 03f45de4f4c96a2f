"""The layers of the network, forward and back: a 3×3 convolution with its ReLU, and 2×2 pools.

`DirectLayers` runs torch's own convolutions over whole maps, in channels-last, on any device. `WinogradLayers` runs
NNPACK's on a CPU, in NCHW and in stripes. Both keep one bit for each activation whose layer is not tapped: whether the
gradient passes its ReLU, and in a maximum pool whether it is the maximum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from fastnst_kernels import direct
from fastnst_kernels.launch.layout import bits_shape, empty_bits, packed_by_channels
from torch import Tensor

from fastnst.errors import FastnstError
from fastnst.network import winograd
from fastnst.network.memory import Buffers
from fastnst.network.padding import bordered, unbordered

# The layers of the paper take 650 bytes; the system refuses to reserve more than it has, whatever is used of it.
_REGION_BYTES_PER_PIXEL = 768


@dataclass(frozen=True)
class Convolution:
    """A convolution, its ReLU, and the pool that follows it if nothing looks in between ("avg", "max" or None).

    `weight` is (K, C, 3, 3), `bias` (K,); `transposed` is the weight of the input's gradient, (C, K, 3, 3): the filters
    flipped, inputs and outputs exchanged. `padding` is "zeros", "replicate" or "circular".
    """

    weight: Tensor
    transposed: Tensor
    bias: Tensor
    pool: str | None
    padding: str

    @property
    def is_first(self) -> bool:
        return self.weight.shape[1] == 3

    def output_shape(self, shape: torch.Size) -> tuple[int, int, int, int]:
        height, width = (side // 2 if self.pool else side for side in shape[2:])
        return shape[0], self.weight.shape[0], height, width


@dataclass(frozen=True)
class Pool:
    """A 2×2 pool of its own, stride 2: "avg" or "max"."""

    pool: str

    def output_shape(self, shape: torch.Size) -> tuple[int, int, int, int]:
        return shape[0], shape[1], shape[2] // 2, shape[3] // 2


Layer = Convolution | Pool


class Layers(Protocol):
    """A way to run the layers. Maps are (1, C, H, W) in `dtype`, in the memory format that `channels_last` says."""

    dtype: torch.dtype
    channels_last: bool

    def begin(self, shape: torch.Size) -> None:
        """Begins a pass over an image of `shape`, (1, 3, H, W): memory kept for other sizes may go."""

    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        """The layer's features, and if `record` the bits that `backward` takes. `x` is not changed."""

    def backward(self, layer: Layer, gradient: Tensor, bits: Tensor | None, shape: torch.Size) -> Tensor:
        """The gradient of the layer's input, of `shape`, for `gradient`, that of its features.

        Without bits, `gradient` is the one before the ReLU already. It may be written over.
        """

    def empty(self, shape: Sequence[int]) -> Tensor:
        """An uninitialised map."""

    def release(self, x: Tensor) -> None:
        """Gives back a map or bits that came from here and that nobody reads any more."""

    def forget(self) -> None:
        """Begins a run: takes back the memory that a failed pass took and did not give back."""


class DirectLayers:
    """Torch's convolutions over whole maps.

    With `cudnn_relu`, on an NVIDIA GPU, a convolution whose bits nobody wants is one call of cuDNN with bias and ReLU.
    """

    channels_last = True

    def __init__(self, device: torch.device, dtype: torch.dtype, backend: str, *, cudnn_relu: bool = False) -> None:
        self.dtype = dtype
        self._device = device
        self._backend = backend
        self._cudnn_relu = cudnn_relu

    def begin(self, shape: torch.Size) -> None:
        """Does nothing: torch's allocator decides what it keeps."""

    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        if isinstance(layer, Pool):
            return self._pooled(x, None, layer.pool, record)
        padding = 1
        if layer.padding != "zeros":
            x, padding = bordered(x, layer.padding), 0
        if self._cudnn_relu and layer.pool is None and not record:
            return torch.cudnn_convolution_relu(x, layer.weight, layer.bias, (1, 1), (padding,) * 2, (1, 1), 1), None
        y = F.conv2d(x, layer.weight, padding=padding)
        if layer.pool is not None:
            return self._pooled(y, layer.bias, layer.pool, record)
        bits = empty_bits(y) if record else None
        direct.bias_relu(self._backend, y, layer.bias, y=y, bits=bits)
        return y, bits

    def _pooled(self, x: Tensor, bias: Tensor | None, pool: str, record: bool) -> tuple[Tensor, Tensor | None]:
        bits = empty_bits(x) if record else None
        pooled = self.empty((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2))  # (1, C, H/2, W/2)
        direct.bias_relu_pool(self._backend, x, bias, pool=pool, pooled=pooled, bits=bits)
        return pooled, bits

    def backward(self, layer: Layer, gradient: Tensor, bits: Tensor | None, shape: torch.Size) -> Tensor:
        if layer.pool is not None and bits is not None:
            full = self.empty((*gradient.shape[:2], *shape[2:]))  # (1, K, H, W)
            direct.unpool_backward(self._backend, gradient, bits, pool=layer.pool, result=full)
            gradient = full
        elif bits is not None:
            direct.relu_backward(self._backend, gradient, bits, gradient)
        if isinstance(layer, Pool):
            return gradient
        if layer.padding == "circular":
            return F.conv2d(bordered(gradient, "circular"), layer.transposed)
        if layer.padding == "replicate":
            return unbordered(F.conv2d(gradient, layer.transposed, padding=2), "replicate")
        return F.conv2d(gradient, layer.transposed, padding=1)

    def empty(self, shape: Sequence[int]) -> Tensor:
        return torch.empty(tuple(shape), dtype=self.dtype, device=self._device, memory_format=torch.channels_last)

    def release(self, x: Tensor) -> None:
        """Torch's allocator has it as soon as nobody holds it."""

    def forget(self) -> None:
        """Does nothing: torch's allocator knows what was taken."""


def region_bytes(height: int, width: int) -> int:
    """Bytes of each region in which `WinogradLayers` reserves memory: a step of the paper's layers has room in one."""
    return _REGION_BYTES_PER_PIXEL * height * width


class WinogradLayers:
    """NNPACK's convolutions on a CPU in float32, the epilogue of each stripe while it is in the cache."""

    channels_last = False
    dtype = torch.float32

    def __init__(self) -> None:
        self.buffers = Buffers(0)
        self._shape: torch.Size | None = None

    def begin(self, shape: torch.Size) -> None:
        if shape != self._shape:
            self.buffers = Buffers(region_bytes(*shape[2:]))
            self._shape = shape

    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        result = self.empty(layer.output_shape(x.shape))  # (1, K, H, W), halved where it pools
        bits = self._empty_bits(result.shape[1], x) if record else None
        if isinstance(layer, Pool):
            direct.bias_relu_pool("torch", x, None, pool=layer.pool, pooled=result, bits=bits)
            return result, bits
        if layer.is_first:
            winograd.convolve_first(x, layer.weight, layer.bias, padding=layer.padding, result=result)
            if bits is not None:
                direct.bias_relu("torch", result, None, y=result, bits=bits)
            return result, bits

        def read(start: int, stop: int, rows: Tensor) -> None:
            rows.copy_(x[:, :, start:stop])

        def write(start: int, stop: int, y: Tensor) -> None:
            own_bits = None if bits is None else empty_bits(y)
            if layer.pool is None:
                direct.bias_relu("torch", y, None, y=y, bits=own_bits)
                result[:, :, start:stop] = y
            else:
                pooled = y.new_empty((*y.shape[:2], y.shape[2] // 2, y.shape[3] // 2))
                direct.bias_relu_pool("torch", y, None, pool=layer.pool, pooled=pooled, bits=own_bits)
                result[:, :, start // 2 : stop // 2] = pooled
            if bits is not None and own_bits is not None:
                bits[:, :, start:stop] = own_bits

        winograd.convolve(x.shape, read, layer.weight, bias=layer.bias, write=write, padding=layer.padding)
        return result, bits

    def backward(self, layer: Layer, gradient: Tensor, bits: Tensor | None, shape: torch.Size) -> Tensor:
        if isinstance(layer, Pool):
            result = self.empty(shape)
            if bits is None:
                raise FastnstError("a pool has no way back without its bits")
            direct.unpool_backward("torch", gradient, bits, pool=layer.pool, result=result)
            return result
        if layer.is_first:
            if bits is not None:
                direct.relu_backward("torch", gradient, bits, gradient)
            return winograd.first_gradient(gradient, layer.weight, layer.padding)
        result = self.empty(shape)
        height, width = shape[2:]

        def read(start: int, stop: int, rows: Tensor) -> None:
            if bits is None:
                rows.copy_(gradient[:, :, start:stop])
            elif layer.pool is None:
                passed = gradient[:, :, start:stop].contiguous()
                direct.relu_backward("torch", passed, bits[:, :, start:stop].contiguous(), passed)
                rows.copy_(passed)
            else:
                first, last = start // 2 * 2, min(height, (stop + 1) // 2 * 2)
                above = gradient[:, :, first // 2 : last // 2].contiguous()
                full = gradient.new_empty((*gradient.shape[:2], last - first, width))
                own_bits = bits[:, :, first:last].contiguous()
                direct.unpool_backward("torch", above, own_bits, pool=layer.pool, result=full)
                rows.copy_(full[:, :, start - first : stop - first])

        def write(start: int, stop: int, y: Tensor) -> None:
            result[:, :, start:stop] = y

        if layer.padding == "replicate":
            raise FastnstError("behind the first convolution nothing goes back through replicate padding")
        shape_above = (1, len(layer.weight), height, width)  # (1, K, H, W)
        winograd.convolve(shape_above, read, layer.transposed, bias=None, write=write, padding=layer.padding)
        return result

    def empty(self, shape: Sequence[int]) -> Tensor:
        return self.buffers.take(shape, self.dtype)

    def release(self, x: Tensor) -> None:
        self.buffers.give(x)

    def forget(self) -> None:
        self._shape = None

    def _empty_bits(self, channels: int, x: Tensor) -> Tensor:
        # A map of one position counts as channels-last.
        height, width = x.shape[2:]
        by_channels = packed_by_channels(x.new_empty((1, channels, height, width), device="meta"))
        shape = bits_shape(1, channels, height, width, by_channels)
        return self.buffers.take(shape, torch.uint8)
