"""Checks that the kernel tests share: those of `fastnst_kernels.verify` at their shapes, and `tap` on any tensors."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
from fastnst_kernels import GramDifference, direct
from fastnst_kernels.launch.backends import accumulation_dtype
from fastnst_kernels.losses import accumulate_gram, finish_gram_loss, reference, tap
from fastnst_kernels.losses.targets import ContentTerm, StyleTerm
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool
from fastnst_kernels.relu import reference as epilogues
from fastnst_kernels.verify import budget
from fastnst_kernels.verify.check import LAYOUTS as BOTH_LAYOUTS
from fastnst_kernels.verify.check import worst
from fastnst_kernels.verify.everything import FAMILIES, Task
from fastnst_kernels.verify.losses import target_near
from torch import Tensor

Shape = tuple[int, int, int, int]
T = TypeVar("T")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# The same tests run with torch, and where the kernels are interpreted, with Triton.
BACKEND = "triton" if os.environ.get("TRITON_INTERPRET") == "1" else "torch"
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
TORCH_ALONE = pytest.mark.skipif(BACKEND == "triton", reason="holds for any backend")


def by_backend(torch_cases: Sequence[T], triton_cases: Sequence[T]) -> Sequence[T]:
    """The cases of this process; the interpreter, which runs one program after the other, gets through few."""
    return triton_cases if BACKEND == "triton" else torch_cases


def layout_of(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def check_family(
    name: str,
    *shapes: Shape,
    backend: str = BACKEND,
    device: str = "cpu",
    layouts: Sequence[str] = tuple(BOTH_LAYOUTS),
) -> None:
    """The operations of a family at these shapes, in every mode and in `layouts`, forward and backward."""
    for shape in shapes:
        checks = list(Task(FAMILIES[name], backend, torch.device(device), str(shape), shape, layouts).checks())
        assert checks
        assert [check for check in checks if not check.passed] == []


def assert_expected(result: Tensor, expected: budget.Expected, what: str, *, budgets: float = 1) -> None:
    exact, allowed = expected.exact.expand(result.shape), budgets * expected.budget.expand(len(result))
    error, limit = worst(result, exact, allowed)
    assert error <= limit, f"{what}: error {error}, budget {limit}"


def make_features(
    shape: Shape, dtype: torch.dtype, *, channels_last: bool = False, scale: float = 1.0, seed: int = 0
) -> Tensor:
    """Features as after a ReLU with a mean of their own: non-negative, part of them zero."""
    values = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3).relu() * scale
    return values.to(dtype, memory_format=layout_of(channels_last))


def make_target(features: Tensor, *, seed: int = 1) -> Tensor:
    """A target of the size of the features' Gram matrix, not symmetric, (C, C) float32."""
    noise = torch.randn([features.shape[1]] * 2, generator=torch.Generator().manual_seed(seed))
    return target_near(features, noise.to(features.device))


def make_content(features: Tensor, *, batch: int = 1, channels_last: bool = False) -> Tensor:
    """Content features of the shape of the features, of one image or of as many."""
    values = torch.randn(features.shape, generator=torch.Generator().manual_seed(4))[:batch].relu()
    values = values.to(features.device, features.dtype) * features.abs().amax().clamp_min(1e-3) / 2
    return values.contiguous(memory_format=layout_of(channels_last))


def make_activations(shape: Shape, dtype: torch.dtype, *, channels_last: bool = False, seed: int = 0) -> Tensor:
    """Activations of both signs, with equal ones and zeros among them; their sums need no rounding."""
    values = (4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).round() / 4
    return values.to(dtype, memory_format=layout_of(channels_last))


def before_relu(features: Tensor) -> Tensor:
    """Features before a ReLU that leaves `features`, which are not negative."""
    below = -torch.rand(features.shape, generator=torch.Generator().manual_seed(5))
    return torch.where(features > 0, features, below.to(features.device, features.dtype))


def upstreams(shape: Shape) -> dict[str, Tensor]:
    """Gradients from above in every kind of memory layout, float32."""
    batch, channels, height, width = shape
    values = torch.linspace(-1, 1, batch * channels * (height + 2) * (width + 2))
    wide = values.view(batch, channels, height + 2, width + 2)
    return {
        "expanded": torch.tensor(0.5).expand(shape),
        "expanded over positions": values[: batch * channels].view(batch, channels, 1, 1).expand(shape),
        "cropped": wide[:, :, 1:-1, 1:-1],
        "transposed": wide[:, :, :-2, :-2].transpose(2, 3).contiguous().transpose(2, 3),
        "channels-last": wide[:, :, :-2, :-2].contiguous(memory_format=torch.channels_last),
    }


def check_tap(
    features: Tensor,
    *,
    target: Tensor | None = None,
    content: Tensor | None = None,
    weight: float = 1.0,
    upstream: Tensor | None = None,
    relu: bool = False,
    precision: str = "ieee",
    backend: str = BACKEND,
) -> None:
    """Both losses of `tap` and its gradient within their budgets, for tensors of any strides, `features` ≥ 0.

    The gradients of the losses bring their share to the size of `upstream`, noise unless given: an error in each shows,
    and 16-bit features stay in range.
    """
    if upstream is None:
        noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
        upstream = noise.to(features.device, features.dtype)
    gradients, expected = [], []
    given: dict[str, Any] = {}
    exact: dict[str, Any] = {}
    if target is not None:
        gradients.append(_to_one(reference.gram_loss_gradient(features, target, weight), features.dtype))
        expected.append(budget.gram_loss(features, target, weight, precision))
        given, exact = {"target": target, "weight": weight}, {"style_gradient": gradients[-1]}
    if content is not None:
        gradients.append(_to_one(2 * weight * (features.double() - content.double()), features.dtype))
        expected.append(budget.content_loss(features, content, weight))
        given |= {"content": content, "content_weight": weight}
        exact["content_gradient"] = gradients[-1]
    leaf = (before_relu(features) if relu else features.detach()).requires_grad_()
    passed, *losses = (
        result for result in tap(leaf, relu=relu, precision=precision, backend=backend, **given) if result is not None
    )
    assert torch.equal(passed, features)
    torch.autograd.backward([passed, *losses], [upstream, *gradients])
    for loss, wanted in zip(losses, expected, strict=True):
        assert loss.dtype == accumulation_dtype(features.dtype)
        assert_expected(loss, wanted, "loss")
    assert leaf.grad is not None
    wanted = budget.tap_gradient(features, upstream, relu=relu, precision=precision, **given, **exact)
    assert_expected(leaf.grad, wanted, "gradient")


def _to_one(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return (1 / gradient.abs().mean((1, 2, 3)).clamp_min(1e-30)).to(accumulation_dtype(dtype))


def check_activations(
    x: Tensor,
    bias: Tensor | None,
    *,
    gradient_like: Callable[[Tensor], Tensor] = lambda like: like + 1,
    backend: str = BACKEND,
) -> None:
    """`bias_relu`, alone and with each pool, and its gradient, equal to the bit, for tensors of any strides.

    `gradient_like` makes the gradient from above of the result.
    """
    for pool in (None, *POOLS):
        leaf, exact = x.detach().requires_grad_(), epilogues.bias_relu(x, bias, pool)
        function = bias_relu if pool is None else partial(bias_relu_pool, pool=pool)
        y = function(leaf, bias, backend=backend)
        above = gradient_like(exact.to(x.dtype))
        (gradient,) = torch.autograd.grad(y, leaf, above)
        for result, expected in ((y, exact), (gradient, epilogues.gradient(x, bias, pool, above))):
            torch.testing.assert_close(result, expected.to(x.dtype), rtol=0, atol=0, equal_nan=True)


def check_special_values(dtype: torch.dtype, channels_last: bool, device: str = "cpu", backend: str = BACKEND) -> None:
    """NaN, infinities and both zeros: values and gradients are those of torch."""
    values = torch.tensor((float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -1.0, 2.0))
    x = values[torch.randint(len(values), (1, 8, 4, 8), generator=torch.Generator().manual_seed(3))]
    x = x.to(device, dtype, memory_format=layout_of(channels_last))
    check_activations(x, None, gradient_like=lambda like: torch.where(like.isnan(), 3.0, like), backend=backend)


def gradient_over(
    upstream: Tensor,
    features: Tensor,
    *,
    difference: GramDifference | None = None,
    style_gradient: Tensor | None = None,
    content: Tensor | None = None,
    precision: str = "ieee",
    backend: str = BACKEND,
) -> Tensor:
    """The gradient of a tile before its ReLU, written over `upstream`."""
    ones = torch.ones(len(features), dtype=accumulation_dtype(features.dtype), device=features.device)
    style = None
    if difference is not None:
        above = ones if style_gradient is None else style_gradient
        style = StyleTerm(difference.matrix, difference.scale, above, difference.factor)
    direct.tap_backward(
        backend,
        upstream,
        features=features,
        upstream=upstream,
        style=style,
        content=None if content is None else ContentTerm(content, ones, 2.0),
        relu=True,
        precision=precision,
    )
    return upstream


def _repeated(block: Tensor, height: int, width: int, channels_last: bool, batch: int) -> Tensor:
    """A map of `batch` images made of equal blocks, (1, C, h, w) each; h and w divide its height and width."""
    size = (batch, block.shape[1], height, width)
    result = torch.empty(size, dtype=block.dtype, device=block.device, memory_format=layout_of(channels_last))
    row = block.repeat(1, 1, 1, width // block.shape[3])
    for top in range(0, height, block.shape[2]):
        result[:, :, top : top + block.shape[2]] = row
    return result


def check_repeated(
    block: Tensor, height: int, width: int, *, batch: int, channels_last: bool, backend: str, precision: str = "ieee"
) -> None:
    """A picture of equal blocks has the Gram matrix and the gradient of one, at sizes that float64 does not fit.

    Forward by the sums of two tiles, backward over the memory of the upstream, with each term, at the picture's end.
    """
    channels, side, across = block.shape[1:]
    target, content = make_target(block), make_content(block)
    upstream = torch.randn(block.shape, generator=torch.Generator().manual_seed(7)).to(block.device, block.dtype)
    features = _repeated(block, height, width, channels_last, batch)
    sums = torch.zeros((batch, channels, channels), device=block.device)
    for tile in (features[:, :, :side], features[:, :, side:]):
        accumulate_gram(sums, tile, precision=precision, backend=backend)
    positions = height * width
    assert_expected(sums / positions, budget.gram(block, precision), "Gram matrix of equal blocks", budgets=10)
    loss, difference = finish_gram_loss(sums, positions, target, dtype=block.dtype, backend=backend)
    assert torch.isfinite(loss).all()
    factor = side * across / positions
    style_gradient = _to_one(factor * reference.gram_loss_gradient(block, target), block.dtype)
    gradient = gradient_over(
        _repeated(upstream, height, width, channels_last, batch),
        features,
        difference=difference,
        style_gradient=style_gradient.expand(batch).contiguous(),
        content=_repeated(content, height, width, channels_last, 1),
        precision=precision,
        backend=backend,
    )
    expected = budget.tap_gradient(
        block,
        upstream,
        target=target,
        style_gradient=style_gradient * factor,
        content=content,
        relu=True,
        precision=precision,
    )
    for last in (gradient[-1:, :, -side:, -across:], gradient[:1, :, :side, :across]):
        assert_expected(last, expected, "gradient of equal blocks", budgets=10)
