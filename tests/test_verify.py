"""`fastnst verify`: what it checks, what it prints, and that it notices a wrong kernel of each family."""

import importlib.util
import json
import math
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any
from unittest.mock import Mock

import fastnst_kernels
import pytest
import torch
from fastnst_kernels.first import eager as first_eager
from fastnst_kernels.image import eager as image_eager
from fastnst_kernels.losses import eager
from fastnst_kernels.relu import eager as relu_eager
from fastnst_kernels.verify import Check, Selection, Skipped, everything, verify
from fastnst_kernels.verify.check import LAYOUTS
from fastnst_kernels.verify.everything import FAMILIES, STYLE_LAYERS, Task

from fastnst.app.cli import main

SMALL = {"conv1_1": (1, 64, 16, 16), "odd": (2, 5, 7, 9)}
SMALL_IMAGE = {"image": (2, 3, 7, 9)}
CPU = torch.device("cpu")
Damage = Callable[[Any], Any]
Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def failing(family: str) -> set[tuple[str, str]]:
    shapes = SMALL_IMAGE if family in ("image", "first") else SMALL
    tasks = (Task(FAMILIES[family], "torch", CPU, *named) for named in shapes.items())
    return {(check.name, check.direction) for task in tasks for check in task.checks() if not check.passed}


def gram_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "FAMILIES", {"gram": replace(FAMILIES["gram"], layers=tuple(SMALL))})


def report_of(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["verify", "--all", "--backend", "torch", "--size", "16", "--json"])
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
    only_direct = {"tap_backward", "first_layer", "bias_relu_gram"}
    assert {check["op"] for check in report["checks"]} - only_direct == operations - helpers


def one_more(values: torch.Tensor) -> torch.Tensor:
    """One wrong element among many."""
    values = values.clone()
    values[0, -1, -1, -1] += values.abs().max()
    return values


def one_bit(bits: torch.Tensor) -> torch.Tensor:
    bits = bits.clone()
    bits[0, 0, 0, 0] ^= 1
    return bits


def result(damage: Damage) -> Wrapper:
    """Damages what a function returns."""
    return lambda right: lambda *arguments, **named: damage(right(*arguments, **named))


def argument(index: int, damage: Damage) -> Wrapper:
    """Damages the argument that a function writes."""

    def wrapper(right: Callable[..., Any]) -> Callable[..., Any]:
        def damaged(*arguments: Any, **named: Any) -> None:
            right(*arguments, **named)
            arguments[index].copy_(damage(arguments[index]))

        return damaged

    return wrapper


def given(**changes: Any) -> Wrapper:
    """The function with other arguments, by their names; a change is a value or a function of the right one."""
    return lambda right: (
        lambda *arguments, **named: right(
            *arguments,
            **{**named, **{name: to(named.get(name)) if callable(to) else to for name, to in changes.items()}},
        )
    )


def nothing(right: Callable[..., Any]) -> Callable[..., None]:
    return lambda *arguments, **named: None


def forward(*names: str) -> set[tuple[str, str]]:
    return {(name, "forward") for name in names}


def backward(*names: str) -> set[tuple[str, str]]:
    return {(name, "backward") for name in names}


def moved(owned: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
    return owned and (owned[0], owned[1] - 1, *owned[2:])


GRAMS = ("gram", "gram_loss", "style_tap")
CONTENT, CONTENT_RELU = "tap (content)", "tap (content, ReLU, in place)"
STYLE, BLENDED = "tap (style, content, ReLU)", "tap (blended styles, ReLU, in place)"
OWNED, CROPS = "tap_backward (owned, ReLU, into upstream)", "accumulate_gram (crops)"
RELUS = ("bias_relu", "bias_relu (in place)")
POOLS = [f"bias_relu_pool ({pool}{form})" for pool in ("avg", "max") for form in ("", ", into buffers")]
INTO = [name for name in POOLS if "buffers" in name]
NORMALISE = ("normalise", "normalise (flipped)")
ADAM = ("adam_step_ (clamped)", "adam_step_ (counted)")
VARIATION = [f"total_variation ({kind})" for kind in ("squared", "absolute", "nine-point")]
FIRST = [
    f"first_layer ({variant})"
    for variant in (
        *("zeros, squared, style", "replicate, absolute, style", "circular, nine-point"),
        "replicate, squared, style",
    )
]
GRADIENT = [f"image_gradient ({kind})" for kind in ("squared", "absolute, flipped", "nine-point")]
one_percent = result(lambda value: 1.01 * value)


@pytest.mark.parametrize(
    ("family", "module", "name", "wrong_form", "wrong"),
    [
        ("gram", eager, "tap_backward", nothing, backward(*GRAMS)),
        ("gram", eager, "tap_backward", argument(0, one_more), backward(*GRAMS)),
        ("gram", eager, "tap_backward", argument(0, lambda values: values * math.nan), backward(*GRAMS)),
        ("gram", eager, "tap_backward", argument(0, lambda values: values.abs() + math.inf), backward(*GRAMS)),
        ("gram", eager, "tap_backward", given(upstream=None), backward("style_tap")),
        (
            "gram",
            eager,
            "_products",
            one_percent,
            forward(*GRAMS, "bias_relu_gram") | backward("gram_loss", "style_tap"),
        ),
        ("tap", eager, "tap_backward", given(content=None), backward(CONTENT, CONTENT_RELU, STYLE)),
        ("tap", eager, "tap_backward", given(style=None), backward(STYLE, BLENDED)),
        ("tap", eager, "tap_backward", given(relu=False), backward(CONTENT_RELU, STYLE, BLENDED)),
        ("tap", eager, "content_loss", one_percent, forward(CONTENT, CONTENT_RELU, STYLE)),
        ("tiles", eager, "tap_backward", given(owned=moved), backward(OWNED)),
        ("tiles", eager, "accumulate_gram", nothing, forward(CROPS)),
        ("relu", relu_eager, "bias_relu", argument(3, one_more), forward(*RELUS, *POOLS)),
        ("relu", relu_eager, "bias_relu", argument(4, one_bit), backward(*RELUS, *POOLS) | forward(RELUS[1], *INTO)),
        ("relu", relu_eager, "relu_backward", argument(3, one_more), backward(*RELUS, *POOLS)),
        ("image", image_eager, "normalise", one_percent, forward(*NORMALISE)),
        ("image", image_eager, "normalise_backward", result(one_more), backward(*NORMALISE, *GRADIENT)),
        ("image", image_eager, "total_variation", one_percent, forward(*VARIATION)),
        (
            "image",
            image_eager,
            "image_gradient",
            result(lambda pair: (one_more(pair[0]), pair[1])),
            backward(*GRADIENT, *VARIATION),
        ),
        *(
            ("image", image_eager, "adam_step", argument(index, lambda state: 1.001 * state), forward(*ADAM))
            for index in (0, 2, 3)
        ),
        ("first", image_eager, "normalise", one_percent, forward(*FIRST) | backward(*FIRST)),
        ("first", first_eager, "_transposed", one_percent, backward(*FIRST)),
        ("first", image_eager, "add_variation", one_percent, forward(*FIRST)),
    ],
)
def test_a_wrong_kernel_fails(
    family: str,
    module: Any,
    name: str,
    wrong_form: Wrapper,
    wrong: set[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, name, wrong_form(getattr(module, name)))
    assert failing(family) == wrong
    assert not torch.are_deterministic_algorithms_enabled()


def test_failures_are_named_and_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gram_alone(monkeypatch)
    arguments = ["verify", "--all", "--backend", "torch", "--size", "16"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "conv1_1 1×64×16×16" in printed[1]
    assert max(map(len, printed)) <= 120
    assert re.match(r"\d+ passed, 0 failed on ", printed[-1])
    monkeypatch.setattr(eager, "gram", Mock(side_effect=RuntimeError("does not compile\nat all")))
    code, report = report_of(capsys)
    assert code == 1
    failed = [check for check in report["checks"] if not check["passed"]]
    assert report["failed"] == len(failed)
    assert {check["problem"] for check in failed} == {"RuntimeError: does not compile"}
    assert main(arguments) == 1
    printed = capsys.readouterr().out.splitlines()
    assert any("failed: gram forward, torch on" in line for line in printed)
    assert ", 0 failed" not in printed[-1]
    for size in ("15", "5000"):
        assert main(["verify", "--all", "--size", size]) == 1
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


def test_checks_are_counted_beforehand(capsys: pytest.CaptureFixture[str]) -> None:
    for quick in (True, False):
        checks = list(verify("torch", 16, quick=quick))
        assert len(checks) == Selection("torch", 16, quick).count()
    assert main(["verify", "--backend", "torch"]) == 0
    said = capsys.readouterr().err
    assert re.match(
        r"fastnst: \d+ checks; they take about 20 s on two idle cores; --all checks every shape, layout and dtype\n",
        said,
    )
    assert re.search(r"\d+ of \d+ checks are done, about \d+ s are left\n", said)


@pytest.mark.slow
def test_interpreted_kernels_pass() -> None:
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match=r"gave no result \(exit code 1\): KeyError: 'gram/conv9_1'"):
        list(everything._interpreted(["gram/conv9_1"], []))
    processes: list[subprocess.Popen[str]] = []
    with everything._ended(processes):
        left = everything._interpreted(["lbfgs/image"], processes)
        next(left)
    assert processes[0].wait() != 0
    left.close()
    names = [
        "gram/odd",
        "tap/odd",
        "tiles/odd",
        "relu/odd channels",
        "relu/odd rows",
        "image/odd image",
        "lbfgs/odd image",
    ]
    checks = list(everything._interpreted(names, []))
    assert [check for check in checks if not check.passed] == []
    assert {(check.backend, check.device) for check in checks} == {("triton", "interpreter")}


@pytest.mark.gpu
def test_everything_passes_on_a_gpu() -> None:
    checks = [found for found in verify("all", size=256) if isinstance(found, Check)]
    assert {check.backend for check in checks} == {"torch", "triton"}
    assert [check for check in checks if not check.passed] == []


def test_an_interrupted_verification_prints_its_verdicts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gram_alone(monkeypatch)

    def interrupted(backend: str, size: int | None, *, quick: bool) -> Iterator[Check | Skipped]:
        yield from islice(verify(backend, size, quick=quick), 5)
        raise KeyboardInterrupt

    monkeypatch.setattr("fastnst.app.cli.verify.verify", interrupted)
    count = Selection("torch", None, quick=True).count()
    assert main(["verify", "--backend", "torch"]) == 130
    printed = capsys.readouterr()
    assert printed.out.endswith(f"5 checked, 0 failed, {count - 5} not run\n")
    assert printed.err.endswith("fastnst: error: interrupted\n")
    assert main(["verify", "--backend", "torch", "--json"]) == 130
    report = json.loads(capsys.readouterr().out)
    assert (report["passed"], report["not_run"]) == (5, count - 5)
    assert main(["verify", "--size", "64"]) == 1
    assert "--size has no effect without --all; add --all, or leave it out" in capsys.readouterr().err
