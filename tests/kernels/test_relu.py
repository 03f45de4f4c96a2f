"""The sign-bit epilogues: the torch and the reference backend, and what the operators and functions refuse."""

from collections.abc import Callable

import pytest
import torch
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool, eager, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import LAYOUTS
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

SHAPES = [(1, 1, 1, 1), (3, 3, 5, 7), (2, 64, 4, 6), (3, 65, 3, 2), (1, 512, 1, 1), (1, 512, 2, 3), (2, 5, 2, 33)]


@LAYOUTS
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_bits_and_gradients(
    shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = make_activations(shape, dtype, channels_last=channels_last)
    for bias, chunk in ((make_bias(x), 64), (None, 1 << 19)):
        monkeypatch.setattr(eager, "_CHUNK", chunk)
        check_relu(x, bias, backend="torch")
        if min(shape[2:]) > 1:
            check_pool(x, bias, "avg", backend="torch")
            check_pool(x, bias, "max", backend="torch")


@LAYOUTS
def test_without_numpy(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_by_numpy", lambda x: False)
    for shape in ((2, 64, 4, 8), (2, 11, 3, 5)):
        x = make_activations(shape, torch.float32, channels_last=channels_last)
        check_relu(x, make_bias(x), backend="torch")
        check_pool(x, make_bias(x), "avg", backend="torch")
        check_pool(x, make_bias(x), "max", backend="torch")


@LAYOUTS
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_special_values(dtype: torch.dtype, channels_last: bool) -> None:
    check_special_values("torch", dtype, channels_last)


@LAYOUTS
def test_reference_backend(channels_last: bool) -> None:
    x = make_activations((2, 5, 4, 7), torch.float32, channels_last=channels_last).requires_grad_()
    for operation in (bias_relu, bias_relu_pool):
        exact, result = (operation(x, make_bias(x), backend=backend) for backend in ("reference", "torch"))
        assert exact.dtype == x.dtype
        torch.testing.assert_close(result, exact, rtol=1e-6, atol=1e-6)
        gradients = [torch.autograd.grad(y, x, make_gradient(y))[0] for y in (exact, result)]
        assert_same(*gradients, "gradient")


@LAYOUTS
def test_gradcheck(channels_last: bool) -> None:
    x = make_activations((2, 3, 5, 4), torch.float64, channels_last=channels_last)
    # Away from the kinks: of zero, and of windows with two largest.
    x = (x.sign() + 0.2 * torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view(x.shape)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bias_relu(x, None), (x,))
    assert torch.autograd.gradcheck(lambda x: bias_relu_pool(x, None, "avg"), (x,))
    assert torch.autograd.gradcheck(lambda x: bias_relu_pool(x, None, "max"), (x,))


def test_bits_are_the_reference_bits() -> None:
    flags = torch.zeros(1, 11, 1, 2, dtype=torch.bool)
    flags[0, 0, 0, 0] = flags[0, 9, 0, 0] = flags[0, 7, 0, 1] = True
    bits = reference.pack(flags, True)
    assert bits.tolist() == [[[[1, 2], [128, 0]]]]
    assert torch.equal(reference.unpack(bits, 11, True), flags)
    assert torch.equal(reference.unpack(reference.pack(flags, False), 2, False), flags)


def test_first_of_equals_gets_the_gradient() -> None:
    x = torch.tensor([[2.0, 3.0], [3.0, 3.0]]).view(1, 1, 2, 2).requires_grad_()
    bias_relu_pool(x, None, "max").sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.0, 1.0, 0.0, 0.0]


def _views() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    return {
        "expanded": lambda like: torch.tensor(0.5).to(like.dtype).expand(like.shape),
        "cropped": lambda like: make_gradient(torch.nn.functional.pad(like, (1, 1, 1, 1)))[:, :, 1:-1, 1:-1],
        "transposed": lambda like: make_gradient(like.mT).mT,
        "other layout": lambda like: make_gradient(like).contiguous(memory_format=torch.channels_last),
    }


@LAYOUTS
@pytest.mark.parametrize("kind", list(_views()))
def test_gradients_by_their_strides(kind: str, channels_last: bool) -> None:
    x = make_activations((2, 9, 6, 8), torch.float32, channels_last=channels_last)
    view = _views()[kind]
    check_relu(x, make_bias(x), backend="torch", gradient=view(x))
    check_pool(x, make_bias(x), "avg", backend="torch", gradient=view(x[:, :, :3, :4]))


@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, 2:7], lambda x: x[:, :, 1:, 1:], lambda x: x.mT, lambda x: x[:1].expand(3, -1, -1, -1)],
    ids=["channels", "crop", "transposed", "expanded"],
)
def test_strided_activations(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = view(make_activations((2, 9, 6, 8), torch.float32))
    check_relu(x, make_bias(x), backend="torch")
    check_pool(x, make_bias(x), "max", backend="torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bias_of_another_dtype(dtype: torch.dtype) -> None:
    x = make_activations((2, 9, 6, 8), torch.float16)
    check_relu(x, make_bias(x).to(dtype), backend="torch")
    check_pool(x, make_bias(x).to(dtype), "avg", backend="torch")


@LAYOUTS
def test_in_a_network(channels_last: bool) -> None:
    layers = torch.nn.ModuleList([torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)])
    layers.requires_grad_(False)
    x = make_activations((1, 3, 9, 8), torch.float32, channels_last=channels_last).requires_grad_()

    def fused(x: torch.Tensor) -> torch.Tensor:
        x = bias_relu(torch.conv2d(x, layers[0].weight, padding=1), layers[0].bias, inplace=True)
        return bias_relu_pool(torch.conv2d(x, layers[1].weight, padding=1), layers[1].bias)

    def plain(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(layers[1](layers[0](x).relu()).relu(), 2)

    results = [fused(x), plain(x)]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in results]
    torch.testing.assert_close(*gradients)


def test_what_is_kept_for_backward_is_bits() -> None:
    x = make_activations((1, 64, 8, 8), torch.float32, channels_last=True).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        bias_relu(x * 1.0)
        bias_relu_pool(x.detach().requires_grad_())
    assert [t.numel() for t in kept if t.dtype == torch.uint8] == [512, 512]
    assert not any(t.numel() >= x.numel() for t in kept)


def test_without_gradients_nothing_is_kept() -> None:
    x = make_activations((1, 4, 3, 3), torch.float32)
    expected = bias_relu(x)
    assert not expected.requires_grad
    assert bias_relu(x, inplace=True).data_ptr() == x.data_ptr()
    assert torch.equal(x, expected)


def test_a_second_derivative_is_refused() -> None:
    x = make_activations((1, 4, 4, 4), torch.float32).requires_grad_()
    for y in (bias_relu(x), bias_relu(x * 1.0, inplace=True), bias_relu_pool(x)):
        with pytest.raises(RuntimeError, match="differentiable once; call backward without create_graph=True"):
            torch.autograd.grad(y.square().sum(), x, create_graph=True)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("channels_last", "inplace"), [(False, True), (True, False)])
def test_compiles_without_a_graph_break(channels_last: bool, inplace: bool) -> None:
    def total(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        y = bias_relu(x * 2, bias, inplace=inplace)
        return bias_relu_pool(y - 0.3, None, "avg").square().sum() + bias_relu_pool(y, bias, "max").sum()

    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for height, width in ((5, 4), (7, 3), (9, 11)):
        x = make_activations((2, 6, height, width), torch.float32, channels_last=channels_last).requires_grad_()
        (eager,) = torch.autograd.grad(total(x, make_bias(x)), x)
        (gradient,) = torch.autograd.grad(compiled(x, make_bias(x)), x)
        torch.testing.assert_close(gradient, eager)


X = torch.rand(2, 4, 4, 4)


@pytest.mark.parametrize(
    ("x", "bias", "message"),
    [
        (torch.rand(4, 3, 3), None, r"shape \(4, 3, 3\) has 3 axes; give \(B, C, H, W\)"),
        (torch.rand(1, 4, 0, 3), None, "is empty"),
        (X.int(), None, "x is torch.int32; backend 'torch' takes float32, float16 or bfloat16, or float64"),
        (X, torch.rand(3), r"bias of shape \(3,\) does not fit x of shape \(2, 4, 4, 4\); give \(4,\)"),
        (X, torch.ones(4, dtype=torch.int64), "bias is torch.int64"),
        (X, torch.rand(4, device="meta"), "bias is on meta, x on cpu"),
        (X, torch.rand(4, requires_grad=True), r"pass bias\.detach\(\)"),
    ],
)
def test_wrong_inputs(x: torch.Tensor, bias: torch.Tensor | None, message: str) -> None:
    for operation in (bias_relu, bias_relu_pool):
        with pytest.raises(ValueError, match=message):
            operation(x, bias)


def test_what_the_functions_refuse() -> None:
    with pytest.raises(ValueError, match="pool 'mean' is unknown; choose one of avg, max"):
        bias_relu_pool(X, None, "mean")
    with pytest.raises(ValueError, match="has no 2×2 window"):
        bias_relu_pool(X[:, :, :1])
    with pytest.raises(ValueError, match="not dense, which inplace=True needs"):
        bias_relu(X[:, 1:], inplace=True)
    with pytest.raises(ValueError, match="does not work in place"):
        bias_relu(X, inplace=True, backend="reference")
    with pytest.raises(ValueError, match="backend 'cuda' is unknown"):
        bias_relu(X, backend="cuda")


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 9), st.integers(1, 40)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    with_bias=st.booleans(),
    pool=st.sampled_from(POOLS),
    seed=st.integers(0, 1000),
)
def test_any_shape_layout_and_value(
    shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool, with_bias: bool, pool: str, seed: int
) -> None:
    x = make_activations(shape, dtype, channels_last=channels_last, seed=seed)
    bias = make_bias(x, seed=seed) if with_bias else None
    check_relu(x, bias, backend="torch")
    if min(shape[2:]) > 1:
        check_pool(x, bias, pool, backend="torch")
