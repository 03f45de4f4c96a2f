"""The optimisers against torch's own, and their behaviour at the edges."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fastnst_kernels.lbfgs import first_factor
from torch import Tensor

from fastnst.network.runtime import resolve_runtime
from fastnst.optim import LBFGS, Adam, Optimizer, make_optimizer
from fastnst.optim.lbfgs import MOST_MOVE
from fastnst.options.resolve import resolve_options


def quadratic(size: int = 36, condition: float = 1e3) -> tuple[Tensor, Tensor]:
    """A symmetric positive definite matrix with the given condition number, and a right-hand side."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    spectrum = torch.logspace(0, -torch.tensor(condition).log10().item(), size, dtype=torch.float64)
    return basis @ torch.diag(spectrum) @ basis.T, torch.randn(size, dtype=torch.float64, generator=generator)


def test_lbfgs_takes_the_steps_of_torch() -> None:
    matrix, vector = quadratic()
    theirs = torch.zeros(1, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    reference = torch.optim.LBFGS([theirs], lr=0.5, max_iter=1, history_size=5, tolerance_grad=0, tolerance_change=0)

    def closure() -> Tensor:
        reference.zero_grad()
        flat = theirs.view(-1)
        loss = 0.5 * flat @ matrix @ flat - vector @ flat
        loss.backward()
        return loss

    image = torch.zeros(1, 3, 4, 3, dtype=torch.float64)
    optimizer = LBFGS(learning_rate=0.5, history=5)
    for _ in range(30):
        reference.step(closure)
        optimizer.step(image, (matrix @ image.view(-1) - vector).view_as(image))
        torch.testing.assert_close(image, theirs.detach(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("hessian", ["scalar", "bands"])
def test_lbfgs_accepts_channels_last(hessian: str) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(1, 3, 5, 4, dtype=torch.float64, generator=generator)
    curvature = torch.rand(1, 3, 5, 4, dtype=torch.float64, generator=generator) + 0.1
    last = plain.to(memory_format=torch.channels_last, copy=True)
    steps = LBFGS(hessian=hessian), LBFGS(hessian=hessian)
    for _ in range(10):
        steps[0].step(plain, curvature * plain)
        steps[1].step(last, (curvature * last).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, check_stride=False)
    assert last.is_contiguous(memory_format=torch.channels_last)
    strided = torch.zeros(1, 3, 8, 8)[..., ::2]
    with pytest.raises(ValueError, match="neither contiguous nor channels-last"):
        LBFGS(hessian=hessian).step(strided, torch.zeros_like(strided))


@pytest.mark.parametrize("hessian", ["scalar", "bands"])
@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("size", [(2, 2), (128, 128)])
def test_lbfgs_survives_a_gradient_that_does_not_change(size: tuple[int, int], slope: float, hessian: str) -> None:
    image = torch.full((1, 3, *size), 0.5)
    optimizer = LBFGS(hessian=hessian)
    for _ in range(5):
        optimizer.step(image, torch.full_like(image, slope))
    assert image.isfinite().all()
    assert (image == 0.5).all() == (slope == 0)


@pytest.mark.parametrize("rate", [0.5, 1.0])
@pytest.mark.parametrize("slope", [1e-20, 1.0])
def test_the_first_step_from_far_is_as_long_as_any_may_be(slope: float, rate: float) -> None:
    start = torch.full((1, 3, 20, 30), 0.5)
    gradient = slope * torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    image, optimizer = start.clone(), LBFGS(hessian="bands", first_move=MOST_MOVE, learning_rate=rate)
    optimizer.step(image, torch.zeros_like(image))
    assert torch.equal(image, start)
    optimizer = LBFGS(hessian="bands", first_move=MOST_MOVE, learning_rate=rate)
    optimizer.step(image, gradient)
    expected = -rate * MOST_MOVE * gradient / gradient.double().square().mean().sqrt()
    torch.testing.assert_close((image - start).double(), expected.double(), rtol=1e-4, atol=1e-7)
    factor = first_factor(gradient, MOST_MOVE)
    assert float((factor * gradient.double()).square().mean().sqrt()) == pytest.approx(MOST_MOVE)


@pytest.mark.parametrize(
    ("changed", "is_far"),
    [
        ({}, True),
        ({"init": "noise"}, True),
        ({"init": "network"}, False),
        ({"init": torch.zeros(3, 4, 4)}, False),
        ({"iterations": (50, 3)}, False),
        ({"hessian": "scalar"}, False),
    ],
)
def test_runs_that_begin_far_from_their_end(changed: dict[str, Any], is_far: bool) -> None:
    optimizer = make_optimizer(replace(resolve_options(device="cpu"), **changed), resolve_runtime("cpu", "fp32"))
    assert isinstance(optimizer, LBFGS)
    assert optimizer.first_move == (MOST_MOVE if is_far else None)
    begun = make_optimizer(resolve_options(device="cpu"), resolve_runtime("cpu", "fp32"), is_begun=True)
    assert isinstance(begun, LBFGS)
    assert begun.first_move is None


def test_adam_takes_the_steps_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = 0.4 + 0.2 * torch.rand(1, 3, 4, 4, dtype=torch.float64, generator=generator)
    theirs = start.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=1e-3, betas=(0.9, 0.99), eps=1e-8)
    image, optimizer = start.clone(), Adam(learning_rate=1e-3)
    for _ in range(50):
        theirs.grad = (theirs.detach() - 0.1) ** 3
        optimizer.step(image, (image - 0.1) ** 3)
        reference.step()
    torch.testing.assert_close(image, theirs.detach(), rtol=1e-10, atol=1e-12)
    for _ in range(3):
        optimizer.step(image, 1e6 * torch.randn_like(image))
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_adam_carries_its_moments_to_another_size() -> None:
    image = torch.full((1, 3, 4, 6), 0.5)
    optimizer = Adam(learning_rate=1e-3)
    for _ in range(3):
        optimizer.step(image, torch.full_like(image, 0.25))
    finer, image = optimizer.rescaled((8, 12)), torch.full((1, 3, 8, 12), 0.5)
    # A quarter of the gradient by a pixel where there are four times the pixels: the moments agree with it.
    finer.step(image, torch.full_like(image, 0.0625))
    torch.testing.assert_close(image, torch.full_like(image, 0.5 - 1e-3), rtol=0, atol=1e-6)
    assert finer.live_state()["steps"] == 4
    assert Adam().rescaled((4, 4)).live_state() == {}


def test_lbfgs_carries_what_it_knows_of_the_bands_to_another_size() -> None:
    generator = torch.Generator().manual_seed(0)
    image, optimizer = torch.rand(1, 3, 48, 64, generator=generator), LBFGS(hessian="bands")
    assert optimizer.rescaled((96, 128)).live_state() == {}
    for _ in range(6):
        optimizer.step(image, 1e-3 * image)
    finer = optimizer.rescaled((96, 128))
    # As steep by a pixel as before: the first step of a quadratic ends near its minimum.
    start = torch.rand(1, 3, 96, 128, generator=generator) * 0.03
    moved, fresh = start.clone(), start.clone()
    finer.step(moved, 1e-3 * start)
    LBFGS(hessian="bands").step(fresh, 1e-3 * start)
    assert float(moved.norm()) < 0.2 * float(start.norm())
    assert float(fresh.norm()) > 0.9 * float(start.norm())
    # The same from a state that was saved at the end of a scale.
    saved = LBFGS(hessian="bands")
    saved.load_state_dict(optimizer.live_state())
    again = start.clone()
    saved.rescaled((96, 128)).step(again, 1e-3 * start)
    assert torch.equal(again, moved)
    scalar = LBFGS()
    scalar.step(image, 1e-3 * image)
    assert scalar.rescaled((96, 128)).live_state() == {}


@pytest.mark.parametrize("line_search", ["none", "strong_wolfe"])
@pytest.mark.parametrize("hessian", ["scalar", "bands"])
def test_a_bounded_image_ends_lower_than_one_that_is_clamped_at_the_end(hessian: str, line_search: str) -> None:
    matrix, vector = quadratic(192, condition=20)

    def loss(image: Tensor) -> Tensor:
        x = image.double().flatten()
        return 0.5 * x @ matrix @ x - vector @ x

    def moved(bounded: bool) -> Tensor:
        image, optimizer = (
            torch.full((1, 3, 8, 8), 0.5),
            LBFGS(hessian=hessian, bounded=bounded, line_search=line_search),
        )
        for _ in range(60):
            gradient = (matrix @ image.double().flatten() - vector).view_as(image)
            optimizer.step(image, gradient.float(), loss(image))
            assert not bounded or 0 <= float(image.min()) <= float(image.max()) <= 1
        return image

    assert loss(moved(True)) < loss(moved(False).clamp(0, 1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "history_dtype", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-6),
        (torch.float32, torch.float32, 1e-4),
        (torch.float32, torch.bfloat16, 1e-3),
        (torch.float32, torch.float16, 1e-3),
    ],
)
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_lbfgs_gets_there_whatever_the_scale_of_the_loss(
    sign: int, dtype: torch.dtype, history_dtype: torch.dtype, tolerance: float, layout: torch.memory_format
) -> None:
    is_short = history_dtype.itemsize == 2
    scale = 10.0 ** (sign * (9 if is_short else 12))
    matrix, vector = (each.to(dtype) for each in quadratic(size=108, condition=30 if is_short else 10))
    image = torch.full((1, 3, 6, 6), 0.5, dtype=dtype).to(memory_format=layout)
    optimizer = LBFGS(history_dtype=history_dtype) if is_short else LBFGS()
    for _ in range(80 if is_short else 60):
        gradient = (matrix @ image.reshape(-1) - vector).view(1, 3, 6, 6)
        optimizer.step(image, scale * gradient.contiguous(memory_format=layout))
    torch.testing.assert_close(matrix @ image.reshape(-1), vector, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "make",
    [
        Adam,
        LBFGS,
        lambda: LBFGS(history=3, history_dtype=torch.bfloat16),
        lambda: LBFGS(line_search="strong_wolfe"),
        lambda: LBFGS(hessian="bands"),
        lambda: LBFGS(hessian="bands", line_search="strong_wolfe", history_dtype=torch.float16),
    ],
    ids=["adam", "lbfgs", "bf16", "strong_wolfe", "bands", "all"],
)
def test_an_optimiser_goes_on_from_its_state_to_the_same_bits(make: Callable[[], Optimizer]) -> None:
    matrix, vector = (each.float() for each in quadratic(condition=100))

    def stepped(optimizer: Optimizer, image: Tensor, count: int) -> None:
        for _ in range(count):
            flat = image.view(-1)
            loss = 0.5 * flat @ matrix @ flat - vector @ flat
            optimizer.step(image, (matrix @ flat - vector).view_as(image), loss)

    whole, halves = (torch.full((1, 3, 4, 3), 0.5) for _ in range(2))
    stepped(make(), whole, 12)
    first, second = make(), make()
    assert second.live_state() == {}
    stepped(first, halves, 5)
    state = {name: value.clone() for name, value in first.live_state().items()}
    stepped(first, halves.clone(), 3)
    second.load_state_dict(state)
    stepped(second, halves, 7)
    assert torch.equal(whole, halves)
    second.load_state_dict({})
    assert second.live_state() == {}


def test_the_options_choose_the_optimiser() -> None:
    runtime = resolve_runtime("cpu")
    adam = make_optimizer(resolve_options(optimizer="adam", learning_rate=0.5), runtime)
    assert isinstance(adam, Adam)
    assert adam.learning_rate == 0.5
    assert isinstance(make_optimizer(resolve_options(), runtime), LBFGS)
    options = resolve_options(history=7, history_precision="bf16", line_search="strong_wolfe")
    lbfgs = make_optimizer(options, runtime)
    assert isinstance(lbfgs, LBFGS)
    assert (lbfgs.history, lbfgs.history_dtype) == (7, torch.bfloat16)
    for device, dtype in (("cpu", None), ("cuda", torch.float16)):
        automatic = make_optimizer(resolve_options(), replace(runtime, device=torch.device(device)))
        assert isinstance(automatic, LBFGS)
        assert automatic.history_dtype == dtype
    assert isinstance(lbfgs.rescaled((2, 3)), LBFGS)
    assert lbfgs.rescaled((2, 3)).__dict__.items() >= {"history": 7, "line_search": "strong_wolfe"}.items()
