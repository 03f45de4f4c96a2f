"""Memory that runs out during a run: the tile is halved, and the run goes on from the image it had."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fastnst.errors import FastnstWarning
from fastnst.loss.objective import make_objective
from fastnst.loss.targets import style_targets
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import resolve_runtime
from fastnst.network.weights import load_weights
from fastnst.optim import make_optimizer
from fastnst.options.options import resolve_options
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import Plan, next_smaller, plan_run
from fastnst.transfer.descent import Descent

SIZE = (60, 71)
OPTIONS = resolve_options(
    precision="fp32",
    weights="random",
    optimizer="adam",
    style_layers=["conv1_1", "conv2_1", "conv3_1"],
    content_layers="conv2_2",
)
RUNTIME = resolve_runtime(OPTIONS.device, OPTIONS.precision, OPTIONS.backend)


def noise(seed: int) -> torch.Tensor:
    return torch.rand((1, 3, *SIZE), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone(load_weights("random", taps=OPTIONS.taps), OPTIONS.taps, RUNTIME)


class Failing:
    """Memory that runs out in the named calls of the backbone's forward or backward, counted from 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, calls: set[int], error: Callable[[], Exception]):
        self.count = 0
        original = getattr(Backbone, method)

        def fails(backbone: Backbone, *arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count - 1 in calls:
                raise error()
            return original(backbone, *arguments, **options)

        monkeypatch.setattr(Backbone, method, fails)


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def on_a_cpu() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory")


def fitting(backbone: Backbone, tile: Any, **settings: Any) -> FittingObjective:
    style = style_targets(backbone, [(noise(3), 1.0)], OPTIONS, RUNTIME)
    plan = plan_run(OPTIONS, RUNTIME, SIZE, tile=tile)
    return FittingObjective(backbone, noise(1), style, OPTIONS, RUNTIME, plan=plan, **settings)


def exact(backbone: Backbone) -> tuple[float, torch.Tensor]:
    style = style_targets(backbone, [(noise(3), 1.0)], OPTIONS, RUNTIME)
    loss, gradient = make_objective(backbone, noise(1), style, OPTIONS, RUNTIME).loss_and_gradient(noise(2))
    return loss.total.item(), gradient


def check(found: FittingObjective, backbone: Backbone) -> None:
    expected, gradient = exact(backbone)
    loss, result = found.loss_and_gradient(noise(2))
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert (result - gradient).norm() <= 1e-5 * gradient.norm()


def pinned() -> Exception:
    return RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable assertions")


@pytest.mark.parametrize(
    ("method", "error"),
    [("forward", out_of_memory), ("forward", on_a_cpu), ("backward", pinned), ("backward", MemoryError)],
)
def test_the_tile_is_halved_where_memory_runs_out(
    method: str, error: Callable[[], Exception], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = fitting(backbone, 32)
    check(objective, backbone)
    assert (objective.plan.tile, objective.plan.level) == (32, "kept")
    with monkeypatch.context() as patch:
        # The second tile of the next evaluation.
        Failing(patch, method, {1}, error)
        with pytest.warns(FastnstWarning, match="going on with tiles of 16 pixels"):
            loss, gradient = objective.loss_and_gradient(noise(2))
    assert torch.isfinite(loss.total)
    assert torch.isfinite(gradient).all()
    assert (objective.plan.tile, objective.plan.level) == (16, "recompute")
    check(objective, backbone)


def test_the_whole_image_becomes_tiles(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = fitting(backbone, "auto")
    assert objective.plan.tile is None
    assert not objective.is_tiled
    with monkeypatch.context() as patch:
        Failing(patch, "backward", {0, 1}, out_of_memory)
        with pytest.warns(FastnstWarning, match="tiles of (32|16) pixels"):
            objective.loss_and_gradient(noise(2))
    assert objective.is_tiled
    assert objective.plan.tile == 16
    check(objective, backbone)


def test_memory_that_runs_out_while_the_targets_are_computed(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = style_targets(backbone, [(noise(3), 1.0)], OPTIONS, RUNTIME)
    plan = plan_run(OPTIONS, RUNTIME, SIZE)
    with monkeypatch.context() as patch:
        Failing(patch, "forward", {0}, out_of_memory)
        with pytest.warns(FastnstWarning, match="tiles of 32 pixels"):
            objective = FittingObjective(backbone, noise(1), style, OPTIONS, RUNTIME, plan=plan)
    check(objective, backbone)


def test_the_run_goes_on_from_the_same_image(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a run that was hit are those of one that was not."""

    def run(failing: set[int]) -> tuple[list[float], torch.Tensor]:
        objective = fitting(backbone, 32)
        with monkeypatch.context() as patch:
            Failing(patch, "backward", failing, out_of_memory)
            descent = Descent(noise(2), objective, lambda: make_optimizer(OPTIONS, RUNTIME))  # type: ignore[arg-type]
            descent.begin()
            for _ in range(3):
                descent.advance()
            descent.end()
        return [row[0] for row in descent.read()], descent.image

    losses, image = run(set())
    with pytest.warns(FastnstWarning, match="memory ran out"):
        found, after = run({7})
    assert len(found) == 5
    assert found == pytest.approx(losses, rel=1e-3)
    assert (after - image).abs().max() < 0.05


def test_in_the_end_it_is_raised(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = fitting(backbone, 8)
    Failing(monkeypatch, "forward", set(range(1000)), out_of_memory)
    with pytest.warns(FastnstWarning), pytest.raises(torch.OutOfMemoryError):
        objective.loss(noise(2))


def test_other_errors_pass(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = fitting(backbone, 32)
    Failing(monkeypatch, "forward", {0}, lambda: RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        objective.loss(noise(2))


def test_a_fixed_plan_stays(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = fitting(backbone, "none", tile_is_fixed=True)
    Failing(monkeypatch, "forward", {0}, out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        objective.loss(noise(2))


def test_smaller_and_smaller() -> None:
    plan: Plan | None = plan_run(OPTIONS, RUNTIME, SIZE)
    edges = []
    while plan is not None:
        edges.append(plan.tile)
        plan = next_smaller(plan, OPTIONS, RUNTIME)
    assert edges == [None, 32, 16, 8, 4]
    smallest = plan_run(OPTIONS, RUNTIME, SIZE, tile=4)
    assert next_smaller(replace(smallest, tile=4), OPTIONS, RUNTIME) is None
