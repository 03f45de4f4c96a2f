"""The strong Wolfe conditions, L-BFGS on lines that are searched, and L-BFGS on the real objective."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.plain_loop import Form, make_task, plain_loss
from fastnst.examples import example
from fastnst.optim.lbfgs import LBFGS
from fastnst.optim.line_search import CURVATURE, MOST_TRIALS, SUFFICIENT_DECREASE, StrongWolfe
from fastnst.options.resolve import resolve_options

Curve = Callable[[Tensor], Tensor]
CURVES: dict[str, Curve] = {
    "too short": lambda t: (t - 40).square(),
    "too long": lambda t: (t - 0.003).square(),
    "just right": lambda t: (t - 1.1).square(),
    "waves": lambda t: 0.1 * t.square() - 6 * t + torch.sin(5 * t),
    "steep wall": lambda t: torch.exp(30 * t) - 100 * t,
    "overflow": lambda t: torch.exp(300 * t) - 1000 * t,
    "kink": lambda t: (t - 0.2).abs() + 0.01 * t.square(),
}


def at(curve: Curve, t: Tensor) -> tuple[Tensor, Tensor]:
    t = t.detach().clone().requires_grad_()
    value = curve(t)
    (slope,) = torch.autograd.grad(value, t)
    return value.detach(), slope


@pytest.mark.parametrize("name", CURVES)
def test_the_length_taken_satisfies_both_conditions(name: str) -> None:
    curve = CURVES[name]
    search = StrongWolfe(torch.zeros(()))
    start, slope = at(curve, torch.zeros((), dtype=torch.float64))
    search.begin(start, slope)
    for _ in range(MOST_TRIALS + 1):
        value, steepness = at(curve, search.length)
        if search.judge(value, steepness):
            break
    else:
        pytest.fail("no length was taken")
    assert value <= start + SUFFICIENT_DECREASE * search.length * slope
    if name != "kink":
        assert steepness.abs() <= -CURVATURE * slope


def test_a_line_that_only_rises_ends_where_it_began() -> None:
    search = StrongWolfe(torch.zeros(()))
    # The slope that is claimed is not the loss's own, as after rounding.
    search.begin(torch.tensor(1.0), torch.tensor(-1.0))
    for trial in range(MOST_TRIALS + 1):
        taken = search.judge(1 + search.length, torch.tensor(1.0))
        assert bool(taken) == (trial == MOST_TRIALS)
    assert search.length == 0


def advance(optimizer: LBFGS, image: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """One step, and the loss before it."""
    tracked = image.clone().requires_grad_()
    value = loss(tracked)
    (gradient,) = torch.autograd.grad(value, tracked)
    optimizer.step(image, gradient, value.detach())
    return value.item()


def by_torch(loss: Callable[[Tensor], Tensor], start: Tensor, **options: Any) -> tuple[Tensor, int]:
    """Where torch's L-BFGS with a line search ends, and how many evaluations it takes."""
    image, evaluations = start.clone().requires_grad_(), 0
    optimizer = torch.optim.LBFGS([image], line_search_fn="strong_wolfe", **options)

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        value = loss(image)
        value.backward()
        return value

    optimizer.step(closure)
    return image.detach(), evaluations


def rosenbrock(image: Tensor) -> Tensor:
    x = image.flatten()
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def test_lbfgs_with_a_line_search_comes_as_far_as_that_of_torch() -> None:
    start = torch.linspace(-1.2, 1.3, 12, dtype=torch.float64).view(1, 3, 2, 2)
    end, evaluations = by_torch(rosenbrock, start, max_iter=60, history_size=10)
    optimizer = LBFGS(history=10, line_search="strong_wolfe")
    lowest = min(advance(optimizer, start, rosenbrock) for _ in range(evaluations))
    assert lowest <= 1.5 * rosenbrock(end).item() + 1e-12


def test_a_line_search_survives_what_steps_of_length_one_do_not() -> None:
    image, optimizer = torch.full((1, 3, 4, 4), 1.0), LBFGS(line_search="strong_wolfe")
    lowest = min(advance(optimizer, image, lambda x: torch.cosh(20 * x).sum()) for _ in range(60))
    assert lowest == pytest.approx(48, rel=1e-3)


def test_a_line_search_without_a_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="a line search needs the loss of the image"):
        LBFGS(line_search="strong_wolfe").step(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))


@pytest.fixture(scope="module")
def style_loss() -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The objective of a picture, 36×48, in float64, and the image to start from."""
    options = resolve_options(
        size=48, weights="random", device="cpu", style_layers="conv1_1 conv2_1 conv3_1", content_layers="conv2_2"
    )
    task = make_task(options, example("content"), example("style_mosaic"))
    loss = plain_loss(
        replace(task, style=task.style.double(), content=task.content.double()), Form(dtype=torch.float64)
    )
    return loss, task.start.double()


def test_iterates_on_the_real_objective_are_those_of_torch(
    style_loss: tuple[Callable[[Tensor], Tensor], Tensor],
) -> None:
    loss, start = style_loss
    theirs = start.clone().requires_grad_()
    reference = torch.optim.LBFGS([theirs], max_iter=1, history_size=10, tolerance_grad=0, tolerance_change=0)

    def closure() -> Tensor:
        reference.zero_grad()
        value = loss(theirs)
        value.backward()
        return value

    image, optimizer = start.clone(), LBFGS(history=10)
    for _ in range(30):
        reference.step(closure)
        advance(optimizer, image, loss)
        # Rounding is multiplied by the curvature's spread from step to step.
        torch.testing.assert_close(image, theirs.detach(), rtol=0, atol=1e-8)


@pytest.fixture(scope="module")
def as_far_as_torch(style_loss: tuple[Callable[[Tensor], Tensor], Tensor]) -> tuple[Tensor, int]:
    return by_torch(*style_loss, max_iter=40, history_size=20)


@pytest.mark.parametrize("hessian", ["scalar", "bands"])
def test_a_line_search_on_the_real_objective_comes_as_far_as_that_of_torch(
    hessian: str, style_loss: tuple[Callable[[Tensor], Tensor], Tensor], as_far_as_torch: tuple[Tensor, int]
) -> None:
    loss, start = style_loss
    end, evaluations = as_far_as_torch
    image, optimizer = start.clone(), LBFGS(hessian=hessian, line_search="strong_wolfe")
    assert min(advance(optimizer, image, loss) for _ in range(evaluations)) <= 1.1 * loss(end).item()
