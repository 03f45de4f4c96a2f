"""The kernels compiled ahead of time for GPUs that are not here, and what is said of kernels that are wrong."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
if sys.platform != "linux":
    pytest.skip("triton compiles on Linux", allow_module_level=True)

import toy_kernels
from fastnst_kernels import aot
from fastnst_kernels.gpu import TARGETS

COPY, SHIFTED, PRODUCT, UPCAST, LARGE, NO_POWER, BORDER = range(7)


def _compile_toy(index: int, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> aot.Compiled:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(aot, "_module", lambda name: toy_kernels)
    return aot.compile_one(aot.Job(target, "toy", index, "toy", "float16", "nchw", "conv4_1"))


@pytest.mark.parametrize(
    ("target", "load", "store"),
    [
        ("sm_80", "LDG.E.128", "STG.E.128"),
        ("sm_100", "LDG.E.128", "STG.E.128"),
        ("gfx942", "buffer_load_dwordx4", "buffer_store_dwordx4"),
        ("gfx1100", "buffer_load_b128", "buffer_store_b128"),
    ],
)
def test_wide_accesses(target: str, load: str, store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiled = _compile_toy(COPY, target, monkeypatch, tmp_path)
    assert compiled.ok
    assert [(one.argument, one.store, one.widest, *one.instructions) for one in compiled.features] == [
        ("features", False, 16, load),
        ("gradient", True, 16, store),
    ]
    assert compiled.occupancy is not None
    assert compiled.occupancy.warps == compiled.occupancy.max_warps


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_narrow_loads_are_a_problem(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (problem,) = _compile_toy(SHIFTED, target, monkeypatch, tmp_path).problems
    assert problem.startswith("features is loaded 2 bytes at a time in line")


def test_a_border_may_be_narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiled = _compile_toy(BORDER, "sm_90", monkeypatch, tmp_path)
    assert compiled.ok
    assert [(one.narrowest, one.widest) for one in compiled.features] == [(2, 16), (16, 16)]


@pytest.mark.parametrize(
    ("target", "unit"),
    [("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA"), ("gfx942", "v_mfma"), ("gfx1100", "v_wmma")],
)
def test_a_product_off_the_matrix_unit_is_a_problem(
    target: str, unit: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = _compile_toy(PRODUCT, target, monkeypatch, tmp_path)
    assert unit in " ".join(right.matrix_instructions)
    assert right.ok
    # The others have matrix instructions for float32 too.
    if target in ("sm_80", "sm_90", "gfx1100"):
        wrong = _compile_toy(UPCAST, target, monkeypatch, tmp_path)
        assert f"a 64×32×64 product in float16 without {unit}" in wrong.problems


def test_spills_and_too_much_shared_memory_are_problems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = dataclasses.replace(TARGETS["sm_86"], shared_limit=4096)
    monkeypatch.setattr(aot, "TARGETS", {"sm_86": small})
    compiled = _compile_toy(LARGE, "sm_86", monkeypatch, tmp_path)
    assert compiled.spills > 0
    assert f"{compiled.spills} registers spilled" in compiled.problems
    assert f"{compiled.shared} bytes of shared memory, 4096 allowed" in compiled.problems


def test_what_does_not_compile_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiled = _compile_toy(NO_POWER, "sm_90", monkeypatch, tmp_path)
    assert not compiled.ok
    assert compiled.problems[0].startswith("does not compile: ")


def test_distinct_binaries_once() -> None:
    jobs = aot.plan_jobs(["sm_90"], [("conv4_1", "float16")])
    again = aot.plan_jobs(["sm_90"], [("conv4_1", "float16"), ("conv4_1", "float16")])
    assert jobs == again
    assert len(set(jobs)) == len(jobs)
    assert {job.module for job in jobs} <= set(aot.MODULES)
    reduce = aot.plan_jobs(["sm_90"], [("conv4_1", "float16")], kernels=["reduce_gram"])
    assert reduce == [job for job in jobs if job.kernel == "reduce_gram"]


@pytest.mark.parametrize(
    ("targets", "cases", "kernels", "said"),
    [
        (["sm_91"], [("conv4_1", "float16")], [], "target 'sm_91' is unknown; choose one of sm_80"),
        (["sm_90"], [("conv9_1", "float16")], [], "shape 'conv9_1' is unknown; choose one of conv1_1"),
        (["sm_90"], [("conv4_1", "float8")], [], "mode 'float8' is unknown; choose one of float32"),
        (["sm_90"], [("conv4_1", "float16")], ["nothing"], "kernel 'nothing' is unknown; choose one of "),
    ],
)
def test_unknown_names(targets: list[str], cases: list[tuple[str, str]], kernels: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aot.plan_jobs(targets, cases, kernels=kernels)


def test_no_tf32_where_there_is_none() -> None:
    assert {job.mode for job in aot.plan_jobs(["gfx1100"], [("conv4_1", "tf32"), ("conv4_1", "float16")])} == {
        "float16"
    }


def test_not_under_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastnst", "kernels", "--target", "sm_90"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fastnst: error: TRITON_INTERPRET is set")
    assert len(done.stderr.splitlines()) == 1
