"""The layers of the network, forward and back: a 3×3 convolution with its ReLU, and 2×2 pools.

`GpuLayers` runs cuDNN's convolutions, in channels-last, and keeps one bit for each activation whose layer is not
tapped: whether the gradient passes its ReLU, and in a maximum pool whether it is the maximum. `cpu` has those of a
machine without Triton's kernels, which keep the features.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fastnst_kernels import direct
from fastnst_kernels.launch.layout import empty_bits
from torch import Tensor


@dataclass(frozen=True)
class Convolution:
    """A convolution, its ReLU, and the pool that follows it if nothing looks in between ("avg", "max" or None).

    `weight` is (K, C, 3, 3), `bias` (K,); `transposed` is the weight of the input's gradient, (C, K, 3, 3): the filters
    flipped, inputs and outputs exchanged. Make one with `Layers.convolution`. `padding` is "zeros", "replicate" or
    "circular".
    """

    weight: Tensor
    transposed: Tensor
    bias: Tensor
    pool: str | None
    padding: str


@dataclass(frozen=True)
class Pool:
    """A 2×2 pool of its own, stride 2: "avg" or "max"."""

    pool: str


Layer = Convolution | Pool


class Torch:
    """Torch's own 3×3 convolutions, for maps of `dtype` in channels-last, on any device; other libraries' are made of
    it. Nothing is read back to the host, so that a step can be captured."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype

    def pack(self, weight: Tensor) -> Tensor:
        """The weight (K, C, 3, 3), float32, as calls take it; its shape stays."""
        return weight.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool, padding: int) -> Tensor:
        """The convolution of `x`, (1, C, H, W), with 0, 1 or 2 rows and columns of zeros around it."""
        y = F.conv2d(x, weight, None if bias is None else bias.to(x.dtype), padding=padding)
        # MIOpen, and torch without cuDNN, answer in planes.
        y = y.contiguous(memory_format=torch.channels_last)
        return y.relu_() if relu else y


class Layers(ABC):
    """A way to run the layers, with the convolutions of `convolver`, on maps (1, C, H, W) as it takes them.

    With `first_precision`, a precision of the kernels, those compute the first layer from the image at once, and back.
    """

    first_precision: str | None = None
    _mean_factor = 1.0
    """The part of the division by four in a convolution's mean pool that the weights of its gradient bring along."""

    def __init__(self, convolver: Torch) -> None:
        self.convolver = convolver
        self.dtype = convolver.dtype

    def convolution(self, weight: Tensor, bias: Tensor, *, pool: str | None, padding: str) -> Convolution:
        """The convolution with these float32 weights, (K, C, 3, 3), and this bias, (K,): see `Convolution`."""
        flipped = weight.flip(2, 3).transpose(0, 1) * (self._mean_factor if pool == "avg" else 1.0)
        pack = self.convolver.pack
        return Convolution(pack(weight), pack(flipped), self._packed(bias), pool, padding)

    def _packed(self, bias: Tensor) -> Tensor:
        """A convolution's bias in the form and the place that it is used in."""
        return bias.to(self.convolver.device)

    @abstractmethod
    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        """The layer's features, and if `record` what `backward` takes. `x` is not changed."""

    def backward(self, layer: Layer, gradient: Tensor, record: Tensor | None, shape: torch.Size) -> Tensor:
        """The gradient of the layer's input, of `shape`, for `gradient`, that of its features.

        Without a record, `gradient` is the one before the ReLU already. It may be written over.
        """
        if record is not None:
            gradient = self._before_relu(layer, gradient, record, shape)
        if isinstance(layer, Pool):
            return gradient
        if layer.padding == "replicate":
            return unbordered(self.convolver(gradient, layer.transposed, None, relu=False, padding=2))
        return self._convolved(gradient, layer.transposed, None, padding=layer.padding)

    @abstractmethod
    def _before_relu(self, layer: Layer, gradient: Tensor, record: Tensor, shape: torch.Size) -> Tensor:
        """The gradient before the ReLU and the pool, of an input of `shape`."""

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, padding: str, relu: bool = False) -> Tensor:
        if padding == "zeros":
            return self.convolver(x, weight, bias, relu=relu, padding=1)
        return self.convolver(bordered(x, padding), weight, bias, relu=relu, padding=0)

    def empty(self, shape: Sequence[int]) -> Tensor:
        """An uninitialised map."""
        device = self.convolver.device
        return torch.empty(tuple(shape), dtype=self.dtype, device=device, memory_format=torch.channels_last)


class GpuLayers(Layers):
    """Torch's convolutions over whole maps, on any device, with the kernels' own bias, ReLU and pool.

    cuDNN's fused convolution, bias and ReLU is not called: torch has it read its output, which is not initialised, as
    the addend of a factor of 0, and what is no number there stays none.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, backend: str, *, first_precision: str | None = None
    ) -> None:
        super().__init__(Torch(device, dtype))
        self.first_precision = first_precision
        self._backend = backend

    def _packed(self, bias: Tensor) -> Tensor:
        return super()._packed(bias).to(self.dtype)

    def forward(self, layer: Layer, x: Tensor, *, record: bool) -> tuple[Tensor, Tensor | None]:
        bias = None
        if isinstance(layer, Convolution):
            x, bias = self._convolved(x, layer.weight, None, padding=layer.padding), layer.bias
        bits = empty_bits(x) if record else None
        y = x if layer.pool is None else self.empty((*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2))  # (1, C, …, …)
        direct.bias_relu(self._backend, x, bias, layer.pool, y=y, bits=bits)
        return y, bits

    def forward_with_sums(self, layer: Convolution, x: Tensor, precision: str) -> tuple[Tensor, Tensor]:
        """The features F of a layer without a pool, and the sums F Fᵀ in a `precision` of the kernels."""
        y = self._convolved(x, layer.weight, None, padding=layer.padding)
        features = torch.empty_like(y)
        return features, direct.bias_relu_gram(self._backend, y, layer.bias, features, precision)

    def _before_relu(self, layer: Layer, gradient: Tensor, record: Tensor, shape: torch.Size) -> Tensor:
        full = gradient if layer.pool is None else self.empty((*gradient.shape[:2], *shape[2:]))  # (1, K, H, W)
        direct.relu_backward(self._backend, gradient, record, layer.pool, result=full)
        return full


def bordered(x: Tensor, padding: str) -> Tensor:
    """A map (B, C, H, W) with a border of one, (B, C, H + 2, W + 2), in channels-last: its other sides ("circular") or
    its nearest pixels ("replicate")."""
    shape = *x.shape[:2], x.shape[2] + 2, x.shape[3] + 2
    padded = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    padded[:, :, 1:-1, 1:-1] = x
    first, last = (-1, 0) if padding == "circular" else (0, -1)
    padded[:, :, 0, 1:-1] = x[:, :, first]
    padded[:, :, -1, 1:-1] = x[:, :, last]
    first, last = (-2, 1) if padding == "circular" else (1, -2)
    padded[..., 0] = padded[..., first]
    padded[..., -1] = padded[..., last]
    return padded


def unbordered(gradient: Tensor) -> Tensor:
    """The gradient (1, C, H, W) of a map, from `gradient`, that of the map `bordered` by its nearest pixels, (1, C,
    H + 2, W + 2), whose border's part is added to the positions that it was taken from, in place."""
    for near, border in ((1, 0), (-2, -1)):
        gradient[:, :, near] += gradient[:, :, border]
    for near, border in ((1, 0), (-2, -1)):
        gradient[..., near] += gradient[..., border]
    return gradient[:, :, 1:-1, 1:-1]
