"""`fastnst profile`: the measurements, or a model of a GPU that is not here, as a table, as JSON and as a plot."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastnst.errors import OptionError

if TYPE_CHECKING:
    from fastnst.network.runtime import Runtime
    from fastnst.profiling import Measurement
    from fastnst.roofline_plot import Panel


def add_parser(commands: Any) -> None:
    """Adds the command to those of `fastnst`."""
    from fastnst.app.cli.arguments import whole_number

    parser = commands.add_parser(
        "profile",
        help="time the kernels, or model a GPU that is not here",
        description="Times the Gram matrix, its loss and its backward at the five style layers of an image, against "
        "eager PyTorch and torch.compile, then the other kernels of an iteration; with --target nothing runs, and a "
        "model of that GPU is printed instead.",
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
    parser.add_argument(
        "--target", metavar="NAME", help="model this GPU from its data sheet: sm_80 … sm_120, gfx942 or gfx1100"
    )
    parser.add_argument("--json", action="store_true", help="print the measurements as one JSON object on stdout")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    import torch

    from fastnst.app.cli.profile_tables import print_measurements, print_steps
    from fastnst.measure import conditions, device_name
    from fastnst.network.runtime import resolve_runtime
    from fastnst.options.options import resolve_options
    from fastnst.profiling import check_size, check_trace, measure_roofline, precisions, profile, trace
    from fastnst.roofline_plot import check_plot, draw
    from fastnst.step_profile import profile_steps

    check_size(parsed.size)
    if parsed.plot:
        check_plot(Path(parsed.plot))
    if parsed.target:
        return _run_model(parsed)
    if parsed.trace:
        check_trace(Path(parsed.trace))
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
            "model": False,
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
    from fastnst.profiling import measure_roofline
    from fastnst.roofline_plot import Panel, Point

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


def _run_model(parsed: argparse.Namespace) -> int:
    from fastnst.app.cli.profile_tables import model_lines
    from fastnst.datasheets import DATASHEETS
    from fastnst.gpu_model import datasheet_roofline, model, model_steps
    from fastnst.roofline_plot import Panel, Point, draw

    if parsed.trace:
        raise OptionError("--trace records what runs, and --target is a model of a GPU that is not here; give one")
    precision = "bf16" if parsed.precision == "auto" else parsed.precision
    roofline = datasheet_roofline(parsed.target, precision)
    rows = list(model(parsed.size, parsed.target, precision))
    rest = list(model_steps(parsed.size, parsed.target, precision))
    product = DATASHEETS[parsed.target].product
    if parsed.plot:
        points = [
            Point(
                label=row.layer,
                implementation="what the launches move",
                operation=row.operation,
                intensity=row.work.flops / row.work.bytes,
                rate=row.work.flops / row.plan_seconds,
            )
            for row in rows
        ]
        title = f"MODEL, not measured: {product}, {precision}"
        panel = Panel(title, roofline.bandwidth, roofline.rate, points)
        note = f"MODEL: data sheet ceilings, bytes counted from the launches, {parsed.size}×{parsed.size} px"
        draw([panel], Path(parsed.plot), note)
    if parsed.json:
        ceilings = {
            "gigabytes_per_second": roofline.bandwidth / 1e9,
            "teraflops_per_second": roofline.rate / 1e12,
        }
        report = {
            "model": True,
            "target": parsed.target,
            "product": product,
            "size": parsed.size,
            "ceilings": {precision: ceilings},
            "operations": [row.as_dict() for row in rows],
            "steps": [row.as_dict() for row in rest],
        }
        print(json.dumps(report))
    else:
        print("\n".join(f"MODEL {line}" for line in model_lines(rows, rest, product, precision, parsed.size)))
    return 0
