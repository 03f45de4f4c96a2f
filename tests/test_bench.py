"""The benchmarks, at sizes where only their working counts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import bench_stylize, equal_runs, run_gpu

ROOT = Path(__file__).parent.parent


def test_plain_loop_and_engine_agree() -> None:
    task = bench_stylize.make_task(32, "cpu")
    plain, engine = (bench_stylize.make_side(name, task) for name in (bench_stylize.PLAIN, "fp32"))
    loss, gradient = plain.evaluate(task.start)
    found, found_gradient = engine.evaluate(task.start)
    assert found == pytest.approx(loss, rel=1e-5)
    assert (found_gradient - gradient).norm() < 1e-4 * gradient.norm()
    for _ in range(3):
        assert engine.iterate() == pytest.approx(plain.iterate(), rel=1e-3)


def test_wrong_engine_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench_stylize.engine_side

    def wrong(task: bench_stylize.Task, precision: str) -> bench_stylize.Side:
        side = right(task, precision)

        def evaluate(image: torch.Tensor) -> tuple[float, torch.Tensor]:
            loss, gradient = side.evaluate(image)
            return 1.01 * loss, gradient

        return bench_stylize.Side(evaluate, side.iterate)

    monkeypatch.setattr(bench_stylize, "engine_side", wrong)
    with pytest.raises(SystemExit, match="fp32 at 32 px is wrong"):
        bench_stylize.measure(32, "cpu", ["fp32"], rounds=1, memory=False)


def test_stylize_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stylize.json"
    arguments = ["--size", "32", "--device", "cpu", "--rounds", "2", "--no-memory", "--json", str(path)]
    assert bench_stylize.main(arguments) == 0
    report = json.loads(path.read_text())
    assert [(row["size"], row["side"]) for row in report["rows"]] == [(32, "plain"), (32, "fp32")]
    assert report["versions"]["torch"] == torch.__version__
    assert {"date", "commit", "machine", "device"} <= report.keys()
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own() -> None:
    small, large = (bench_stylize.peak_of("plain", size, "cpu") for size in (32, 192))
    assert 0 < small < large


def test_gram_benchmarks_are_found_and_pass(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "bench", "-q", "--size", "16", "--device", "cpu"]
    report = tmp_path / "gram.json"
    done = subprocess.run(
        [*command, f"--benchmark-json={report}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    benchmarks = json.loads(report.read_text())["benchmarks"]
    assert len(benchmarks) == 5 * 3 * 2
    assert all(benchmark["extra_info"]["error"] < 1e-4 for benchmark in benchmarks)


def test_failing_and_slow_steps_do_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run_gpu,
        "steps",
        lambda **_: [
            run_gpu.Step("usage", ("fastnst", "nonsense"), 60),
            run_gpu.Step("slow", ("timeit", "-n1", "-r1", "import time; time.sleep(60)"), 5),
            run_gpu.Step("version", ("fastnst", "--version"), 60),
        ],
    )
    assert run_gpu.main(["--tiny", "--out", str(tmp_path)]) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [step["status"] for step in summary["steps"]] == ["failed", "timed out", "passed"]
    assert "nonsense" in (tmp_path / "usage.log").read_text()


@pytest.mark.slow
def test_gpu_script_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_gpu.main(["--tiny", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "0 failed" in printed
    assert "0 not equal" in printed
    assert "absent" in printed or "sanitizer_memcheck  passed" in printed
    assert "ms/iteration" in printed
    for name in ("summary", "equal_runs", "verify", "profile_32", "stylize"):
        assert json.loads((tmp_path / f"{name}.json").read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is for machines without a GPU")
def test_full_run_without_a_gpu_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_gpu.main(["--out", str(tmp_path / "out")])
    assert "torch sees no GPU; --tiny" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_steps_fit_into_the_time() -> None:
    assert run_gpu.TOTAL_SECONDS <= 520
    names = [step.name for step in run_gpu.steps(tiny=False, on_gpu=True)]
    assert names[:4] == ["tests", "profile_1024", "sanitizer_memcheck", "equal_runs"]
    assert len(names) == len(set(names))


def test_a_tool_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    step = run_gpu.Step("watched", ("fastnst", "--version"), 60, tool=("no-such-sanitizer",))
    assert run_gpu.run_step(step, tmp_path, 60).status == "absent"


@pytest.mark.skipif(sys.platform == "win32", reason="env is a program of Unix")
def test_a_tool_runs_python_and_its_own_lines_stay_out_of_the_results(tmp_path: Path) -> None:
    step = run_gpu.Step(
        "watched",
        ("timeit", "-n1", "-r1", "import os; print('===='); print('{{' + os.environ['WATCHED'] + '}}')"),
        60,
        tool=("env",),
        environment=(("WATCHED", '"one": 1'),),
    )
    assert run_gpu.run_step(step, tmp_path, 60).status == "passed"
    assert json.loads((tmp_path / "watched.json").read_text()) == {"one": 1}
    assert "====" in (tmp_path / "watched.log").read_text()


def test_equal_runs_are_told_from_others() -> None:
    calls = iter(range(100))
    steady = torch.tensor([1.0, float("nan"), -0.0])
    assert equal_runs.differing_runs(lambda: [steady.clone()], 3, torch.device("cpu")) == []
    assert equal_runs.differing_runs(lambda: [steady * (next(calls) == 2)], 3, torch.device("cpu")) == [3]
    with pytest.raises(SystemExit):
        equal_runs.main(["--runs", "0"])


def test_equal_runs_on_a_cpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_runs, "SMALL", ((3, 5, 7),))
    assert equal_runs.main(["--small", "--runs", "2", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["unequal"] == 0
    assert {record["op"] for record in report["operations"]} >= {"tap", "gram", "tiles", "image", "adam"}


@pytest.mark.gpu
def test_equal_runs_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert equal_runs.main(["--small", "--runs", "3", "--device", "cuda"]) == 0
    assert json.loads(capsys.readouterr().out)["unequal"] == 0
