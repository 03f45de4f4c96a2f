"""The gradients of Gram matrices and taps, as autograd functions that are differentiable once."""

from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import operators
from fastnst_kernels.launch.backends import refuse_second_derivative
from fastnst_kernels.launch.layout import as_readable
from fastnst_kernels.losses.targets import difference_dtype, normalised


class Gram(torch.autograd.Function):
    """`gram` of features (B, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, precision: str, backend: str) -> Tensor:
        matrix = as_readable(features)
        ctx.save_for_backward(matrix)
        # Not in backward, where under torch.compile the sizes of saved tensors may be those of another call.
        ctx.factor = 1.0 / (features.shape[2] * features.shape[3])
        ctx.precision, ctx.backend = precision, backend
        result: Tensor = operators.gram(backend, matrix, precision)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("Gram")
        (features,) = ctx.saved_tensors
        difference, scale = normalised(gradient + gradient.mT, difference_dtype(features.dtype, ctx.backend))
        terms = {"difference": difference, "scale": scale, "style_gradient": torch.ones_like(scale)}
        below = operators.tap_gradient(ctx.backend, features, None, ctx.precision, **terms, style_factor=ctx.factor)
        return below, None, None


class Tap(torch.autograd.Function):
    """The features, or what their ReLU leaves of them, with the style and the content loss that are asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        target: Tensor | None,
        weight: float,
        offset: Tensor | None,
        offset_weight: float,
        content: Tensor | None,
        content_weight: float,
        relu: bool,
        inplace: bool,
        precision: str,
        backend: str,
    ) -> tuple[Tensor, ...]:
        passed = _passed(ctx, features, relu, inplace)
        matrix = as_readable(passed if relu else features)
        outputs = [passed]
        difference = scale = None
        if target is not None:
            loss, difference, scale = operators.gram_difference_loss(
                backend, matrix, target, weight=weight, offset=offset, offset_weight=offset_weight, precision=precision
            )
            outputs.append(loss)
        if content is not None:
            outputs.append(operators.content_loss(backend, matrix, content, content_weight))
        ctx.save_for_backward(matrix, difference, scale, content)
        channels, height, width = features.shape[1:]
        ctx.style_factor, ctx.content_factor = weight / (channels**2 * height * width), 2 * content_weight
        ctx.has_style, ctx.has_content = target is not None, content is not None
        ctx.relu, ctx.precision, ctx.backend = relu, precision, backend
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        style_gradient = gradients[0] if ctx.has_style else None
        content_gradient = gradients[-1] if ctx.has_content else None
        nothing = (None,) * 10
        if style_gradient is None and content_gradient is None and (upstream is None or not ctx.relu):
            return upstream, *nothing
        refuse_second_derivative("Gram")
        features, difference, scale, content = ctx.saved_tensors
        gradient = operators.tap_gradient(
            ctx.backend,
            features,
            upstream,
            ctx.precision,
            difference=difference,
            scale=scale,
            style_gradient=style_gradient,
            style_factor=ctx.style_factor,
            content=content,
            content_gradient=content_gradient,
            content_factor=ctx.content_factor,
            relu=ctx.relu,
        )
        return gradient, *nothing


def _passed(ctx: Any, features: Tensor, relu: bool, inplace: bool) -> Tensor:
    """The features for the next layer."""
    if not relu:
        return features.view_as(features)
    if not inplace:
        return features.relu()
    ctx.mark_dirty(features)
    # torch.compile asks for the changed input itself.
    features.relu_()
    return features
