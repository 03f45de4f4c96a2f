"""The tap's kernels on a GPU: layers of 1024² and 4096² pictures, 64-bit offsets, equal runs, captured graphs."""

import pytest
import torch
from fastnst_kernels.losses import accumulate_gram, blend_targets, finish_gram_loss, tap
from kernel_checks import DTYPES, LAYOUTS, captured, make_features, make_target
from tap_checks import check_equal_runs, check_repeated, check_tap, check_tiles, make_content, tile_gradient

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")]
MODES = pytest.mark.parametrize(
    ("dtype", "precision"), [*((dtype, "ieee") for dtype in DTYPES), (torch.float32, "tf32")]
)
LAYERS = [(64, 1), (128, 2), (256, 4), (512, 8), (512, 16)]


@LAYOUTS
@MODES
@pytest.mark.parametrize(
    "shape",
    [
        (1, 64, 512, 512),
        (2, 128, 256, 256),
        (1, 256, 128, 128),
        (1, 512, 64, 64),
        (3, 65, 37, 53),
        (1, 1, 1, 1),
        (1, 3, 511, 509),
        (1, 1024, 33, 31),
        (65, 64, 8, 8),
    ],
)
@pytest.mark.parametrize(("style", "content", "relu"), [(True, False, True), (False, True, True), (True, True, False)])
def test_tap(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    precision: str,
    channels_last: bool,
    style: bool,
    content: bool,
    relu: bool,
) -> None:
    features = make_features(shape, dtype, channels_last=channels_last).cuda()
    p = make_content(features, channels_last=not channels_last) if content else None
    check_tap(features, backend="triton", style=style, content=p, relu=relu, precision=precision)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "step"), LAYERS)
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


def _skip_without(needed: int) -> None:
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory")


@LAYOUTS
@MODES
@pytest.mark.parametrize(("channels", "step"), LAYERS)
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


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES)
def test_twenty_runs_are_equal_to_the_bit(dtype: torch.dtype, channels_last: bool) -> None:
    for shape in ((1, 64, 253, 255), (2, 256, 61, 63), (1, 512, 32, 32)):
        features = make_features(shape, dtype, channels_last=channels_last).cuda()
        check_equal_runs(features, backend="triton", runs=20)


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


def test_a_captured_graph_replays() -> None:
    before = torch.randn(1, 64, 64, 64, device="cuda", dtype=torch.float16).requires_grad_()
    target = blend_targets([make_target(before.detach().relu()), torch.rand(64, 64, device="cuda")], [1.0, 0.5])
    content = make_content(before.detach())

    def step() -> torch.Tensor:
        passed, loss, distance = tap(before, target=target, content=content, relu=True)
        assert loss is not None
        assert distance is not None
        (gradient,) = torch.autograd.grad(passed.float().sum() + loss.sum() + distance.sum(), before)
        return gradient

    expected = step()
    graph, result = captured(step, step)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(result, expected)
