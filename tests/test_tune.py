"""The search for launch parameters, in Triton's interpreter, where only its working counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastnst_kernels import tuned
from fastnst_kernels.blocks import Problem
from fastnst_kernels.gpu import INTERPRETER, TARGETS, gpu_of

from bench import tune

pytest.importorskip("triton")
ROOT = Path(__file__).parent.parent


def test_tiny_run_writes_a_file_that_the_kernels_take(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bench.tune", "--tiny", "--out", str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" tried, ") == 4
    if path.exists():
        assert tuned.load(path, INTERPRETER).entries
        assert json.loads(path.read_text())["commit"]
    else:
        assert "nothing is written" in done.stdout


@pytest.mark.parametrize("name", list(TARGETS))
@pytest.mark.parametrize("kernel", list(tuned.PARAMETERS))
def test_neighbours_can_run(name: str, kernel: str) -> None:
    gpu = TARGETS[name]
    for channels, positions in ((64, 1 << 20), (512, 4096)):
        problem = Problem(channels, positions, 1, 2, True, True)
        first = tune.heuristic_config(kernel, problem, gpu)
        assert tuned.check(kernel, problem, first, gpu) is None
        found = tune.neighbours(kernel, first, problem, gpu)
        assert len(found) >= 4
        for config in found:
            assert tuned.check(kernel, problem, config, gpu) is None
            assert sum(config[key] != first[key] for key in first) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "torch sees no GPU; --tiny tries"), (["--tiny"], "--tiny measures nothing worth keeping; say with --out")],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="it is for machines without a GPU")
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tune.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.gpu
def test_a_layer_is_tuned_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tuned.json"
    assert tune.main(["--size", "64", "--precision", "fp16", "--rounds", "2", "--limit", "20", "--out", str(path)]) == 0
    assert " tried, " in capsys.readouterr().out
    if path.exists():
        assert tuned.load(path, gpu_of(torch.cuda.current_device())).entries
