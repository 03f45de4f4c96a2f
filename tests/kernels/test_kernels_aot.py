"""The kernels compiled ahead of time for GPUs that are not here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
if sys.platform != "linux":
    pytest.skip("triton compiles on Linux", allow_module_level=True)

MATRIX_UNITS = {
    "sm_80": "HMMA",
    "sm_86": "HMMA",
    "sm_89": "HMMA",
    "sm_90": "HGMMA",
    "sm_100": "UTCHMMA",
    "sm_120": "HMMA",
    "gfx942": "v_mfma",
    "gfx1100": "v_wmma",
}


def _compile(target: str, tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fastnst_kernels.aot", "--target", target, "--json", *options],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    records: list[dict[str, Any]] = json.loads(done.stdout)
    failed = [record for record in records if not record["ok"]]
    assert done.returncode == (1 if failed else 0)
    assert not failed, json.dumps(failed, indent=1)
    return records


def _check_matrix_instructions(records: list[dict[str, Any]], target: str) -> None:
    for record in records:
        if record["mode"] in ("float16", "bfloat16") and record["shape"] != "image":
            names = " ".join(record["matrix_instructions"])
            assert MATRIX_UNITS[target] in names, record


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_one_layer_without_spills_on_tensor_cores(target: str, tmp_path: Path) -> None:
    records = _compile(target, tmp_path, "--shapes", "conv2_1", "--modes", "float16")
    assert {record["kernel"] for record in records} == {"partial_gram", "reduce_gram", "finish_loss", "tap_backward"}
    _check_matrix_instructions(records, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(MATRIX_UNITS))
def test_all(target: str, tmp_path: Path) -> None:
    _check_matrix_instructions(_compile(target, tmp_path), target)


def test_not_under_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastnst_kernels.aot", "--target", "sm_90"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "TRITON_INTERPRET is set" in done.stderr
