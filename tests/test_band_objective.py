"""The loss and its gradient in bands on several processes against those of one."""

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from network_samples import noise
from processes import run_together

from fastnst.loss.objective import make_objective, style_targets
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import resolve_runtime
from fastnst.network.tiles import reach_of
from fastnst.network.weights import load_weights
from fastnst.options.options import resolve_options
from fastnst.plan.band_objective import BandObjective
from fastnst.plan.planner import plan_run
from fastnst.plan.ranks import Ranks, joined
from fastnst.plan.row_bands import make_bands

SHALLOW: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1=2"], "content_layers": "conv2_2"}
CASES: list[tuple[int, int, dict[str, Any], str | int]] = [
    (75, 46, SHALLOW, "none"),
    (75, 46, SHALLOW | {"padding": "replicate", "pooling": "max", "objective": "paper"}, 16),
    (80, 33, SHALLOW | {"tv_weight": 0, "content_weight": 0}, 8),
    (66, 40, {"style_layers": "conv1_1", "content_layers": "conv1_1"}, "none"),
    (75, 46, SHALLOW | {"tv_kind": "nine-point", "tv_reduction": "sum", "content_reduction": "mean"}, "none"),
    (80, 33, SHALLOW | {"tv_kind": "absolute", "tv_weight": 500, "content_reduction": "root"}, 16),
    (75, 46, {"style_layers": "conv1_1", "content_weight": 0, "tv_kind": "nine-point", "tv_weight": 1e6}, "none"),
]
DEEP: list[tuple[int, int, dict[str, Any], str | int]] = [(329, 37, {}, "none"), (329, 37, {"preset": "gatys"}, 32)]


def compared(cases: list[tuple[int, int, dict[str, Any], str | int]]) -> list[dict[str, float]]:
    """For each case the relative differences of this process's loss terms and gradient from those of the whole."""
    with joined() as ranks:
        return [_compared(ranks, *case) for case in cases]


def _compared(ranks: Ranks, height: int, width: int, given: dict[str, Any], tile: str | int) -> dict[str, float]:
    options = resolve_options(**{"precision": "fp32", "tv_weight": 0.5} | given)
    runtime = resolve_runtime(options)
    weights = load_weights("random", "vgg19", taps=options.taps)
    backbone = build_backbone(weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)
    content, image = noise(1, height, width), noise(2, height, width)
    style = style_targets(backbone, [(noise(3, 45, 63), 1.0)], options, runtime)
    expected, exact = make_objective(backbone, content, style, options, runtime).loss_and_gradient(image)
    bands = make_bands(ranks, height, width, reach_of(options.network, options.taps))
    seen = content[:, :, bands.seen]
    plan = plan_run(options, runtime, (seen.shape[2], width), tile=tile)
    objective = BandObjective(backbone, seen, style, options, runtime, bands, plan)
    part = bands.cut(image)
    found = {}
    for _ in range(2):
        loss, gradient = objective.loss_and_gradient(part)
        whole = bands.whole(gradient)
        found["gradient"] = ((whole - exact).norm() / exact.norm()).item()
        for which in (loss, objective.loss(part)):
            for name in ("total", "content", "style", "tv"):
                mine, other = getattr(which, name), getattr(expected, name)
                found[name] = max(found.get(name, 0.0), ((mine - other).abs() / other.abs().clamp_min(1e-30)).item())
    found["split"] = float(bands.is_split)
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_the_same_as_in_one_process(size: int, tmp_path: Path) -> None:
    for found in run_together(size, compared, tmp_path, CASES):
        for differences in found:
            assert differences.pop("split")
            assert max(differences.values()) < 1e-5, differences


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_the_whole_network(size: int, tmp_path: Path) -> None:
    for found in run_together(size, compared, tmp_path, DEEP):
        for differences in found:
            assert differences.pop("split")
            assert max(differences.values()) < 1e-5, differences


def short_of_memory(where: str, call: int) -> tuple[dict[str, float], list[str]]:
    """Differences from the whole, and what was warned, where the second process runs out of memory in one call."""
    method = getattr(Backbone, where)
    calls = iter(range(1000))

    def failing(self: Backbone, image: torch.Tensor, *given: Any, **named: Any) -> Any:
        is_band = image.shape[2] not in (79, 45)
        if os.environ["RANK"] == "1" and is_band and next(calls) == call:
            raise torch.OutOfMemoryError("not enough memory")
        return method(self, image, *given, **named)

    with pytest.MonkeyPatch.context() as patch, joined() as ranks, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(Backbone, where, failing)
        return _compared(ranks, 79, 46, SHALLOW, "auto"), [str(each.message) for each in caught]


@pytest.mark.parametrize(("where", "call"), [("forward", 0), ("forward", 1), ("backward", 0)])
def test_memory_that_runs_out_for_one(where: str, call: int, tmp_path: Path) -> None:
    """While the content is looked at, in the first pass, and in the second."""
    for rank, (differences, warned) in enumerate(run_together(2, short_of_memory, tmp_path, where, call)):
        assert differences.pop("split")
        assert max(differences.values()) < 1e-5, differences
        assert sum("memory ran out; going on with tiles of" in each for each in warned) == (rank == 1)
