"""What the public image operations refuse."""

import math
from typing import Any

import pytest
import torch
from fastnst_kernels.image import adam_step_, image_gradient, normalise, total_variation

IMAGE = torch.rand(2, 3, 4, 5)
ONES = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 4, 5), r"shape \(3, 4, 5\) has 3 axes; give \(B, C, H, W\)"),
        (torch.rand(1, 3, 0, 5), "is empty; each axis must be 1 or more"),
        (torch.rand(1, 4, 4, 5), "has 4 channels; give three"),
        (torch.rand(1, 3, 4, 5).half(), "image is torch.float16; backend 'torch' takes float32 or float64"),
        (torch.ones(1, 3, 4, 5, dtype=torch.uint8), "image is torch.uint8"),
    ],
)
def test_wrong_images(image: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise(image, ONES, ONES)
    with pytest.raises(ValueError, match=message):
        total_variation(image)
    with pytest.raises(ValueError, match=message):
        image_gradient(image, image, ONES, tv_weight=1.0)


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="scale has 2 numbers; give three"):
        normalise(IMAGE, (1.0, 1.0), ONES)
    with pytest.raises(ValueError, match="shift nan is not a finite float32 number"):
        normalise(IMAGE, ONES, (1.0, math.nan, 1.0))
    with pytest.raises(ValueError, match=r"tv_weight 1e\+39 is not a finite float32 number"):
        image_gradient(IMAGE, IMAGE, ONES, tv_weight=1e39)


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match="kind 'l1' is unknown; choose one of squared, absolute, nine-point"):
        total_variation(IMAGE, kind="l1")
    with pytest.raises(ValueError, match="kind 'l1' is unknown"):
        image_gradient(IMAGE, IMAGE, ONES, tv_weight=1.0, kind="l1")
    with pytest.raises(ValueError, match="backend 'cuda' is unknown"):
        normalise(IMAGE, ONES, ONES, backend="cuda")
    with pytest.raises(
        ValueError, match=r"dtype torch.int8 is not taken .* give float32, float16, bfloat16 or float64"
    ):
        normalise(IMAGE, ONES, ONES, dtype=torch.int8)


@pytest.mark.parametrize(
    ("upstream", "message"),
    [
        (torch.rand(2, 3, 4, 4), r"upstream of shape \(2, 3, 4, 4\) does not fit an image of shape \(2, 3, 4, 5\)"),
        (torch.ones(2, 3, 4, 5, dtype=torch.int32), "upstream is torch.int32; give float32, float16 or bfloat16"),
        (torch.rand(2, 3, 4, 5, device="meta"), "upstream is on meta, the image on cpu; move it there"),
    ],
)
def test_wrong_upstreams(upstream: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_gradient(IMAGE, upstream, ONES, tv_weight=1.0)


def test_float64_is_not_for_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"image is torch.float64; backend 'triton' takes float32$"):
        total_variation(IMAGE.double(), backend="triton")
    with pytest.raises(ValueError, match=r"dtype torch.float64 is not taken .* give float32, float16 or bfloat16$"):
        normalise(IMAGE, ONES, ONES, dtype=torch.float64, backend="triton")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step 0 is below 1; the first step is 1"),
        ({"step": 3, "increment": True}, "step 3 is a number, which cannot be incremented in place; give a tensor"),
        ({"step": torch.ones(2)}, r"step is \(2,\) torch.float32 on cpu; give one element of int64, int32 or float32"),
        ({"step": torch.ones((), dtype=torch.float64)}, "step is .* torch.float64"),
        ({"step": torch.ones((), device="meta")}, "step is .* on meta"),
        ({"learning_rate": -1.0}, "learning_rate -1.0 is out of range; give a finite number of 0 or more"),
        ({"learning_rate": math.nan}, "learning_rate nan is out of range"),
        ({"epsilon": math.inf}, "epsilon inf is out of range"),
        ({"betas": (0.9, 1.0)}, "beta 1.0 is out of range; give a number from 0 to below 1"),
        ({"minimum": 1.0, "maximum": 0.0}, "minimum 1.0 is above maximum 0.0; give the smaller number first"),
        (
            {"gradient": torch.rand(2, 3, 4, 4)},
            r"gradient is \(2, 3, 4, 4\) torch.float32 on cpu; give it as the image",
        ),
        ({"first": torch.zeros(2, 3, 4, 5).double()}, "first is .* torch.float64 on cpu; give it as the image is"),
        ({"second": torch.zeros(2, 3, 5, 4).mT}, "strides .* make all of them contiguous, or all channels-last"),
        (
            {"first": torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)},
            "make all of them contiguous, or all channels-last",
        ),
    ],
)
def test_wrong_steps_of_adam(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "gradient": torch.rand(2, 3, 4, 5),
        "first": torch.zeros(2, 3, 4, 5),
        "second": torch.zeros(2, 3, 4, 5),
        "step": 1,
        "learning_rate": 0.1,
    }
    image = IMAGE.clone()
    with pytest.raises(ValueError, match=message):
        adam_step_(image, **{**arguments, **options})
    assert torch.equal(image, IMAGE)
