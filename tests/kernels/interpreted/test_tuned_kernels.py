"""Kernels with launch parameters from a file, in the interpreter."""

import json
from pathlib import Path

import pytest
import torch
from fastnst_kernels import triton_gram, triton_partial, tuned
from fastnst_kernels.gpu import INTERPRETER
from kernel_checks import check_style_tap, make_features, make_target


def test_parameters_from_a_file_are_launched_and_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = make_features((1, 40, 15, 16), torch.float16, channels_last=True)
    partial = {"block_c": 16, "block_m": 32, "splits": 3, "num_warps": 2, "num_stages": 1}
    backward = {"block_c": 32, "block_m": 16, "block_k": 16, "num_warps": 2, "num_stages": 1}
    shared = {"mode": "16-bit", "aligned": True, "channels": 40, "positions": 256, "batch": 1}
    path = tmp_path / "tuned.json"
    document = {
        "format": tuned.FORMAT,
        "arch": INTERPRETER.name,
        "device": "CPU",
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "unknown",
        "versions": {},
        "entries": [
            {**shared, "kernel": kernel, "config": config, "seconds": 1.0, "heuristic_seconds": 2.0}
            for kernel, config in (("partial", partial), ("backward", backward))
        ],
    }
    path.write_text(json.dumps(document))
    monkeypatch.setenv(tuned.VARIABLE, str(path))
    launch, sums = triton_partial.partial_launch(features, "ieee", INTERPRETER)
    assert (launch.constants["BLOCK_C"], launch.constants["BLOCK_M"], launch.num_warps) == (16, 32, 2)
    assert tuple(sums.shape) == (1, 3, 6, 16, 16)
    assert triton_gram.plan_gram(features, "ieee", INTERPRETER).launches[0].grid == 18
    check_style_tap(features, make_target(features), backend="triton")
