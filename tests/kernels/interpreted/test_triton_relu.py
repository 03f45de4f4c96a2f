"""The sign-bit kernels in the interpreter. Shapes are small: it runs one program after the other."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fastnst_kernels import direct, operators
from fastnst_kernels.launch.launch import interpreted
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS
from relu_checks import (
    DTYPES,
    check_pool,
    check_relu,
    check_special_values,
    make_activations,
    make_bias,
    make_gradient,
)


@pytest.fixture(autouse=True, scope="module")
def _marked_empty() -> Iterator[None]:
    """What a kernel is to write holds NaN, or bytes of ones, before."""

    def filled(create: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def create_filled(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = create(*args, **kwargs)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else 255)

        return create_filled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", filled(torch.empty))
        patch.setattr(torch, "empty_like", filled(torch.empty_like))
        yield


def test_these_are_the_interpreted_kernels() -> None:
    assert interpreted()


@pytest.mark.parametrize(
    ("shape", "channels_last", "dtype"),
    [
        *(((3, 3, 3, 2), True, dtype) for dtype in DTYPES),
        *(((1, 2, 3, 5), False, dtype) for dtype in DTYPES),
        ((1, 1, 1, 1), False, torch.float32),
        ((1, 64, 3, 5), True, torch.float16),
        ((1, 65, 2, 2), True, torch.float32),
        ((1, 40, 3, 2), True, torch.bfloat16),
        ((1, 512, 1, 1), True, torch.float16),
        ((1, 1, 2, 64), False, torch.bfloat16),
        ((3, 1, 2, 8), False, torch.float16),
    ],
)
def test_values_bits_and_gradients(shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool) -> None:
    x = make_activations(shape, dtype, channels_last=channels_last)
    check_relu(x, make_bias(x), backend="triton")
    if min(shape[2:]) > 1:
        check_pool(x, make_bias(x), "avg" if dtype == torch.float32 else "max", backend="triton")


@pytest.mark.parametrize(
    ("shape", "channels_last"), [((1, 96, 5, 9), True), ((1, 2, 7, 160), False), ((2, 65, 5, 8), True)]
)
def test_several_programs(shape: tuple[int, int, int, int], channels_last: bool) -> None:
    x = make_activations(shape, torch.float16, channels_last=channels_last)
    check_relu(x, None, backend="triton")
    check_pool(x, None, "avg", backend="triton")


@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.float32, True), (torch.bfloat16, False)])
def test_special_values(dtype: torch.dtype, channels_last: bool) -> None:
    check_special_values("triton", dtype, channels_last)


@pytest.mark.parametrize("kind", ["expanded", "cropped", "other layout"])
def test_gradients_by_their_strides(kind: str) -> None:
    x = make_activations((1, 3, 4, 6), torch.float32, channels_last=True)

    def view(like: torch.Tensor) -> torch.Tensor:
        if kind == "expanded":
            return torch.tensor(0.5).expand(like.shape)
        if kind == "cropped":
            return make_gradient(torch.nn.functional.pad(like, (1, 1, 1, 1)))[:, :, 1:-1, 1:-1]
        return make_gradient(like).contiguous()

    check_relu(x, make_bias(x), backend="triton", gradient=view(x))
    check_pool(x, make_bias(x), "avg", backend="triton", gradient=view(x[:, :, :2, :3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bias_of_another_dtype(dtype: torch.dtype) -> None:
    x = make_activations((1, 9, 2, 4), torch.float32, channels_last=True)
    check_relu(x, make_bias(x).to(dtype), backend="triton")
    check_pool(x, make_bias(x).to(dtype), "max", backend="triton")


def test_bits_that_do_not_start_at_a_word() -> None:
    x = make_activations((1, 32, 2, 2), torch.float32, channels_last=True)
    y, bits = operators.bias_relu("triton", x, None, True)
    moved = torch.zeros(bits.numel() + 1, dtype=torch.uint8)[1:].view(bits.shape)
    direct.bias_relu("triton", x, None, x, moved)
    assert torch.equal(moved, bits)
    assert torch.equal(x, y)


@LAYOUTS
def test_without_gradients(channels_last: bool) -> None:
    x = make_activations((1, 8, 2, 4), torch.float32, channels_last=channels_last)
    for pool in POOLS:
        pooled = bias_relu_pool(x, None, pool, backend="triton")
        assert torch.equal(pooled, bias_relu_pool(x, None, pool, backend="torch"))
    y = bias_relu(x, None, backend="triton")
    assert torch.equal(y, x.relu())
    assert bias_relu(x, None, inplace=True, backend="triton") is x
    assert torch.equal(y, x)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_graph_break() -> None:
    x = make_activations((1, 6, 3, 2), torch.float32, channels_last=True).requires_grad_()

    def total(x: torch.Tensor) -> torch.Tensor:
        y = bias_relu(x * 2, None, inplace=True, backend="triton")
        return bias_relu_pool(y - 0.3, None, "avg", backend="triton").square().sum()

    (eager,) = torch.autograd.grad(total(x), x)
    (compiled,) = torch.autograd.grad(torch.compile(total, fullgraph=True, backend="aot_eager")(x), x)
    assert torch.equal(eager, compiled)


@settings(max_examples=8, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 4), st.integers(1, 5)),
    dtype=st.sampled_from(DTYPES),
    with_bias=st.booleans(),
    pool=st.sampled_from(POOLS),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_value(
    shape: tuple[int, int, int, int], dtype: torch.dtype, with_bias: bool, pool: str, seed: int
) -> None:
    x = make_activations(shape, dtype, channels_last=True, seed=seed)
    bias = make_bias(x, seed=seed) if with_bias else None
    check_relu(x, bias, backend="triton")
    if min(shape[2:]) > 1:
        check_pool(x, bias, pool, backend="triton")
