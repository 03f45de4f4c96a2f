"""The trial that decides `auto` on a CPU: what it picks, what it keeps, and what a slow precision is told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fastnst
from fastnst.errors import FastnstWarning
from fastnst.network import trial
from fastnst.network.runtime import resolve_runtime


def test_a_trial_is_kept_for_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path / "new"))
    first = trial.trial()
    assert set(first) == {"fp32", "bf16", "winograd"}
    assert all(seconds > 0 for seconds in first.values())
    kept = json.loads((tmp_path / "new" / "trials.json").read_text())
    assert kept == {trial.machine(): first}
    assert f"torch {torch.__version__}" in trial.machine()
    assert f"fastnst {fastnst.__version__}" in trial.machine()


@pytest.mark.parametrize(
    "modes",
    [torch.inference_mode, torch.no_grad, lambda: torch.device("meta"), lambda: torch.autocast("cpu")],
    ids=["inference", "no_grad", "meta", "autocast"],
)
def test_the_caller_s_modes_do_not_reach_a_trial(
    modes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path))
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    torch.set_default_dtype(torch.float64)
    with modes():
        assert all(0 < seconds < 60 for seconds in trial.trial().values())


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"another machine": {"fp32": 1}}', '{"KEY": {"fp32": 1}}'])
def test_a_cache_without_this_machine_s_trial(content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trial, "_measured", lambda: {"fp32": 2.0, "bf16": 1.0})
    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path / content[:20].replace("/", "")))
    path = trial.cache_folder() / "trials.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content.replace("KEY", trial.machine()))
    assert trial.trial() == {"fp32": 2.0, "bf16": 1.0}


def test_processes_that_begin_together_make_one_trial(tmp_path: Path) -> None:
    words = "from fastnst.network import trial; print(sorted(trial.trial().items()))"
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", words], env={**os.environ, "FASTNST_CACHE": str(tmp_path)}, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    first, second = (process.communicate()[0] for process in begun)
    assert first == second != b""


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(trial, "_measured", lambda: {"fp32": 2.0, "bf16": 1.0})
    monkeypatch.setenv("FASTNST_CACHE", str(tmp_path / "file"))
    assert trial.quickest() == "bf16"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"fp32": 3.0, "bf16": 1.0, "winograd": 2.0}, "bf16"),
        ({"fp32": 3.0, "bf16": 1.9, "winograd": 2.0}, "winograd"),
        ({"fp32": 1.0, "bf16": 90.0}, "fp32"),
    ],
)
def test_sixteen_bits_must_be_worthwhile(
    seconds: dict[str, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "trial", lambda: seconds)
    assert resolve_runtime("cpu").precision == expected


def test_a_slow_precision_is_told(monkeypatch: pytest.MonkeyPatch, recwarn: Any) -> None:
    monkeypatch.setattr(trial, "trial", lambda: {"fp32": 1.0, "bf16": 5.0})
    with pytest.warns(FastnstWarning, match="bf16 takes 5.0 times as long as fp32"):
        resolve_runtime("cpu", "bf16")
