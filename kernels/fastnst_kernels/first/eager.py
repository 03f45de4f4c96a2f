"""The first layer in plain torch, operation by operation: what the Triton kernels do at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastnst_kernels.first import FirstLayer
from fastnst_kernels.image import eager as image_eager
from fastnst_kernels.launch.layout import dense, dense_channels_last, empty_map
from fastnst_kernels.losses import eager as losses_eager
from fastnst_kernels.losses.targets import StyleTerm


def first_forward(image: Tensor, layer: FirstLayer, y: Tensor, gram: bool, precision: str) -> Tensor | None:
    """Write the features of an image (B, 3, H, W) float32 into `y`, (B, N, H, W) channels-last in their dtype.

    Returns, if `gram`, the sums of F Fᵀ as `finish_gram_loss` takes them from the same backend.
    """
    x = image_eager.normalise(image, layer.scale, layer.shift, layer.flip, dtype=y.dtype, channels_last=True)
    padding = 1
    if layer.padding != "zeros":
        x, padding = F.pad(x, (1, 1, 1, 1), mode=layer.padding), 0
    y.copy_(F.conv2d(x, layer.weight, layer.bias, padding=padding).relu_())
    if not gram:
        return None
    sums = torch.zeros((len(y), y.shape[1], y.shape[1]), dtype=torch.float32, device=y.device)
    losses_eager.accumulate_gram(sums, y, precision)
    return sums


def first_backward(
    image: Tensor,
    layer: FirstLayer,
    upstream: Tensor | None,
    style: StyleTerm | None,
    tv_weight: float,
    kind: str,
    precision: str,
    divisor: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradient of an image (B, 3, H, W) float32, in its layout, its total variation of `kind`, (B,), and with a
    `divisor` a number for each image, (B,), that is finite where the gradient is.

    It comes from `upstream`, that of the layer's features, (B, N, H, W) in their dtype or None, and from their `style`,
    both divided by `divisor`, (1,) float32, a power of two; and from tv_weight · TV. It is written into `out`, of the
    image's layout, if that is given.
    """
    like = image.new_empty((len(image), len(layer.weight), *image.shape[2:]), dtype=layer.weight.dtype)
    features, before_relu = empty_map(like, True), empty_map(like, True)
    first_forward(image, layer, features, False, precision)
    terms: dict[str, Any] = {"upstream": upstream, "style": style, "relu": True}
    losses_eager.tap_backward(before_relu, features=features, precision=precision, **terms)
    below, last = _transposed(before_relu, layer), dense_channels_last(dense(image))
    gradient = image_eager.normalise_backward(below, layer.scale, layer.flip, dtype=image.dtype, channels_last=last)
    check = None
    if divisor is not None:
        check = gradient.div_(divisor).sum((1, 2, 3))
    value = image_eager.add_variation(image, gradient, kind, tv_weight)
    return gradient if out is None else out.copy_(gradient), value, check


def _transposed(gradient: Tensor, layer: FirstLayer) -> Tensor:
    """The gradient of the normalised image, (B, 3, H, W), from that of the pre-activations, (B, N, H, W)."""
    if layer.padding == "zeros":
        return F.conv_transpose2d(gradient, layer.weight, padding=1)
    bordered = F.conv_transpose2d(gradient, layer.weight)  # (B, 3, H + 2, W + 2)
    for axis in (2, 3):
        end = bordered.shape[axis] - 1
        near, far = (1, end - 1) if layer.padding == "replicate" else (end - 1, 1)
        bordered.select(axis, near).add_(bordered.select(axis, 0))
        bordered.select(axis, far).add_(bordered.select(axis, end))
    return bordered[:, :, 1:-1, 1:-1]
