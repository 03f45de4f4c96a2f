"""The first layer in plain torch, operation by operation: what the Triton kernels do at once."""

import torch.nn.functional as F
from torch import Tensor

from fastnst_kernels.first import FirstLayer
from fastnst_kernels.image import eager as image_eager
from fastnst_kernels.launch.layout import empty_map
from fastnst_kernels.losses import eager as losses_eager
from fastnst_kernels.losses.targets import StyleTerm


def first_forward(image: Tensor, layer: FirstLayer, y: Tensor, sums: Tensor | None, precision: str) -> None:
    """Write the features of an image (B, 3, H, W) float32 into `y`, (B, N, H, W) channels-last in their dtype.

    Their F Fᵀ is added to `sums`, (B, N, N) float32, if given.
    """
    x = image_eager.normalise(image, layer.scale, layer.shift, layer.flip, dtype=y.dtype, channels_last=True)
    padding = 1
    if layer.padding != "zeros":
        x, padding = F.pad(x, (1, 1, 1, 1), mode=layer.padding), 0
    y.copy_(F.conv2d(x, layer.weight, layer.bias, padding=padding).relu_())
    if sums is not None:
        losses_eager.accumulate_gram(sums, y, precision)


def first_backward(
    image: Tensor,
    layer: FirstLayer,
    upstream: Tensor | None,
    style: StyleTerm | None,
    tv_weight: float,
    tv_gradient: Tensor | None,
    kind: str,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """The gradient of an image (B, 3, H, W) float32, in its layout, and its total variation of `kind`, (B,).

    It comes from `upstream`, that of the layer's features, (B, N, H, W) in their dtype or None, from their `style`, and
    from tv_weight · TV, times `tv_gradient` (B,) where given.
    """
    like = image.new_empty((len(image), len(layer.weight), *image.shape[2:]), dtype=layer.weight.dtype)
    features, gradient = empty_map(like, True), empty_map(like, True)
    first_forward(image, layer, features, None, precision)
    losses_eager.tap_backward(
        gradient,
        features=features,
        upstream=upstream,
        style=style,
        content=None,
        relu=True,
        owned=None,
        precision=precision,
    )
    below = _transposed(gradient, layer)
    return image_eager.image_gradient(
        image, below, layer.scale, flip=layer.flip, tv_weight=tv_weight, tv_gradient=tv_gradient, kind=kind
    )


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
