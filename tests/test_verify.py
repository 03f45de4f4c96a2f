"""`fastnst verify`: what it checks, what it prints, and that it notices a wrong kernel of each family."""

import importlib.util
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import fastnst_kernels
import pytest
import torch
from fastnst_kernels.image import eager as image_eager
from fastnst_kernels.losses import eager
from fastnst_kernels.relu import eager as relu_eager
from fastnst_kernels.verify import (
    FAMILIES,
    LAYOUTS,
    STYLE_LAYERS,
    Check,
    Expected,
    Operation,
    Site,
    Skipped,
    everything,
    run_checks,
    verify,
    worst,
)
from fastnst_kernels.verify.check import MODES, checks_of

from fastnst.app.cli import main

SMALL = {"conv1_1": (1, 64, 16, 16), "odd": (2, 5, 7, 9)}
SMALL_IMAGE = {"image": (2, 3, 7, 9)}
CPU = torch.device("cpu")
Damage = Callable[[torch.Tensor], torch.Tensor]


def failing(family: str) -> set[tuple[str, str]]:
    shapes = SMALL_IMAGE if family == "image" else SMALL
    checks = run_checks(FAMILIES[family], "torch", CPU, shapes)
    return {(check.name, check.direction) for check in checks if not check.passed}


def gram_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "FAMILIES", {"gram": replace(FAMILIES["gram"], layers=tuple(SMALL))})


def report_of(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["verify", "--backend", "torch", "--size", "16", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_json_covers_each_op_dtype_layout_and_layer(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = report_of(capsys)
    assert code == 0
    assert (report["passed"], report["failed"]) == (len(report["checks"]), 0)
    keys = ("op", "variant", "direction", "backend", "dtype", "precision", "layout", "layer")
    found = {tuple(check[key] for key in keys) for check in report["checks"]}
    wanted = {
        (op, "", direction, "torch", dtype, "ieee", layout, layer)
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
    operations = {name for name in fastnst_kernels.__all__ if name.islower()}
    helpers = {"available_backends", "blend_targets"}
    assert {check["op"] for check in report["checks"]} - {"tap_backward"} == operations - helpers


def test_table_ends_with_the_count(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gram_alone(monkeypatch)
    assert main(["verify", "--backend", "torch", "--size", "16"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "conv1_1 1×64×16×16" in printed[1]
    assert max(map(len, printed)) <= 120
    assert re.match(r"\d+ passed, 0 failed on ", printed[-1])


def damage_result(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, damage: Damage) -> None:
    """Damages what a function returns."""
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments, **named: damage(right(*arguments, **named)))


def damage_argument(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, index: int, damage: Damage) -> None:
    """Damages the argument that a function writes."""
    right = getattr(module, name)

    def damaged(*arguments: Any, **named: Any) -> None:
        right(*arguments, **named)
        arguments[index].copy_(damage(arguments[index]))

    monkeypatch.setattr(module, name, damaged)


def one_more(values: torch.Tensor) -> torch.Tensor:
    """One wrong element among many."""
    values = values.clone()
    values[0, -1, -1, -1] += values.abs().max()
    return values


def one_bit(bits: torch.Tensor) -> torch.Tensor:
    bits = bits.clone()
    bits[0, 0, 0, 0] ^= 1
    return bits


def test_gram_off_by_one_percent_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gram_alone(monkeypatch)
    damage_result(monkeypatch, eager, "gram", lambda result: 1.01 * result)
    code, report = report_of(capsys)
    assert code == 1
    failed = [check for check in report["checks"] if not check["passed"]]
    assert report["failed"] == len(failed)
    assert {(check["op"], check["direction"]) for check in failed} >= {
        ("gram", "forward"),
        ("gram_loss", "forward"),
        ("style_tap", "forward"),
    }


def test_failures_are_named_in_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gram_alone(monkeypatch)
    damage_result(monkeypatch, eager, "gram", lambda result: 1.01 * result)
    assert main(["verify", "--backend", "torch", "--size", "16"]) == 1
    printed = capsys.readouterr().out
    assert "failed: gram forward, torch on" in printed
    assert ", 0 failed" not in printed.splitlines()[-1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_result_that_is_not_finite_fails(
    value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gram_alone(monkeypatch)
    damage_argument(monkeypatch, eager, "tap_backward", 0, lambda gradient: torch.full_like(gradient, value))
    code, report = report_of(capsys)
    assert code == 1
    backward = [check for check in report["checks"] if check["direction"] == "backward"]
    assert not any(check["passed"] for check in backward)
    assert all(check["error"] is None for check in backward)


GRAM_BACKWARD = {("gram", "backward"), ("gram_loss", "backward"), ("style_tap", "backward")}


def test_output_that_is_not_written_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "tap_backward", lambda *arguments, **named: None)
    assert failing("gram") == GRAM_BACKWARD
    assert not torch.are_deterministic_algorithms_enabled()


def test_one_wrong_element_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    damage_argument(monkeypatch, eager, "tap_backward", 0, one_more)
    assert failing("gram") == GRAM_BACKWARD


def tap_with(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The tap's backward with other arguments, by their names."""
    right = eager.tap_backward

    def changed(gradient: torch.Tensor, **named: Any) -> None:
        right(gradient, **{**named, **changes})

    monkeypatch.setattr(eager, "tap_backward", changed)


def test_upstream_gradient_that_is_dropped_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tap_with(monkeypatch, upstream=None)
    assert failing("gram") == {("style_tap", "backward")}


CONTENT, CONTENT_RELU = "tap (content)", "tap (content, ReLU, in place)"
STYLE, BLENDED = "tap (style, content, ReLU)", "tap (blended styles, ReLU, in place)"


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"content": None}, {CONTENT, CONTENT_RELU, STYLE}),
        ({"style": None}, {STYLE, BLENDED}),
        ({"relu": False}, {CONTENT_RELU, STYLE, BLENDED}),
    ],
    ids=["content", "style", "mask"],
)
def test_tap_that_drops_a_term_fails(
    change: Mapping[str, Any], wrong: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tap_with(monkeypatch, **change)
    assert failing("tap") == {(name, "backward") for name in wrong}


def test_content_loss_off_by_one_percent_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    damage_result(monkeypatch, eager, "content_loss", lambda loss: 1.01 * loss)
    assert failing("tap") == {(name, "forward") for name in (CONTENT, CONTENT_RELU, STYLE)}


def test_blend_without_its_offset_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = eager._loss_of
    monkeypatch.setattr(
        eager,
        "_loss_of",
        lambda result, target, weight, offset, offset_weight: right(result, target, weight, None, offset_weight),
    )
    assert failing("tap") == {(BLENDED, "forward")}
    assert failing("tiles") == {("finish_gram_loss (blended styles)", "forward")}


def test_tiles_that_are_not_added_up_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        eager, "accumulate_gram", lambda sums, features, precision: sums.copy_(eager._products(features))
    )
    assert failing("tiles") == {("accumulate_gram (crops)", "forward")}


def test_tile_whose_owned_part_is_moved_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = eager.tap_backward

    def moved(gradient: torch.Tensor, **named: Any) -> None:
        if named["owned"] is not None:
            top, left, height, width = named["owned"]
            named["owned"] = (top, left - 1, height, width)
        right(gradient, **named)

    monkeypatch.setattr(eager, "tap_backward", moved)
    assert failing("tiles") == {("tap_backward (owned, ReLU, into upstream)", "backward")}


def test_halo_that_is_touched_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    damage_argument(monkeypatch, eager, "tap_backward", 0, one_more)
    assert len(failing("tiles")) == 2


POOLS = {f"bias_relu_pool ({pool}{form})" for pool in ("avg", "max") for form in ("", ", into buffers")}
RELUS = {"bias_relu", "bias_relu (in place)"}


@pytest.mark.parametrize(
    ("name", "index", "damage", "wrong"),
    [
        ("bias_relu", 2, one_more, {(op, "forward") for op in RELUS}),
        ("bias_relu", 3, one_bit, {*((op, "backward") for op in RELUS), ("bias_relu (in place)", "forward")}),
        ("relu_backward", 2, one_more, {(op, "backward") for op in RELUS}),
        ("bias_relu_pool", 3, one_more, {(op, "forward") for op in POOLS}),
        (
            "bias_relu_pool",
            4,
            one_bit,
            {*((op, "backward") for op in POOLS), *((op, "forward") for op in POOLS if "buffers" in op)},
        ),
        ("unpool_backward", 3, one_more, {(op, "backward") for op in POOLS}),
    ],
    ids=["value", "bit", "gradient", "pooled value", "pooled bit", "unpooled gradient"],
)
def test_wrong_sign_bit_epilogue_fails(
    name: str, index: int, damage: Damage, wrong: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage_argument(monkeypatch, relu_eager, name, index, damage)
    assert failing("relu") == wrong


def test_wrong_image_operation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        damage_result(patch, image_eager, "normalise", lambda result: 1.01 * result)
        assert failing("image") == {("normalise", "forward"), ("normalise (flipped)", "forward")}
    with monkeypatch.context() as patch:
        damage_result(patch, image_eager, "normalise_backward", one_more)
        assert {("normalise", "backward"), ("normalise (flipped)", "backward")} <= failing("image")
    with monkeypatch.context() as patch:
        damage_result(patch, image_eager, "total_variation", lambda value: 1.01 * value)
        assert {("total_variation (squared)", "forward"), ("total_variation (absolute)", "forward")} <= failing("image")
    with monkeypatch.context() as patch:
        damage_result(patch, image_eager, "image_gradient", lambda pair: (one_more(pair[0]), pair[1]))
        assert failing("image") == {
            (f"{op} ({variant})", "backward")
            for op, variant in (
                ("image_gradient", "squared"),
                ("image_gradient", "absolute, flipped"),
                ("image_gradient", "nine-point"),
                ("total_variation", "squared"),
                ("total_variation", "absolute"),
                ("total_variation", "nine-point"),
            )
        }
    for index in (0, 2, 3):
        with monkeypatch.context() as patch:
            damage_argument(patch, image_eager, "adam_step", index, lambda state: 1.001 * state)
            assert failing("image") == {("adam_step_ (clamped)", "forward"), ("adam_step_ (counted)", "forward")}


def test_op_that_raises_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(features: torch.Tensor, precision: str) -> torch.Tensor:
        raise RuntimeError("does not compile\nat all")

    monkeypatch.setattr(eager, "gram", broken)
    checks = list(run_checks(FAMILIES["gram"], "torch", CPU, {"odd": SMALL["odd"]}))
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


@pytest.mark.parametrize(
    ("second", "error"), [(1.0, 0.0), (1.0 + 1e-12, 1e-12), (1.5, 0.5), (math.nan, math.nan), (math.inf, math.inf)]
)
def test_worst_result_decides_and_no_budget_asks_for_equality(second: float, error: float) -> None:
    ones = torch.ones(1, 1, dtype=torch.float64)
    operation = Operation(
        "op",
        "",
        lambda _: {"forward": [ones, ones * second]},
        {"forward": [Expected(ones, ones[0]), Expected.equal(ones)]},
    )
    (check,) = checks_of(operation, Site("torch", CPU, "odd", (1, 1, 1, 1), MODES[0]), "nchw")
    assert check.error == pytest.approx(error, rel=1e-3, nan_ok=True)
    assert check.passed == (error == 0)
    assert check.share == (0.0 if error == 0 else math.inf)


@pytest.mark.parametrize("size", ["15", "0", "-3", "5000"])
def test_size_out_of_range(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--size", size]) == 1
    assert capsys.readouterr().err.startswith(f"fastnst: error: size {size} is out of range; give 16 to 2048")


def test_missing_triton_is_skipped_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gram_alone(monkeypatch)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    found = list(verify("all", size=16))
    assert found[-1] == Skipped("triton", "the package triton is not installed")
    assert {one.backend for one in found} == {"torch", "triton"}
    assert all(one.passed for one in found if isinstance(one, Check))
    assert main(["verify", "--backend", "triton"]) == 1
    assert capsys.readouterr().err.count("pip install triton") == 1


def test_interpreter_that_ends_early_is_an_error() -> None:
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match=r"gave no result \(exit code 1\): KeyError: 'gram/conv9_1'"):
        everything._interpreted(["gram/conv9_1"])


def test_interpreted_shapes_are_shared_out_whole() -> None:
    for cores in (1, 2, 3, 16):
        shares = everything._shares(cores)
        assert sorted(name for share in shares for name in share) == sorted(everything._interpreted_cases())
        assert len(shares) == min(cores, 4)
    for family in FAMILIES.values():
        assert {layout for entry in family.interpreted.values() for layout in entry.layouts} == set(LAYOUTS)
    channels = {entry.shape[1] for entry in FAMILIES["gram"].interpreted.values()}
    assert {64, 128, 256, 512} < channels


@pytest.mark.slow
def test_interpreted_kernels_pass() -> None:
    pytest.importorskip("triton")
    names = ["gram/odd", "tap/odd", "tiles/odd", "relu/odd channels", "relu/odd rows", "image/odd image"]
    found = everything._interpreted(names)
    assert list(found) == names
    checks = [check for one in found.values() for check in one]
    assert [check for check in checks if not check.passed] == []
    assert {(check.backend, check.device) for check in checks} == {("triton", "interpreter")}


@pytest.mark.gpu
def test_everything_passes_on_a_gpu() -> None:
    checks = [found for found in verify("all", size=256) if isinstance(found, Check)]
    assert {check.backend for check in checks} == {"torch", "triton"}
    assert [check for check in checks if not check.passed] == []
