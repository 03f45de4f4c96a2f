"""The first layer and the image in one kernel each way, against float64: torch, or the interpreted Triton kernels."""

import math
from typing import Any

import pytest
import torch
from fastnst_kernels import direct
from fastnst_kernels.first import PADDINGS, FirstLayer, reference
from image_checks import SCALE, SHIFT, make_image
from kernel_checks import BACKEND, LAYOUTS, Shape, by_backend, check_family
from torch import Tensor

TRITON_ALONE = pytest.mark.skipif(BACKEND == "torch", reason="is of the Triton kernels")
SHAPES: list[Shape] = [(1, 3, 1, 1), (2, 3, 7, 9), (1, 3, 3, 130), (1, 3, 24, 1)]


def make_layer(padding: str, *, filters: int = 16, flip: bool = False) -> FirstLayer:
    noise = torch.randn((filters, 3, 3, 3), generator=torch.Generator().manual_seed(2)) / 5
    weight = noise.contiguous(memory_format=torch.channels_last)
    return FirstLayer(weight, noise[:, 0, 0, 0] * 2, SCALE, SHIFT, flip, padding)


def features_of(image: Tensor, layer: FirstLayer, *, gram: bool = False) -> tuple[Tensor, Tensor | None]:
    y = torch.empty((len(image), len(layer.weight), *image.shape[2:])).to(memory_format=torch.channels_last)
    sums = direct.first_forward(BACKEND, image, layer, y, gram, "ieee")
    return y, sums if sums is None or sums.ndim == 3 else sums.sum((1, 2))


def gradient_of(image: Tensor, layer: FirstLayer, upstream: Tensor, **terms: Any) -> tuple[Tensor, Tensor]:
    return checked_gradient_of(image, layer, upstream, **terms)[:2]


def checked_gradient_of(
    image: Tensor, layer: FirstLayer, upstream: Tensor, **terms: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    given = {"style": None, "tv_weight": 0.0, "kind": "squared", "precision": "ieee", **terms}
    return direct.first_backward(BACKEND, image, layer, upstream, **given)


@pytest.mark.parametrize("shape", by_backend(SHAPES, SHAPES[:2]))
def test_against_float64(shape: Shape) -> None:
    check_family("first", shape)


@LAYOUTS
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_gradient_is_that_of_the_features(padding: str, channels_last: bool) -> None:
    """That of Σ upstream · F by autograd, in float64."""
    layer, image = make_layer(padding, flip=channels_last), make_image((1, 3, 4, 5), channels_last=channels_last)
    upstream = torch.randn((1, 16, 4, 5), generator=torch.Generator().manual_seed(3))
    leaf = image.double().requires_grad_()
    (expected,) = torch.autograd.grad((reference.features(leaf, layer) * upstream).sum(), leaf)
    gradient, _ = gradient_of(image, layer, upstream)
    assert gradient.stride() == image.stride()
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_divisor_is_of_all_but_the_variation() -> None:
    layer, image = make_layer("zeros"), make_image((1, 3, 4, 5))
    upstream = torch.ones((1, 16, 4, 5))
    alone, value = gradient_of(image, layer, 0 * upstream, tv_weight=2.0)
    whole, _ = gradient_of(image, layer, upstream, tv_weight=2.0)
    out = torch.full_like(image, math.nan)
    divided, again = gradient_of(image, layer, upstream, tv_weight=2.0, divisor=torch.tensor([8.0]), out=out)
    assert divided.data_ptr() == out.data_ptr()
    assert torch.equal(value, again)
    torch.testing.assert_close(out - alone, (whole - alone) / 8)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", ["squared", "nine-point"])
def test_the_check_is_finite_where_the_gradient_of_its_image_is(kind: str) -> None:
    layer, image, upstream = make_layer("zeros"), make_image((3, 3, 20, 70)), torch.ones((3, 16, 20, 70))
    terms: dict[str, Any] = {"divisor": torch.tensor([8.0]), "kind": kind, "tv_weight": 1.0}
    upstream[0, :, 19, 69], upstream[2, :, 3, 5] = math.inf, math.nan
    gradient, value, check = checked_gradient_of(image, layer, upstream, **terms)
    assert check is not None
    assert check.isfinite().tolist() == gradient.isfinite().all(3).all(2).all(1).tolist() == [False, True, False]
    assert value.isfinite().all()
    assert checked_gradient_of(image, layer, upstream, **{**terms, "divisor": None})[2] is None


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_nan_reaches_its_neighbours_alone() -> None:
    layer, image = make_layer("zeros"), make_image((1, 3, 5, 6))
    image[0, 1, 2, 3] = math.nan
    features, _ = features_of(image, layer)
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(features.isnan().all(1)[0], expected)
    assert torch.equal(features.isnan().any(1)[0], expected)


@TRITON_ALONE
def test_wide_offsets_many_splits_and_many_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastnst_kernels.first import triton_back, triton_first

    image, layer = make_image((2, 3, 9, 70)), make_layer("replicate")
    upstream = torch.randn((2, 16, 9, 70), generator=torch.Generator().manual_seed(3))
    plain = (*features_of(image, layer, gram=True), *gradient_of(image, layer, upstream, tv_weight=3.0))
    monkeypatch.setattr(triton_first, "wide_image", lambda image: True)
    monkeypatch.setattr(triton_first, "_BLOCK_M", 32)
    monkeypatch.setattr(triton_first, "LONGEST_SUM", 64)
    monkeypatch.setattr(triton_back, "_LEAST_ROWS", 2)
    monkeypatch.setattr(triton_back, "_PROGRAMS", 4)
    in_parts = (*features_of(image, layer, gram=True), *gradient_of(image, layer, upstream, tv_weight=3.0))
    for result, expected in zip(in_parts, plain, strict=True):
        assert result is not None
        torch.testing.assert_close(result, expected)
