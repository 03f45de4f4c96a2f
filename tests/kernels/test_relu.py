"""The sign-bit epilogues, equal to the bit to their references, by the torch implementation or interpreted Triton."""

from collections.abc import Callable

import pytest
import torch
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import (
    BACKEND,
    LAYOUTS,
    TORCH_ALONE,
    Shape,
    by_backend,
    check_activations,
    check_family,
    check_special_values,
    make_activations,
)

SHAPES = by_backend(
    [(1, 1, 1, 1), (3, 3, 5, 7), (2, 64, 4, 6), (3, 65, 3, 2), (1, 512, 1, 1), (1, 512, 2, 3), (2, 5, 2, 33)],
    [(1, 1, 1, 1), (3, 3, 3, 2), (1, 64, 3, 5), (1, 65, 2, 2), (1, 512, 1, 1), (1, 96, 5, 9)],
)
BIAS = torch.linspace(-1, 1, 9)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_bits_and_gradients(shape: Shape) -> None:
    check_family("relu", shape)


@settings(max_examples=20 if BACKEND == "torch" else 1, deadline=None, database=None, derandomize=True)
@given(shape=st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 4), st.integers(1, 9)))
def test_any_shape(shape: Shape) -> None:
    check_family("relu", shape)


@LAYOUTS
@pytest.mark.parametrize("dtype", by_backend([torch.float32, torch.float16, torch.bfloat16], [torch.float32]))
def test_special_values(dtype: torch.dtype, channels_last: bool) -> None:
    check_special_values(dtype, channels_last)


@pytest.mark.parametrize(
    "view",
    [
        lambda like: torch.tensor(0.5).to(like.dtype).expand(like.shape),
        lambda like: torch.nn.functional.pad(like + 1, (1, 1, 1, 1))[:, :, 1:-1, 1:-1],
        lambda like: (like.mT + 1).contiguous().mT,
        lambda like: (like + 1).contiguous(),
    ],
    ids=["expanded", "cropped", "transposed", "other layout"],
)
def test_gradients_by_their_strides(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = make_activations((1, 9, 4, 6), torch.float32, channels_last=True)
    check_activations(x, BIAS, gradient_like=view)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 2:11],
        lambda x: x[:, :9, 1:, 1:],
        lambda x: x[:, :9].mT,
        lambda x: x[:1, :9].expand(3, -1, -1, -1),
    ],
    ids=["channels", "crop", "transposed", "expanded"],
)
def test_strided_activations(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    check_activations(view(make_activations((2, 12, 4, 6), torch.float32)), BIAS)


@pytest.mark.parametrize("bias", [None, BIAS.half(), BIAS.bfloat16()], ids=["none", "float16", "bfloat16"])
def test_no_bias_and_those_of_other_dtypes(bias: torch.Tensor | None) -> None:
    check_activations(make_activations((1, 9, 3, 4), torch.float32, channels_last=True), bias)


@LAYOUTS
def test_without_gradients_nothing_is_kept(channels_last: bool) -> None:
    x = make_activations((1, 8, 2, 4), torch.float32, channels_last=channels_last)
    for pool in POOLS:
        assert not bias_relu_pool(x, None, pool, backend=BACKEND).requires_grad
    y = bias_relu(x, None, backend=BACKEND)
    assert torch.equal(y, x.relu())
    assert bias_relu(x, None, inplace=True, backend=BACKEND) is x
    assert torch.equal(y, x)


@TORCH_ALONE
class TestOnTorchAlone:
    """The parts of torch's own computation, the bits, and what is kept for backward."""

    @LAYOUTS
    def test_reference_backend_and_float64(self, channels_last: bool) -> None:
        x = make_activations((2, 9, 4, 7), torch.float32, channels_last=channels_last)
        check_activations(x, BIAS, backend="reference")
        check_activations(x.double(), BIAS.double())

    def test_bits_are_the_reference_bits(self) -> None:
        flags = torch.zeros(1, 11, 1, 2, dtype=torch.bool)
        flags[0, 0, 0, 0] = flags[0, 9, 0, 0] = flags[0, 7, 0, 1] = True
        bits = torch.tensor([[[[1, 2], [128, 0]]]], dtype=torch.uint8)
        assert torch.equal(reference.unpack(bits, 11, True), flags)

    def test_bits_are_all_that_is_kept_for_backward(self) -> None:
        x = make_activations((1, 64, 8, 8), torch.float32, channels_last=True).requires_grad_()
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
        ):
            bias_relu(x * 1.0)
            bias_relu_pool(x.detach().requires_grad_())
        assert [t.numel() for t in kept if t.dtype == torch.uint8] == [512, 512]
        assert not any(t.numel() >= x.numel() for t in kept)
