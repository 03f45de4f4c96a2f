"""`fastnst profile`: the measurements as a table, as JSON and as a plot."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnst.errors import OptionError
from fastnst.image.files import check_place

if TYPE_CHECKING:
    from fastnst_kernels.profiling import Measurement
    from fastnst_kernels.profiling.plot import Panel

    from fastnst.network.runtime import Runtime


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
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

    from fastnst.app.cli.profile_tables import print_measurements, print_steps
    from fastnst.network.runtime import resolve_runtime
    from fastnst.options.options import resolve_options
    from fastnst.transfer.plot import check_plot

    check_size(parsed.size)
    if parsed.plot:
        check_plot(Path(parsed.plot))
    if parsed.trace:
        _check_trace(Path(parsed.trace))
    device = resolve_runtime(resolve_options(device=parsed.device)).device
    runtimes = [
        resolve_runtime(resolve_options(device=parsed.device, precision=precision, backend=parsed.backend))
        for precision in precisions(parsed.precision, device)
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
            print_measurements(parsed.size, runtime, measurements)
            print_steps(rest)
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
            "measurements": [one.as_dict() for _, measurements in sections for one in measurements],
            "steps": [one.as_dict() for one in steps],
        }
        print(json.dumps(report))
    return 0


def _panel(runtime: "Runtime", measurements: "list[Measurement]") -> "Panel":
    from fastnst_kernels.profiling import measure_roofline
    from fastnst_kernels.profiling.plot import Panel, Point

    roofline = measure_roofline(runtime)
    points = [
        Point(
            label=one.layer,
            implementation=one.implementation,
            operation=one.operation,
            intensity=one.work.flops / one.work.bytes,
            rate=one.work.flops / one.timing.median,
        )
        for one in measurements
        if one.timing is not None and one.operation != "forward"
    ]
    return Panel(f"{runtime.precision}, measured", roofline.bandwidth, roofline.rate, points)


def _check_trace(path: Path) -> None:
    """Raises OptionError where `path` is no trace's, ImageError as `check_place` does."""
    if path.suffix != ".json":
        raise OptionError(f"{path} is not a trace's name; end it in .json")
    check_place(str(path), "trace")
