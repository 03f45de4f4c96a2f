"""Kernels built before a run: the rehearsal on meta tensors names all that the run launches, and threads build them."""

import importlib
import pkgutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastnst_kernels
import pytest
import torch
from network_samples import patches

from fastnst import Stylizer
from fastnst.network.runtime import Runtime
from fastnst.transfer.kernels import Building, Rehearsal

pytest.importorskip("triton")

from fastnst_kernels.launch import build, launch
from fastnst_kernels.launch.gpu import INTERPRETER

LAYERS: dict[str, Any] = {"style_layers": ["conv1_1", "conv2_1", "conv3_1"], "content_layers": "conv2_2"}
OPTIONS: dict[str, Any] = {**LAYERS, "weights": "random", "scales": None, "iterations": 3, "device": "cpu", "size": 80}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[launch.Launch]:
    """A CPU that stands for a GPU: what its run launches, none of which is built; results are zeros."""
    launches: list[launch.Launch] = []
    real = launch.run

    def run(work: launch.Launch, device: torch.device) -> None:
        if device.type == "meta":
            real(work, device)
        else:
            launches.append(work)

    for name in ("empty", "empty_like"):
        unfilled = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *of, unfilled=unfilled, **how: unfilled(*of, **how).zero_())
    monkeypatch.setattr(launch, "run", run)
    for module in pkgutil.walk_packages(fastnst_kernels.__path__, "fastnst_kernels."):
        if (".triton_" in module.name or ".launches" in module.name) and hasattr(
            importlib.import_module(module.name), "run"
        ):
            monkeypatch.setattr(importlib.import_module(module.name), "run", run)
    monkeypatch.setattr(launch, "gpu_of", lambda index: INTERPRETER)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(Runtime, "kernels", property(lambda self: "triton"))
    monkeypatch.setattr("fastnst_kernels.launch.backends._require_triton", lambda device: None)
    return launches


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adam", "pooling": "max", "tile": 48},
        {"style_loss": "covariance", "content_weight": 0.0, "tv_weight": 0.5},
        {"preset": "gatys", **LAYERS, "hessian": "scalar"},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_kernel_of_a_run_is_missing_from_its_rehearsal(
    monkeypatch: pytest.MonkeyPatch, launched: list[launch.Launch], dtype: torch.dtype, options: dict[str, Any]
) -> None:
    rehearsals: list[Rehearsal] = []
    monkeypatch.setattr("fastnst.transfer.prepared.Building", lambda found, device: rehearsals.extend(found))
    stylizer = Stylizer(patches(3, 80, 64), **OPTIONS | options)
    name = "fp16" if dtype == torch.float16 else "fp32"
    stylizer.runtime = Runtime(torch.device("cpu"), name, dtype, tf32=False, winograd=False, backend="triton")
    stylizer(patches(1, 80, 64))
    (rehearsal,) = rehearsals
    rehearsed = build.distinct(rehearsal.launches(), INTERPRETER).keys()
    missing = build.distinct(launched, INTERPRETER).keys() - rehearsed
    assert not missing
    assert len(launched) > len(rehearsed) > 12


def test_each_kernel_is_built_once_in_threads_and_marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[tuple[str, bool]] = []

    class Recorded(Rehearsal):
        def launches(self) -> list[Any]:
            return list("aab")

    def build_of(names: Sequence[str], device: torch.device, pool: Any) -> list[Any]:
        main = threading.main_thread()
        return [
            pool.submit(lambda name=name: built.append((name, threading.current_thread() is main)))
            for name in dict.fromkeys(names)
        ]

    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "build", build_of)
    monkeypatch.setattr("fastnst.transfer.kernels.device_name", lambda device: "a GPU")
    stylizer = Stylizer(patches(3, 80, 64), **OPTIONS)
    plan = stylizer.prepare(patches(1, 80, 64)).plans[0]
    rehearsal = Recorded(stylizer.options, stylizer.runtime, plan, ((80, 64),))
    for _ in range(2):
        left: list[int] = []
        Building([rehearsal], torch.device("cuda")).wait(left.append)
    assert sorted(built) == [("a", False), ("b", False)]
    assert left == []
