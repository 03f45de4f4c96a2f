"""The Triton kernels in the interpreter, with every buffer that they are to write filled with NaN before."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from fastnst_kernels import available_backends, direct, gram, gram_loss, style_tap
from fastnst_kernels.launch import heuristic
from fastnst_kernels.launch.gpu import INTERPRETER
from fastnst_kernels.launch.launch import interpreted
from fastnst_kernels.losses import triton_gram, triton_product, triton_tap
from fastnst_kernels.losses.targets import normalised
from hypothesis import given, settings
from hypothesis import strategies as st
from image_checks import make_image
from kernel_checks import (
    DTYPES,
    LAYOUTS,
    check_gram,
    check_loss_gradient_strides,
    check_style_tap,
    in_both_layouts,
    make_features,
    make_target,
    nan_in_empty,
    upstreams,
)
from operator_checks import check_operators


@pytest.fixture(autouse=True, scope="module")
def _nan_in_empty() -> Iterator[None]:
    with nan_in_empty():
        yield


def test_these_are_the_interpreted_kernels() -> None:
    assert interpreted()
    assert available_backends("cpu") == ("torch", "triton", "reference")


@pytest.mark.parametrize(
    ("shape", "dtype", "channels_last"),
    in_both_layouts([(1, 1, 1, 1), (2, 3, 17, 5), (3, 65, 7, 9), (1, 64, 24, 23)], DTYPES),
)
def test_style_tap(shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend="triton", weight=0.2)


@pytest.mark.parametrize(
    ("dtype", "channels_last"), [(torch.float32, False), (torch.float16, True), (torch.bfloat16, False)]
)
def test_gram(dtype: torch.dtype, channels_last: bool) -> None:
    check_gram(make_features((2, 33, 12, 21), dtype, channels_last=channels_last), backend="triton")


@pytest.mark.parametrize(
    ("shape", "dtype", "channels_last"),
    [
        ((1, 130, 17, 31), torch.float16, True),
        ((1, 136, 16, 24), torch.bfloat16, False),
        ((1, 512, 3, 5), torch.float32, False),
    ],
)
def test_many_channels(shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool) -> None:
    features = make_features(shape, dtype, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend="triton")


def test_tf32_is_taken() -> None:
    features = make_features((1, 20, 6, 7), torch.float32)
    check_style_tap(features, make_target(features), backend="triton", precision="tf32")


@pytest.mark.parametrize("scale", [1e3, 2e-4])
def test_float16_far_from_one(scale: float) -> None:
    features = make_features((2, 24, 9, 16), torch.float16, scale=scale)
    features[1] /= 8
    check_style_tap(features, make_target(features), backend="triton")
    check_gram(features, backend="triton")


def test_zero_difference() -> None:
    features = make_features((1, 16, 4, 4), torch.float16).requires_grad_()
    loss = gram_loss(features, gram(features.detach(), backend="triton"), backend="triton")
    loss.sum().backward()
    assert loss.item() == 0.0
    assert features.grad is not None
    assert features.grad.count_nonzero() == 0


@pytest.mark.parametrize(
    ("kind", "channels_last"), [(kind, index % 2 == 1) for index, kind in enumerate(upstreams((1, 1, 1, 1)))]
)
def test_upstream_gradient_by_its_strides(kind: str, channels_last: bool) -> None:
    features = make_features((2, 9, 5, 6), torch.float32, channels_last=channels_last)
    upstream = upstreams((2, 9, 5, 6))[kind]
    check_style_tap(features, make_target(features), backend="triton", upstream=upstream)


def test_loss_gradient_by_its_strides() -> None:
    check_loss_gradient_strides("triton")


def test_float16_gradient_of_zero_features() -> None:
    features = torch.zeros(1, 4, 3, 3, dtype=torch.float16, requires_grad=True)
    gram(features, backend="triton").backward(torch.full((1, 4, 4), 1e35))
    assert features.grad is not None
    assert features.grad.count_nonzero() == 0


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


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 2:11],
        lambda x: x[:, :, 1:, 1:],
        lambda x: x[..., ::2],
        lambda x: x.transpose(2, 3),
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:10],
    ],
    ids=["channels", "crop", "step", "transposed", "expanded", "channels of channels-last"],
)
def test_strided_features(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    features = view(make_features((2, 12, 6, 8), torch.float16))
    check_style_tap(features, make_target(features), backend="triton")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_target_dtypes_and_layouts(dtype: torch.dtype) -> None:
    features = make_features((2, 12, 6, 8), torch.float32)
    single = make_target(features).to(dtype)
    forms = [single, torch.stack([single, 2 * single])]
    if dtype == torch.float64:
        forms += [single.mT, single[None], single[None].expand(2, -1, -1)]
    for target in forms:
        check_style_tap(features, target, backend="triton")


def test_two_runs_are_equal_to_the_bit() -> None:
    features = make_features((1, 48, 30, 31), torch.float16).requires_grad_()
    target = make_target(features.detach())

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        loss = gram_loss(features, target, backend="triton")
        (gradient,) = torch.autograd.grad(loss.sum(), features)
        return loss.detach(), gradient

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(("channels", "channels_last"), [(20, True), (70, False)])
def test_many_splits(channels: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heuristic, "LONGEST_SUM", 64)
    monkeypatch.setattr(heuristic, "_MANY_SPLITS", 4)
    features = make_features((2, channels, 24, 25), torch.float16, channels_last=channels_last)
    reduce = triton_gram.plan_gram(features, "ieee", INTERPRETER).launches[1]
    assert reduce.arguments["splits"] >= 5
    assert reduce.constants["TILE"] == 8
    check_gram(features, backend="triton")


@LAYOUTS
def test_wide_offsets(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (triton_product, triton_tap):
        monkeypatch.setattr(module, "wide", lambda *tensors: True)
    features = make_features((2, 70, 5, 6), torch.float16, channels_last=channels_last)
    check_style_tap(features, make_target(features), backend="triton")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nan_and_infinity_come_through() -> None:
    for value in (float("nan"), float("inf")):
        features = make_features((2, 8, 4, 4), torch.float16)
        features[1, 3, 2, 1] = value
        leaf = features.requires_grad_()
        loss = gram_loss(leaf, torch.zeros(8, 8), backend="triton")
        loss.sum().backward()
        assert torch.isfinite(loss).tolist() == [True, False]
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad[0]).all()
        assert not torch.isfinite(leaf.grad[1]).all()


def test_opcheck() -> None:
    features, image = make_features((2, 5, 3, 4), torch.float16), make_image((1, 3, 3, 4), channels_last=True)
    check_operators(features, image, "triton", test_utils=("test_schema", "test_faketensor"))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_graph_break() -> None:
    features = make_features((1, 6, 4, 5), torch.float32, channels_last=True).requires_grad_()
    target = make_target(features.detach())

    def total(x: torch.Tensor) -> torch.Tensor:
        passed, loss = style_tap(x, target, 0.5, backend="triton")
        return passed.square().sum() + loss.sum()

    (eager,) = torch.autograd.grad(total(features), features)
    (compiled,) = torch.autograd.grad(torch.compile(total, fullgraph=True, backend="aot_eager")(features), features)
    assert torch.equal(eager, compiled)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 12)),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    scale=st.sampled_from([1.0, 30.0, 0.01]),
    weight=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_any_shape_layout_and_value(
    shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool, scale: float, weight: float, seed: int
) -> None:
    features = make_features(shape, dtype, channels_last=channels_last, scale=scale, seed=seed)
    target = make_target(features, seed=seed)
    check_style_tap(features, target, backend="triton", weight=weight)
