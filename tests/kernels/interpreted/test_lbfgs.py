"""The fused L-BFGS, interpreted: against float64, at the edges, and as the optimiser runs it."""

from collections.abc import Callable

import pytest
import torch
from fastnst_kernels.lbfgs import FusedLBFGS
from fastnst_kernels.verify.lbfgs import iterate
from kernel_checks import Shape, check_family
from torch import Tensor

from fastnst.optim import LBFGS


def quadratic(shape: Shape) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A start, and the gradient of a quadratic."""
    generator = torch.Generator().manual_seed(0)
    start = 0.3 * torch.randn(shape, generator=generator)
    curvature = torch.randn(shape, generator=generator).double().square() + 0.1
    return start, lambda image: curvature * image.double()


def moved(optimizer: LBFGS, image: Tensor, gradient: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    for _ in range(steps):
        optimizer.step(image, gradient(image).float())
    return image


def test_steps_are_those_of_the_reference() -> None:
    check_family("lbfgs", (1, 3, 9, 7), layouts=("nchw",))


@pytest.mark.parametrize(
    ("shape", "history", "steps"),
    # Chunks of several blocks, the last one cut; rows of pairs in two tiles; one pixel.
    [((1, 3, 40, 50), 3, 4), ((1, 3, 5, 6), 22, 24), ((1, 3, 1, 1), 2, 3)],
    ids=str,
)
def test_blocks_and_tiles(shape: Shape, history: int, steps: int) -> None:
    start, gradient = quadratic(shape)
    image = moved(LBFGS(history=history, backend="triton"), start.clone(), gradient, steps)
    exact, plain = (iterate(x, gradient, steps, history=history) for x in (start.double(), start))
    torch.testing.assert_close(image.double(), exact, rtol=0, atol=2 * float((plain - exact).abs().max()) + 1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("hessian", ["bands", "scalar"])
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_gradients_that_do_not_change(slope: float, hessian: str) -> None:
    image = torch.full((1, 3, 2, 2), 0.5)
    optimizer = LBFGS(hessian=hessian, history=2, history_dtype=torch.float16, backend="triton")
    for _ in range(4):
        optimizer.step(image, torch.full_like(image, slope))
    assert image.isfinite().all()
    assert (image == 0.5).all() == (slope == 0)
    assert not optimizer.live_state()["curved"].any()


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    start, gradient = quadratic((1, 3, 4, 5))
    ends = [
        moved(
            LBFGS(history=3, history_dtype=torch.float16, backend="triton"),
            start.clone(),
            lambda image, factor=factor: factor * gradient(image),
            5,
        )
        for factor in (1.0, scale)
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def copied(optimizer: LBFGS) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in optimizer.live_state().items()}


def test_it_goes_on_from_its_state_to_the_same_bits_and_anew_from_another_kind() -> None:
    start, gradient = quadratic((1, 3, 6, 5))
    first, second, plain = (LBFGS(hessian="bands", history=2, backend=name) for name in ("triton", "triton", "torch"))
    halfway = moved(first, start.clone(), gradient, 3)
    second.load_state_dict(copied(first))
    whole = moved(first, halfway.clone(), gradient, 2)
    assert torch.equal(moved(second, halfway.clone(), gradient, 2), whole)
    moved(plain, start.clone(), gradient, 3)
    second.load_state_dict(copied(plain))
    fresh = moved(LBFGS(hessian="bands", history=2, backend="triton"), halfway.clone(), gradient, 1)
    assert torch.equal(moved(second, halfway.clone(), gradient, 1), fresh)
    plain.load_state_dict(copied(first))
    fresh = moved(LBFGS(hessian="bands", history=2), halfway.clone(), gradient, 1)
    assert torch.equal(moved(plain, halfway.clone(), gradient, 1), fresh)


@pytest.mark.parametrize("hessian", ["bands", "scalar"])
@pytest.mark.parametrize("is_better", [False, True])
def test_the_image_of_before_becomes_the_best_one_if_it_is_better(is_better: bool, hessian: str) -> None:
    start, gradient = quadratic((1, 3, 4, 5))
    image, alone, best = start.clone(), start.clone(), torch.zeros_like(start)
    for moving, given in ((image, (best, torch.tensor(is_better))), (alone, None)):
        LBFGS(hessian=hessian, backend="triton").step(moving, gradient(moving).float(), best=given)
    assert torch.equal(image, alone)
    assert torch.equal(best, start if is_better else torch.zeros_like(start))


@pytest.mark.parametrize("hessian", ["bands", "scalar"])
def test_a_bounded_image_stays_in_its_range(hessian: str) -> None:
    start, slope = quadratic((1, 3, 6, 5))

    def gradient(image: Tensor) -> Tensor:
        return slope(image + 0.2)

    image, plain = start.clone(), start.clone()
    ours, theirs = (LBFGS(hessian=hessian, bounded=True, history=3, backend=name) for name in ("triton", "torch"))
    for _ in range(4):
        image, plain = moved(ours, image, gradient, 1), moved(theirs, plain, gradient, 1)
        assert float(image.min()) == 0
        torch.testing.assert_close(image, plain, rtol=0, atol=1e-5)
    image[0, 0, 0, 0] = torch.nan
    assert moved(ours, image, gradient, 1).isnan().any()


def test_what_it_does_not_fit_is_left_to_torch() -> None:
    start, gradient = quadratic((1, 3, 4, 4))
    last = start.contiguous(memory_format=torch.channels_last)
    for image, history in ((last, 3), (start, 33)):
        ours, theirs = (LBFGS(history=history, backend=name) for name in ("triton", "torch"))
        ends = [moved(optimizer, image.clone(), gradient, 2) for optimizer in (ours, theirs)]
        assert torch.equal(*ends)


@pytest.mark.parametrize("hessian", ["bands", "scalar"])
def test_another_default_dtype_changes_nothing(hessian: str, request: pytest.FixtureRequest) -> None:
    start, gradient = quadratic((1, 3, 4, 5))
    ends = []
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        optimizer = LBFGS(hessian=hessian, history=2, history_dtype=torch.float16, backend="triton")
        ends.append(moved(optimizer, start.clone(), gradient, 3))
    assert torch.equal(*ends)


def test_nothing_is_read_before_it_is_written() -> None:
    """Beside the state, all memory of a step holds NaN at first."""
    start, gradient = quadratic((1, 3, 4, 5))
    fused = FusedLBFGS(start, learning_rate=1.0, history=2, dtype=torch.float16, places=None, most=1.0)
    fused.begin(start, gradient(start).float())
    for _ in range(4):
        fused.step(start, gradient(start).float())
        assert all(tensor.isfinite().all() for tensor in fused.tensors().values())
