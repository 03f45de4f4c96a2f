"""The error budgets: small, and exceeded by results that are wrong in the ways that kernels go wrong."""

import pytest
import torch
from fastnst_kernels.losses import reference
from fastnst_kernels.verify import budget
from kernel_checks import make_features, make_target


def _exceeded(result: torch.Tensor, exact: torch.Tensor, allowed: torch.Tensor) -> bool:
    return bool((budget.relative_error(result, exact) > allowed).all())


def test_float32_budgets_are_a_few_roundings() -> None:
    features = make_features((2, 64, 32, 32), torch.float32)
    target = make_target(features)
    ones = torch.ones(2)
    assert (budget.gram_budget(features) < 2e-6).all()
    assert (budget.gram_loss_budget(features, target, 1.0) < 5e-6).all()
    assert (budget.style_tap_budget(features, target, 1.0, torch.zeros(features.shape), ones) < 2e-5).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_sums_exceed_it(dtype: torch.dtype) -> None:
    features = make_features((1, 16, 32, 32), dtype)
    responses = features.flatten(2)
    rounded = (responses @ responses.mT / responses.shape[2]).float()
    assert _exceeded(rounded, reference.gram(features), budget.gram_budget(features))


def test_a_missing_position_exceeds_it() -> None:
    features = make_features((1, 16, 32, 32), torch.float32)
    without = features.clone()
    without[..., -1, -1] = 0
    assert _exceeded(reference.gram(without), reference.gram(features), budget.gram_budget(features))


def test_a_transposed_target_exceeds_it() -> None:
    features = make_features((1, 16, 8, 8), torch.bfloat16)
    target = make_target(features)
    ones = torch.ones(1)
    zeros = torch.zeros_like(features)
    unsymmetrised = (reference.gram(features) - target.double()) @ features.double().flatten(2)
    wrong = (unsymmetrised / (16**2 * 64)).view(features.shape)
    exact = reference.gram_loss_gradient(features, target)
    assert _exceeded(wrong, exact, budget.style_tap_budget(features, target, 1.0, zeros, ones))


def test_tf32_is_wider_than_ieee() -> None:
    features = make_features((1, 16, 8, 8), torch.float32)
    assert (budget.gram_budget(features, "tf32") > 50 * budget.gram_budget(features)).all()


def test_relative_error() -> None:
    exact = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    result = torch.tensor([[3.0, 4.5], [0.0, 0.25]])
    assert budget.relative_error(result, exact).tolist() == [0.1, 0.25]
