"""The operations as torch custom operators, so that `torch.compile` takes them whole.

`backend` is "triton" or "torch"; the Triton module is imported by the first call that needs it. Gradients are in `api`.
"""

import torch
from torch import Tensor

from fastnst_kernels import torch_gram
from fastnst_kernels.layout import empty_gradient

_NAMESPACE = "fastnst_kernels"

torch.library.define(f"{_NAMESPACE}::gram", "(Tensor features, str precision, str backend) -> Tensor")
torch.library.define(
    f"{_NAMESPACE}::gram_difference_loss",
    "(Tensor features, Tensor target, float weight, str precision, str backend) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    f"{_NAMESPACE}::tap_backward",
    "(Tensor features, Tensor difference, Tensor scale, Tensor loss_gradient, float factor, Tensor? upstream, "
    "str precision, str backend) -> Tensor",
)


def difference_dtype(features: Tensor, backend: str) -> torch.dtype:
    """The dtype in which the difference G − A is kept for backward: the tensor cores take it in the features' own."""
    return features.dtype if backend == "triton" else torch_gram.accumulation_dtype(features.dtype)


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


@torch.library.impl(f"{_NAMESPACE}::gram_difference_loss", "default")
def _gram_difference_loss(
    features: Tensor, target: Tensor, weight: float, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "triton":
        from fastnst_kernels import triton_gram

        return triton_gram.gram_difference_loss(features, target, weight, precision)
    return torch_gram.gram_difference_loss(features, target, weight)


@torch.library.register_fake(f"{_NAMESPACE}::gram_difference_loss")  # type: ignore[untyped-decorator]
def _gram_difference_loss_fake(
    features: Tensor, target: Tensor, weight: float, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels = features.shape[:2]
    loss = features.new_empty((batch,), dtype=torch_gram.accumulation_dtype(features.dtype))
    difference = features.new_empty((batch, channels, channels), dtype=difference_dtype(features, backend))
    return loss, difference, torch.empty_like(loss)


@torch.library.impl(f"{_NAMESPACE}::tap_backward", "default")
def _tap_backward(
    features: Tensor,
    difference: Tensor,
    scale: Tensor,
    loss_gradient: Tensor,
    factor: float,
    upstream: Tensor | None,
    precision: str,
    backend: str,
) -> Tensor:
    if backend == "triton":
        from fastnst_kernels import triton_tap

        return triton_tap.tap_backward(features, difference, scale, loss_gradient, factor, upstream, precision)
    return torch_gram.tap_backward(features, difference, scale, loss_gradient, factor, upstream)


@torch.library.register_fake(f"{_NAMESPACE}::tap_backward")  # type: ignore[untyped-decorator]
def _tap_backward_fake(
    features: Tensor,
    difference: Tensor,
    scale: Tensor,
    loss_gradient: Tensor,
    factor: float,
    upstream: Tensor | None,
    precision: str,
    backend: str,
) -> Tensor:
    return empty_gradient(features, features.dtype)


gram = torch.ops.fastnst_kernels.gram.default
gram_difference_loss = torch.ops.fastnst_kernels.gram_difference_loss.default
tap_backward = torch.ops.fastnst_kernels.tap_backward.default
