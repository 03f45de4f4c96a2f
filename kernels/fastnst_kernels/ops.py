"""The operations as torch custom operators, so that `torch.compile` takes them whole.

`backend` is "triton" or "torch"; a Triton module is imported by the first call that needs it. The public functions are
in `api` and `tiles`, their gradients in `functions`.
"""

import torch
from torch import Tensor

from fastnst_kernels import torch_gram, torch_tap
from fastnst_kernels.terms import ContentTerm, StyleTerm

_NAMESPACE = "fastnst_kernels"

for _schema in (
    "gram(Tensor features, str precision, str backend) -> Tensor",
    "accumulate_gram(Tensor(a!) sums, Tensor features, str precision, str backend) -> ()",
    "gram_difference_loss(Tensor features, Tensor target, float weight, Tensor? offset, float offset_weight, "
    "str precision, str backend) -> (Tensor, Tensor, Tensor)",
    "finish_gram_loss(Tensor sums, SymInt positions, Tensor target, float weight, Tensor? offset, "
    "float offset_weight, ScalarType dtype, str backend) -> (Tensor, Tensor, Tensor)",
    "content_loss(Tensor features, Tensor content, float weight, str backend) -> Tensor",
    # Written over `gradient`, to whose own values the rest is added if `accumulate`.
    "tap_backward(Tensor(a!) gradient, bool accumulate, Tensor features, Tensor? upstream, Tensor? difference, "
    "Tensor? scale, Tensor? style_gradient, float style_factor, Tensor? content, Tensor? content_gradient, "
    "float content_factor, bool relu, SymInt[]? owned, str precision, str backend) -> ()",
):
    torch.library.define(f"{_NAMESPACE}::{_schema.split('(', 1)[0]}", _schema[_schema.index("(") :])


def difference_dtype(dtype: torch.dtype, backend: str) -> torch.dtype:
    """The dtype in which the difference G − A of features of `dtype` is kept for backward: the tensor cores take it in
    the features' own."""
    return dtype if backend == "triton" else torch_gram.accumulation_dtype(dtype)


def normalised(difference: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A (B, C, C) difference as (normalised, scale): difference = normalised · scale, `normalised` in `dtype`, with its
    largest magnitude in 16384 … 32768 for a 16-bit `dtype` (less below 2⁻¹¹²) and unscaled otherwise."""
    scale = torch.ones_like(difference[:, 0, 0])
    if difference.dtype == dtype:
        return difference.contiguous(), scale
    peak = difference.abs().amax((1, 2))
    usable = (peak > 0) & torch.isfinite(peak)
    # Down to where the scale is still a normal number.
    exponent = torch.where(usable, peak, scale).log2().floor().clamp(-112, 127) - 14
    scale = torch.where(usable, exponent.exp2(), scale)
    return (difference / scale[:, None, None]).to(dtype), scale


@torch.library.impl(f"{_NAMESPACE}::gram", "default")
def _gram(features: Tensor, precision: str, backend: str) -> Tensor:
    if backend == "triton":
        from fastnst_kernels import triton_gram

        return triton_gram.gram(features, precision)
    return torch_gram.gram(features)


@torch.library.register_fake(f"{_NAMESPACE}::gram")  # type: ignore[untyped-decorator]
def _gram_fake(features: Tensor, precision: str, backend: str) -> Tensor:
    batch, channels = features.shape[:2]
    return features.new_empty((batch, channels, channels), dtype=torch_gram.accumulation_dtype(features.dtype))


@torch.library.impl(f"{_NAMESPACE}::accumulate_gram", "default")
def _accumulate_gram(sums: Tensor, features: Tensor, precision: str, backend: str) -> None:
    if backend == "triton":
        from fastnst_kernels import triton_gram

        triton_gram.accumulate_gram(sums, features, precision)
    else:
        torch_gram.accumulate_gram(sums, features)


@torch.library.impl(f"{_NAMESPACE}::gram_difference_loss", "default")
def _gram_difference_loss(
    features: Tensor,
    target: Tensor,
    weight: float,
    offset: Tensor | None,
    offset_weight: float,
    precision: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "triton":
        from fastnst_kernels import triton_gram

        return triton_gram.gram_difference_loss(features, target, weight, offset, offset_weight, precision)
    return torch_gram.gram_difference_loss(features, target, weight, offset, offset_weight)


@torch.library.register_fake(f"{_NAMESPACE}::gram_difference_loss")  # type: ignore[untyped-decorator]
def _gram_difference_loss_fake(
    features: Tensor,
    target: Tensor,
    weight: float,
    offset: Tensor | None,
    offset_weight: float,
    precision: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels = features.shape[:2]
    loss = features.new_empty((batch,), dtype=torch_gram.accumulation_dtype(features.dtype))
    difference = features.new_empty((batch, channels, channels), dtype=difference_dtype(features.dtype, backend))
    return loss, difference, torch.empty_like(loss)


@torch.library.impl(f"{_NAMESPACE}::finish_gram_loss", "default")
def _finish_gram_loss(
    sums: Tensor,
    positions: int,
    target: Tensor,
    weight: float,
    offset: Tensor | None,
    offset_weight: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "triton":
        from fastnst_kernels import triton_gram

        return triton_gram.finish_gram_loss(sums, positions, target, weight, offset, offset_weight, dtype)
    return torch_gram.finish_gram_loss(sums, positions, target, weight, offset, offset_weight)


@torch.library.register_fake(f"{_NAMESPACE}::finish_gram_loss")  # type: ignore[untyped-decorator]
def _finish_gram_loss_fake(
    sums: Tensor,
    positions: int,
    target: Tensor,
    weight: float,
    offset: Tensor | None,
    offset_weight: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    loss = sums.new_empty((sums.shape[0],))
    return loss, torch.empty_like(sums, dtype=difference_dtype(dtype, backend)), torch.empty_like(loss)


@torch.library.impl(f"{_NAMESPACE}::content_loss", "default")
def _content_loss(features: Tensor, content: Tensor, weight: float, backend: str) -> Tensor:
    if backend == "triton":
        from fastnst_kernels import triton_content

        return triton_content.content_loss(features, content, weight)
    return torch_tap.content_loss(features, content, weight)


@torch.library.register_fake(f"{_NAMESPACE}::content_loss")  # type: ignore[untyped-decorator]
def _content_loss_fake(features: Tensor, content: Tensor, weight: float, backend: str) -> Tensor:
    return features.new_empty((features.shape[0],), dtype=torch_gram.accumulation_dtype(features.dtype))


@torch.library.impl(f"{_NAMESPACE}::tap_backward", "default")
def _tap_backward(
    gradient: Tensor,
    accumulate: bool,
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
    owned: list[int] | None,
    precision: str,
    backend: str,
) -> None:
    above = gradient if accumulate else upstream
    region = None if owned is None else (owned[0], owned[1], owned[2], owned[3])
    style_term = content_term = None
    if difference is not None and scale is not None and style_gradient is not None:
        style_term = StyleTerm(difference, scale, style_gradient, style_factor)
    if content is not None and content_gradient is not None:
        content_term = ContentTerm(content, content_gradient, content_factor)
    if backend == "triton":
        from fastnst_kernels import triton_tap

        triton_tap.tap_backward(gradient, features, above, style_term, content_term, relu, region, precision)
    else:
        torch_tap.tap_backward(gradient, features, above, style_term, content_term, relu, region)


@torch.library.register_fake(f"{_NAMESPACE}::accumulate_gram")  # type: ignore[untyped-decorator]
@torch.library.register_fake(f"{_NAMESPACE}::tap_backward")  # type: ignore[untyped-decorator]
def _nothing_fake(*_: object) -> None:
    """Of an operator that only writes into what it is given."""


gram = torch.ops.fastnst_kernels.gram.default
accumulate_gram = torch.ops.fastnst_kernels.accumulate_gram.default
gram_difference_loss = torch.ops.fastnst_kernels.gram_difference_loss.default
finish_gram_loss = torch.ops.fastnst_kernels.finish_gram_loss.default
content_loss = torch.ops.fastnst_kernels.content_loss.default
tap_backward = torch.ops.fastnst_kernels.tap_backward.default
