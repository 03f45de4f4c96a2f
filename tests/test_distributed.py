"""Runs on several processes against the same run on one."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import finish, run_together, start

import fastnst
from fastnst.ranks import joined
from fastnst.result import Iterate, Result

RUN: dict[str, Any] = {
    "size": 96,
    "scales": [24, 96],
    "iterations": 6,
    "weights": "random",
    "precision": "fp32",
    "style_layers": ["conv1_1", "conv2_1"],
    "content_layers": "conv2_2",
    "tv_weight": 0.5,
}


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((2, 3, 12, 8), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (96, 64), mode="bicubic").clamp(0, 1)
    return fine[0], fine[1]


def stylized(options: dict[str, Any], calls: dict[str, Any]) -> tuple[Result, list[Iterate]]:
    """This process's result, and what its callback saw."""
    content, style = pictures()
    seen: list[Iterate] = []

    def callback(iterate: Iterate) -> bool:
        seen.append(iterate)
        return len(seen) < calls.get("stop", 1000)

    calls = {name: value for name, value in calls.items() if name != "stop"}
    with joined() as ranks:
        return fastnst.Stylizer(style, ranks=ranks, **options)(content, callback=callback, **calls), seen


def resumed(path: Path, options: dict[str, Any]) -> Result:
    content, style = pictures()
    with joined() as ranks:
        return fastnst.Stylizer(style, ranks=ranks, **options).resume(path, content)


def totals(result: Result) -> list[float]:
    return [record.total for record in result.losses]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("optimizer", ["adam"])
def test_a_run_on_several_processes(size: int, optimizer: str, tmp_path: Path) -> None:
    options = {**RUN, "optimizer": optimizer}
    content, style = pictures()
    expected = fastnst.stylize(content, style, **options)
    found = run_together(size, stylized, tmp_path, options, {"checkpoint": tmp_path / "run.ckpt"})
    for rank, (result, seen) in enumerate(found):
        assert totals(result) == pytest.approx(totals(expected), rel=1e-4)
        assert (result.tensor - expected.tensor).abs().max() < 1e-2
        assert torch.equal(result.tensor, found[0][0].tensor)
        assert len(seen) == (len(expected.losses) if rank == 0 else 0)
    first = found[0][1]
    assert [iterate.record.total for iterate in first] == totals(found[0][0])
    assert torch.equal(first[-1].image, found[0][0].tensor)
