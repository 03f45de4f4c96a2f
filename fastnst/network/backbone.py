"""The network that looks at the image: VGG's convolutions and pools, no deeper than the deepest layer that is tapped.

Forward and backward are written out rather than left to autograd: what the way back reads of a layer is kept once, on a
GPU one bit for each activation that no tap wants, and no gradient is computed but the image's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from fastnst_kernels import direct
from fastnst_kernels.first import FirstLayer
from fastnst_kernels.losses.targets import StyleTerm
from torch import Tensor

from fastnst.errors import FastnstError
from fastnst.network.architecture import Preprocessing, layers_up_to
from fastnst.network.cpu import CpuLayers, OneDnn, Winograd
from fastnst.network.layers import Convolution, GpuLayers, Layer, Layers, Pool, Torch
from fastnst.network.runtime import Runtime
from fastnst.network.weights import Weights


class Tap(ABC):
    """An observer of a layer: it is given the layer's features, and on the way back adds to their gradient."""

    @property
    def wanted(self) -> str | None:
        """The precision of the sums F Fᵀ, if `forward` needs them and a layer has them for less as it writes F."""
        return None

    @property
    def is_plain(self) -> bool:
        """True if all that `backward` would add is the style's term of a whole map: a first layer adds it itself."""
        return False

    def style_term(self) -> StyleTerm | None:
        """The style's term of the gradient, once it is known."""
        return None

    @abstractmethod
    def forward(self, features: Tensor, sums: Tensor | None) -> None:
        """Reads the layer's features, (1, C, H, W), which the network writes over later: a tap keeps copies. `sums` are
        those that are `wanted`, where the layer made them."""

    def backward(self, features: Tensor, gradient: Tensor, *, accumulate: bool, relu: bool) -> None:
        """Writes the gradient of the features into `gradient`, (1, C, H, W), or with `accumulate` adds it to what the
        layers above left there. With `relu` the sum is the gradient before the ReLU: zero where the features are."""
        raise FastnstError("a tap of a forward pass alone has no gradient")


@dataclass
class _Reading(Tap):
    """A tap of a forward pass alone, which gives the features to `read`."""

    read: Callable[[Tensor], None]

    def forward(self, features: Tensor, sums: Tensor | None) -> None:
        self.read(features)


class Trace(NamedTuple):
    """A layer's record for the way back: its features if tapped, the layers' own record, its input's shape."""

    features: Tensor | None
    record: Tensor | None
    input_shape: torch.Size


@dataclass(frozen=True)
class Backbone:
    """VGG with frozen weights, for one image at a time, in one thread at a time. Make one with `build_backbone`.

    `steps` are by the name of the layer whose features they give: a pool that follows a convolution at once is part of
    it. A convolution's features are taken after its ReLU.
    """

    steps: Mapping[str, Layer]
    layers: Layers
    preprocessing: Preprocessing
    backend: str

    def read(self, image: Tensor, names: Iterable[str], read: Callable[[str, Tensor], None]) -> None:
        """Runs the network over `image`, and gives `read` each of the layers `names` with its features: see `Tap`."""
        self.forward(image, {name: _Reading(partial(read, name)) for name in names})

    def forward(self, image: Tensor, taps: Mapping[str, Tap], *, record: bool = False) -> list[Trace]:
        """Runs the network over `image`, and gives each tapped layer's features to its tap, in order.

        Args:
            image: (1, 3, H, W) float32, RGB in 0…1, on the backbone's device.
            taps: by layer name; nothing is computed beyond the deepest of them.
            record: True if `backward` follows, which takes the list that is returned.
        """
        missing = taps.keys() - self.steps.keys()
        if missing:
            raise FastnstError(f"layers {sorted(missing)} are not in this backbone; name them when it is built")
        first = self._first_layer()
        features = self._normalised(image) if first is None else image
        traces: list[Trace] = []
        waiting = set(taps)
        for name, step in self.steps.items():
            if not waiting:
                break
            tapped, shape = name in waiting, features.shape
            wanted = taps[name].wanted if tapped else None
            kept, is_seen = None, tapped
            if first is not None and not traces:
                features = self.layers.empty((1, len(first.weight), *image.shape[2:]))  # (1, K, H, W)
                gram, precision = wanted is not None, self.layers.first_precision
                sums = direct.first_forward(self.backend, image, first, features, gram, precision or "ieee")
                is_seen = tapped and not taps[name].is_plain
            elif wanted is not None and isinstance(self.layers, GpuLayers) and isinstance(step, Convolution):
                features, sums = self.layers.forward_with_sums(step, features, wanted)
            else:
                is_kept = record and not (tapped and step.pool is None)
                (features, kept), sums = self.layers.forward(step, features, record=is_kept), None
            traces.append(Trace(features if is_seen and record else None, kept, shape))
            if tapped:
                taps[name].forward(features, sums)
                waiting.remove(name)
        return traces

    def backward(
        self,
        image: Tensor,
        traces: list[Trace],
        taps: Mapping[str, Tap],
        *,
        tv_weight: float,
        tv_kind: str = "squared",
        scale: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The gradient of the image, (1, 3, H, W) float32, the image's total variation of `tv_kind`, (1,), and a
        number, (1,), that is finite where the gradient is, or None where that takes a pass of its own.

        `traces` come from `forward` for the same image and taps; they are used up, and the list is empty then. With
        `scale`, (1,) float32, the taps give gradients of `scale` times their loss; the image's is divided by it. It is
        written into `out` where that is given, in the image's memory format.
        """
        first = self._first_layer()
        gradient: Tensor | None = None
        for name, step in reversed(list(self.steps.items())[: len(traces)]):
            features, kept, shape = traces.pop()
            if first is not None and not traces and features is None:
                return direct.first_backward(
                    self.backend,
                    image,
                    first,
                    gradient,
                    taps[name].style_term() if name in taps else None,
                    tv_weight=tv_weight,
                    kind=tv_kind,
                    precision=self.layers.first_precision or "ieee",
                    divisor=scale,
                    out=out,
                )
            if features is not None:
                accumulate = gradient is not None
                if gradient is None:
                    gradient = self.layers.empty(features.shape)
                taps[name].backward(features, gradient, accumulate=accumulate, relu=step.pool is None)
            if gradient is None:
                raise FastnstError("the deepest layer has no tap, so there is no gradient; tap it")
            # The layers below may have their memory.
            features = None
            gradient = self.layers.backward(step, gradient, kept, shape)
        factors, _ = self.preprocessing.affine
        gradient, tv = direct.image_gradient(
            self.backend,
            image,
            gradient,
            scale=factors,
            flip=self.preprocessing.bgr,
            tv_weight=tv_weight,
            kind=tv_kind,
            divisor=scale,
            out=out,
        )
        return gradient, tv, None

    def _normalised(self, image: Tensor) -> Tensor:
        scale, shift = self.preprocessing.affine
        return direct.normalise(
            self.backend,
            image,
            scale,
            shift=shift,
            flip=self.preprocessing.bgr,
            dtype=self.layers.dtype,
            channels_last=True,
        )

    def _first_layer(self) -> FirstLayer | None:
        """The first layer, if it is computed from the image at once."""
        step = next(iter(self.steps.values()))
        if self.layers.first_precision is None or not isinstance(step, Convolution) or step.pool is not None:
            return None
        scale, shift = self.preprocessing.affine
        return FirstLayer(step.weight, step.bias, scale, shift=shift, flip=self.preprocessing.bgr, padding=step.padding)

    def repadded(self, padding: str) -> "Backbone":
        """The same network, its weights shared, with `padding` in all convolutions: see `Convolution`."""
        steps = {
            name: replace(step, padding=padding) if isinstance(step, Convolution) else step
            for name, step in self.steps.items()
        }
        return replace(self, steps=steps)


def make_layers(runtime: Runtime) -> Layers:
    """The way to run layers there. Bits are kept by Triton alone: torch's take longer than to read the features."""
    if runtime.kernels == "triton":
        # Without units for them, which RDNA has for 16 bits alone, products are quicker in a library.
        has_units = runtime.dtype != torch.float32 or (runtime.tf32 and torch.version.hip is None)
        precision = runtime.dot_precision if has_units else None
        return GpuLayers(runtime.device, runtime.dtype, runtime.kernels, first_precision=precision)
    if runtime.device.type != "cpu":
        return CpuLayers(Torch(runtime.device, runtime.dtype))
    return CpuLayers(Winograd() if runtime.winograd else OneDnn(runtime.dtype))


def build_backbone(
    weights: Weights, taps: tuple[str, ...], runtime: Runtime, *, pooling: str = "avg", padding: str = "zeros"
) -> Backbone:
    """The backbone from the image to the deepest of `taps`, the only layers that it can be tapped at.

    `padding` belongs to the first convolution, "zeros" or "replicate", or is "circular" for all of them: then the
    features of an image that is rolled by multiples of the pooling grid are rolled too.
    """
    layers = make_layers(runtime)
    steps: dict[str, Layer] = {}
    names = [layer.name for layer in layers_up_to(weights.network, taps)]
    for name, following in zip(names, [*names[1:], ""], strict=True):
        if name.startswith("pool"):
            if name not in steps:
                steps[name] = Pool(pooling)
            continue
        weight, bias = (weights.tensors[f"{name}.{part}"] for part in ("weight", "bias"))
        pooled = following.startswith("pool") and name not in taps
        steps[following if pooled else name] = layers.convolution(
            weight,
            bias,
            pool=pooling if pooled else None,
            padding=padding if name == "conv1_1" or padding == "circular" else "zeros",
        )
    return Backbone(steps, layers, weights.preprocessing, runtime.kernels)
