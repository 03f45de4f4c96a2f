"""Every public operation of the kernels, forward and backward: what the sanitizer and the check of equal runs call."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from fastnst_kernels import image, losses, relu
from torch import Tensor

from fastnst.network.runtime import Runtime

Operation = Callable[[], list[Tensor]]
"""Runs once, and returns all that it computed."""

_SCALE, _SHIFT = (4.4, 4.5, 4.6), (-2.1, -2.0, -1.8)


def operations(
    channels: int, height: int, width: int, runtime: Runtime, *, channels_last: bool
) -> Mapping[str, Operation]:
    """The operations on features (2, C, H, W) in the runtime's dtype, and on a float32 image (2, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def noise(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator).to(runtime.device)
        return values.contiguous(memory_format=layout) if len(shape) == 4 else values

    features, content, upstream = (noise(2, channels, height, width).relu().to(runtime.dtype) for _ in range(3))
    target = noise(channels, channels)
    picture, above = noise(2, 3, height, width).sigmoid(), noise(2, 3, height, width).to(runtime.dtype)
    arguments = (features, content, upstream, target, runtime)
    return {
        "tap": partial(_tap, *arguments),
        "gram": partial(_gram, features, target, runtime),
        "tiles": partial(_tiles, features, target, upstream, runtime),
        "bias_relu": partial(_bias_relu, features - 0.5, upstream, target[0], runtime),
        "image": partial(_image, picture, above, runtime),
        "adam": partial(_adam, picture, runtime),
    }


def _tap(features: Tensor, content: Tensor, upstream: Tensor, target: Tensor, runtime: Runtime) -> list[Tensor]:
    leaf = features.detach().requires_grad_()
    passed, style, difference = losses.tap(
        leaf, target=target, content=content, relu=True, precision=runtime.dot_precision, backend=runtime.backend
    )
    terms = [loss for loss in (style, difference) if loss is not None]
    ones = [torch.ones_like(loss) for loss in terms]
    (gradient,) = torch.autograd.grad([passed, *terms], leaf, [upstream, *ones])
    return [*(loss.detach() for loss in terms), gradient]


def _gram(features: Tensor, target: Tensor, runtime: Runtime) -> list[Tensor]:
    leaf = features.detach().requires_grad_()
    matrix = losses.gram(leaf, precision=runtime.dot_precision, backend=runtime.backend)
    (gradient,) = torch.autograd.grad(matrix, leaf, target.expand_as(matrix))
    return [matrix.detach(), gradient]


def _tiles(features: Tensor, target: Tensor, upstream: Tensor, runtime: Runtime) -> list[Tensor]:
    """The upper and the lower half of the image as two tiles."""
    precision, backend = runtime.dot_precision, runtime.backend
    channels, half = features.shape[1], features.shape[2] // 2
    sums = torch.zeros((len(features), channels, channels), device=features.device)
    for rows in (features[:, :, :half], features[:, :, half:]):
        losses.accumulate_gram(sums, rows, precision=precision, backend=backend)
    loss, difference = losses.finish_gram_loss(
        sums, features[0, 0].numel(), target, dtype=features.dtype, backend=backend
    )
    gradient = losses.tap_gradient(features, difference, upstream, precision=precision, backend=backend)
    return [sums, loss, gradient]


def _bias_relu(x: Tensor, upstream: Tensor, bias: Tensor, runtime: Runtime) -> list[Tensor]:
    """With and without pooling: results and gradients."""
    results = []
    for pool in (None, "avg", "max"):
        leaf = x.detach().requires_grad_()
        if pool is None:
            y = relu.bias_relu(leaf, bias, backend=runtime.backend)
        else:
            y = relu.bias_relu_pool(leaf, bias, pool, backend=runtime.backend)
        above = upstream[:, :, : y.shape[2], : y.shape[3]]
        results += [y.detach(), torch.autograd.grad(y, leaf, above)[0]]
    return results


def _image(picture: Tensor, above: Tensor, runtime: Runtime) -> list[Tensor]:
    backend = runtime.backend
    normalised = image.normalise(picture, _SCALE, _SHIFT, dtype=runtime.dtype, backend=backend)
    variation = image.total_variation(picture, backend=backend)
    return [normalised, variation, *image.image_gradient(picture, above, _SCALE, tv_weight=0.1, backend=backend)]


def _adam(picture: Tensor, runtime: Runtime) -> list[Tensor]:
    moved, first, second = picture.clone(), torch.zeros_like(picture), torch.zeros_like(picture)
    for step in (1, 2):
        image.adam_step_(moved, picture - 0.5, first, second, step, learning_rate=0.01, backend=runtime.backend)
    return [moved, first, second]
