"""`fastnst profile`: the measurements as a table, as JSON and as a plot."""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fastnst_kernels.profiling.measure import conditions
from fastnst_kernels.profiling.plot import Panel, Point, draw
from fastnst_kernels.profiling.step import LARGEST_SIZE, Measurement, measure_roofline, measured
from fastnst_kernels.profiling.steps import IMPLEMENTATIONS, OPERATIONS, gram_steps, trace
from fastnst_kernels.profiling.steps import steps as all_steps
from fastnst_kernels.verify.everything import STYLE_LAYERS, check_size

from fastnst.app.cli import say
from fastnst.app.cli.run import on_stop_signal
from fastnst.errors import Interrupted, OptionError
from fastnst.image.files import check_place
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.transfer.plot import check_plot


def run(parsed: argparse.Namespace) -> int:
    try:
        return _run(parsed)
    except (ValueError, ArithmeticError) as error:
        raise OptionError(str(error)) from None
    except (torch.OutOfMemoryError, MemoryError):
        raise OptionError(f"size {parsed.size} does not fit into the device's memory; lower --size") from None


def _run(parsed: argparse.Namespace) -> int:
    check_size(parsed.size, LARGEST_SIZE)
    if parsed.rounds < 1:
        raise OptionError(f"--rounds {parsed.rounds} is too small; it must be 1 or more")
    if parsed.no_compile and parsed.compile_mode is not None:
        raise OptionError("--compile-mode has no effect with --no-compile; leave one of them out")
    if parsed.plot:
        check_plot(Path(parsed.plot))
    if parsed.trace:
        check_place(parsed.trace, "trace", (".json",))
    precision = parsed.precision
    if precision == "auto":
        own = resolve_runtime(parsed.device)
        precision = own.precision if own.device.type == "cuda" else "fp32"
    runtime = resolve_runtime(parsed.device, precision, parsed.backend)
    mode, facts = None if parsed.no_compile else parsed.compile_mode or "default", conditions(runtime.device)
    rows = len(STYLE_LAYERS) * len(OPERATIONS) + sum(1 for _ in all_steps(16, runtime))
    losses, steps = list[Measurement](), list[Measurement]()
    interrupted = False
    with on_stop_signal():
        try:
            if not parsed.json:
                say(f"{rows} operations at {runtime.precision}, a row for each as soon as it is measured")
                _print_conditions(parsed.size, runtime, facts)
            measurements = measured(gram_steps(parsed.size, runtime, mode), runtime, rounds=parsed.rounds)
            _measure(measurements, len(IMPLEMENTATIONS) - (mode is None), losses, shown=not parsed.json)
            if not parsed.json:
                print(_peaks(losses))
            measurements = measured(all_steps(parsed.size, runtime), runtime, rounds=parsed.rounds)
            _measure(measurements, 2, steps, shown=not parsed.json)
        except KeyboardInterrupt:
            interrupted = True
    if parsed.plot:
        note = f"{facts['device']}, {parsed.size}×{parsed.size} px; ceilings of the same run"
        draw([_panel(runtime, losses)], Path(parsed.plot), note)
    if parsed.trace and not interrupted:
        trace(parsed.size, runtime, Path(parsed.trace))
    if parsed.json:
        roofline = measure_roofline(runtime)
        ceilings = {"gigabytes_per_second": roofline.bandwidth / 1e9, "teraflops_per_second": roofline.rate / 1e12}
        report = {
            **facts,
            "size": parsed.size,
            "rounds": parsed.rounds,
            "compile_mode": mode,
            "ceilings": {runtime.precision: ceilings},
            "measurements": [loss.as_dict() for loss in losses],
            "steps": [step.as_dict() for step in steps],
        }
        print(json.dumps(report))
    if interrupted:
        raise Interrupted
    return 0


def _panel(runtime: Runtime, measurements: list[Measurement]) -> Panel:
    roofline, points = measure_roofline(runtime), []
    for loss in measurements:
        if loss.timing is not None and loss.operation != "forward":
            intensity, rate = loss.work.flops / loss.work.bytes, loss.work.flops / loss.timing.median
            points.append(Point(loss.layer, loss.implementation, loss.operation, intensity, rate))
    return Panel(f"{runtime.precision}, measured", roofline.bandwidth, roofline.rate, points)


def _print_conditions(size: int, runtime: Runtime, facts: dict[str, Any]) -> None:
    roofline, machine = measure_roofline(runtime), facts["machine"]
    print(
        f"{facts['device']}, {runtime.precision}, {size}×{size} px, torch {facts['versions']['torch']}, "
        f"{machine['threads']} threads, load {machine['load']}"
    )
    if runtime.device.type == "cpu" and (machine["load"] or 0) > 1.5 * (os.cpu_count() or 1):
        print("other programs keep the processors busy, so these times say little; measure again when it is idle")
    print(
        f"ceilings: copy {roofline.bandwidth / 1e9:.1f} GB/s, product {roofline.rate / 1e12:.3g} TFLOP/s; "
        "times are medians in ms ± half the spread, × is their time over ours; memory besides inputs and result, in MB"
    )


def _measure(measurements: Iterator[Measurement], contenders: int, kept: list[Measurement], *, shown: bool) -> None:
    """Adds the measurements to `kept`, and prints a row as soon as all contenders of an operation are measured."""
    if shown:
        print(
            f"{'layer':9}{'operation':25}{'fastnst':>17}{'GB/s':>8}{'TFLOP/s':>9}{'roofline':>9}{'eager':>17}"
            f"{'compile':>17}{'× eager':>9}{'× compile':>10}{'memory':>8}{'eager':>8}",
            flush=True,
        )
    first = len(kept)
    try:
        for row in zip(*[measurements] * contenders, strict=True):
            kept.extend(row)
            if shown:
                _print_row({measurement.implementation: measurement for measurement in row})
    finally:
        if shown:
            _print_remarks(kept[first:])


def _print_row(by_name: Mapping[str, Measurement]) -> None:
    ours, eager, compiled = by_name["fastnst"], by_name["eager"], by_name.get("compile")
    rates = ours.as_dict()
    print(
        f"{ours.layer:9}{ours.operation:25}{_time(ours):>17}{rates['gigabytes_per_second']:8.1f}"
        f"{rates['teraflops_per_second']:9.3g}{ours.roofline_share:9.0%}{_time(eager):>17}{_time(compiled):>17}"
        f"{_ratio(eager, ours):>9}{_ratio(compiled, ours):>10}{_memory(ours):>8}{_memory(eager):>8}",
        flush=True,
    )


def _print_remarks(measurements: Sequence[Measurement]) -> None:
    failed = [measurement for measurement in measurements if measurement.problem]
    for line in dict.fromkeys(f"{each.implementation} {each.operation}: {each.problem}" for each in failed):
        print(f"not timed: {line}")
    by_calls = {
        f"{each.implementation} {each.operation}" for each in measurements if each.timing and each.timing.by == "events"
    }
    if by_calls:
        print(
            f"these could not be captured as a graph, so their times include the calls of the host: "
            f"{', '.join(sorted(by_calls))}"
        )
    print(flush=True)


def _peaks(measurements: list[Measurement]) -> str:
    """The peak memory of loss and backward over the layers, one after another, against the features of all."""
    backward = [layer for layer in measurements if layer.operation == "backward"]
    features = sum(layer.features for layer in backward if layer.implementation == "fastnst")
    shares = []
    for name in ("fastnst", "eager"):
        peak = max((layer.extra_bytes or 0 for layer in backward if layer.implementation == name), default=0)
        if peak:
            shares.append(f"{name} {peak / 1e6:.1f} MB ({peak / features:.1%})")
    return f"peak memory of a layer's loss and backward, and its share of all features: {', '.join(shares)}"


def _time(measurement: Measurement | None) -> str:
    if measurement is None or measurement.timing is None:
        return "-"
    return f"{measurement.timing.median * 1e3:.3f} ±{measurement.timing.spread / 2:4.0%}"


def _ratio(other: Measurement | None, ours: Measurement) -> str:
    if other is None or other.timing is None or ours.timing is None:
        return "-"
    return f"{other.timing.median / ours.timing.median:.2f}"


def _memory(measurement: Measurement) -> str:
    return "-" if measurement.extra_bytes is None else f"{measurement.extra_bytes / 1e6:.1f}"
