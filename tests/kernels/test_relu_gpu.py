"""The sign-bit kernels on a GPU: full-size layers, 64-bit offsets, equal runs and captured graphs."""

import pytest
import torch
from fastnst_kernels import direct, operators
from fastnst_kernels.launch.layout import empty_bits, empty_map
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool
from kernel_checks import LAYOUTS, captured
from relu_checks import DTYPES, check_pool, check_relu, check_special_values, make_activations, make_bias

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")]
# The layers of VGG at 1024 px, and of a strip of 4096 px.
LAYERS = [(1, 64, 1024, 1024), (1, 128, 512, 512), (1, 256, 256, 256), (1, 512, 128, 128), (1, 64, 256, 4096)]
ODD = [(1, 1, 1, 1), (3, 3, 5, 7), (3, 65, 37, 53), (2, 40, 33, 64), (1, 512, 1, 1), (1, 3, 511, 509)]


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*LAYERS, *ODD])
def test_values_bits_and_gradients(shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool) -> None:
    x = make_activations(shape, dtype, channels_last=channels_last).cuda()
    for bias in (make_bias(x.cpu()).cuda(), None):
        check_relu(x, bias, backend="triton")
        if min(shape[2:]) > 1:
            check_pool(x, bias, "avg", backend="triton")
            check_pool(x, bias, "max", backend="triton")


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: torch.dtype, channels_last: bool) -> None:
    check_special_values("triton", dtype, channels_last, device="cuda")


@LAYOUTS
@pytest.mark.parametrize("pool", POOLS)
def test_more_elements_than_32_bits_count(pool: str, channels_last: bool) -> None:
    """Many equal blocks are each as one alone: 2³¹ activations and more, in one image."""
    check_large(8448, 4096, 64, pool, channels_last, "triton", "cuda")


def check_large(height: int, width: int, edge: int, pool: str, channels_last: bool, backend: str, device: str) -> None:
    """Forward and backward in the caller's buffers on (1, 64, height, width), all blocks of `edge` rows and columns
    equal: the last block against the same computation on it alone."""
    if device == "cuda" and torch.cuda.mem_get_info()[0] < 2 * 2 * 64 * height * width:
        pytest.skip("needs 9 GiB of GPU memory")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    block = make_activations((1, 64, edge, edge), torch.float16).to(device)
    bias = make_bias(block.cpu()).to(device)
    x = torch.empty((1, 64, height, width), dtype=torch.float16, device=device).contiguous(memory_format=layout)
    blocks = x.view(1, 64, height // edge, edge, width // edge, edge)
    blocks.copy_(block.view(1, 64, 1, edge, 1, edge).expand_as(blocks))
    last = x[:, :, -edge:, -edge:].clone(memory_format=layout)

    bits, last_bits = empty_bits(x, operators.by_channels(backend, x)), empty_bits(last)
    pooled = empty_map(x, channels_last, size=(height // 2, width // 2))
    direct.bias_relu_pool(backend, x, bias, pool, pooled, bits)
    expected = operators.bias_relu_pool("torch", last, bias, pool, True)
    assert torch.equal(pooled[:, :, -edge // 2 :, -edge // 2 :], expected[0])
    direct.unpool_backward(backend, pooled, bits, pool, x)
    spread = operators.unpool_backward("torch", expected[0], expected[1], edge, edge, channels_last, pool)
    assert torch.equal(x[:, :, -edge:, -edge:], spread)
    direct.bias_relu(backend, x, bias, x, bits)
    last.copy_(spread)
    direct.bias_relu("torch", last, bias, last, last_bits)
    assert torch.equal(x[:, :, -edge:, -edge:], last)
    direct.relu_backward(backend, x, bits, x)
    assert torch.equal(x[:, :, -edge:, -edge:], last)


def test_two_runs_are_equal_to_the_bit() -> None:
    x = make_activations((1, 128, 123, 125), torch.float16, channels_last=True).cuda().requires_grad_()
    bias = make_bias(x.detach().cpu()).cuda()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        y = bias_relu_pool(bias_relu(x, bias) - 0.1, bias)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
        return y.detach(), gradient

    first = step()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, step(), strict=True))


def test_a_captured_graph_replays() -> None:
    source = make_activations((1, 64, 64, 64), torch.float16, channels_last=True).cuda()
    bias = make_bias(source.cpu()).cuda()
    x, gradient = source.clone(), torch.empty_like(source)
    pooled = empty_map(x, True, size=(32, 32))
    bits, pool_bits = empty_bits(x), empty_bits(x)

    def step() -> None:
        x.copy_(source)
        direct.bias_relu("triton", x, bias, x, bits)
        direct.bias_relu_pool("triton", x, None, "avg", pooled, pool_bits)
        direct.unpool_backward("triton", pooled, pool_bits, "avg", gradient)
        direct.relu_backward("triton", gradient, bits, gradient)

    step()
    expected = gradient.clone()
    graph, _ = captured(step, step)
    gradient.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(gradient, expected)
