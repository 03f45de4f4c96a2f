"""The kernels on a GPU: full-size layers, 64-bit offsets, equal runs, captured graphs and memory."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from fastnst_kernels import available_backends, blend_targets, direct, operators
from fastnst_kernels.image import adam_step_, image_gradient, normalise
from fastnst_kernels.launch.layout import empty_bits, empty_map
from fastnst_kernels.lbfgs import FusedLBFGS
from fastnst_kernels.lbfgs.state import Numbers
from fastnst_kernels.losses import gram, tap
from fastnst_kernels.relu import POOLS, bias_relu_pool
from fastnst_kernels.verify.everything import FAMILIES, all_shapes
from fastnst_kernels.verify.lbfgs import octaves
from image_checks import SCALE, SHIFT, check_adam_at_the_end, check_last_rows, make_image
from kernel_checks import (
    DTYPES,
    LAYOUTS,
    Shape,
    check_family,
    check_repeated,
    check_special_values,
    check_tap,
    layout_of,
    make_activations,
    make_content,
    make_features,
    make_target,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")]
MODES = pytest.mark.parametrize(
    ("dtype", "precision"), [*((dtype, "ieee") for dtype in DTYPES), (torch.float32, "tf32")]
)
VGG = [(64, 1), (128, 2), (256, 4), (512, 8), (512, 16)]
ODD = [(3, 65, 37, 53), (1, 1, 1, 1), (1, 3, 511, 509), (65, 64, 8, 8), (2, 40, 33, 64), (1, 512, 1, 1)]
LARGE = [(1, 1024, 33, 31), (1, 64, 256, 4096), *((1, c, 1024 // step, 1024 // step) for c, step in VGG)]
IMAGES = [(1, 3, 1, 1), (3, 3, 37, 53), (2, 3, 64, 100), (1, 3, 1, 1000), (1, 3, 513, 1), (1, 3, 4096, 4096)]
T = TypeVar("T")


def _skip_without(needed: int) -> None:
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory")


def test_triton_comes_first() -> None:
    assert available_backends("cuda")[0] == "triton"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layers_of_512(name: str) -> None:
    shapes = all_shapes(512)
    check_family(name, *(shapes[layer] for layer in FAMILIES[name].layers), backend="triton", device="cuda")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, shape) for name in FAMILIES if name not in ("image", "lbfgs") for shape in ODD + LARGE),
        *((name, s) for name in ("image", "lbfgs") for s in IMAGES),
    ],
)
def test_odd_and_large_shapes(name: str, shape: Shape) -> None:
    check_family(name, shape, backend="triton", device="cuda")


@LAYOUTS
@MODES
@pytest.mark.parametrize(("channels", "step"), VGG)
def test_layers_of_4096(channels: int, step: int, dtype: torch.dtype, precision: str, channels_last: bool) -> None:
    side = 4096 // step
    _skip_without(5 * channels * side * side * torch.finfo(dtype).bits // 8)
    block = make_features((1, channels, 64, 64), dtype).cuda()
    check_repeated(block, side, side, batch=1, channels_last=channels_last, backend="triton", precision=precision)


@LAYOUTS
@pytest.mark.parametrize(("batch", "side"), [(1, 8192), (3, 4096)])
def test_more_elements_than_32_bits_count(batch: int, side: int, channels_last: bool) -> None:
    """More than 2³¹ elements in one image, and in the batch."""
    _skip_without(5 * 2 * batch * 64 * side * side)
    block = make_features((1, 64, 64, 64), torch.float16).cuda()
    check_repeated(block, side, side, batch=batch, channels_last=channels_last, backend="triton")


@pytest.mark.parametrize("scale", [1e3, 2e-4])
def test_float16_far_from_one(scale: float) -> None:
    features = make_features((2, 96, 64, 64), torch.float16, scale=scale).cuda()
    check_tap(features, target=make_target(features), backend="triton")


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: torch.dtype, channels_last: bool) -> None:
    check_special_values(dtype, channels_last, device="cuda", backend="triton")


@LAYOUTS
@pytest.mark.parametrize("pool", POOLS)
def test_more_activations_than_32_bits_count(pool: str, channels_last: bool) -> None:
    """Many equal blocks are each as one alone: the last of 2³¹ activations and more against torch on it alone."""
    height, width, edge = 8448, 4096, 64
    _skip_without(2 * 2 * 64 * height * width * (1 if channels_last else 2))
    layout = layout_of(channels_last)
    block = make_activations((1, 64, edge, edge), torch.float16).cuda()
    bias = torch.linspace(-1, 1, 64, dtype=torch.float16, device="cuda")
    x = torch.empty((1, 64, height, width), dtype=torch.float16, device="cuda").contiguous(memory_format=layout)
    blocks = x.view(1, 64, height // edge, edge, width // edge, edge)
    blocks.copy_(block.view(1, 64, 1, edge, 1, edge).expand_as(blocks))
    last = x[:, :, -edge:, -edge:].clone(memory_format=layout)
    bits, last_bits = empty_bits(x, True), empty_bits(last)
    pooled = empty_map(x, channels_last, size=(height // 2, width // 2))
    direct.bias_relu("triton", x, bias, pool, pooled, bits)
    expected = operators.bias_relu("torch", last, bias, pool, True)
    assert torch.equal(pooled[:, :, -edge // 2 :, -edge // 2 :], expected[0])
    direct.relu_backward("triton", pooled, bits, pool, x)
    spread = operators.relu_backward("torch", expected[0], expected[1], edge, edge, channels_last, pool)
    assert torch.equal(x[:, :, -edge:, -edge:], spread)
    direct.bias_relu("triton", x, bias, None, x, bits)
    last.copy_(spread)
    direct.bias_relu("torch", last, bias, None, last, last_bits)
    assert torch.equal(x[:, :, -edge:, -edge:], last)


@LAYOUTS
@pytest.mark.parametrize("width", [26760, 26761])
def test_more_pixels_than_32_bits_count(width: int, channels_last: bool) -> None:
    """2³¹ elements in one image, in rows that are and that are not aligned."""
    height = 26752
    _skip_without(3 * height * width * 20)
    layout = layout_of(channels_last)
    image = torch.empty((1, 3, height, width), device="cuda", memory_format=layout).uniform_()
    assert image.numel() >= 2**31
    check_last_rows(image, backend="triton", channels_last=channels_last)
    check_adam_at_the_end(image, backend="triton")


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


def test_a_captured_graph_replays() -> None:
    before = torch.randn(1, 64, 64, 64, device="cuda", dtype=torch.float16).requires_grad_()
    target = blend_targets([make_target(before.detach().relu()), torch.rand(64, 64, device="cuda")], [1.0, 0.5])
    content = make_content(before.detach())

    def step() -> list[torch.Tensor]:
        passed, loss, distance = tap(before, target=target, content=content, relu=True)
        assert loss is not None
        assert distance is not None
        pooled = bias_relu_pool(passed.contiguous(memory_format=torch.channels_last) - 0.1).float().sum()
        (gradient,) = torch.autograd.grad(pooled + loss.sum() + distance.sum(), before)
        return [gradient, gram(before.detach())]

    expected = step()
    graph, results = captured(step, step)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected, strict=True))


def test_a_captured_step_counts_on() -> None:
    def state() -> list[torch.Tensor]:
        image = make_image((1, 3, 64, 96)).cuda()
        step = torch.zeros((), dtype=torch.int64, device="cuda")
        return [image, torch.zeros_like(image), torch.zeros_like(image), step]

    def advance(image: torch.Tensor, first: torch.Tensor, second: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        above = normalise(image, SCALE, SHIFT, flip=True, dtype=torch.float16)
        gradient, value = image_gradient(image, above, SCALE, flip=True, tv_weight=3.0)
        adam_step_(image, gradient, first, second, step, learning_rate=0.02, increment=True)
        return value

    eager, replayed = state(), state()
    for _ in range(5):
        expected = advance(*eager)
    graph, value = captured(lambda: advance(*replayed), lambda: advance(*state()))
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()
    assert replayed[3].item() == 5
    assert torch.equal(value, expected)
    assert all(torch.equal(result, wanted) for result, wanted in zip(replayed, eager, strict=True))


@pytest.mark.parametrize("places", [octaves(64, 96), None], ids=["bands", "scalar"])
def test_a_captured_step_of_lbfgs_goes_on(places: Numbers | None) -> None:
    def state() -> tuple[torch.Tensor, torch.Tensor, FusedLBFGS]:
        image = make_image((1, 3, 64, 96)).cuda()
        terms = {"learning_rate": 1.0, "history": 3, "dtype": torch.float16}
        fused = FusedLBFGS(image, places=places, most=0.02, **terms)
        gradient = image.square()
        fused.begin(image, gradient)
        return image, gradient, fused

    def advance(image: torch.Tensor, gradient: torch.Tensor, fused: FusedLBFGS) -> None:
        fused.step(image, gradient)
        gradient.copy_(image.square())

    eager, replayed = state(), state()
    for _ in range(6):
        advance(*eager)
    graph, _ = captured(lambda: advance(*replayed), lambda: advance(*state()))
    for _ in range(6):
        graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(replayed[0], eager[0])
    assert eager[2].tensors()["curved"].any()
