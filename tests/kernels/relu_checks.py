"""The comparison that the tests of the sign-bit epilogues share: values, bits and gradients, equal to the bit."""

import torch
from fastnst_kernels import direct, operators
from fastnst_kernels.launch.layout import dense, empty_bits, empty_map, in_layout, is_dense, packed_by_channels
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool, reference
from torch import Tensor
from torch.nn import functional

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0)


def make_activations(
    shape: tuple[int, int, int, int], dtype: torch.dtype, *, channels_last: bool = False, seed: int = 0
) -> Tensor:
    """Activations as a convolution gives them: of both signs, with equal values and zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    values = torch.where(torch.rand(shape, generator=generator) < 0.3, values.round(), values).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


def make_bias(x: Tensor, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(x.shape[1], generator=generator) * 0.5).to(x.device, x.dtype)


def make_gradient(like: Tensor, *, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator).to(like.device, like.dtype)


def assert_same(result: Tensor, expected: Tensor, what: str) -> None:
    """Equal to the bit, but for the sign of zero; NaN where NaN is expected."""
    assert result.dtype == expected.dtype, what
    assert result.shape == expected.shape, what
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{what}: {text}")


def _plain(x: Tensor, bias: Tensor | None, pool: str | None) -> Tensor:
    """The float32 computation in torch (float64 for float64), which rounds to the dtype of `x` once."""
    wide = x if x.dtype == torch.float64 else x.float()
    y = torch.relu(wide if bias is None else wide + bias.to(wide.dtype)[:, None, None])
    if pool is None:
        return y.to(x.dtype)
    return (functional.max_pool2d(y, 2) if pool == "max" else functional.avg_pool2d(y, 2)).to(x.dtype)


def check_relu(x: Tensor, bias: Tensor | None, *, backend: str, gradient: Tensor | None = None) -> None:
    """`bias_relu` and its operators, out of place and in place: value, bits and gradient."""
    expected = _plain(x, bias, None)
    flags = reference.mask(x, bias)
    gradient = make_gradient(x) if gradient is None else gradient
    masked = reference.relu_gradient(gradient, flags).to(x.dtype)
    for inplace in (False, True) if is_dense(x) else (False,):
        leaf = x.detach().requires_grad_()
        given = leaf.clone() if inplace else leaf
        y = bias_relu(given, bias, inplace=inplace, backend=backend)
        assert (y.data_ptr() == given.data_ptr()) == inplace
        (result,) = torch.autograd.grad(y, leaf, gradient)
        assert_same(y.detach(), expected, "y")
        assert_same(result, masked, "gradient")
    y, bits = operators.bias_relu(backend, x.detach(), bias, True)
    assert torch.equal(bits, reference.pack(flags, operators.by_channels(backend, y))), "bits"
    own = in_layout(gradient, packed_by_channels(y)).clone()
    direct.relu_backward(backend, own, bits, own)
    assert_same(own, masked, "gradient in place")


def check_pool(x: Tensor, bias: Tensor | None, pool: str, *, backend: str, gradient: Tensor | None = None) -> None:
    """`bias_relu_pool` and its operators with the caller's buffers: value, bits and gradient."""
    expected = _plain(x, bias, pool)
    flags = reference.mask(x, bias, pool)
    gradient = make_gradient(expected) if gradient is None else gradient
    spread = reference.pool_gradient(gradient, flags, pool).to(x.dtype)
    leaf = x.detach().requires_grad_()
    pooled = bias_relu_pool(leaf, bias, pool, backend=backend)
    (result,) = torch.autograd.grad(pooled, leaf, gradient)
    assert_same(pooled.detach(), expected, "pooled")
    assert_same(result, spread, "gradient")
    x = dense(x.detach())
    last, by_channels = packed_by_channels(x), operators.by_channels(backend, x)
    buffer = empty_map(x, last, size=(x.shape[2] // 2, x.shape[3] // 2)).fill_(float("nan"))
    bits = empty_bits(x, by_channels).fill_(255)
    direct.bias_relu_pool(backend, x, bias, pool, buffer, bits)
    assert_same(buffer, expected, "pooled into a buffer")
    assert torch.equal(bits, reference.pack(flags, by_channels)), "bits"
    full = torch.full_like(x, float("nan"))
    direct.unpool_backward(backend, in_layout(gradient, last), bits, pool, full)
    assert_same(full, spread, "gradient into a buffer")


def check_special_values(backend: str, dtype: torch.dtype, channels_last: bool, device: str = "cpu") -> None:
    """NaN, infinities and both zeros: values and gradients are those of torch."""
    values = torch.tensor((*SPECIAL, 1.0, -1.0, 2.0))
    x = values[torch.randint(len(values), (1, 8, 4, 8), generator=torch.Generator().manual_seed(3))].to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    gradient = torch.where(torch.isnan(x), 3.0, x).to(dtype)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.relu(leaf), leaf, gradient)
    assert expected[torch.isnan(x)].eq(3.0).all()
    assert_same(reference.relu_gradient(gradient, reference.mask(x)).to(dtype), expected, "reference")
    check_relu(x, None, backend=backend, gradient=gradient)
    for pool in POOLS:
        above = _plain(x, None, pool)
        wide = x.detach().float().requires_grad_()
        (expected,) = torch.autograd.grad(_plain(wide, None, pool), wide, above.float())
        flags = reference.mask(x, None, pool)
        closed = reference.pool_gradient(above, flags, pool).float()
        assert_same(closed, expected, "reference")
        check_pool(x, None, pool, backend=backend, gradient=above)
