"""Products of bfloat16 features as they are, which a caller allows by `precision="bf16"`: within what 16 bits make."""

import pytest
import torch
from fastnst_kernels import gram
from fastnst_kernels.verify import budget
from kernel_checks import assert_expected, check_tap, make_content, make_features, make_target

# Few positions, whole slices, slices and a rest, and more channels than positions.
SHAPES = [(1, 512, 12, 16), (1, 64, 64, 64), (2, 65, 37, 53), (1, 96, 70, 41)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
def test_gram(shape: tuple[int, int, int, int], channels_last: bool) -> None:
    features = make_features(shape, torch.bfloat16, channels_last=channels_last)
    result = gram(features, precision="bf16", backend="torch")
    assert result.dtype == torch.float32
    assert torch.equal(result, result.mT)
    assert_expected(result, budget.gram(features, "bf16"), "Gram matrix")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("relu", [False, True])
def test_tap(shape: tuple[int, int, int, int], relu: bool) -> None:
    features = make_features(shape, torch.bfloat16, channels_last=True)
    target, content = make_target(features), make_content(features, channels_last=True)
    check_tap(features, target=target, content=content, relu=relu, precision="bf16", backend="torch")
