"""The sign-bit epilogues against float64, to the bit: the torch implementation, or the interpreted Triton kernels."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool, eager, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import BACKEND, LAYOUTS, by_backend, nan_in_empty
from relu_checks import (
    DTYPES,
    assert_same,
    check_pool,
    check_relu,
    check_special_values,
    make_activations,
    make_bias,
    make_gradient,
)

Shape = tuple[int, int, int, int]
SHAPES = by_backend(
    [(1, 1, 1, 1), (3, 3, 5, 7), (2, 64, 4, 6), (3, 65, 3, 2), (1, 512, 1, 1), (1, 512, 2, 3), (2, 5, 2, 33)],
    [(1, 1, 1, 1), (3, 3, 3, 2), (1, 64, 3, 5), (1, 65, 2, 2), (1, 40, 3, 2), (1, 512, 1, 1), (1, 96, 5, 9)],
)
TORCH_ALONE = pytest.mark.skipif(BACKEND == "triton", reason="holds for any backend")


@pytest.fixture(autouse=True, scope="module")
def _marked_empty() -> Iterator[None]:
    with nan_in_empty() if BACKEND == "triton" else nullcontext():
        yield


@LAYOUTS
@pytest.mark.parametrize("dtype", by_backend([*DTYPES, torch.float64], DTYPES))
@pytest.mark.parametrize("shape", SHAPES)
def test_values_bits_and_gradients(
    shape: Shape, dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = make_activations(shape, dtype, channels_last=channels_last)
    for bias, chunk in by_backend([(make_bias(x), 64), (None, 1 << 19)], [(make_bias(x), 64)]):
        monkeypatch.setattr(eager, "_CHUNK", chunk)
        check_relu(x, bias, backend=BACKEND)
        if min(shape[2:]) > 1:
            for pool in by_backend(POOLS, POOLS[: 1 + (dtype != torch.float32)]):
                check_pool(x, bias, pool, backend=BACKEND)


@LAYOUTS
@pytest.mark.parametrize("dtype", by_backend([*DTYPES, torch.float64], [torch.float32]))
def test_special_values(dtype: torch.dtype, channels_last: bool) -> None:
    check_special_values(BACKEND, dtype, channels_last)


@pytest.mark.parametrize(
    "view",
    [
        lambda like: torch.tensor(0.5).to(like.dtype).expand(like.shape),
        lambda like: make_gradient(torch.nn.functional.pad(like, (1, 1, 1, 1)))[:, :, 1:-1, 1:-1],
        lambda like: make_gradient(like.mT).mT,
        lambda like: make_gradient(like).contiguous(),
    ],
    ids=["expanded", "cropped", "transposed", "other layout"],
)
def test_gradients_by_their_strides(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = make_activations((1, 3, 4, 6), torch.float32, channels_last=True)
    check_relu(x, make_bias(x), backend=BACKEND, gradient=view(x))
    check_pool(x, make_bias(x), "avg", backend=BACKEND, gradient=view(x[:, :, :2, :3]))


@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, 2:7], lambda x: x[:, :, 1:, 1:], lambda x: x.mT, lambda x: x[:1].expand(3, -1, -1, -1)],
    ids=["channels", "crop", "transposed", "expanded"],
)
def test_strided_activations(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = view(make_activations((2, 9, 4, 6), torch.float32))
    check_relu(x, make_bias(x), backend=BACKEND)
    check_pool(x, make_bias(x), "max", backend=BACKEND)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bias_of_another_dtype(dtype: torch.dtype) -> None:
    x = make_activations((1, 9, 2, 4), torch.float32, channels_last=True)
    check_relu(x, make_bias(x).to(dtype), backend=BACKEND)
    check_pool(x, make_bias(x).to(dtype), "max", backend=BACKEND)


@LAYOUTS
def test_without_gradients_nothing_is_kept(channels_last: bool) -> None:
    x = make_activations((1, 8, 2, 4), torch.float32, channels_last=channels_last)
    for pool in POOLS:
        assert not bias_relu_pool(x, None, pool, backend=BACKEND).requires_grad
    y = bias_relu(x, None, backend=BACKEND)
    assert torch.equal(y, x.relu())
    assert bias_relu(x, None, inplace=True, backend=BACKEND) is x
    assert torch.equal(y, x)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("channels_last", "inplace"), by_backend([(False, True), (True, False)], [(True, True)]))
def test_compiles_without_a_graph_break(channels_last: bool, inplace: bool) -> None:
    def total(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        y = bias_relu(x * 2, bias, inplace=inplace, backend=BACKEND)
        pooled = bias_relu_pool(y - 0.3, None, "avg", backend=BACKEND)
        return pooled.square().sum() + bias_relu_pool(y, bias, "max", backend=BACKEND).sum()

    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for height, width in ((5, 4), (7, 3), (9, 11))[: 3 if BACKEND == "torch" else 1]:
        x = make_activations((1, 6, height, width), torch.float32, channels_last=channels_last).requires_grad_()
        (expected,) = torch.autograd.grad(total(x, make_bias(x)), x)
        (gradient,) = torch.autograd.grad(compiled(x, make_bias(x)), x)
        torch.testing.assert_close(gradient, expected)


@settings(max_examples=60 if BACKEND == "torch" else 8, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 4), st.integers(1, 9)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    with_bias=st.booleans(),
    pool=st.sampled_from(POOLS),
    seed=st.integers(0, 1000),
)
def test_any_shape_layout_and_value(
    shape: Shape, dtype: torch.dtype, channels_last: bool, with_bias: bool, pool: str, seed: int
) -> None:
    x = make_activations(shape, dtype, channels_last=channels_last, seed=seed)
    bias = make_bias(x, seed=seed) if with_bias else None
    check_relu(x, bias, backend=BACKEND)
    if min(shape[2:]) > 1:
        check_pool(x, bias, pool, backend=BACKEND)


@TORCH_ALONE
@LAYOUTS
def test_without_numpy(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_by_numpy", lambda x: False)
    for shape in ((2, 64, 4, 8), (2, 11, 3, 5)):
        x = make_activations(shape, torch.float32, channels_last=channels_last)
        check_relu(x, make_bias(x), backend="torch")
        for pool in POOLS:
            check_pool(x, make_bias(x), pool, backend="torch")


@TORCH_ALONE
@LAYOUTS
def test_reference_backend(channels_last: bool) -> None:
    x = make_activations((2, 5, 4, 7), torch.float32, channels_last=channels_last).requires_grad_()
    for operation in (bias_relu, bias_relu_pool):
        exact, result = (operation(x, make_bias(x), backend=backend) for backend in ("reference", "torch"))
        assert exact.dtype == x.dtype
        torch.testing.assert_close(result, exact, rtol=1e-6, atol=1e-6)
        gradients = [torch.autograd.grad(y, x, make_gradient(y))[0] for y in (exact, result)]
        assert_same(*gradients, "gradient")


@TORCH_ALONE
@LAYOUTS
def test_gradcheck(channels_last: bool) -> None:
    x = make_activations((2, 3, 5, 4), torch.float64, channels_last=channels_last)
    # Away from the kinks: of zero, and of windows with two largest.
    x = (x.sign() + 0.2 * torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view(x.shape)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bias_relu(x, None), (x,))
    for pool in POOLS:
        assert torch.autograd.gradcheck(lambda x, pool=pool: bias_relu_pool(x, None, pool), (x,))


@TORCH_ALONE
def test_bits_are_the_reference_bits() -> None:
    flags = torch.zeros(1, 11, 1, 2, dtype=torch.bool)
    flags[0, 0, 0, 0] = flags[0, 9, 0, 0] = flags[0, 7, 0, 1] = True
    bits = reference.pack(flags, True)
    assert bits.tolist() == [[[[1, 2], [128, 0]]]]
    assert torch.equal(reference.unpack(bits, 11, True), flags)
    assert torch.equal(reference.unpack(reference.pack(flags, False), 2, False), flags)


@TORCH_ALONE
def test_first_of_equals_gets_the_gradient() -> None:
    x = torch.tensor([[2.0, 3.0], [3.0, 3.0]]).view(1, 1, 2, 2).requires_grad_()
    bias_relu_pool(x, None, "max").sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.0, 1.0, 0.0, 0.0]


@TORCH_ALONE
def test_bits_are_all_that_is_kept_for_backward() -> None:
    x = make_activations((1, 64, 8, 8), torch.float32, channels_last=True).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        bias_relu(x * 1.0)
        bias_relu_pool(x.detach().requires_grad_())
    assert [t.numel() for t in kept if t.dtype == torch.uint8] == [512, 512]
    assert not any(t.numel() >= x.numel() for t in kept)


@TORCH_ALONE
def test_a_second_derivative_is_refused() -> None:
    x = make_activations((1, 4, 4, 4), torch.float32).requires_grad_()
    for y in (bias_relu(x), bias_relu(x * 1.0, inplace=True), bias_relu_pool(x)):
        with pytest.raises(RuntimeError, match="differentiable once; call backward without create_graph=True"):
            torch.autograd.grad(y.square().sum(), x, create_graph=True)
