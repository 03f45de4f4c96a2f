"""The comparison that the kernel tests share: an operation, forward and backward, against float64 within its budget."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from fastnst_kernels import gram, gram_loss, style_tap
from fastnst_kernels.launch.backends import accumulation_dtype
from fastnst_kernels.losses import reference
from fastnst_kernels.verify import budget
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# The same tests run with torch, and where the kernels are interpreted, with Triton.
BACKEND = "triton" if os.environ.get("TRITON_INTERPRET") == "1" else "torch"
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])


T = TypeVar("T")


def by_backend(torch_cases: Sequence[T], triton_cases: Sequence[T]) -> Sequence[T]:
    """The cases of this process; the interpreter, which runs one program after the other, gets through few."""
    return triton_cases if BACKEND == "triton" else torch_cases


@contextmanager
def nan_in_empty() -> Iterator[None]:
    """Tensors that torch would leave uninitialised are full of NaN, or of set bits: an unwritten element shows."""

    def filled(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def create_filled(*args: Any, **kwargs: Any) -> Tensor:
            tensor = create(*args, **kwargs)
            if tensor.dtype == torch.uint8:
                return tensor.fill_(255)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return create_filled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", filled(torch.empty))
        patch.setattr(torch, "empty_like", filled(torch.empty_like))
        yield


def captured(step: Callable[[], T], warm_up: Callable[[], object]) -> tuple[torch.cuda.CUDAGraph, T]:
    """`step` as a CUDA graph, and what it returned, after `warm_up` on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm_up()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph, result


def in_both_layouts(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[Any, Any, bool]]:
    """Each pair of values with one of the two layouts in turn: each value meets every other one, and both layouts."""
    return [(a, b, (i + j) % 2 == 1) for i, a in enumerate(first) for j, b in enumerate(second)]


def make_features(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    *,
    channels_last: bool = False,
    scale: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Features as after a ReLU with a mean of their own: non-negative, part of them zero."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(shape, generator=generator) + 0.3).relu() * scale
    features = values.to(dtype)
    return features.contiguous(memory_format=torch.channels_last) if channels_last else features


def make_target(features: Tensor, *, seed: int = 1) -> Tensor:
    """A target of the size of the features' Gram matrix, not symmetric, (C, C) float32."""
    generator = torch.Generator().manual_seed(seed)
    matrix = reference.gram(features)[0].float().cpu()
    return (matrix * (0.5 + torch.rand(matrix.shape, generator=generator))).to(features.device)


def upstreams(shape: tuple[int, int, int, int]) -> dict[str, Tensor]:
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


def assert_within(result: Tensor, exact: Tensor, allowed: Tensor, what: str) -> None:
    error = budget.relative_error(result, exact.expand(result.shape))
    assert torch.isfinite(result).all(), f"{what} is not finite"
    assert (error <= allowed).all(), f"{what}: error {error.tolist()}, budget {allowed.tolist()}"


def assert_expected(result: Tensor, expected: budget.Expected, what: str, *, budgets: float = 1) -> None:
    assert_within(result, expected.exact, budgets * expected.budget, what)


def check_style_tap(
    features: Tensor,
    target: Tensor,
    *,
    backend: str,
    weight: float = 1.0,
    upstream: Tensor | None = None,
    precision: str = "ieee",
) -> None:
    """Loss and gradient of `style_tap` within their budgets.

    The gradient from above is `upstream`, or noise as large as the gradient of the loss, so that an error in either
    shows; the gradient of the loss is scaled to that size as well, which 16-bit features need to stay in range.
    """
    generator = torch.Generator().manual_seed(2)
    own = reference.gram_loss_gradient(features, target, weight)
    size = own.abs().mean((1, 2, 3)).clamp_min(1e-30)
    loss_gradient = (1.0 / size).to(accumulation_dtype(features.dtype))
    if upstream is None:
        upstream = torch.randn(features.shape, generator=generator).to(features.device, features.dtype)
    leaf = features.detach().requires_grad_()
    passed, loss = style_tap(leaf, target, weight, precision=precision, backend=backend)
    assert passed.data_ptr() == leaf.data_ptr()
    assert loss.dtype == loss_gradient.dtype
    torch.autograd.backward([passed, loss], [upstream, loss_gradient])
    assert leaf.grad is not None
    assert_expected(loss, budget.gram_loss(features, target, weight, precision), "loss")
    terms: dict[str, Any] = {"target": target, "weight": weight, "style_gradient": loss_gradient}
    assert_expected(leaf.grad, budget.tap_gradient(features, upstream, precision=precision, **terms), "gradient")


def check_gram(features: Tensor, *, backend: str, precision: str = "ieee") -> None:
    """The Gram matrix and its gradient within their budgets, and the matrix symmetric to the bit."""
    leaf = features.detach().requires_grad_()
    result = gram(leaf, precision=precision, backend=backend)
    generator = torch.Generator().manual_seed(3)
    above = torch.randn(result.shape, generator=generator).to(features.device, result.dtype) * features[0, 0].numel()
    result.backward(above)
    assert leaf.grad is not None
    assert torch.equal(result, result.mT)
    assert_expected(result, budget.gram(features, precision), "Gram matrix")
    assert_expected(leaf.grad, budget.gram_gradient(features, above, precision), "gradient of the Gram matrix")


def check_loss_gradient_strides(backend: str) -> None:
    """The gradient of `gram_loss` of two images for a loss gradient of stride 0, and for one of stride 2."""
    features = make_features((2, 9, 5, 6), torch.float32)
    target = make_target(features)
    own = reference.gram_loss_gradient(features, target)
    for loss_gradient in (torch.tensor(1.0).expand(2), torch.tensor([2.0, 7.0, -3.0])[::2]):
        leaf = features.detach().requires_grad_()
        gram_loss(leaf, target, backend=backend).backward(loss_gradient)
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), loss_gradient.double()[:, None, None, None] * own)
