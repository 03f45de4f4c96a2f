"""Normalisation, total variation, image gradient and Adam at the image's edge of the network: the public functions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels import operators
from fastnst_kernels.image import reference
from fastnst_kernels.launch.backends import (
    DTYPES,
    LARGEST,
    check_dtype,
    check_map,
    check_number,
    is_transformed,
    refuse_second_derivative,
)
from fastnst_kernels.launch.layout import dense, dense_channels_last

KINDS = ("squared", "absolute", "nine-point")
_STEP_DTYPES = (torch.int64, torch.int32, torch.float32)


def normalise(
    image: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    *,
    flip: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Computes x · scale_c + shift_c by channel, in `dtype` and the memory layout that you choose, in one pass.

    `image` is (B, 3, H, W) float32 (float64 too with backends "torch" and "reference"); NCHW and channels-last are read
    without a copy. `scale` and `shift` are three finite numbers in float32's range each, for the channels of the
    result; with `flip` these are the image's channels in reverse order (RGB to BGR). (x · s − mean)/std is scale =
    s/std and shift = −mean/std.

    Returns (B, 3, H, W) in `dtype` (float32, float16 or bfloat16; float64 with backends "torch" and "reference"),
    channels-last or NCHW, computed in the image's dtype and rounded once.

    The gradient, upstream · scale_c flipped back, has the image's dtype and layout. You can differentiate it once;
    create_graph=True raises RuntimeError.

    `backend` is "auto" (Triton on CUDA and ROCm, torch elsewhere), "triton", "torch", or "reference" (naive float64).

    Raises ValueError for a wrong shape, dtype, number or backend; RuntimeError if triton is asked for and missing.
    """
    backend = _checked_image(image, backend)
    scale, shift = _checked_numbers("scale", scale), _checked_numbers("shift", shift)
    check_dtype(dtype, backend, "dtype is")
    if backend == "reference":
        # What vmap hides of a batch has no memory format of four axes.
        layout = torch.channels_last if channels_last and not is_transformed() else torch.contiguous_format
        return reference.normalise(image, scale, shift, flip).to(dtype, memory_format=layout)
    result: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
        image, scale, shift, flip, dtype, channels_last, backend
    )
    return result


def total_variation(image: Tensor, *, kind: str = "squared", backend: str = "auto") -> Tensor:
    """The total variation of each image, summed over its channels: neighbours to the right and below.

        1/(H·W) Σ |x_{i,j+1} − x_{i,j}|ᵖ + |x_{i+1,j} − x_{i,j}|ᵖ,    p = 2 for kind "squared", 1 for "absolute"
        2 · (d₁/3 + d₂/3 + d₃/12 + d₄/12)                              for kind "nine-point"

    d₁ … d₄ are means of squared differences over channels and positions: to the right and down (H·W of them), and along
    the two diagonals ((H + 1)·(W + 1)), in the image with a replicated border of one (style-transfer-pytorch).

    `image` and `backend` are those of `normalise`. Returns (B,) in the image's dtype, the same to the bit in each run.
    The gradient takes sign(0) = 0, and has the image's layout. You can differentiate it once; create_graph=True raises
    RuntimeError.

    Raises ValueError for a wrong shape, dtype, kind or backend; RuntimeError if triton is asked for and missing.
    """
    backend = _checked_image(image, backend)
    _check_kind(kind)
    if backend == "reference":
        return reference.total_variation(image, kind).to(image.dtype)
    result: Tensor = _TotalVariation.apply(image, kind, backend)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def image_gradient(
    image: Tensor,
    upstream: Tensor,
    scale: Sequence[float],
    *,
    flip: bool = False,
    tv_weight: float,
    kind: str = "squared",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The sum of the backward passes of `normalise` and `total_variation`, and the total variation, in one pass.

        gradient = upstream · scale_c, flipped back, + tv_weight · ∂TV/∂image

    `upstream` is the gradient of `normalise`'s result, (B, 3, H, W) in float32, float16 or bfloat16 (float64 for a
    float64 image); NCHW and channels-last are read without a copy. The other arguments are those of `normalise` and
    `total_variation`; `tv_weight` is a finite number in float32's range.

    Returns (gradient, tv): (B, 3, H, W) in the image's dtype and layout, and (B,), before its weight. Neither is
    differentiable.

    Raises ValueError for a wrong shape, dtype, device, number, kind or backend; RuntimeError if triton is asked for and
    missing.
    """
    backend = _checked_image(image, backend)
    scale = _checked_numbers("scale", scale)
    _check_kind(kind)
    check_number("tv_weight", tv_weight)
    _check_upstream(upstream, image)
    if backend == "reference":
        gradient = reference.image_gradient(image, upstream, scale, flip=flip, tv_weight=tv_weight, kind=kind)
        # In the image's layout, also where a side of 1 leaves it open.
        return torch.empty_like(image).copy_(gradient), reference.total_variation(image, kind).to(image.dtype)
    outputs: tuple[Tensor, Tensor] = operators.image_gradient(
        backend, image, upstream, scale, flip=flip, tv_weight=float(tv_weight), tv_gradient=None, kind=kind
    )
    return outputs


@torch.no_grad()
def adam_step_(
    image: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: Tensor | int,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.99),
    epsilon: float = 1e-8,
    minimum: float = 0.0,
    maximum: float = 1.0,
    clamp: bool = True,
    increment: bool = False,
    backend: str = "auto",
) -> None:
    """One step of Adam (Kingma and Ba 2015, algorithm 1), then a clamp to minimum … maximum, in place, in one pass.

        m ← m + (1 − β₁)(g − m);   v ← β₂ v + (1 − β₂) g²
        x ← x − learning_rate · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + epsilon)

    `image` x, `first` m and `second` v are (B, C, H, W) float32 (float64 too with backends "torch" and "reference"),
    all NCHW or all channels-last, and are written; m and v are zero before the first step. `gradient` g has their shape
    and dtype, in any layout.

    `step` is t = 1, 2, …: a number, or a tensor of one element (int64, int32 or float32) on the image's device, which
    is read there, so that a captured CUDA graph keeps counting. With `increment` the tensor grows by one first.

    Raises ValueError for a wrong shape, layout, dtype, device, number or backend; RuntimeError if triton is asked for
    and missing.
    """
    backend = _checked_backend(image, backend)
    _check_adam_tensors(image, gradient, first, second)
    steps = _checked_step(step, image.device, increment)
    if not torch.compiler.is_compiling():
        _check_adam_numbers(learning_rate, betas, epsilon, limits=(minimum, maximum))
    if increment:
        steps.add_(1)
    change: dict[str, Any] = {"learning_rate": learning_rate, "betas": betas, "epsilon": epsilon}
    change["limits"] = (float(minimum), float(maximum)) if clamp else None
    if backend != "reference":
        step_by = operators.adam_step_ if torch.compiler.is_compiling() else operators.direct.adam_step
        step_by(backend, image, gradient, first, second, step=steps, **change)
        operators.note_written(image, first, second)
        return
    after = reference.adam_step(image, gradient, first, second, int(steps), **change)
    for tensor, value in zip((image, first, second), after, strict=True):
        tensor.copy_(value)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        scale: Sequence[float],
        shift: Sequence[float],
        flip: bool,
        dtype: torch.dtype,
        channels_last: bool,
        backend: str,
    ) -> Tensor:
        ctx.scale, ctx.flip, ctx.backend = scale, flip, backend
        ctx.dtype, ctx.channels_last = image.dtype, dense_channels_last(dense(image))
        result: Tensor = operators.normalise(
            backend, image, scale, shift, flip=flip, dtype=dtype, channels_last=channels_last
        )
        return result

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("image")
        gradient = operators.normalise_backward(
            ctx.backend, upstream, ctx.scale, flip=ctx.flip, dtype=ctx.dtype, channels_last=ctx.channels_last
        )
        return gradient, None, None, None, None, None, None


class _TotalVariation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, kind: str, backend: str) -> Tensor:
        ctx.save_for_backward(image)
        ctx.kind, ctx.backend = kind, backend
        result: Tensor = operators.total_variation(backend, image, kind)
        return result

    @staticmethod
    def backward(ctx: Any, tv_gradient: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative("image")
        (image,) = ctx.saved_tensors
        gradient, _ = operators.image_gradient(
            ctx.backend,
            image,
            None,
            scale=(1.0, 1.0, 1.0),
            flip=False,
            tv_weight=1.0,
            tv_gradient=tv_gradient,
            kind=ctx.kind,
        )
        return gradient, None, None


def _checked_backend(image: Tensor, backend: str) -> str:
    """The backend for this image, or the error that names what is wrong with its axes or its dtype."""
    backend = check_map(image, backend, "image")
    if image.dtype != torch.float32 and not (image.dtype == torch.float64 and backend != "triton"):
        allowed = "float32" if backend == "triton" else "float32 or float64"
        raise ValueError(f"image is {image.dtype}; backend {backend!r} takes {allowed}")
    return backend


def _checked_image(image: Tensor, backend: str) -> str:
    """The backend for an image of three channels, or the error that names what is wrong with it."""
    backend = _checked_backend(image, backend)
    if image.shape[1] != 3:
        raise ValueError(f"image of shape {tuple(image.shape)} has {image.shape[1]} channels; give three")
    return backend


def _checked_numbers(name: str, numbers: Sequence[float]) -> tuple[float, ...]:
    if len(numbers) != 3:
        raise ValueError(f"{name} has {len(numbers)} numbers; give three, one for each channel")
    for number in numbers:
        check_number(name, number)
    return tuple(float(number) for number in numbers)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")


def _check_upstream(upstream: Tensor, image: Tensor) -> None:
    if upstream.shape != image.shape:
        raise ValueError(
            f"upstream of shape {tuple(upstream.shape)} does not fit an image of shape {tuple(image.shape)}; "
            "give the gradient of the normalised image"
        )
    if upstream.dtype not in (*DTYPES, image.dtype):
        raise ValueError(f"upstream is {upstream.dtype}; give float32, float16 or bfloat16, or the image's dtype")
    if upstream.device != image.device:
        raise ValueError(f"upstream is on {upstream.device} and the image is on {image.device}; move it there")


def _check_adam_tensors(image: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> None:
    for name, tensor in (("gradient", gradient), ("first", first), ("second", second)):
        if (tensor.shape, tensor.dtype, tensor.device) != (image.shape, image.dtype, image.device):
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}; give it as the image is, "
                f"{tuple(image.shape)} {image.dtype} on {image.device}"
            )
    written = (image, first, second)
    if not any(
        all(tensor.is_contiguous(memory_format=layout) for tensor in written)
        for layout in (torch.contiguous_format, torch.channels_last)
    ):
        raise ValueError(
            f"image, first and second have strides {', '.join(str(tensor.stride()) for tensor in written)}; "
            "make all of them contiguous, or all channels-last"
        )


def _checked_step(step: Tensor | int, device: torch.device, increment: bool) -> Tensor:
    """The step as a tensor on `device`, or the error that names what is wrong with it."""
    if not isinstance(step, Tensor):
        if increment:
            raise ValueError(f"step {step} is a number, which cannot be incremented in place; give a tensor")
        if step < 1:
            raise ValueError(f"step {step} is below 1; the first step is 1")
        return torch.full((), step, dtype=torch.int64, device=device)
    if step.numel() != 1 or step.dtype not in _STEP_DTYPES or step.device != device:
        raise ValueError(
            f"step is {tuple(step.shape)} {step.dtype} on {step.device}; "
            f"give one element of int64, int32 or float32 on {device}"
        )
    return step


def _check_adam_numbers(
    learning_rate: float, betas: tuple[float, float], epsilon: float, limits: tuple[float, float]
) -> None:
    for name, number in (("learning_rate", learning_rate), ("epsilon", epsilon)):
        if not 0 <= number <= LARGEST:
            raise ValueError(f"{name} {number} is out of range; give a finite number of 0 or more")
    for beta in betas:
        if not 0 <= beta < 1:
            raise ValueError(f"beta {beta} is out of range; give a number from 0 to below 1")
    if not limits[0] <= limits[1]:
        raise ValueError(f"minimum {limits[0]} is above maximum {limits[1]}; give the smaller number first")
