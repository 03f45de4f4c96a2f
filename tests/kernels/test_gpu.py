"""The kernels on a GPU: full-size layers, 64-bit offsets, equal runs, captured graphs and memory."""

import pytest
import torch
from fastnst_kernels import available_backends, direct, operators
from fastnst_kernels.image import adam_step_, image_gradient, normalise
from fastnst_kernels.launch.layout import empty_bits, empty_map
from fastnst_kernels.losses import accumulate_gram, blend_targets, finish_gram_loss, gram, tap
from fastnst_kernels.relu import POOLS, bias_relu, bias_relu_pool
from image_checks import (
    SCALE,
    SHIFT,
    check_adam,
    check_adam_at_the_end,
    check_image_gradient,
    check_last_rows,
    check_normalise,
    check_total_variation,
    make_image,
    make_upstream,
)
from kernel_checks import DTYPES, LAYOUTS, captured, check_gram, check_style_tap, make_features, make_target
from relu_checks import check_pool, check_relu, check_special_values, make_activations, make_bias
from tap_checks import check_equal_runs, check_repeated, check_tap, check_tiles, make_content, tile_gradient

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")]
Shape = tuple[int, int, int, int]
MODES = pytest.mark.parametrize(
    ("dtype", "precision"), [*((dtype, "ieee") for dtype in DTYPES), (torch.float32, "tf32")]
)
VGG = [(64, 1), (128, 2), (256, 4), (512, 8), (512, 16)]
ODD = [(3, 65, 37, 53), (1, 1, 1, 1), (1, 3, 511, 509), (65, 64, 8, 8), (2, 40, 33, 64), (1, 512, 1, 1)]


def _skip_without(needed: int) -> None:
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory")


def test_triton_comes_first() -> None:
    assert available_backends("cuda")[0] == "triton"


@LAYOUTS
@MODES
@pytest.mark.parametrize("shape", [*((1, c, 512 // step, 512 // step) for c, step in VGG), (1, 1024, 33, 31), *ODD])
def test_losses(shape: Shape, dtype: torch.dtype, precision: str, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last).cuda()
    check_style_tap(features, make_target(features), backend="triton", precision=precision)
    check_gram(features, backend="triton", precision=precision)
    content = make_content(features, channels_last=not channels_last)
    for style, p, relu in ((True, None, True), (False, content, True), (True, content, False)):
        check_tap(features, backend="triton", style=style, content=p, relu=relu, precision=precision)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "step"), VGG)
def test_layers_of_1024(channels: int, step: int, dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features((1, channels, 1024 // step, 1024 // step), dtype, channels_last=channels_last).cuda()
    content = make_content(features, channels_last=channels_last)
    check_tap(features, backend="triton", style=True, content=content, relu=True)


@LAYOUTS
@MODES
def test_tiles(dtype: torch.dtype, precision: str, channels_last: bool) -> None:
    features = make_features((1, 64, 200, 208), dtype, channels_last=channels_last).cuda()
    check_tiles(features, backend="triton", relu=True, side=96, halo=16, precision=precision)
    features = make_features((2, 256, 37, 53), dtype, channels_last=channels_last).cuda()
    check_tiles(features, backend="triton", relu=False, side=30, halo=5, precision=precision)


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
    check_style_tap(features, make_target(features), backend="triton")


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
def test_twenty_runs_are_equal_to_the_bit(dtype: torch.dtype, channels_last: bool) -> None:
    for shape in ((1, 64, 253, 255), (2, 256, 61, 63), (1, 512, 32, 32)):
        features = make_features(shape, dtype, channels_last=channels_last).cuda()
        check_equal_runs(features, backend="triton", runs=20)
    image = make_image((2, 3, 1023, 1025), channels_last=channels_last).cuda()
    upstream = make_upstream(image, dtype)
    x = make_activations((1, 128, 123, 125), dtype, channels_last=channels_last).cuda().requires_grad_()
    bias = make_bias(x.detach().cpu()).cuda()

    def run() -> tuple[torch.Tensor, ...]:
        y = bias_relu_pool(bias_relu(x, bias) - 0.1, bias)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
        return y.detach(), gradient, *image_gradient(image, upstream, SCALE, tv_weight=0.1)

    first = run()
    for _ in range(20):
        assert all(torch.equal(result, before) for result, before in zip(run(), first, strict=True))


def test_a_gradient_over_its_upstream_takes_no_other_memory() -> None:
    features = make_features((1, 64, 512, 512), torch.float16, channels_last=True).cuda()
    upstream = torch.randn_like(features)
    sums = torch.zeros(1, 64, 64, device="cuda")
    accumulate_gram(sums, features)
    _, difference = finish_gram_loss(sums, 512 * 512, make_target(features), dtype=torch.float16)
    content = make_content(features, channels_last=True)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    tile_gradient(
        features, upstream=upstream, gradient=upstream, difference=difference, content=content, backend="triton"
    )
    taken = torch.cuda.max_memory_allocated() - before
    assert taken < 0.05 * features.numel() * features.element_size()


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*((1, c, 1024 // s, 1024 // s) for c, s in VGG), (1, 64, 256, 4096), *ODD])
def test_activations(shape: Shape, dtype: torch.dtype, channels_last: bool) -> None:
    x = make_activations(shape, dtype, channels_last=channels_last).cuda()
    for bias in (make_bias(x.cpu()).cuda(), None):
        check_relu(x, bias, backend="triton")
        for pool in POOLS if min(shape[2:]) > 1 else ():
            check_pool(x, bias, pool, backend="triton")
    check_special_values("triton", dtype, channels_last, device="cuda")


@LAYOUTS
@pytest.mark.parametrize("pool", POOLS)
def test_more_activations_than_32_bits_count(pool: str, channels_last: bool) -> None:
    """Many equal blocks are each as one alone: the last of 2³¹ activations and more against torch on it alone."""
    height, width, edge = 8448, 4096, 64
    _skip_without(2 * 2 * 64 * height * width * (1 if channels_last else 2))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    block = make_activations((1, 64, edge, edge), torch.float16).cuda()
    bias = make_bias(block.cpu()).cuda()
    x = torch.empty((1, 64, height, width), dtype=torch.float16, device="cuda").contiguous(memory_format=layout)
    blocks = x.view(1, 64, height // edge, edge, width // edge, edge)
    blocks.copy_(block.view(1, 64, 1, edge, 1, edge).expand_as(blocks))
    last = x[:, :, -edge:, -edge:].clone(memory_format=layout)
    bits, last_bits = empty_bits(x, True), empty_bits(last)
    pooled = empty_map(x, channels_last, size=(height // 2, width // 2))
    direct.bias_relu_pool("triton", x, bias, pool, pooled, bits)
    expected = operators.bias_relu_pool("torch", last, bias, pool, True)
    assert torch.equal(pooled[:, :, -edge // 2 :, -edge // 2 :], expected[0])
    direct.unpool_backward("triton", pooled, bits, pool, x)
    spread = operators.unpool_backward("torch", expected[0], expected[1], edge, edge, channels_last, pool)
    assert torch.equal(x[:, :, -edge:, -edge:], spread)
    direct.bias_relu("triton", x, bias, x, bits)
    last.copy_(spread)
    direct.bias_relu("torch", last, bias, last, last_bits)
    assert torch.equal(x[:, :, -edge:, -edge:], last)


@LAYOUTS
@pytest.mark.parametrize("above_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 3, 1, 1), (3, 3, 37, 53), (2, 3, 64, 100), (1, 3, 1, 1000), (1, 3, 513, 1), (1, 3, 1024, 1024)]
)
def test_image(shape: Shape, dtype: torch.dtype, above_last: bool, channels_last: bool) -> None:
    image = make_image(shape, channels_last=channels_last).cuda()
    upstream = make_upstream(image, dtype, channels_last=above_last)
    for flip in (False, True):
        check_normalise(image, dtype, backend="triton", channels_last=above_last, flip=flip)
        for kind in ("squared", "absolute", "nine-point"):
            check_image_gradient(image, upstream, backend="triton", flip=flip, kind=kind)


@LAYOUTS
def test_image_of_4096(channels_last: bool) -> None:
    image = make_image((1, 3, 4096, 4096), channels_last=channels_last).cuda()
    check_total_variation(image, backend="triton", kind="squared")
    check_image_gradient(image, make_upstream(image, torch.float16), backend="triton", flip=True, kind="squared")
    check_adam(image, backend="triton", steps=2)
    image = make_image((1, 3, 255, 257), channels_last=channels_last).cuda()
    counter = torch.zeros((), dtype=torch.int64, device="cuda")
    check_adam(image, backend="triton", steps=50, betas=(0.9, 0.999), clamp=False, step_of=counter.fill_)


@LAYOUTS
@pytest.mark.parametrize("width", [26760, 26761])
def test_more_pixels_than_32_bits_count(width: int, channels_last: bool) -> None:
    """2³¹ elements in one image, in rows that are and that are not aligned."""
    height = 26752
    _skip_without(3 * height * width * 20)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = torch.empty((1, 3, height, width), device="cuda", memory_format=layout).uniform_()
    assert image.numel() >= 2**31
    check_last_rows(image, backend="triton", channels_last=channels_last)
    check_adam_at_the_end(image, backend="triton")


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
