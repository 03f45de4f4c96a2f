"""The comparison that the tests of the image operations share: against float64, each within its budget."""

from collections.abc import Callable
from typing import Any

import torch
from fastnst_kernels.image import adam_step_, image_gradient, normalise, reference, total_variation
from fastnst_kernels.verify import budget
from kernel_checks import assert_expected, assert_within
from torch import Tensor

SCALE = (2.1, 3.7, -0.4)
SHIFT = (0.1, -2.0, 0.3)
RATE = 0.02
EPSILON = 1e-8


def make_image(
    shape: tuple[int, int, int, int], *, channels_last: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Noise in 0…1, part of it at either end as after a clamp, so that neighbours can be equal."""
    generator = torch.Generator().manual_seed(seed)
    image = (torch.rand(shape, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    return image.contiguous(memory_format=torch.channels_last) if channels_last else image


def make_upstream(image: Tensor, dtype: torch.dtype, *, channels_last: bool = True, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.randn(image.shape, generator=generator).to(image.device, dtype, memory_format=layout)


def same_layout(a: Tensor, b: Tensor) -> bool:
    return any(
        a.is_contiguous(memory_format=layout) and b.is_contiguous(memory_format=layout)
        for layout in (torch.contiguous_format, torch.channels_last)
    )


def check_normalise(
    image: Tensor, dtype: torch.dtype, *, backend: str, channels_last: bool, flip: bool, upstream: Tensor | None = None
) -> None:
    """`normalise` and its gradient for `upstream`, or for noise of the result's layout."""
    leaf = image.detach().requires_grad_()
    result = normalise(leaf, SCALE, SHIFT, flip=flip, dtype=dtype, channels_last=channels_last, backend=backend)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert_expected(result, budget.normalise(image, SCALE, SHIFT, flip, dtype), "normalised image")
    above = make_upstream(image, dtype, channels_last=channels_last) if upstream is None else upstream
    result.backward(above)
    assert leaf.grad is not None
    assert leaf.grad.dtype == image.dtype
    if image.is_contiguous() or image.is_contiguous(memory_format=torch.channels_last):
        assert same_layout(leaf.grad, image)
    gradient = budget.normalise_gradient(above, SCALE, flip, image.dtype)
    assert_expected(leaf.grad, gradient, "gradient of the normalised image")


def check_total_variation(image: Tensor, *, backend: str, kind: str, above: Tensor | None = None) -> None:
    """`total_variation` and its gradient for `above` (B,), or for one that makes the gradient about 1."""
    leaf = image.detach().requires_grad_()
    value = total_variation(leaf, kind=kind, backend=backend)
    assert value.dtype == image.dtype
    assert_expected(value, budget.total_variation(image, kind), "total variation")
    if above is None:
        above = torch.arange(1.0, 1 + len(image), dtype=image.dtype, device=image.device) * image[0, 0].numel()
    value.backward(above)
    assert leaf.grad is not None
    gradient = budget.image_gradient(image, None, SCALE, flip=False, tv_weight=above, kind=kind)
    assert_expected(leaf.grad, gradient, "gradient of the total variation")


def check_image_gradient(
    image: Tensor, upstream: Tensor, *, backend: str, flip: bool, kind: str, weight: float = 0.7
) -> None:
    """`image_gradient` with a variation as large as the upstream, so that an error in either shows."""
    weight *= image[0, 0].numel()
    terms: dict[str, Any] = {"flip": flip, "tv_weight": weight, "kind": kind}
    gradient, value = image_gradient(image, upstream, SCALE, backend=backend, **terms)
    assert gradient.dtype == value.dtype == image.dtype
    if image.is_contiguous() or image.is_contiguous(memory_format=torch.channels_last):
        assert same_layout(gradient, image)
    assert_expected(gradient, budget.image_gradient(image, upstream, SCALE, **terms), "gradient")
    assert_expected(value, budget.total_variation(image, kind), "total variation")


def check_adam(
    image: Tensor,
    *,
    backend: str,
    steps: int,
    betas: tuple[float, float] = (0.9, 0.99),
    clamp: bool = True,
    step_of: Callable[[int], Tensor | int] = lambda number: number,
    gradient_of: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> None:
    """`steps` steps of Adam with gradients of many sizes; `step_of` gives each step as its number or a tensor."""
    generator = torch.Generator().manual_seed(4)
    sizes = torch.randn(image.shape, generator=generator).mul(3).exp()
    noise = (torch.randn(image.shape, generator=generator) for _ in range(steps))
    gradients = [gradient_of((sizes * x).to(image)) for x in noise]
    x, m, v = image.clone(), torch.zeros_like(image), torch.zeros_like(image)
    for index, gradient in enumerate(gradients):
        step = step_of(index + 1)
        adam_step_(x, gradient, m, v, step, learning_rate=RATE, betas=betas, clamp=clamp, backend=backend)
    change: dict[str, Any] = {"learning_rate": RATE, "betas": betas, "epsilon": EPSILON}
    expected = budget.adam(image, gradients, limits=(0.0, 1.0) if clamp else None, **change)
    for result, wanted, what in zip((x, m, v), expected, ("image", "first", "second"), strict=True):
        assert_expected(result, wanted, what)


def check_last_rows(image: Tensor, *, backend: str, channels_last: bool) -> None:
    """The operations on an image of any size by what they write last, which is where offsets are largest.

    The rest of an image of billions of elements would take too long, and its float64 copy too much memory.
    """
    upstream = torch.empty(image.shape, dtype=torch.bfloat16, device=image.device)
    if channels_last:
        upstream = upstream.contiguous(memory_format=torch.channels_last)
    for index in range(3):
        upstream[:, index].fill_(0.5 + index)
    last = image[:, :, -2:].clone()
    weight = 0.7 * image[0, 0].numel()
    gradient, value = image_gradient(image, upstream, SCALE, flip=True, tv_weight=weight, backend=backend)
    cropped = reference.image_gradient(last, upstream[:, :, -2:], SCALE, True, 0.7 * last[0, 0].numel())
    allowed = 1e-6 * cropped.abs().max()
    assert ((gradient[:, :, -1] - cropped[:, :, -1]).abs() <= allowed).all()
    assert torch.isfinite(gradient[:, :, ::97]).all()
    exact = torch.zeros_like(value, dtype=torch.float64)
    for start in range(0, image.shape[2], 512):
        rows = image[:, :, start : start + 513].double()
        right, down = rows[:, :, :512].diff(dim=3), rows.diff(dim=2)
        exact += right.square().sum((1, 2, 3)) + down.square().sum((1, 2, 3))
    assert_within(value, exact / image[0, 0].numel(), torch.full_like(exact, 1e-6), "total variation")
    del gradient, upstream
    result = normalise(image, SCALE, SHIFT, dtype=torch.float16, channels_last=channels_last, backend=backend)
    wanted = budget.normalise(last, SCALE, SHIFT, flip=False, dtype=torch.float16)
    assert_expected(result[:, :, -2:], wanted, "normalised image")


def check_adam_at_the_end(image: Tensor, *, backend: str) -> None:
    """One step of Adam on an image of any size, by its last elements."""
    first, second = torch.zeros_like(image), torch.zeros_like(image)
    gradient = torch.ones_like(image)
    before = image[-1, :, -1].clone()
    adam_step_(image, gradient, first, second, 1, learning_rate=RATE, backend=backend)
    torch.testing.assert_close(image[-1, :, -1], (before - RATE).clamp(0, 1), rtol=0.0, atol=1e-6)
    for moments, rest in ((first, 0.1), (second, 0.01)):
        wanted = torch.full((3, image.shape[3]), rest, device=image.device)
        torch.testing.assert_close(moments[-1, :, -1], wanted, rtol=1e-6, atol=0.0)
