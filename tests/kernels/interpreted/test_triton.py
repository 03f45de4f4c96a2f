"""The Triton kernels alone, interpreted: wide offsets, crops, scales, splits, bits that start anywhere."""

import math

import pytest
import torch
from fastnst_kernels import available_backends, direct, gram, gram_loss, operators
from fastnst_kernels.image import triton_image
from fastnst_kernels.launch import heuristic
from fastnst_kernels.launch.gpu import INTERPRETER
from fastnst_kernels.launch.launch import interpreted, planned
from fastnst_kernels.losses import triton_content, triton_product, triton_tap
from fastnst_kernels.losses.targets import normalised
from image_checks import SCALE, SHIFT
from kernel_checks import LAYOUTS, Shape, check_family, gradient_over, make_activations, make_features


def test_these_are_the_interpreted_kernels() -> None:
    assert interpreted()
    assert available_backends("cpu") == ("torch", "triton", "reference")


@pytest.mark.parametrize(
    ("family", "shape"),
    [("gram", (2, 70, 5, 6)), ("tiles", (1, 20, 9, 8)), ("image", (2, 3, 5, 6)), ("image", (2, 3, 5, 8))],
)
def test_wide_offsets(family: str, shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (triton_product, triton_tap, triton_content):
        monkeypatch.setattr(module, "wide", lambda *tensors: True)
    monkeypatch.setattr(triton_image, "wide_image", lambda image: True)
    check_family(family, shape)


def test_where_offsets_become_wide() -> None:
    for side, wide in ((16384, False), (32768, True)):
        image = torch.empty((1, 3, side, side), device="meta")
        with planned(INTERPRETER) as launches:
            direct.normalise("triton", image, SCALE, SHIFT, flip=False, dtype=torch.float16, channels_last=True)
        assert launches[0].arguments["WIDE"] == wide


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("peak", [2e-35, 3e-32, 4e33, 1e38])
def test_the_scale_of_a_difference_is_a_power_of_two(peak: float) -> None:
    features = torch.zeros(1, 4, 2, 2, dtype=torch.float16)
    target = torch.zeros(1, 4, 4)
    target[0, 1, 2] = target[0, 2, 1] = peak
    _, by_kernel, kernel_scale = direct.gram_difference_loss("triton", features, target, 1.0, None, 1.0, "ieee")
    by_torch, torch_scale = normalised(-target, torch.float16)
    for difference, scale in ((by_kernel, kernel_scale), (by_torch, torch_scale)):
        assert math.frexp(scale.item())[0] == 0.5
        torch.testing.assert_close(
            difference[0, 1, 2].double() * scale.item(), torch.tensor(-peak).double(), rtol=1e-3, atol=0.0
        )


def test_zero_differences_and_features() -> None:
    features = make_features((1, 16, 4, 4), torch.float16).requires_grad_()
    loss = gram_loss(features, gram(features.detach(), backend="triton"), backend="triton")
    loss.sum().backward()
    assert loss.item() == 0.0
    assert features.grad is not None
    assert features.grad.count_nonzero() == 0
    zeros = torch.zeros(1, 4, 3, 3, dtype=torch.float16, requires_grad=True)
    gram(zeros, backend="triton").backward(torch.full((1, 4, 4), 1e35))
    assert zeros.grad is not None
    assert zeros.grad.count_nonzero() == 0


@pytest.mark.parametrize(("channels", "layout"), [(20, "channels-last"), (70, "nchw")])
def test_many_splits(channels: int, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heuristic, "LONGEST_SUM", 64)
    monkeypatch.setattr(heuristic, "_MANY_SPLITS", 4)
    features = make_features((2, channels, 24, 25), torch.float16, channels_last=layout == "channels-last")
    with planned(INTERPRETER) as launches:
        direct.gram("triton", features.to("meta"), "ieee")
    reduce = launches[1]
    assert reduce.arguments["splits"] >= 5
    assert reduce.arguments["TILE"] == 8
    check_family("gram", (2, channels, 24, 25), layouts=(layout,))


@LAYOUTS
def test_a_crop_is_read_as_it_lies(channels_last: bool) -> None:
    whole = make_features((2, 20, 8, 11), torch.bfloat16, channels_last=channels_last)
    features = whole.to("meta")[:, :, 1:-2, 2:-1]
    with planned(INTERPRETER) as launches:
        direct.gram("triton", features, "ieee")
    assert launches[0].arguments["CROP"]
    assert launches[0].arguments["features"] is features


def test_nothing_else_is_written() -> None:
    features = make_features((1, 9, 5, 6), torch.float16)
    around = torch.full((1, 9, 9, 9), float("nan"), dtype=torch.float16)
    upstream = around[:, :, 2:7, 2:8]
    upstream.fill_(0.25)
    gradient_over(upstream, features, content=features)
    assert torch.equal(upstream, 0.25 * (features > 0))
    assert around.isnan().sum() == around.numel() - upstream.numel()


def test_bits_start_anywhere() -> None:
    x = make_activations((1, 32, 2, 2), torch.float32, channels_last=True)
    y, bits = operators.bias_relu("triton", x, None, None, True)
    moved = torch.zeros(bits.numel() + 1, dtype=torch.uint8)[1:].view(bits.shape)
    direct.bias_relu("triton", x, None, None, x, moved)
    assert torch.equal(moved, bits)
    assert torch.equal(x, y)
