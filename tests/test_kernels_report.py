"""The committed report of the kernels ahead of time, and the command that shows single builds."""

import importlib.util
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
if sys.platform != "linux":
    pytest.skip("triton compiles on Linux", allow_module_level=True)

from fastnst_kernels.aot import Job
from fastnst_kernels.gpu import TARGETS

from bench import kernels_report
from fastnst.app import cli

SUBSET_TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((kernels_report.RESULTS / "kernels.json").read_text(encoding="utf-8"))
    return read


def _record(**changes: Any) -> dict[str, Any]:
    names = {"target": "sm_90", "kernel": "gram", "mode": "float16", "layout": "nchw", "shape": "conv1_1"}
    return {**names, "config": {"BLOCK": 64, "WIDE": True}, "registers": 32, "problems": [], **changes}


def test_one_layer_is_as_in_the_report(report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel for one of the targets in turn, and the Gram matrix's product for all of them."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = list(dict.fromkeys(job.kernel for job in kernels_report.report_jobs() if job.shape == "conv4_1"))

    def chosen(job: Job) -> bool:
        if (job.shape, job.mode, job.layout) != ("conv4_1", "float16", "channels_last"):
            return False
        turn = SUBSET_TARGETS[kernels.index(job.kernel) % len(SUBSET_TARGETS)]
        return job.target == turn or (job.target in SUBSET_TARGETS and job.kernel == "partial_gram")

    assert {job.kernel for job in filter(chosen, kernels_report.report_jobs())} == set(kernels)
    assert not kernels_report.check(report, 2, chosen)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(TARGETS))
def test_all_is_as_in_the_report(
    target: str, report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert not kernels_report.check(report, 4, lambda job: job.target == target)


def test_the_report_is_complete_and_its_tables_are_of_its_builds(report: dict[str, Any]) -> None:
    markdown = (kernels_report.RESULTS / "kernels.md").read_text(encoding="utf-8")
    assert {record["target"] for record in report["kernels"]} == set(TARGETS)
    assert kernels_report.problems(report["kernels"]) == []
    if report["triton"] == version("triton"):
        assert kernels_report.as_markdown(report["kernels"]) == markdown
        assert kernels_report.as_json(report["kernels"]) == (kernels_report.RESULTS / "kernels.json").read_text("utf-8")


def test_differences_are_said() -> None:
    one, other = _record(), _record(shape="odd")
    assert kernels_report.compare([one, other], [one, other]) == []
    assert kernels_report.compare([one], [_record(registers=40)]) == [
        "sm_90 gram float16 nchw conv1_1 WIDE #1: registers 32 → 40"
    ]
    assert kernels_report.compare([one], [other]) == [
        "gone: sm_90 gram float16 nchw conv1_1 WIDE #1",
        "new: sm_90 gram float16 nchw odd WIDE #1",
    ]
    assert kernels_report.compare([one], [one, one]) == ["new: sm_90 gram float16 nchw conv1_1 WIDE #2"]
    assert kernels_report.problems([one, _record(problems=["3 registers spilled"])]) == [
        "sm_90 gram float16 nchw conv1_1 WIDE #2: 3 registers spilled"
    ]


def test_builds_that_the_report_lacks_are_said() -> None:
    lines = kernels_report.check({"triton": version("triton"), "kernels": []}, 1, lambda job: False)
    assert any(re.match(r"the report lacks \d+ of sm_90 partial_gram float16", line) for line in lines)


def test_another_triton_compares_no_registers(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kernels.json").write_text(json.dumps({**report, "triton": "1.0"}), encoding="utf-8")
    monkeypatch.setattr(kernels_report, "RESULTS", tmp_path)
    monkeypatch.setattr(kernels_report, "build", lambda jobs, processes: [])
    assert kernels_report.main(["--check", "--jobs", "1"]) == 0
    assert capsys.readouterr().out.startswith("the report is of triton 1.0 and this is ")


def test_the_command_shows_builds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "kernels",
        "--target",
        "sm_80",
        "gfx1100",
        "--kernel",
        "finish_loss",
        "--shapes",
        "conv1_1",
        "--modes",
        "float16",
        "--jobs",
        "1",
    ]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^sm_80, triton .* 4 partitions of 512 registers .* 32 blocks", shown, re.MULTILINE)
    assert re.search(r"^finish_loss +float16 .* 0 .*/64", shown, re.MULTILINE)
    assert re.search(r"^\d+ of \d+ right on gfx1100$", shown, re.MULTILINE)

    arguments.remove("sm_80")
    assert cli.main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["triton"] == version("triton")
    assert set(printed["limits"]) == {"gfx1100"}
    assert {record["kernel"] for record in printed["kernels"]} == {"finish_loss"}
    assert all(record["ok"] and record["registers"] > 0 for record in printed["kernels"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "sm_91"], "target 'sm_91' is unknown; choose one of sm_80"),
        (["--target", "all", "--shapes", "conv"], "shape 'conv' is unknown; choose one of conv1_1"),
        (["--target", "all", "--modes", "fp16"], "mode 'fp16' is unknown; choose one of float32"),
        (["--target", "sm_80", "--kernel", "none"], "kernel 'none' is unknown; choose one of "),
        (["--target", "sm_80", "--jobs", "0"], "jobs 0 is less than 1"),
    ],
)
def test_the_command_refuses(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernels", *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"fastnst: error: {said}")
    assert len(shown.err.splitlines()) == 1


def test_the_command_without_triton(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else found(name, *rest)
    )
    assert cli.main(["kernels", "--target", "sm_90"]) == 1
    assert "built by the package triton, which is not here" in capsys.readouterr().err
