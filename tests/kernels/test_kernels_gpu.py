"""The kernels on a GPU: the shapes that the interpreter is too slow for, 64-bit offsets, and equal runs."""

import pytest
import torch
from fastnst_kernels import available_backends, gram, gram_loss, style_tap
from fastnst_kernels.losses import reference
from fastnst_kernels.verify import budget
from kernel_checks import (
    DTYPES,
    LAYOUTS,
    assert_within,
    captured,
    check_gram,
    check_style_tap,
    make_features,
    make_target,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm GPU")]
MODES = pytest.mark.parametrize(
    ("dtype", "precision"), [*((dtype, "ieee") for dtype in DTYPES), (torch.float32, "tf32")]
)


def test_triton_comes_first() -> None:
    assert available_backends("cuda")[0] == "triton"


@LAYOUTS
@MODES
@pytest.mark.parametrize(
    "shape",
    [
        (1, 64, 512, 512),
        (2, 128, 256, 256),
        (1, 256, 128, 128),
        (1, 512, 64, 64),
        (1, 512, 32, 32),
        (3, 65, 37, 53),
        (1, 1, 1, 1),
        (1, 3, 511, 509),
        (1, 1024, 33, 31),
        (65, 64, 8, 8),
    ],
)
def test_style_tap(shape: tuple[int, int, int, int], dtype: torch.dtype, precision: str, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last).cuda()
    check_style_tap(features, make_target(features), backend="triton", precision=precision)
    check_gram(features, backend="triton", precision=precision)


@pytest.mark.parametrize("scale", [1e3, 2e-4])
def test_float16_far_from_one(scale: float) -> None:
    features = make_features((2, 96, 64, 64), torch.float16, scale=scale).cuda()
    check_style_tap(features, make_target(features), backend="triton")


@LAYOUTS
@pytest.mark.parametrize("batch", [1, 3])
def test_more_elements_than_32_bits_count(batch: int, channels_last: bool) -> None:
    """The Gram matrix of many equal blocks is that of one; 2³¹ elements in one image, and in the batch."""
    side = 8192 if batch == 1 else 4096
    needed = 3 * 2 * batch * 64 * side * side
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory")
    block = make_features((1, 64, 64, 64), torch.float16).cuda()
    features = torch.empty(
        (batch, 64, side, side),
        dtype=torch.float16,
        device="cuda",
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    for row in range(0, side, 64):
        features[:, :, row : row + 64] = block.repeat(1, 1, 1, side // 64)
    exact = reference.gram(block)
    allowed = 10 * budget.gram_budget(block).expand(batch)
    assert_within(gram(features), exact.expand(batch, -1, -1), allowed, "Gram matrix")
    leaf = features.requires_grad_()
    target = make_target(block)
    factor = float(side * side)
    gram_loss(leaf, target).mul(factor).sum().backward()
    assert leaf.grad is not None
    wanted = reference.gram_loss_gradient(block, target) * 64 * 64
    last = leaf.grad[-1:, :, -64:, -64:]
    error = budget.relative_error(last, wanted)
    assert (error < 4 * torch.finfo(torch.float16).eps).all(), error


def test_two_runs_are_equal_to_the_bit() -> None:
    features = make_features((1, 256, 123, 125), torch.float16).cuda().requires_grad_()
    target = make_target(features.detach())

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        loss = gram_loss(features, target)
        (gradient,) = torch.autograd.grad(loss.sum(), features)
        return loss.detach(), gradient

    first = run()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


def test_expanded_and_cropped_upstream() -> None:
    features = make_features((2, 64, 40, 40), torch.float16).cuda()
    target = make_target(features)
    expanded = torch.tensor(0.5, dtype=torch.float16, device="cuda").expand(features.shape)
    cropped = torch.randn(2, 64, 42, 42, device="cuda").half()[:, :, 1:-1, 1:-1]
    for upstream in (expanded, cropped):
        check_style_tap(features, target, backend="triton", upstream=upstream)


def test_a_captured_graph_replays() -> None:
    features = make_features((1, 64, 64, 64), torch.float16).cuda().requires_grad_()
    target = make_target(features.detach())

    def step() -> torch.Tensor:
        passed, loss = style_tap(features, target)
        (gradient,) = torch.autograd.grad(passed.float().sum() + loss.sum(), features)
        return gradient

    expected = step()
    graph, result = captured(step, step)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(result, expected)
