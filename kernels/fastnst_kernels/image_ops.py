"""The operations at the image's edge as torch custom operators, so that `torch.compile` takes them whole.

`backend` is "triton" or "torch"; the Triton module is imported by the first call that needs it. Gradients are in
`image`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastnst_kernels import torch_image
from fastnst_kernels.image_layout import dense, empty_image, is_channels_last

_NAMESPACE = "fastnst_kernels"

torch.library.define(
    f"{_NAMESPACE}::normalise",
    "(Tensor image, float[] scale, float[] shift, bool flip, ScalarType dtype, bool channels_last, str backend) "
    "-> Tensor",
)
torch.library.define(
    f"{_NAMESPACE}::normalise_backward",
    "(Tensor upstream, float[] scale, bool flip, ScalarType dtype, bool channels_last, str backend) -> Tensor",
)
torch.library.define(f"{_NAMESPACE}::total_variation", "(Tensor image, str kind, str backend) -> Tensor")
torch.library.define(
    f"{_NAMESPACE}::image_gradient",
    "(Tensor image, Tensor? upstream, float[] scale, bool flip, float tv_weight, Tensor? tv_gradient, str kind, "
    "str backend) -> (Tensor, Tensor)",
)
torch.library.define(
    f"{_NAMESPACE}::adam_step_",
    "(Tensor(a!) image, Tensor gradient, Tensor(b!) first, Tensor(c!) second, Tensor(d!) step, float learning_rate, "
    "float beta_1, float beta_2, float epsilon, float? minimum, float? maximum, bool increment, str backend) -> ()",
)


@torch.library.impl(f"{_NAMESPACE}::normalise", "default")
def _normalise(
    image: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    flip: bool,
    dtype: torch.dtype,
    channels_last: bool,
    backend: str,
) -> Tensor:
    if backend == "triton":
        from fastnst_kernels import triton_image

        return triton_image.normalise(image, scale, shift, flip, dtype, channels_last)
    return torch_image.normalise(image, scale, shift, flip, dtype, channels_last)


@torch.library.register_fake(f"{_NAMESPACE}::normalise")  # type: ignore[untyped-decorator]
def _normalise_fake(
    image: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    flip: bool,
    dtype: torch.dtype,
    channels_last: bool,
    backend: str,
) -> Tensor:
    return empty_image(image, dtype, channels_last=channels_last)


@torch.library.impl(f"{_NAMESPACE}::normalise_backward", "default")
def _normalise_backward(
    upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype, channels_last: bool, backend: str
) -> Tensor:
    if backend == "triton":
        from fastnst_kernels import triton_image

        return triton_image.normalise_backward(upstream, scale, flip, channels_last)
    return torch_image.normalise_backward(upstream, scale, flip, dtype, channels_last)


@torch.library.register_fake(f"{_NAMESPACE}::normalise_backward")  # type: ignore[untyped-decorator]
def _normalise_backward_fake(
    upstream: Tensor, scale: Sequence[float], flip: bool, dtype: torch.dtype, channels_last: bool, backend: str
) -> Tensor:
    return empty_image(upstream, dtype, channels_last=channels_last)


@torch.library.impl(f"{_NAMESPACE}::total_variation", "default")
def _total_variation(image: Tensor, kind: str, backend: str) -> Tensor:
    if backend == "triton":
        from fastnst_kernels import triton_image

        return triton_image.total_variation(image, kind)
    return torch_image.total_variation(image, kind)


@torch.library.register_fake(f"{_NAMESPACE}::total_variation")  # type: ignore[untyped-decorator]
def _total_variation_fake(image: Tensor, kind: str, backend: str) -> Tensor:
    return image.new_empty((image.shape[0],))


@torch.library.impl(f"{_NAMESPACE}::image_gradient", "default")
def _image_gradient(
    image: Tensor,
    upstream: Tensor | None,
    scale: Sequence[float],
    flip: bool,
    tv_weight: float,
    tv_gradient: Tensor | None,
    kind: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    if backend == "triton":
        from fastnst_kernels import triton_image

        return triton_image.image_gradient(image, upstream, scale, flip, tv_weight, tv_gradient, kind)
    return torch_image.image_gradient(image, upstream, scale, flip, tv_weight, tv_gradient, kind)


@torch.library.register_fake(f"{_NAMESPACE}::image_gradient")  # type: ignore[untyped-decorator]
def _image_gradient_fake(
    image: Tensor,
    upstream: Tensor | None,
    scale: Sequence[float],
    flip: bool,
    tv_weight: float,
    tv_gradient: Tensor | None,
    kind: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    gradient = empty_image(image, image.dtype, channels_last=is_channels_last(dense(image)))
    return gradient, image.new_empty((image.shape[0],))


@torch.library.impl(f"{_NAMESPACE}::adam_step_", "default")
def _adam_step(
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
    increment: bool,
    backend: str,
) -> None:
    if increment:
        step.add_(1)
    betas = (beta_1, beta_2)
    limits = None if minimum is None or maximum is None else (minimum, maximum)
    if backend == "triton":
        from fastnst_kernels import triton_adam

        triton_adam.adam_step(image, gradient, first, second, step, learning_rate, betas, epsilon, limits)
    else:
        torch_image.adam_step(image, gradient, first, second, step, learning_rate, betas, epsilon, limits)


@torch.library.register_fake(f"{_NAMESPACE}::adam_step_")  # type: ignore[untyped-decorator]
def _nothing_fake(*_: object) -> None:
    """Of an operator that only writes into what it is given."""


normalise = torch.ops.fastnst_kernels.normalise.default
normalise_backward = torch.ops.fastnst_kernels.normalise_backward.default
total_variation = torch.ops.fastnst_kernels.total_variation.default
image_gradient = torch.ops.fastnst_kernels.image_gradient.default
adam_step_ = torch.ops.fastnst_kernels.adam_step_.default
