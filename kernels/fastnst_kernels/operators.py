"""The operations behind the public functions as torch custom operators, so that `torch.compile` takes them whole.

`OPERATORS` has all of them by name. Each is made of its schema, the function that computes it, and the one that gives
the shapes of its results without computing. The first argument is the backend, "triton" or "torch"; the gradients are
beside the public functions.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import direct as direct
from fastnst_kernels.launch.backends import accumulation_dtype
from fastnst_kernels.launch.layout import (
    channels_last,
    dense,
    dense_channels_last,
    empty_bits,
    empty_map,
    in_layout,
    packed_by_channels,
)
from fastnst_kernels.losses.targets import ContentTerm, StyleTerm, difference_dtype

OPERATORS: dict[str, Any] = {}


def note_written(*tensors: Tensor) -> None:
    """Tells autograd, which would not see it, that a kernel has written these tensors: as after torch's own operations
    in place, it then does not go back through what it had saved of them."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(tensors)


def _nothing(*_: object) -> None:
    """The shapes of an operator that writes into its arguments alone: none."""


def _operator(schema: str, function: Callable[..., object], shapes: Callable[..., object] = _nothing) -> Any:
    name, bracket, signature = schema.partition("(")
    torch.library.define(f"fastnst_kernels::{name}", bracket + signature)
    torch.library.impl(f"fastnst_kernels::{name}", "default")(function)
    torch.library.register_fake(f"fastnst_kernels::{name}")(shapes)
    OPERATORS[name] = getattr(torch.ops.fastnst_kernels, name).default
    return OPERATORS[name]


def _by_image(backend: str, x: Tensor, *_: object) -> Tensor:
    """A number for each image, in the dtype of its sums."""
    return x.new_empty((len(x),), dtype=accumulation_dtype(x.dtype))


def _by_channels_twice(backend: str, features: Tensor, *_: object) -> Tensor:
    """A Gram matrix for each image."""
    batch, channels = features.shape[:2]
    return features.new_empty((batch, channels, channels), dtype=accumulation_dtype(features.dtype))


def _losses(backend: str, features: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    loss, matrix = _by_image(backend, features), _by_channels_twice(backend, features)
    return loss, matrix.to(difference_dtype(features.dtype, backend)), torch.empty_like(loss)


def _losses_of_sums(backend: str, sums: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes of `_losses`; the last argument is the features' dtype."""
    loss = _by_image(backend, sums)
    return loss, torch.empty_like(sums, dtype=difference_dtype(rest[-1], backend)), torch.empty_like(loss)


gram = _operator("gram(str backend, Tensor features, str precision) -> Tensor", direct.gram, _by_channels_twice)
accumulate_gram = _operator(
    "accumulate_gram(str backend, Tensor(a!) sums, Tensor features, str precision) -> ()", direct.accumulate_gram
)
gram_difference_loss = _operator(
    "gram_difference_loss(str backend, Tensor features, Tensor target, float weight, Tensor? offset, "
    "float offset_weight, str precision) -> (Tensor, Tensor, Tensor)",
    direct.gram_difference_loss,
    _losses,
)
finish_gram_loss = _operator(
    "finish_gram_loss(str backend, Tensor sums, SymInt positions, Tensor target, float weight, Tensor? offset, "
    "float offset_weight, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    direct.finish_gram_loss,
    _losses_of_sums,
)
content_loss = _operator(
    "content_loss(str backend, Tensor features, Tensor content, float weight) -> Tensor", direct.content_loss, _by_image
)


def _like_features(backend: str, features: Tensor, *_: object, **__: object) -> Tensor:
    return empty_map(features, channels_last(features))


def _tap_gradient(
    backend: str,
    features: Tensor,
    upstream: Tensor | None,
    precision: str,
    difference: Tensor | None = None,
    scale: Tensor | None = None,
    style_gradient: Tensor | None = None,
    style_factor: float = 0.0,
    content: Tensor | None = None,
    content_gradient: Tensor | None = None,
    content_factor: float = 0.0,
    relu: bool = False,
) -> Tensor:
    """upstream + style term + content term, zero where `relu` and features ≤ 0: (B, C, H, W) as the features lie.

    A term whose gradient is None is not there.
    """
    style_term = content_term = None
    if difference is not None and scale is not None and style_gradient is not None:
        style_term = StyleTerm(difference, scale, style_gradient, style_factor)
    if content is not None and content_gradient is not None:
        content_term = ContentTerm(content, content_gradient, content_factor)
    gradient = _like_features(backend, features)  # (B, C, H, W)
    terms: dict[str, Any] = {"upstream": upstream, "style": style_term, "content": content_term, "relu": relu}
    direct.tap_backward(backend, gradient, features=features, precision=precision, **terms)
    return gradient


tap_gradient = _operator(
    "tap_gradient(str backend, Tensor features, Tensor? upstream, str precision, Tensor? difference=None, "
    "Tensor? scale=None, Tensor? style_gradient=None, float style_factor=0.0, Tensor? content=None, "
    "Tensor? content_gradient=None, float content_factor=0.0, bool relu=False) -> Tensor",
    _tap_gradient,
    _like_features,
)


def by_channels(backend: str, x: Tensor) -> bool:
    """True if the sign bits of dense activations run along their channels, as Triton packs all of them."""
    return backend == "triton" or packed_by_channels(x)


def _activated(
    backend: str, x: Tensor, bias: Tensor | None, pool: str | None, keep_bits: bool
) -> tuple[Tensor, Tensor]:
    x = dense(x)
    y = empty_map(x, packed_by_channels(x), size=None if pool is None else (x.shape[2] // 2, x.shape[3] // 2))
    return y, empty_bits(x, by_channels(backend, x)) if keep_bits else x.new_empty((0,), dtype=torch.uint8)


def _bias_relu(
    backend: str, x: Tensor, bias: Tensor | None, pool: str | None, keep_bits: bool
) -> tuple[Tensor, Tensor]:
    y, bits = _activated(backend, x, bias, pool, keep_bits)
    direct.bias_relu(backend, dense(x), bias, pool, y, bits if keep_bits else None)
    return y, bits


def _before_relu(
    backend: str, gradient: Tensor, bits: Tensor, height: int, width: int, last: bool, pool: str | None
) -> Tensor:
    return empty_map(gradient, last, size=(height, width))


def _relu_backward(
    backend: str, gradient: Tensor, bits: Tensor, height: int, width: int, last: bool, pool: str | None
) -> Tensor:
    result = empty_map(gradient, last, size=(height, width))
    direct.relu_backward(backend, in_layout(gradient, last), bits, pool, result)
    return result


bias_relu = _operator(
    "bias_relu(str backend, Tensor x, Tensor? bias, str? pool, bool keep_bits) -> (Tensor, Tensor)",
    _bias_relu,
    _activated,
)
relu_backward = _operator(
    "relu_backward(str backend, Tensor gradient, Tensor bits, SymInt height, SymInt width, bool by_channels, "
    "str? pool) -> Tensor",
    _relu_backward,
    _before_relu,
)


def _like_image(backend: str, image: Tensor, *rest: Any) -> Tensor:
    """A map as `image`; the last two arguments are its dtype, and True for channels-last."""
    return empty_map(image, rest[-1], dtype=rest[-2])


def _image_gradient_shapes(backend: str, image: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_map(image, dense_channels_last(dense(image))), _by_image(backend, image)


normalise = _operator(
    "normalise(str backend, Tensor image, float[] scale, float[] shift, bool flip, ScalarType dtype, "
    "bool channels_last) -> Tensor",
    direct.normalise,
    _like_image,
)
normalise_backward = _operator(
    "normalise_backward(str backend, Tensor upstream, float[] scale, bool flip, ScalarType dtype, "
    "bool channels_last) -> Tensor",
    direct.normalise_backward,
    _like_image,
)
total_variation = _operator(
    "total_variation(str backend, Tensor image, str kind) -> Tensor", direct.total_variation, _by_image
)
image_gradient = _operator(
    "image_gradient(str backend, Tensor image, Tensor? upstream, float[] scale, bool flip, float tv_weight, "
    "Tensor? tv_gradient, str kind) -> (Tensor, Tensor)",
    direct.image_gradient,
    _image_gradient_shapes,
)
adam_step_ = _operator(
    "adam_step_(str backend, Tensor(a!) image, Tensor gradient, Tensor(b!) first, Tensor(c!) second, Tensor step, "
    "float learning_rate, float[] betas, float epsilon, float[]? limits) -> ()",
    direct.adam_step,
)
