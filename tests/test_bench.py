"""The benchmarks, at sizes where only their working counts."""

import argparse
import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import (
    bench_convergence,
    bench_step,
    count,
    gpu_step,
    loss_strength,
    one_pass,
    peak,
    plain_loop,
    run_gpu,
    sides,
    style_distance,
    styles,
    times,
)
from fastnst.examples import example
from fastnst.options.resolve import resolve_options

REPORT = ["--size", "48", "--device", "cpu"]
PAIR = [str(example("content")), str(example("style_mosaic"))]


def step_sides(task: plain_loop.Task, optimizer: str, *names: str) -> list[sides.Side]:
    return [sides.make_side(name, task, optimizer) for name in names]


def check_agreement(plain: sides.Side, other: sides.Side, image: torch.Tensor, apart: float) -> None:
    loss, gradient = plain.evaluate(image)
    own_loss, own_gradient = other.evaluate(image)
    assert own_loss == pytest.approx(loss, rel=apart / 10)
    assert (own_gradient - gradient).norm() < apart * gradient.norm()


@pytest.mark.parametrize("optimizer", sides.OPTIMIZERS)
def test_plain_loops_and_engine_agree(optimizer: str) -> None:
    task = sides.step_task(32, "cpu")
    if optimizer == "lbfgs":
        # With torch's own inverse Hessian the iterates are torch's.
        task = replace(task, options=replace(task.options, hessian="scalar"))
    plain, *others = step_sides(task, optimizer, sides.PLAIN, "tuned", "fp32")
    for side in others:
        check_agreement(plain, side, task.start, 1e-4)
    losses, *rest = [[side.iterate().item() for _ in range(3)] for side in (plain, *others)]
    for own in rest:
        assert own == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"content_weight": 0, "tv_weight": 1.0},
        {"padding": "replicate", "pooling": "max", "network": "vgg16", "style_scale": 0.7},
        {"preset": "gatys", "style_weight": 0, "content_layers": ["conv2_2", "conv3_1"]},
    ],
)
def test_plain_loss_is_the_engines(given: dict[str, Any]) -> None:
    options = resolve_options(**{"size": 48, "device": "cpu", "weights": "random", "init": "noise"} | given)
    task = plain_loop.make_task(options, example("content"), example("style_mosaic"))
    check_agreement(*step_sides(task, "lbfgs", sides.PLAIN, "fp32"), task.start, 1e-3)
    bgr = replace(task.weights.preprocessing, bgr=True, scale=255.0, mean=(104.0, 117.0, 124.0), std=(1, 1, 2))
    task = replace(task, weights=replace(task.weights, preprocessing=bgr))
    check_agreement(*step_sides(task, "lbfgs", sides.PLAIN, "fp32"), task.start, 1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "winograd"])
def test_each_precision_has_its_floor(precision: str) -> None:
    rows = bench_step.measure(32, "cpu", [precision], "adam", rounds=1, memory=False)
    assert [row.side for row in rows] == ["plain", precision, f"floor of {precision}"]
    assert all(row.timing.median > 0 for row in rows)


def test_wrong_engine_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = sides.engine_side

    def wrong(task: plain_loop.Task, precision: str, optimizer: str) -> sides.Side:
        side = right(task, precision, optimizer)
        evaluate = side.evaluate
        assert evaluate is not None
        return sides.Side(lambda image: (1.01 * evaluate(image)[0], evaluate(image)[1]), side.iterate)

    monkeypatch.setattr(sides, "engine_side", wrong)
    with pytest.raises(SystemExit, match="fp32 at 32 px is wrong"):
        bench_step.measure(32, "cpu", ["fp32"], "lbfgs", rounds=1, memory=False)


def test_step_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.json"
    arguments = ["--size", "32", "--device", "cpu", "--rounds", "2", "--no-memory", "--sides", "fp32"]
    assert bench_step.main([*arguments, "--optimizer", "adam", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    rows = report["rows"]
    assert [(row["size"], row["side"]) for row in rows] == [(32, "plain"), (32, "fp32"), (32, "floor of fp32")]
    assert rows[0]["of_plain"] == rows[2]["of_floor"]["fp32"] == 1
    assert rows[1]["errors"][0] < 1e-4
    assert report["versions"]["torch"] == torch.__version__
    assert {"date", "commit", "machine", "device", "trial"} <= report.keys()
    printed = capsys.readouterr().out
    assert "32 px, adam" in printed
    assert "floor of fp32" in printed


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    (small, network), (large, _) = (peak.peak_of("plain", size, "cpu", "adam") for size in (32, 192))
    assert network is not None
    assert small is not None
    assert large is not None
    assert 0 < network < small < large
    assert peak.peak_of("plain", 32, "nowhere", "lbfgs") == (None, None)
    assert "the peak of plain at 32 px is not known" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_loop_agrees() -> None:
    task = sides.step_task(32, "cpu")
    plain, compiled = step_sides(task, "adam", sides.PLAIN, "compiled")
    assert compiled.evaluate(task.start)[0] == pytest.approx(plain.evaluate(task.start)[0], rel=1e-4)


def test_convergence_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_convergence, "READYING_SIZE", 32)
    path = tmp_path / "convergence.json"
    schedules = ["hessian=scalar precision=fp32 iterations=8", "scales=[32,48] precision=fp32 iterations=[1,1]"]
    arguments = [*REPORT, "--iterations", "4", "--json", str(path), "--pairs", *PAIR]
    assert bench_convergence.main([*arguments, "--schedules", *schedules]) == 0
    plain, engine, pyramid = json.loads(path.read_text())["curves"]
    assert len(plain["losses"]) == 5
    assert plain["losses"][plain["reached"]] == min(plain["losses"])
    # The first step is the same; then the loop's image is clamped.
    assert engine["losses"][:2] == pytest.approx(plain["losses"][:2], rel=1e-3)
    assert engine["reached"] == len(engine["losses"]) - 1 <= 5
    assert [len(pyramid[name]) for name in ("losses", "seconds")] == [2, 2]
    assert "content × style_mosaic" in capsys.readouterr().out


def test_another_objective_is_refused() -> None:
    base = resolve_options(size=32, scales=None, weights="random", device="cpu", precision="fp32")
    with pytest.raises(SystemExit, match="the plain loop's"):
        bench_convergence.measure((example("content"), example("style_mosaic")), base, ["style_weight=3"], 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--schedules", "iterations=none"], "iterations 'none' is not a whole number"),
        (["--schedules", "history=0"], "history 0 is too small"),
        (["--pairs", "one.jpg"], "1 pictures are no pairs"),
    ],
)
@pytest.mark.parametrize("bench", [bench_convergence])
def test_bad_options_are_refused(bench: Any, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(words)
    assert said in capsys.readouterr().err


def test_the_strength_of_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--size", "48", "--iterations", "2", "--weights", "random", "--json", str(tmp_path / "strength.json")]
    assert loss_strength.main(["--pairs", *PAIR, *small]) == 0
    *_, row, mean = capsys.readouterr().out.splitlines()
    assert row.startswith("| content × style_mosaic | ")
    assert row.split("|")[2:] == mean.split("|")[2:]
    terms = json.loads((tmp_path / "strength.json").read_text())["content_terms"]["content × style_mosaic"]
    assert list(terms) == ["gram", "covariance", "mean-std", "wasserstein", "sliced"]


def test_failing_and_slow_steps_do_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = "import os; print('===='); print('{{\"a\":' + os.environ['TRITON_CACHE_DIR'][-1:] + '}}')"
    given = [
        run_gpu.Step("usage", ("fastnst", "nonsense"), 60),
        run_gpu.Step("slow", ("timeit", "-n1", "-r1", "import time; time.sleep(60)"), 5),
        run_gpu.Step("watched", ("timeit", "-n1", "-r1", watched), 60),
    ]
    monkeypatch.setattr(run_gpu, "steps", lambda **_: given)
    assert run_gpu.main(["--tiny", "--out", str(tmp_path), "--cache", str(tmp_path / "1")]) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [step["status"] for step in summary["steps"]] == ["failed", "timed out", "passed"]
    assert "nonsense" in (tmp_path / "usage.log").read_text()
    # Other lines stay out of the results.
    assert json.loads((tmp_path / "watched.json").read_text()) == {"a": 1}
    assert "====" in (tmp_path / "watched.log").read_text()


def test_the_steps_on_a_gpu_fit_their_time_and_their_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the full run is one that its program takes, in the order of what is wanted most."""
    planned = run_gpu.steps(tiny=False, on_gpu=True, cache=Path("cache"))
    names = ["cache", "step", "parts", "profile", "tests", "equal_runs", "run", "run_8192", "beside"]
    assert [step.name for step in planned] == names
    assert run_gpu.TOTAL_SECONDS <= 480
    parsed: list[str] = []

    def parse(self: Any, words: Any = None, namespace: Any = None) -> Any:
        real(self, words, namespace)
        parsed.append(self.prog)
        raise SystemExit(0)

    real = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    for step in planned:
        if step.arguments[0].startswith("bench."):
            with pytest.raises(SystemExit, match="0"):
                importlib.import_module(step.arguments[0]).main(list(step.arguments[1:]))
    assert len(parsed) == 7


@pytest.mark.slow
def test_gpu_script_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_gpu.main(["--tiny", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "FAILED" not in printed
    assert "captured 0.0e+00 off" in printed
    assert "s/iteration" in printed
    for name in ("summary", "step", "parts", "profile", "equal_runs", "run", "run_8192", "beside"):
        assert json.loads((tmp_path / f"{name}.json").read_text())


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs triton")
def test_an_iteration_launches_few_kernels_and_moves_few_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert count.main(["--size", "1024", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]

    def total(optimizer: str, what: str) -> int:
        return sum(row[what] for row in rows[optimizer] if row["of"] != "convolutions")

    assert total("adam", "launches") <= 60
    assert total("adam", "bytes") <= 2_000e6
    # Adam has two launches of its own, and either copies the best image; L-BFGS takes one for the image's limits.
    assert total("lbfgs", "launches") - total("adam", "launches") + 2 <= 12
    adam = next(row["bytes"] for row in rows["adam"] if row["name"] == "adam")
    assert total("lbfgs", "bytes") - total("adam", "bytes") + adam <= 740e6 + 3 * 4 * 3 * 1024**2
    assert sum(row["launches"] for row in rows["adam"] if row["of"] == "convolutions") == 24


def test_runs_that_are_not_equal_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([float(number) for number in range(1000)])
    side = sides.Side(lambda image: (1.0, image), lambda: torch.tensor(next(losses)))
    monkeypatch.setattr(gpu_step, "engine_side", lambda *_: side)
    given = gpu_step.Given(32, "cpu", ["fp32"], 2, "adam")
    with pytest.raises(ArithmeticError, match="fp32 is not equal when made again"):
        gpu_step.equal(given)
    with pytest.raises(ArithmeticError, match="captured losses"):
        gpu_step.step(given)


def test_times_by_size(capsys: pytest.CaptureFixture[str]) -> None:
    times.main(["--size", "48", "32", "--iterations", "3", "--weights", "random", "--device", "cpu"])
    title, _, row = capsys.readouterr().out.strip().splitlines()
    assert title.endswith("| 32 px | 48 px |")
    assert all(float(cell) > 0 for cell in row.split("|")[2:4])


def test_methods_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    styles.main([str(tmp_path), "--size", "64"])
    pair = ["--pairs", str(example("content")), str(tmp_path / "style_glass.jpg")]
    assert style_distance.main([*pair, "--size", "64", "--methods", "wct"]) == 0
    distances = [float(line.split("|")[3]) for line in capsys.readouterr().out.splitlines()[2:]]
    assert distances[1] < distances[0] / 2


def test_one_pass_beside_the_optimisation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--size", "48", "--iterations", "2", "--json", str(tmp_path / "rows.json")]
    assert one_pass.main(["--pairs", *PAIR, *small]) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["pair"] == "content × mosaic"
    assert capsys.readouterr().out.splitlines()[-1].startswith("| content × mosaic | ")
    assert row["objective"] > 0
    assert one_pass.main(["--speed", "--rounds", "1"]) == 0
    assert capsys.readouterr().out.count("| fastnst |") == 2
