"""`fastnst profile`: the measurements as a table, as JSON and as a plot."""

import argparse
import json
import os
import sys
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnst.errors import OptionError
from fastnst.image.files import check_place

if TYPE_CHECKING:
    from fastnst_kernels.profiling import Measurement
    from fastnst_kernels.profiling.plot import Panel

    from fastnst.network.runtime import Runtime


def add_parser(commands: Any) -> None:
    from fastnst.app.cli.arguments import whole_number

    parser = commands.add_parser(
        "profile",
        help="time the kernels against eager PyTorch and torch.compile",
        description="Times the Gram matrix, its loss and its backward at the five style layers of an image, against "
        "eager PyTorch and torch.compile, then the other kernels of an iteration.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--size", type=whole_number, default=512, metavar="PX", help="side of the square image (default: 512)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16", "fp16"),
        default="auto",
        help="dtype of the features (default: auto)",
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 … (default: auto)")
    parser.add_argument(
        "--backend", choices=("auto", "triton", "torch"), default="auto", help="what to time (default: auto)"
    )
    parser.add_argument("--rounds", type=whole_number, default=7, metavar="N", help="interleaved rounds (default: 7)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument(
        "--compile-mode",
        choices=("default", "max-autotune"),
        default="default",
        help="torch.compile's mode; max-autotune takes minutes (default: default)",
    )
    parser.add_argument("--plot", metavar="FILE", help="also draw the roofline: .png, .svg or .pdf (fastnst[plot])")
    parser.add_argument("--trace", metavar="FILE", help="also write a trace to open in Perfetto: .json")
    parser.add_argument("--json", action="store_true", help="print the measurements as one JSON object on stdout")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    try:
        return _run(parsed)
    except (ValueError, ArithmeticError) as error:
        raise OptionError(str(error)) from None


def _run(parsed: argparse.Namespace) -> int:
    import torch
    from fastnst_kernels.profiling import (
        check_size,
        conditions,
        device_name,
        measure_roofline,
        precisions,
        profile,
        profile_steps,
        trace,
    )
    from fastnst_kernels.profiling.plot import draw

    from fastnst.network.runtime import resolve_runtime
    from fastnst.transfer.plot import check_plot

    check_size(parsed.size)
    if parsed.plot:
        check_plot(Path(parsed.plot))
    if parsed.trace:
        _check_trace(Path(parsed.trace))
    device = resolve_runtime(parsed.device).device
    runtimes = [
        resolve_runtime(parsed.device, precision, parsed.backend) for precision in precisions(parsed.precision, device)
    ]
    sections, steps = [], []
    for runtime in runtimes:
        try:
            measurements = list(
                profile(
                    parsed.size,
                    runtime,
                    rounds=parsed.rounds,
                    compiled=not parsed.no_compile,
                    compile_mode=parsed.compile_mode,
                )
            )
            rest = list(profile_steps(parsed.size, runtime, measure_roofline(runtime), rounds=parsed.rounds))
        except (torch.OutOfMemoryError, MemoryError):
            raise OptionError(f"size {parsed.size} does not fit into the memory of {device}; lower --size") from None
        if not parsed.json:
            _print_measurements(parsed.size, runtime, measurements)
            _print_steps(rest)
        sections.append((runtime, measurements))
        steps += rest
    if parsed.plot:
        panels = [_panel(runtime, measurements) for runtime, measurements in sections]
        draw(
            panels,
            Path(parsed.plot),
            f"{device_name(device)}, {parsed.size}×{parsed.size} px; ceilings of the same run",
        )
    if parsed.trace:
        trace(parsed.size, runtimes[-1], Path(parsed.trace))
    if parsed.json:
        report = {
            **conditions(device),
            "size": parsed.size,
            "rounds": parsed.rounds,
            "compile_mode": None if parsed.no_compile else parsed.compile_mode,
            "ceilings": {
                runtime.precision: {
                    "gigabytes_per_second": measure_roofline(runtime).bandwidth / 1e9,
                    "teraflops_per_second": measure_roofline(runtime).rate / 1e12,
                }
                for runtime in runtimes
            },
            "measurements": [layer.as_dict() for _, measurements in sections for layer in measurements],
            "steps": [step.as_dict() for step in steps],
        }
        print(json.dumps(report))
    return 0


def _panel(runtime: "Runtime", measurements: "list[Measurement]") -> "Panel":
    from fastnst_kernels.profiling import measure_roofline
    from fastnst_kernels.profiling.plot import Panel, Point

    roofline = measure_roofline(runtime)
    points = [
        Point(
            label=layer.layer,
            implementation=layer.implementation,
            operation=layer.operation,
            intensity=layer.work.flops / layer.work.bytes,
            rate=layer.work.flops / layer.timing.median,
        )
        for layer in measurements
        if layer.timing is not None and layer.operation != "forward"
    ]
    return Panel(f"{runtime.precision}, measured", roofline.bandwidth, roofline.rate, points)


def _check_trace(path: Path) -> None:
    """Raises OptionError where `path` is no trace's, ImageError as `check_place` does."""
    if path.suffix != ".json":
        raise OptionError(f"{path} is not a trace's name; end it in .json")
    check_place(str(path), "trace")


def _print_measurements(size: int, runtime: "Runtime", measurements: "list[Measurement]") -> None:
    """The losses of a square image of `size` pixels at the style layers, beneath what they were measured under."""
    from fastnst_kernels.profiling import conditions, measure_roofline

    roofline = measure_roofline(runtime)
    facts = conditions(runtime.device)
    print(
        f"{facts['device']}, {runtime.precision}, {size}×{size} px, torch {facts['versions']['torch']}, "
        f"{facts['machine']['threads']} threads, load {facts['machine']['load']}"
    )
    if runtime.device.type == "cpu" and (facts["machine"]["load"] or 0) > 1.5 * (os.cpu_count() or 1):
        print("other programs keep the processors busy: these times say little; measure again when they do not")
    print(
        f"ceilings: copy {roofline.bandwidth / 1e9:.1f} GB/s, product {roofline.rate / 1e12:.3g} TFLOP/s; "
        "times are medians in ms ± half the spread, × is their time over ours; memory besides inputs and result, in MB"
    )
    print(
        f"{'layer':9}{'operation':10}{'fastnst':>17}{'GB/s':>8}{'TFLOP/s':>9}{'roofline':>9}{'eager':>17}{'compile':>17}"
        f"{'× eager':>9}{'× compile':>10}{'memory':>8}{'eager':>8}"
    )
    for (layer, operation), group in groupby(measurements, key=attrgetter("layer", "operation")):
        by_name = {measurement.implementation: measurement for measurement in group}
        ours = by_name["fastnst"]
        rates = ours.as_dict()
        print(
            f"{layer:9}{operation:10}{_time(ours):>17}{rates['gigabytes_per_second']:8.1f}"
            f"{rates['teraflops_per_second']:9.3g}{ours.roofline_share:9.0%}{_time(by_name['eager']):>17}"
            f"{_time(by_name.get('compile')):>17}{_ratio(by_name['eager'], ours):>9}"
            f"{_ratio(by_name.get('compile'), ours):>10}{_memory(ours):>8}{_memory(by_name['eager']):>8}"
        )
    print(_peaks(measurements))
    problems = [measurement for measurement in measurements if measurement.problem]
    for line in dict.fromkeys(f"{failed.implementation} {failed.operation}: {failed.problem}" for failed in problems):
        print(f"not timed: {line}")
    print()
    sys.stdout.flush()


def _print_steps(measurements: "list[Measurement]") -> None:
    """The other kernels of an iteration, which only move bytes."""
    print(
        f"{'layer':9}{'operation':25}{'fastnst':>17}{'GB/s':>8}{'of copy':>9}{'eager':>17}{'× eager':>9}"
        f"{'memory':>8}{'eager':>8}"
    )
    for (layer, operation), group in groupby(measurements, key=attrgetter("layer", "operation")):
        by_name = {measurement.implementation: measurement for measurement in group}
        ours, eager = by_name["fastnst"], by_name["eager"]
        print(
            f"{layer:9}{operation:25}{_time(ours):>17}{ours.as_dict()['gigabytes_per_second']:8.1f}"
            f"{ours.roofline_share:9.0%}{_time(eager):>17}{_ratio(eager, ours):>9}{_memory(ours):>8}{_memory(eager):>8}"
        )
    print()
    sys.stdout.flush()


def _peaks(measurements: "list[Measurement]") -> str:
    """The peak memory of loss and backward over the layers, one after another, against the features of all."""
    backward = [layer for layer in measurements if layer.operation == "backward"]
    features = sum(layer.features for layer in backward if layer.implementation == "fastnst")
    shares = []
    for name in ("fastnst", "eager"):
        peak = max((layer.extra_bytes or 0 for layer in backward if layer.implementation == name), default=0)
        if peak:
            shares.append(f"{name} {peak / 1e6:.1f} MB ({peak / features:.1%})")
    return f"peak memory of a layer's loss and backward, and its share of all features: {', '.join(shares)}"


def _time(measurement: "Measurement | None") -> str:
    if measurement is None or measurement.timing is None:
        return "-"
    timing = measurement.timing
    return f"{timing.median * 1e3:.3f} ±{timing.spread / 2:4.0%}"


def _ratio(other: "Measurement | None", ours: "Measurement") -> str:
    if other is None or other.timing is None or ours.timing is None:
        return "-"
    return f"{other.timing.median / ours.timing.median:.2f}"


def _memory(measurement: "Measurement") -> str:
    return "-" if measurement.extra_bytes is None else f"{measurement.extra_bytes / 1e6:.1f}"
