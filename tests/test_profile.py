"""`fastnst profile` and the timing beneath it."""

import importlib.util
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from fastnst_kernels import image
from fastnst_kernels.launch.backends import float32_products
from fastnst_kernels.losses import eager
from fastnst_kernels.profiling import measure
from fastnst_kernels.profiling import steps as all_steps
from fastnst_kernels.profiling.measure import peak_extra_bytes
from fastnst_kernels.profiling.step import Roofline, Work, measured
from fastnst_kernels.profiling.steps import OPERATIONS, gram_steps, steps, work_of
from fastnst_kernels.verify.everything import STYLE_LAYERS

from fastnst.app.cli import main
from fastnst.network.runtime import Runtime, resolve_runtime

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_FLUSH_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr(measure, "_COPY_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr(measure, "_PRODUCT_SIDE", {"cpu": 64})


def runtime(precision: str = "fp32") -> Runtime:
    return resolve_runtime("cpu", precision)


def test_json_has_each_layer_operation_and_implementation(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["profile", "--size", "32", "--device", "cpu", "--rounds", "2", "--no-compile", "--json"]
    assert main(arguments) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    keys = [(each["layer"], each["operation"], each["implementation"]) for each in report["measurements"]]
    assert keys == [
        (layer, operation, implementation)
        for layer in STYLE_LAYERS
        for operation in OPERATIONS
        for implementation in ("fastnst", "eager")
    ]
    for each in report["measurements"]:
        assert each["timing"]["rounds"] == 2
        assert 0 < each["timing"]["fastest"] <= each["timing"]["median"] <= each["timing"]["slowest"]
        assert each["gigabytes_per_second"] > 0
        assert each["roofline_share"] > 0
        assert each["error"] < 1e-5
        assert 0 <= each["extra_bytes"] < 1 << 24
    timed = {each["operation"] for each in report["steps"] if each["implementation"] == "fastnst"}
    assert {"normalise", "bias_relu_pool backward", "content backward", "image_gradient", "adam_step"} <= timed
    assert all(each["gigabytes_per_second"] > 0 and each["error"] < 1e-5 for each in report["steps"])
    assert report["ceilings"]["fp32"]["gigabytes_per_second"] > 0
    assert report["versions"]["torch"] == torch.__version__
    assert report["date"]


def test_wrong_plain_form_is_named_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_steps, "plain_gram", lambda features: torch.zeros(1, *(features.shape[1:2] * 2)))
    measurements = measured(gram_steps(16, runtime(), None), runtime(), rounds=1)
    plain = next(each for each in measurements if each.implementation == "eager")
    assert plain.timing is plain.as_dict()["gigabytes_per_second"] is None
    assert (plain.problem or "").startswith("wrong result")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "15"], "size 15 is out of range; give 16"),
        (["--size", "100000"], "size 100000 is out of range"),
        (["--rounds", "0"], "--rounds 0 is too small; it must be 1 or more"),
        (["--precision", "tf32", "--device", "cpu"], "precision tf32 needs a GPU"),
        (["--precision", "fp16", "--device", "cpu"], "precision fp16"),
        (["--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_bad_options_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"fastnst: error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_table_names_what_was_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> Any:
        return Mock(side_effect=RuntimeError("no C++ compiler\nand more"))

    monkeypatch.setattr(torch, "compile", broken)
    assert main(["profile", "--size", "16", "--device", "cpu", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "not timed: compile forward: RuntimeError: no C++ compiler\n" in printed
    assert printed.count("conv5_1") >= 3
    assert printed.count("bias_relu_pool backward") == 1
    assert "ceilings: copy" in printed
    assert "peak memory of a layer's loss and backward, and its share of all features: fastnst" in printed
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["profile", "--plot", "roofline.png"]) == 1
    assert '--plot needs matplotlib; install it with pip install "fastnst[plot]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        (eager, "gram", r"forward at conv1_1 is wrong .* run fastnst verify"),
        (image, "normalise", r"normalise at image is wrong \(error 0\.01, .* so it is not timed"),
    ],
)
def test_a_wrong_result_is_not_timed(module: Any, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments, **named: 1.01 * right(*arguments, **named))
    with pytest.raises(ArithmeticError, match=said):
        list(measured(chain(gram_steps(16, runtime(), None), steps(16, runtime())), runtime(), rounds=1))


def test_the_figures_that_a_roofline_is_drawn_from() -> None:
    assert work_of("forward", 64, 100, 2) == Work(64 * 100 * 2 + 4 * 64 * 64, 100 * 64 * 65)
    assert work_of("loss", 64, 100, 2) == Work(64 * 100 * 2 + 6 * 64 * 64, 100 * 64 * 65)
    assert work_of("backward", 64, 100, 4) == Work(3 * 64 * 100 * 4 + 4 * 64 * 64, 2 * 100 * 64 * 64)
    assert Roofline(10.0, 100.0).seconds(Work(50, 100)) == 5.0
    assert Roofline(10.0, 100.0).seconds(Work(5, 1000)) == 10.0
    least = {step.operation: step.work.bytes for step in steps(16, runtime("bf16"))}
    assert (
        least.items()
        >= {
            "normalise": 6 * 3 * 256,
            "bias_relu": 33 * 64 * 256 // 8,
            "bias_relu_pool backward": 21 * 64 * 256 // 8,
            "adam_step": 28 * 3 * 256,
        }.items()
    )


def test_extra_memory_is_what_is_neither_given_nor_returned() -> None:
    given = torch.ones(1 << 20)

    def prepare() -> measure.Call:
        held = (given + 1) * 2
        return lambda: held + 1 + 1

    def early() -> measure.Call:
        del_me = [given + 1, given + 2, given + 3]
        return lambda: given + len(del_me[:0])

    assert peak_extra_bytes(prepare, CPU) == pytest.approx(2 * 4 << 20, rel=0.01)
    assert peak_extra_bytes(early, CPU) == pytest.approx(3 * 4 << 20, rel=0.01)


def test_plot_and_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    plot, traced = tmp_path / "roofline.svg", tmp_path / "trace.json"
    arguments = ["profile", "--size", "16", "--device", "cpu", "--rounds", "1", "--no-compile"]
    assert main([*arguments, "--plot", str(plot), "--trace", str(traced)]) == 0
    assert "<svg" in plot.read_text()
    names = {event.get("name") for event in json.loads(traced.read_text())["traceEvents"]}
    assert {"conv1_1 loss fastnst", "conv5_1 backward eager", "fastnst_kernels::tap_gradient"} <= names
    said = "fastnst: 24 operations at fp32, a row for each as soon as it is measured\n"
    assert capsys.readouterr().err == said


def test_an_interrupted_profile_keeps_its_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: Any, **named: Any) -> Iterator[Any]:
        yield from islice(measured(*given, **named), 5)
        raise KeyboardInterrupt

    monkeypatch.setattr("fastnst.app.cli.profile.measured", interrupted)
    arguments = ["profile", "--size", "16", "--device", "cpu", "--rounds", "1", "--no-compile"]
    assert main(arguments) == 130
    printed = capsys.readouterr()
    assert [line.split()[1] for line in printed.out.splitlines() if line.startswith("conv1_1")] == ["forward", "loss"]
    assert printed.err.endswith("fastnst: error: interrupted\n")
    assert main([*arguments, "--json"]) == 130
    assert len(json.loads(capsys.readouterr().out)["measurements"]) == 4
    assert main([*arguments, "--compile-mode", "default"]) == 1
    assert "--compile-mode has no effect with --no-compile; leave one of them out" in capsys.readouterr().err


def test_interleaved_times_the_call_and_not_its_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    order: list[str] = []

    def make(name: str, seconds: float) -> measure.Contender:
        def prepare() -> measure.Call:
            nonlocal now
            now += 16.0

            def call() -> None:
                nonlocal now
                now += seconds
                order.append(name)

            return call

        return prepare

    timings = measure.interleaved({"a": make("a", 1.0), "b": make("b", 4.0)}, CPU, rounds=3, warm_up=1, flush=False)
    assert "".join(order) == "ab" + "abbaab"
    assert timings == {"a": measure.Timing(1.0, 1.0, 1.0, 3), "b": measure.Timing(4.0, 4.0, 4.0, 3)}


def test_caches_are_filled_by_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written before a call would be written back within it."""
    made: list[torch.Tensor] = []
    ones = torch.ones

    def kept(*given: Any, **named: Any) -> torch.Tensor:
        made.append(ones(*given, **named))
        return made[-1]

    monkeypatch.setattr(measure.torch, "ones", kept)
    monkeypatch.setitem(measure._FLUSH_BYTES, "cpu", 1 << 16)
    measure.interleaved({"a": lambda: lambda: None}, CPU, rounds=2)
    (scratch,) = made
    assert scratch._version == 0
    assert scratch.numel() * scratch.element_size() == 1 << 16


def test_a_gpu_s_calls_are_timed_as_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what can be captured is replayed, and what cannot is called and said to be."""
    order: list[str] = []

    def captured(contender: measure.Contender, device: torch.device) -> measure.Contender | None:
        return (lambda: lambda: order.append("replay")) if contender is capturable else None

    def capturable() -> measure.Call:
        return lambda: order.append("a")

    monkeypatch.setattr(measure, "captured", captured)
    monkeypatch.setattr(measure, "_timed", lambda contender, device, calls, scratch: [contender()() or 1.0] * calls)
    contenders = {"a": capturable, "b": lambda: lambda: order.append("b")}
    cuda = torch.device("cuda")
    timings = measure.interleaved(contenders, cuda, rounds=2, calls=3, flush=False, replay=True)
    assert order == ["a", "a", "b", "b", "replay", "b", "b", "replay"]
    assert (timings["a"].by, timings["b"].by) == ("graph", "events")
    assert measure.interleaved(contenders, cuda, rounds=1, flush=False)["a"].by == "events"


@pytest.mark.gpu
def test_a_graph_s_replay_computes_what_the_call_does() -> None:
    x, y = torch.ones(8, device="cuda"), torch.zeros(8, device="cuda")
    replay = measure.captured(lambda: lambda: y.add_(x), torch.device("cuda"))
    assert replay is not None
    before = y.clone()
    replay()()
    torch.cuda.synchronize()
    assert torch.equal(y, before + 1)
    assert measure.captured(lambda: lambda: y.sum().item(), torch.device("cuda")) is None
    assert torch.equal(y * 2, y + y)


def test_tf32_is_told_by_both_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile reads the older one."""
    matmul = torch.backends.cuda.matmul
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for tf32 in (True, False):
        with float32_products(tf32):
            assert matmul.allow_tf32 is tf32
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == "none"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.gpu
def test_profile_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traced = tmp_path / "trace.json"
    arguments = ["profile", "--size", "64", "--device", "cuda", "--precision", "bf16", "--rounds", "2", "--no-compile"]
    assert main([*arguments, "--json", "--trace", str(traced)]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(report["measurements"]) == 2 * len(OPERATIONS) * len(STYLE_LAYERS)
    assert len(report["steps"]) == 2 * 9
    assert all(each["timing"]["median"] > 0 for each in report["measurements"] + report["steps"])
    assert json.loads(traced.read_text())["traceEvents"]
    given = torch.ones(1 << 20, device="cuda")
    assert peak_extra_bytes(lambda: lambda: (given + 1) * 2, torch.device("cuda")) == 4 << 20
