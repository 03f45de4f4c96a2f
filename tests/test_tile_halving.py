"""Memory that runs out during a run: the tile is halved, and the run goes on from the image it had."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from network_samples import noise, prepared, relative_error

from fastnst.errors import FastnstWarning
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.network.backbone import Backbone
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import plan_run

SIZE = (60, 71)
LAYERS: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1", "conv3_1"], "content_layers": "conv2_2"}
OPTIONS, RUNTIME, BACKBONE = prepared(**LAYERS, optimizer="adam", weights="random")
CONTENT, IMAGE, STYLE = (noise(seed, *SIZE) for seed in (1, 2, 3))
TARGETS = style_targets(BACKBONE, [(STYLE, 1.0)], OPTIONS, RUNTIME)
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
PINNED = RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable assertions")
ON_A_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory")


class Failing:
    """Memory that runs out in the named calls of the backbone's forward or backward, counted from 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, calls: set[int], error: Exception = OUT_OF_MEMORY):
        self.count = 0
        original = getattr(Backbone, method)

        def fails(backbone: Backbone, *arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count - 1 in calls:
                raise error
            return original(backbone, *arguments, **options)

        monkeypatch.setattr(Backbone, method, fails)


def fitting(tile: Any, **settings: Any) -> FittingObjective:
    plan = plan_run(replace(OPTIONS, tile=tile), RUNTIME, SIZE)
    make = partial(Objective, BACKBONE, CONTENT, TARGETS, OPTIONS, RUNTIME)
    return FittingObjective(make, OPTIONS, RUNTIME, plan=plan, **settings)


def check(objective: FittingObjective) -> None:
    expected, gradient = Objective(BACKBONE, CONTENT, TARGETS, OPTIONS, RUNTIME).loss_and_gradient(IMAGE)
    loss, result = objective.loss_and_gradient(IMAGE)
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    assert relative_error(result, gradient) <= 1e-5


@pytest.mark.parametrize(
    ("method", "error"),
    [("forward", OUT_OF_MEMORY), ("forward", ON_A_CPU), ("backward", PINNED), ("backward", MemoryError())],
)
def test_the_tile_is_halved_where_memory_runs_out(
    method: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = fitting(32)
    check(objective)
    assert (objective.plan.tile, objective.plan.level) == (32, "kept")
    with monkeypatch.context() as patch:
        # The second tile of the next evaluation.
        Failing(patch, method, {1}, error)
        with pytest.warns(FastnstWarning, match="the run continues with tiles of 16 pixels"):
            loss, gradient = objective.loss_and_gradient(IMAGE)
    assert torch.isfinite(loss.total)
    assert torch.isfinite(gradient).all()
    assert (objective.plan.tile, objective.plan.level) == (16, "recompute")
    check(objective)


def test_the_content_is_computed_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Failing(patch, "forward", {0})
        with pytest.warns(FastnstWarning, match="tiles of 32 pixels"):
            objective = fitting("auto")
    check(objective)


def test_the_whole_image_becomes_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = fitting("auto")
    assert objective.plan.tile is None
    assert not objective.is_tiled
    with monkeypatch.context() as patch:
        Failing(patch, "backward", {0, 1})
        with pytest.warns(FastnstWarning, match="tiles of (32|16) pixels"):
            objective.loss_and_gradient(IMAGE)
    assert objective.is_tiled
    assert objective.plan.tile == 16
    check(objective)


def test_in_the_end_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = fitting(8)
    Failing(monkeypatch, "forward", set(range(1000)))
    with pytest.warns(FastnstWarning), pytest.raises(torch.OutOfMemoryError):
        objective.loss(IMAGE)


@pytest.mark.parametrize("tile", ["none", 32])
def test_the_heap_is_kept_small_where_the_plan_is_tight(tile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr("fastnst.loss.objective.give_back", lambda: calls.append(None))
    plan = plan_run(replace(OPTIONS, tile=tile), RUNTIME, SIZE)
    make = partial(Objective, BACKBONE, CONTENT, TARGETS, OPTIONS, RUNTIME)
    for limit, passes in ((2 * plan.peak_bytes, 0), (None, 0), (plan.peak_bytes, 2 * len(plan.grid))):
        calls.clear()
        check(FittingObjective(make, OPTIONS, RUNTIME, plan=replace(plan, limit_bytes=limit)))
        assert len(calls) == passes
