"""The operations behind the public functions as torch custom operators, so that `torch.compile` takes them whole.

`OPERATORS` is all of them: the schema, the function that computes it, and the one that gives the shapes of its results
without computing. Their first argument is the backend, "triton" or "torch"; the gradients are beside the public
functions.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastnst_kernels import direct
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

Triple = tuple[Tensor, Tensor, Tensor]


def _nothing(*_: object) -> None:
    """The shapes of an operator that writes into its arguments alone: none."""


def _gram_shape(backend: str, features: Tensor, precision: str) -> Tensor:
    batch, channels = features.shape[:2]
    return features.new_empty((batch, channels, channels), dtype=accumulation_dtype(features.dtype))


def _difference_loss_shapes(backend: str, features: Tensor, *_: object) -> Triple:
    matrix = _gram_shape(backend, features, "")
    loss = matrix.new_empty((len(features),))
    return loss, torch.empty_like(matrix, dtype=difference_dtype(features.dtype, backend)), torch.empty_like(loss)


def _finished_shapes(
    backend: str,
    sums: Tensor,
    positions: int,
    target: Tensor,
    weight: float,
    offset: Tensor | None,
    offset_weight: float,
    dtype: torch.dtype,
) -> Triple:
    loss = sums.new_empty((sums.shape[0],))
    return loss, torch.empty_like(sums, dtype=difference_dtype(dtype, backend)), torch.empty_like(loss)


def _content_loss_shape(backend: str, features: Tensor, content: Tensor, weight: float) -> Tensor:
    return features.new_empty((len(features),), dtype=accumulation_dtype(features.dtype))


def _tap_gradient(
    backend: str,
    features: Tensor,
    upstream: Tensor | None,
    difference: Tensor | None,
    scale: Tensor | None,
    style_gradient: Tensor | None,
    style_factor: float,
    content: Tensor | None,
    content_gradient: Tensor | None,
    content_factor: float,
    relu: bool,
    precision: str,
) -> Tensor:
    style_term = content_term = None
    if difference is not None and scale is not None and style_gradient is not None:
        style_term = StyleTerm(difference, scale, style_gradient, style_factor)
    if content is not None and content_gradient is not None:
        content_term = ContentTerm(content, content_gradient, content_factor)
    gradient = empty_map(features, channels_last(features))  # (B, C, H, W)
    direct.tap_backward(
        backend,
        gradient,
        features=features,
        upstream=upstream,
        style=style_term,
        content=content_term,
        relu=relu,
        owned=None,
        precision=precision,
    )
    return gradient


def _gradient_shape(backend: str, features: Tensor, *_: object) -> Tensor:
    return empty_map(features, channels_last(features))


def by_channels(backend: str, x: Tensor) -> bool:
    """True if the sign bits of dense activations run along their channels, as Triton packs all of them."""
    return backend == "triton" or packed_by_channels(x)


def _activation_shapes(
    backend: str, x: Tensor, bias: Tensor | None, keep_bits: bool, size: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    x = dense(x)
    y = empty_map(x, packed_by_channels(x), size=size)
    return y, empty_bits(x, by_channels(backend, x)) if keep_bits else x.new_empty((0,), dtype=torch.uint8)


def _bias_relu(backend: str, x: Tensor, bias: Tensor | None, keep_bits: bool) -> tuple[Tensor, Tensor]:
    x = dense(x)
    y, bits = _activation_shapes(backend, x, bias, keep_bits)
    direct.bias_relu(backend, x, bias, y, bits if keep_bits else None)
    return y, bits


def _pooled_shapes(backend: str, x: Tensor, bias: Tensor | None, pool: str, keep_bits: bool) -> tuple[Tensor, Tensor]:
    return _activation_shapes(backend, x, bias, keep_bits, (x.shape[2] // 2, x.shape[3] // 2))


def _bias_relu_pool(backend: str, x: Tensor, bias: Tensor | None, pool: str, keep_bits: bool) -> tuple[Tensor, Tensor]:
    x = dense(x)
    pooled, bits = _pooled_shapes(backend, x, bias, pool, keep_bits)
    direct.bias_relu_pool(backend, x, bias, pool, pooled, bits if keep_bits else None)
    return pooled, bits


def _passed_shape(backend: str, gradient: Tensor, bits: Tensor, last: bool) -> Tensor:
    return empty_map(gradient, last)


def _relu_backward(backend: str, gradient: Tensor, bits: Tensor, last: bool) -> Tensor:
    result = _passed_shape(backend, gradient, bits, last)
    direct.relu_backward(backend, in_layout(gradient, last), bits, result)
    return result


def _spread_shape(
    backend: str, gradient: Tensor, bits: Tensor, height: int, width: int, last: bool, pool: str
) -> Tensor:
    return empty_map(gradient, last, size=(height, width))


def _unpool_backward(
    backend: str, gradient: Tensor, bits: Tensor, height: int, width: int, last: bool, pool: str
) -> Tensor:
    result = _spread_shape(backend, gradient, bits, height, width, last, pool)
    direct.unpool_backward(backend, in_layout(gradient, last), bits, pool, result)
    return result


def _normalised_shape(
    backend: str,
    image: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    flip: bool,
    dtype: torch.dtype,
    last: bool,
) -> Tensor:
    return empty_map(image, last, dtype=dtype)


def _denormalised_shape(
    backend: str, upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype, last: bool
) -> Tensor:
    return empty_map(upstream, last, dtype=dtype)


def _variation_shape(backend: str, image: Tensor, kind: str) -> Tensor:
    return image.new_empty((len(image),))


def _image_gradient_shapes(backend: str, image: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_map(image, dense_channels_last(dense(image))), image.new_empty((len(image),))


def _adam_step(
    backend: str,
    image: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: Tensor,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    minimum: float | None,
    maximum: float | None,
) -> None:
    limits = None if minimum is None or maximum is None else (minimum, maximum)
    direct.adam_step(
        backend,
        image,
        gradient,
        first,
        second,
        step=step,
        learning_rate=learning_rate,
        betas=(beta_1, beta_2),
        epsilon=epsilon,
        limits=limits,
    )


OPERATORS: Sequence[tuple[str, Callable[..., object], Callable[..., object]]] = (
    ("gram(str backend, Tensor features, str precision) -> Tensor", direct.gram, _gram_shape),
    (
        "accumulate_gram(str backend, Tensor(a!) sums, Tensor features, str precision) -> ()",
        direct.accumulate_gram,
        _nothing,
    ),
    (
        "gram_difference_loss(str backend, Tensor features, Tensor target, float weight, Tensor? offset, "
        "float offset_weight, str precision) -> (Tensor, Tensor, Tensor)",
        direct.gram_difference_loss,
        _difference_loss_shapes,
    ),
    (
        "finish_gram_loss(str backend, Tensor sums, SymInt positions, Tensor target, float weight, Tensor? offset, "
        "float offset_weight, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
        direct.finish_gram_loss,
        _finished_shapes,
    ),
    (
        "content_loss(str backend, Tensor features, Tensor content, float weight) -> Tensor",
        direct.content_loss,
        _content_loss_shape,
    ),
    (
        "tap_gradient(str backend, Tensor features, Tensor? upstream, Tensor? difference, Tensor? scale, "
        "Tensor? style_gradient, float style_factor, Tensor? content, Tensor? content_gradient, float content_factor, "
        "bool relu, str precision) -> Tensor",
        _tap_gradient,
        _gradient_shape,
    ),
    (
        "bias_relu(str backend, Tensor x, Tensor? bias, bool keep_bits) -> (Tensor, Tensor)",
        _bias_relu,
        _activation_shapes,
    ),
    (
        "bias_relu_pool(str backend, Tensor x, Tensor? bias, str pool, bool keep_bits) -> (Tensor, Tensor)",
        _bias_relu_pool,
        _pooled_shapes,
    ),
    (
        "relu_backward(str backend, Tensor gradient, Tensor bits, bool by_channels) -> Tensor",
        _relu_backward,
        _passed_shape,
    ),
    (
        "unpool_backward(str backend, Tensor gradient, Tensor bits, SymInt height, SymInt width, bool by_channels, "
        "str pool) -> Tensor",
        _unpool_backward,
        _spread_shape,
    ),
    (
        "normalise(str backend, Tensor image, float[] scale, float[] shift, bool flip, ScalarType dtype, "
        "bool channels_last) -> Tensor",
        direct.normalise,
        _normalised_shape,
    ),
    (
        "normalise_backward(str backend, Tensor upstream, float[] scale, bool flip, ScalarType dtype, "
        "bool channels_last) -> Tensor",
        direct.normalise_backward,
        _denormalised_shape,
    ),
    (
        "total_variation(str backend, Tensor image, str kind) -> Tensor",
        direct.total_variation,
        _variation_shape,
    ),
    (
        "image_gradient(str backend, Tensor image, Tensor? upstream, float[] scale, bool flip, float tv_weight, "
        "Tensor? tv_gradient, str kind) -> (Tensor, Tensor)",
        direct.image_gradient,
        _image_gradient_shapes,
    ),
    (
        "adam_step_(str backend, Tensor(a!) image, Tensor gradient, Tensor(b!) first, Tensor(c!) second, Tensor step, "
        "float learning_rate, float beta_1, float beta_2, float epsilon, float? minimum, float? maximum) -> ()",
        _adam_step,
        _nothing,
    ),
)

for _schema, _function, _shapes in OPERATORS:
    _name = f"fastnst_kernels::{_schema.partition('(')[0]}"
    torch.library.define(_name, _schema[_schema.index("(") :])
    torch.library.impl(_name, "default")(_function)
    torch.library.register_fake(_name)(_shapes)

gram = torch.ops.fastnst_kernels.gram.default
accumulate_gram = torch.ops.fastnst_kernels.accumulate_gram.default
gram_difference_loss = torch.ops.fastnst_kernels.gram_difference_loss.default
finish_gram_loss = torch.ops.fastnst_kernels.finish_gram_loss.default
content_loss = torch.ops.fastnst_kernels.content_loss.default
tap_gradient = torch.ops.fastnst_kernels.tap_gradient.default
bias_relu = torch.ops.fastnst_kernels.bias_relu.default
bias_relu_pool = torch.ops.fastnst_kernels.bias_relu_pool.default
relu_backward = torch.ops.fastnst_kernels.relu_backward.default
unpool_backward = torch.ops.fastnst_kernels.unpool_backward.default
normalise = torch.ops.fastnst_kernels.normalise.default
normalise_backward = torch.ops.fastnst_kernels.normalise_backward.default
total_variation = torch.ops.fastnst_kernels.total_variation.default
image_gradient = torch.ops.fastnst_kernels.image_gradient.default
adam_step_ = torch.ops.fastnst_kernels.adam_step_.default
