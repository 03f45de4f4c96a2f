"""Arguments that the public functions refuse."""

import math
from collections.abc import Callable

import pytest
import torch
from fastnst_kernels import (
    BlendedTarget,
    accumulate_gram,
    adam_step_,
    bias_relu,
    bias_relu_pool,
    blend_targets,
    finish_gram_loss,
    gram,
    gram_loss,
    image_gradient,
    normalise,
    style_tap,
    tap,
    tap_gradient,
    total_variation,
)

FEATURES, TARGET, SUMS = torch.rand(2, 4, 6, 5), torch.rand(4, 4), torch.zeros(2, 4, 4)
DIFFERENCE = finish_gram_loss(SUMS, 30, TARGET, dtype=torch.float32)[1]
IMAGE, ONES, STEP = torch.rand(2, 3, 4, 5), (1.0, 1.0, 1.0), {"step": 1, "learning_rate": 0.1}
Call = Callable[[], object]


def adam(**options: object) -> Call:
    given = {name: torch.zeros(2, 3, 4, 5) for name in ("gradient", "first", "second")}
    return lambda: adam_step_(IMAGE, **{**given, **STEP, **options})  # type: ignore[arg-type]


REFUSED: list[tuple[Call, str]] = [
    (lambda: gram(torch.rand(4, 3, 3)), r"shape \(4, 3, 3\) have 3 axes; give \(B, C, H, W\)"),
    (lambda: gram(torch.rand(1, 4, 0, 3)), r"shape \(1, 4, 0, 3\) are empty"),
    (
        lambda: gram(torch.rand(1, 9, 8)),
        r"have 3 axes; give \(B, C, H, W\), which is tokens.mT\[..., None\] for tokens \(B, N, C\)",
    ),
    (lambda: gram(torch.ones(1, 4, 3, 3, dtype=torch.int32)), "features are torch.int32"),
    (lambda: gram(FEATURES.to(torch.complex64)), "takes float32, float16 or bfloat16, or float64"),
    (lambda: gram(FEATURES, precision="fp32"), "precision 'fp32' is unknown; choose one of ieee, tf32"),
    (lambda: gram(FEATURES, backend="cuda"), "backend 'cuda' is unknown; choose one of auto, triton, torch, reference"),
    (lambda: gram_loss(FEATURES, torch.rand(5, 5)), r"target of shape \(5, 5\) does not fit .* give \(4, 4\) or \(2, "),
    (lambda: style_tap(FEATURES, torch.rand(3, 4, 4)), r"target of shape \(3, 4, 4\) does not fit"),
    (lambda: gram_loss(FEATURES, TARGET.long()), "target is torch.int64"),
    (lambda: gram_loss(FEATURES, TARGET.to("meta")), "target is on meta and the features are on cpu"),
    (lambda: gram_loss(FEATURES, TARGET.clone().requires_grad_()), r"pass target\.detach\(\)"),
    (lambda: gram_loss(FEATURES, TARGET, math.nan), "weight nan is out of range; give a finite number"),
    (lambda: gram_loss(FEATURES, TARGET, 1e300), r"is out of range; give a finite number of magnitude up to 3\.40"),
    (lambda: tap(FEATURES), "give target, content or both"),
    (lambda: tap(FEATURES, content=FEATURES, inplace=True), "give relu=True with it"),
    (lambda: tap(FEATURES, content=FEATURES[..., 1:]), r"content of shape \(2, 4, 6, 4\) does not fit"),
    (lambda: tap(FEATURES, content=FEATURES.double()), "content is torch.float64 and the features are torch.float32"),
    (lambda: tap(FEATURES, content=FEATURES.to("meta")), "content is on meta"),
    (lambda: tap(FEATURES, content=FEATURES.clone().requires_grad_()), r"pass content\.detach\(\)"),
    (
        lambda: tap(FEATURES, target=BlendedTarget(torch.rand(1, 4, 4), 1.0, torch.rand(3))),
        r"offset of shape \(3,\) on cpu does not fit 2 images",
    ),
    (lambda: tap_gradient(FEATURES, DIFFERENCE, FEATURES[:1]), r"upstream \(1, 4, 6, 5\)"),
    (lambda: tap_gradient(FEATURES[:1], DIFFERENCE), r"difference of shape \(2, 4, 4\) does not fit"),
    (lambda: tap_gradient(FEATURES.double(), DIFFERENCE), "a contiguous torch.float64 is needed"),
    (lambda: accumulate_gram(torch.zeros(2, 4, 5), FEATURES), r"give \(B, C, C\)"),
    (lambda: accumulate_gram(SUMS.mT, FEATURES), "sums of torch.float32 features must be contiguous torch.float32"),
    (lambda: accumulate_gram(SUMS.double(), FEATURES), "must be contiguous torch.float32 and require no gradient"),
    (lambda: accumulate_gram(SUMS[:1], FEATURES), r"sums \(1, 4, 4\) on cpu do not fit .*; give \(2, 4, 4\) on cpu"),
    (
        lambda: finish_gram_loss(SUMS, 3, TARGET, dtype=torch.float64),
        "sums of torch.float64 features must be contiguous torch.float64",
    ),
    (
        lambda: finish_gram_loss(SUMS.double(), 3, TARGET, dtype=torch.float16),
        "sums of torch.float16 features must be contiguous torch.float32",
    ),
    (lambda: finish_gram_loss(SUMS, 0, TARGET, dtype=torch.float32), "0 positions"),
    (lambda: finish_gram_loss(SUMS, 3, TARGET, dtype=torch.int32), "features are torch.int32"),
    (lambda: blend_targets([], []), "0 targets and 0 weights"),
    (lambda: blend_targets([TARGET], [1.0, 2.0]), "1 targets and 2 weights"),
    (
        lambda: blend_targets([TARGET], [-1.0]),
        r"target weight -1\.0 is out of range; give a finite number of 0 or more",
    ),
    (lambda: blend_targets([TARGET], [0.0]), "all target weights are 0"),
    (lambda: blend_targets([TARGET, TARGET[1:, 1:]], [1.0, 1.0]), r"shape \(3, 3\) does not match the others"),
    (lambda: blend_targets([TARGET.long()], [1.0]), "target is torch.int64"),
    (lambda: bias_relu(torch.rand(4, 3, 3)), r"shape \(4, 3, 3\) has 3 axes; give \(B, C, H, W\)"),
    (lambda: bias_relu_pool(torch.rand(1, 4, 0, 3)), "is empty"),
    (lambda: bias_relu(FEATURES.int()), "x is torch.int32; backend 'torch' takes float32, float16 or bfloat16, or fl"),
    (lambda: bias_relu(FEATURES, torch.rand(3)), r"bias of shape \(3,\) does not fit x .* give \(4,\)"),
    (lambda: bias_relu(FEATURES, TARGET[0].long()), "bias is torch.int64"),
    (lambda: bias_relu_pool(FEATURES, TARGET[0].to("meta")), "bias is on meta and x is on cpu"),
    (lambda: bias_relu(FEATURES, torch.rand(4, requires_grad=True)), r"pass bias\.detach\(\)"),
    (lambda: bias_relu_pool(FEATURES, None, "mean"), "pool 'mean' is unknown; choose one of avg, max"),
    (lambda: bias_relu_pool(FEATURES[:, :, :1]), "has no 2×2 window"),
    (lambda: bias_relu(FEATURES[:, 1:], inplace=True), "not dense, which inplace=True needs"),
    (lambda: bias_relu(FEATURES, inplace=True, backend="reference"), "does not work in place"),
    (lambda: normalise(torch.rand(3, 4, 5), ONES, ONES), r"shape \(3, 4, 5\) has 3 axes; give \(B, C, H, W\)"),
    (lambda: total_variation(torch.rand(1, 3, 0, 5)), "is empty; each axis must be 1 or more"),
    (lambda: total_variation(FEATURES), "has 4 channels; give three"),
    (lambda: total_variation(IMAGE.half()), "image is torch.float16; backend 'torch' takes float32 or float64"),
    (lambda: normalise(IMAGE, (1.0, 1.0), ONES), "scale has 2 numbers; give three"),
    (lambda: normalise(IMAGE, ONES, (1.0, math.nan, 1.0)), "shift nan is out of range; give a finite number"),
    (
        lambda: normalise(IMAGE, ONES, ONES, dtype=torch.int8),
        "dtype is torch.int8; .* takes float32, float16 or bfloat16, or float64",
    ),
    (lambda: total_variation(IMAGE, kind="l1"), "kind 'l1' is unknown; choose one of squared, absolute, nine-point"),
    (
        lambda: image_gradient(IMAGE, IMAGE, ONES, tv_weight=1e39),
        r"tv_weight 1e\+39 is out of range; give a finite number",
    ),
    (lambda: image_gradient(IMAGE, IMAGE[..., 1:], ONES, tv_weight=1.0), r"upstream of shape \(2, 3, 4, 4\) does not"),
    (lambda: image_gradient(IMAGE, IMAGE.int(), ONES, tv_weight=1.0), "upstream is torch.int32; give float32, float16"),
    (
        lambda: image_gradient(IMAGE, IMAGE.to("meta"), ONES, tv_weight=1.0),
        "upstream is on meta and the image is on cpu",
    ),
    (adam(step=0), "step 0 is below 1; the first step is 1"),
    (adam(step=3, increment=True), "step 3 is a number, which cannot be incremented in place; give a tensor"),
    (adam(step=torch.ones(2)), r"step is \(2,\) torch.float32 on cpu; give one element of int64, int32 or float32"),
    (adam(learning_rate=-1.0), "learning_rate -1.0 is out of range; give a finite number of 0 or more"),
    (adam(epsilon=math.inf), "epsilon inf is out of range"),
    (adam(betas=(0.9, 1.0)), "beta 1.0 is out of range; give a number from 0 to below 1"),
    (adam(minimum=1.0, maximum=0.0), "minimum 1.0 is above maximum 0.0; give the smaller number first"),
    (adam(gradient=torch.rand(2, 3, 4, 4)), r"gradient is \(2, 3, 4, 4\) torch.float32 on cpu; give it as the image"),
    (adam(first=torch.zeros(2, 3, 4, 5).double()), "first is .* torch.float64 on cpu; give it as the image is"),
    (adam(second=torch.zeros(2, 3, 5, 4).mT), "strides .* make all of them contiguous, or all channels-last"),
    (
        adam(first=torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)),
        "make all of them contiguous, or all channels-last",
    ),
    (lambda: gram(FEATURES.double(), backend="triton"), "features are torch.float64; backend 'triton' takes flo"),
    (lambda: total_variation(IMAGE.double(), backend="triton"), "backend 'triton' takes float32$"),
    (
        lambda: normalise(IMAGE, ONES, ONES, dtype=torch.float64, backend="triton"),
        r"dtype is torch.float64; .* takes float32, float16 or bfloat16$",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused_in_words(call: Call, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    before = IMAGE.clone()
    with pytest.raises(ValueError, match=message):
        call()
    assert torch.equal(IMAGE, before)
