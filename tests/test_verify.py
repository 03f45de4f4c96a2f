"""`fastnst verify`: what it checks, what it prints, and that it notices a wrong kernel."""

import importlib.util
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fastnst_kernels import torch_gram, torch_tap

from fastnst import verification
from fastnst.cli import main
from fastnst.errors import FastnstError
from fastnst.verification import INTERPRETED, LAYOUTS, STYLE_LAYERS, Check, Skipped, run_checks, verify, worst

SMALL = {"conv1_1": (1, 64, 16, 16), "odd": (2, 5, 3, 7)}


def torch_report(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["verify", "--backend", "torch", "--size", "16", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_json_covers_each_op_dtype_layout_and_layer(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = torch_report(capsys)
    assert code == 0
    assert (report["passed"], report["failed"]) == (len(report["checks"]), 0)
    keys = ("op", "direction", "backend", "dtype", "precision", "layout", "layer")
    found = {tuple(check[key] for key in keys) for check in report["checks"]}
    wanted = {
        (op, direction, "torch", dtype, "ieee", layout, layer)
        for op in ("gram", "gram_loss", "style_tap")
        for direction in ("forward", "backward")
        for dtype in ("float32", "float16", "bfloat16")
        for layout in LAYOUTS
        for layer in (*STYLE_LAYERS, "odd")
    }
    assert wanted <= found
    assert len(found) == len(report["checks"])
    for check in report["checks"]:
        assert check["passed"]
        assert 0 <= check["error"] <= check["budget"]
        assert len(check["shape"]) == 4
    assert report["versions"]["torch"] == torch.__version__


def test_table_ends_with_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--backend", "torch", "--size", "16"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "conv1_1" in printed[1]
    assert re.match(r"\d+ passed, 0 failed on ", printed[-1])


def damaged_gram(monkeypatch: pytest.MonkeyPatch, damage: Callable[[torch.Tensor], torch.Tensor]) -> None:
    right = torch_gram.gram
    monkeypatch.setattr(torch_gram, "gram", lambda features: damage(right(features)))


def damaged_backward(monkeypatch: pytest.MonkeyPatch, damage: Callable[[torch.Tensor], torch.Tensor]) -> None:
    right = torch_tap.tap_backward

    def damaged(gradient: torch.Tensor, *arguments: Any) -> None:
        right(gradient, *arguments)
        gradient.copy_(damage(gradient))

    monkeypatch.setattr(torch_tap, "tap_backward", damaged)


def test_gram_off_by_one_percent_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    damaged_gram(monkeypatch, lambda result: 1.01 * result)
    code, report = torch_report(capsys)
    assert code == 1
    failed = [check for check in report["checks"] if not check["passed"]]
    assert report["failed"] == len(failed)
    assert {(check["op"], check["direction"]) for check in failed} >= {
        ("gram", "forward"),
        ("gram_loss", "forward"),
        ("style_tap", "forward"),
    }


def test_failures_are_named_in_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    damaged_gram(monkeypatch, lambda result: 1.01 * result)
    assert main(["verify", "--backend", "torch", "--size", "16"]) == 1
    printed = capsys.readouterr().out
    assert "failed: gram forward, torch on" in printed
    assert ", 0 failed" not in printed.splitlines()[-1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_result_that_is_not_finite_fails(
    value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged_backward(monkeypatch, lambda gradient: torch.full_like(gradient, value))
    code, report = torch_report(capsys)
    assert code == 1
    backward = [check for check in report["checks"] if check["direction"] == "backward"]
    assert not any(check["passed"] for check in backward)
    assert all(check["error"] is None for check in backward)


def failing(device: str = "cpu") -> set[tuple[str, str]]:
    checks = run_checks("torch", torch.device(device), SMALL)
    return {(check.op, check.direction) for check in checks if not check.passed}


def test_output_that_is_not_written_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_tap, "tap_backward", lambda *arguments: None)
    assert failing() == {("gram", "backward"), ("gram_loss", "backward"), ("style_tap", "backward")}
    assert not torch.are_deterministic_algorithms_enabled()


def test_one_wrong_element_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(gradient: torch.Tensor) -> torch.Tensor:
        gradient[0, -1, -1, -1] += gradient.abs().max()
        return gradient

    damaged_backward(monkeypatch, damage)
    assert failing() == {("gram", "backward"), ("gram_loss", "backward"), ("style_tap", "backward")}


def test_upstream_gradient_that_is_dropped_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch_tap.tap_backward

    def dropped(gradient: torch.Tensor, features: torch.Tensor, upstream: torch.Tensor | None, *arguments: Any) -> None:
        right(gradient, features, None, *arguments)

    monkeypatch.setattr(torch_tap, "tap_backward", dropped)
    assert failing() == {("style_tap", "backward")}


def test_op_that_raises_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(features: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("does not compile\nat all")

    monkeypatch.setattr(torch_gram, "gram", broken)
    checks = list(run_checks("torch", torch.device("cpu"), {"odd": SMALL["odd"]}))
    assert {check.problem for check in checks} == {"RuntimeError: does not compile"}
    assert not any(check.passed for check in checks)
    assert json.dumps([check.as_dict() for check in checks], allow_nan=False)


def test_worst_image_decides() -> None:
    exact = torch.ones(3, 4, dtype=torch.float64)
    result = exact * torch.tensor([[1.0], [1.5], [1.1]])
    allowed = torch.tensor([1.0, 1.0, 0.01], dtype=torch.float64)
    error, budget = worst(result, exact, allowed)
    assert (error, budget) == (pytest.approx(0.1), 0.01)
    result[0, 0] = math.nan
    assert math.isnan(worst(result, exact, allowed)[0])


@pytest.mark.parametrize("size", ["15", "0", "-3", "5000"])
def test_size_out_of_range(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--size", size]) == 1
    assert capsys.readouterr().err.startswith(f"fastnst: error: size {size} is out of range; give 16 to 2048")


def test_missing_triton_is_skipped_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    found = list(verify("all", size=16))
    assert found[-1] == Skipped("triton", "the package triton is not installed")
    assert {one.backend for one in found} == {"torch", "triton"}
    assert all(one.passed for one in found if isinstance(one, Check))
    assert main(["verify", "--backend", "triton"]) == 1
    assert capsys.readouterr().err.count("pip install triton") == 1


def test_interpreter_that_ends_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    with pytest.raises(FastnstError, match=r"gave no result \(exit code 1\): KeyError: 'conv9_1'"):
        verification._interpreted(["conv9_1"])


def test_interpreted_shapes_are_shared_out_whole() -> None:
    for cores in (1, 2, 3, 16):
        shares = verification._shares(cores)
        assert sorted(layer for share in shares for layer in share) == sorted(INTERPRETED)
        assert len(shares) == min(cores, 4)
    channels = {shape[1] for shape, _ in INTERPRETED.values()}
    assert {64, 128, 256, 512} < channels


@pytest.mark.slow
def test_interpreted_kernels_pass() -> None:
    pytest.importorskip("triton")
    checks = verification._interpreted(["odd"])
    assert len(checks) == 36
    assert all(check.passed for check in checks)
    assert {(check.backend, check.device) for check in checks} == {("triton", "interpreter")}


@pytest.mark.gpu
def test_everything_passes_on_a_gpu() -> None:
    checks = [found for found in verify("all", size=256) if isinstance(found, Check)]
    assert {check.backend for check in checks} == {"torch", "triton"}
    assert [check for check in checks if not check.passed] == []
