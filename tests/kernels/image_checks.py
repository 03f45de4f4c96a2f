"""The comparison that the tests of the image operations share: against float64, each within its budget."""

from typing import Any

import torch
from fastnst_kernels.image import adam_step_, image_gradient, normalise, reference, total_variation
from fastnst_kernels.verify import budget
from kernel_checks import BACKEND, Shape, assert_expected, layout_of
from torch import Tensor

SCALE = (2.1, 3.7, -0.4)
SHIFT = (0.1, -2.0, 0.3)
RATE = 0.02


def make_image(
    shape: Shape, *, channels_last: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Noise in 0…1, part of it at either end as after a clamp, so that neighbours can be equal."""
    generator = torch.Generator().manual_seed(seed)
    image = (torch.rand(shape, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    return image.contiguous(memory_format=layout_of(channels_last))


def make_upstream(image: Tensor, dtype: torch.dtype, *, channels_last: bool = True, seed: int = 1) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return noise.to(image.device, dtype, memory_format=layout_of(channels_last))


def check_image(
    image: Tensor, upstream: Tensor, *, flip: bool = False, kind: str = "squared", backend: str = BACKEND
) -> None:
    """`normalise`, its gradient, and `image_gradient`, for tensors of any strides.

    The variation's share is as large as the upstream's, so that an error in either shows.
    """
    leaf = image.detach().requires_grad_()
    result = normalise(leaf, SCALE, SHIFT, flip=flip, dtype=upstream.dtype, backend=backend)
    result.backward(upstream)
    assert leaf.grad is not None
    assert_expected(result, budget.normalise(image, SCALE, SHIFT, flip, upstream.dtype), "normalised image")
    assert_expected(leaf.grad, budget.normalise_gradient(upstream, SCALE, flip, image.dtype), "its gradient")
    terms: dict[str, Any] = {"flip": flip, "tv_weight": 0.7 * image[0, 0].numel(), "kind": kind}
    gradient, value = image_gradient(image, upstream, SCALE, backend=backend, **terms)
    assert_expected(gradient, budget.image_gradient(image, upstream, SCALE, **terms), "gradient")
    for variation in (value, total_variation(image, kind=kind, backend=backend)):
        assert_expected(variation, budget.total_variation(image, kind), "total variation")


def check_last_rows(image: Tensor, *, backend: str, channels_last: bool) -> None:
    """The operations on an image of any size by what they write last, which is where offsets are largest.

    The rest of an image of billions of elements would take too long, and its float64 copy too much memory.
    """
    upstream = torch.empty(
        image.shape, dtype=torch.bfloat16, device=image.device, memory_format=layout_of(channels_last)
    )
    for index in range(3):
        upstream[:, index].fill_(0.5 + index)
    last = image[:, :, -2:].clone()
    weight = 0.7 * image[0, 0].numel()
    gradient, value = image_gradient(image, upstream, SCALE, flip=True, tv_weight=weight, backend=backend)
    cropped = reference.image_gradient(last, upstream[:, :, -2:], SCALE, True, 0.7 * last[0, 0].numel())
    assert ((gradient[:, :, -1] - cropped[:, :, -1]).abs() <= 1e-6 * cropped.abs().max()).all()
    assert torch.isfinite(gradient[:, :, ::97]).all()
    exact = torch.zeros_like(value, dtype=torch.float64)
    for start in range(0, image.shape[2], 512):
        rows = image[:, :, start : start + 513].double()
        right, down = rows[:, :, :512].diff(dim=3), rows.diff(dim=2)
        exact += right.square().sum((1, 2, 3)) + down.square().sum((1, 2, 3))
    wanted = budget.Expected(exact / image[0, 0].numel(), torch.full_like(exact, 1e-6))
    assert_expected(value, wanted, "total variation")
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
