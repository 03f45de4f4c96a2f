"""The gradients of the operations of `ops`, as autograd functions that are differentiable once."""

from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import ops, reference
from fastnst_kernels.crops import as_readable
from fastnst_kernels.derivatives import refuse_second_derivative
from fastnst_kernels.layout import channels_last
from fastnst_kernels.terms import ContentTerm, Owned, StyleTerm, flat_terms


def written_gradient(
    features: Tensor,
    upstream: Tensor | None,
    style: StyleTerm | None,
    content: ContentTerm | None,
    relu: bool,
    owned: Owned | None,
    precision: str,
    backend: str,
    *,
    into_upstream: bool = False,
) -> Tensor:
    """upstream + style term + content term, zero where `relu` and features ≤ 0, in the layout of the features.

    Written over `upstream` if `into_upstream`.
    """
    in_place = into_upstream and upstream is not None
    layout = torch.channels_last if channels_last(features) else torch.contiguous_format
    # Not by its sizes, which under torch.compile may be those of another call.
    gradient = upstream if in_place and upstream is not None else torch.empty_like(features, memory_format=layout)
    if backend == "reference":
        return gradient.copy_(_exact_gradient(features, upstream, style, content, relu, owned))
    ops.tap_backward(
        gradient,
        in_place,
        features,
        None if in_place else upstream,
        *flat_terms(style, content),
        relu,
        owned,
        precision,
        backend,
    )
    return gradient


def _exact_gradient(
    features: Tensor,
    upstream: Tensor | None,
    style: StyleTerm | None,
    content: ContentTerm | None,
    relu: bool,
    owned: Owned | None,
) -> Tensor:
    matrix = coefficient = None
    if style is not None:
        scale = style.gradient.double() * style.scale.double() * style.factor
        matrix = style.difference.double() * scale[:, None, None]
    if content is not None:
        coefficient = content.gradient.double() * content.factor
    return reference.tap_gradient(
        features,
        upstream,
        style=matrix,
        content=None if content is None else content.content,
        content_coefficient=coefficient,
        relu=relu,
        owned=owned,
    )


class Gram(torch.autograd.Function):
    """`ops.gram` of features (B, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, precision: str, backend: str) -> Tensor:
        matrix = as_readable(features)
        ctx.save_for_backward(matrix)
        # Not in backward, where under torch.compile the sizes of saved tensors may be those of another call.
        ctx.factor = 1.0 / (features.shape[2] * features.shape[3])
        ctx.precision, ctx.backend = precision, backend
        result: Tensor = ops.gram(matrix, precision, backend)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("Gram")
        (features,) = ctx.saved_tensors
        dtype = ops.difference_dtype(features.dtype, ctx.backend)
        difference, scale = ops.normalised(gradient + gradient.mT, dtype)
        style = StyleTerm(difference, scale, torch.ones_like(scale), ctx.factor)
        return written_gradient(features, None, style, None, False, None, ctx.precision, ctx.backend), None, None


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
            loss, difference, scale = ops.gram_difference_loss(
                matrix, target, weight, offset, offset_weight, precision, backend
            )
            outputs.append(loss)
        if content is not None:
            outputs.append(ops.content_loss(matrix, content, content_weight, backend))
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
        style = None if style_gradient is None else StyleTerm(difference, scale, style_gradient, ctx.style_factor)
        term = None if content_gradient is None else ContentTerm(content, content_gradient, ctx.content_factor)
        gradient = written_gradient(features, upstream, style, term, ctx.relu, None, ctx.precision, ctx.backend)
        return gradient, *nothing


class TileTap(torch.autograd.Function):
    """The features, or what their ReLU leaves of them, with terms of the gradient that are known beforehand."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        difference: Tensor | None,
        scale: Tensor | None,
        style_gradient: Tensor | None,
        style_factor: float,
        content: Tensor | None,
        content_gradient: Tensor | None,
        content_factor: float,
        owned: Owned | None,
        relu: bool,
        inplace: bool,
        precision: str,
        backend: str,
    ) -> Tensor:
        passed = _passed(ctx, features, relu, inplace)
        matrix = as_readable(passed if relu else features)
        ctx.save_for_backward(matrix, difference, scale, style_gradient, content, content_gradient)
        ctx.style_factor, ctx.content_factor = style_factor, content_factor
        ctx.owned, ctx.relu, ctx.precision, ctx.backend = owned, relu, precision, backend
        return passed

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("Gram")
        features, difference, scale, style_gradient, content, content_gradient = ctx.saved_tensors
        style = None if difference is None else StyleTerm(difference, scale, style_gradient, ctx.style_factor)
        term = None if content is None else ContentTerm(content, content_gradient, ctx.content_factor)
        gradient = written_gradient(features, upstream, style, term, ctx.relu, ctx.owned, ctx.precision, ctx.backend)
        return gradient, *(None,) * 12


def _passed(ctx: Any, features: Tensor, relu: bool, inplace: bool) -> Tensor:
    """What goes on to the next layer."""
    if not relu:
        return features.view_as(features)
    if not inplace:
        return features.relu()
    ctx.mark_dirty(features)
    # torch.compile asks for the changed input itself.
    features.relu_()
    return features
