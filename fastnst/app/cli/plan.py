"""`fastnst plan CONTENT`: what a run would do about memory, scale by scale, before anything runs."""

import argparse
import json
import math

from fastnst_kernels.profiling.measure import device_name

from fastnst.app.cli.arguments import given_options
from fastnst.errors import counted
from fastnst.image.picture import AnyPicture
from fastnst.image.read import open_picture
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.options.options import Options
from fastnst.options.parse import in_words
from fastnst.options.resolve import resolve_options
from fastnst.plan.planner import Plan, plan_run
from fastnst.plan.speed import measure_speed
from fastnst.transfer.inputs import sized, style_size
from fastnst.transfer.scales import run_scales


def run(parsed: argparse.Namespace) -> int:
    options = resolve_options(**sized(given_options(vars(parsed)), parsed.content))
    runtime = resolve_runtime(options.device, options.precision, options.backend)
    picture = open_picture(parsed.content, role="content", max_pixels=options.max_pixels)
    speed = measure_speed(runtime)
    plans = plans_of(picture, options, runtime)
    iterations = sum(count for _, count in plans)
    seconds = sum(plan.seconds(speed) * count for plan, count in plans)
    if parsed.json:
        report = {
            "device": device_name(runtime.device),
            "precision": runtime.precision,
            "optimizer": options.optimizer,
            "iterations": options.iterations,
            "flops_per_second": speed.flops,
            "copies_per_second": speed.elements if math.isfinite(speed.elements) else None,
            "total_iterations": iterations,
            "total_seconds": seconds,
            "scales": [{**plan.as_dict(), "seconds": plan.seconds(speed)} for plan, _ in plans],
        }
        print(json.dumps(report))
        return 0
    too_much = "" if all(plan.fits for plan, _ in plans) else ": TOO MUCH"
    peak = in_words(max(plan.peak_bytes for plan, _ in plans))
    print(f"in all about {_duration(seconds)} for {counted(iterations, 'iteration')}, peak memory {peak}{too_much}")
    giga = speed.flops / 1e9
    print(f"{device_name(runtime.device)}, {runtime.precision}, {options.optimizer}; about {giga:.3g} GFLOP/s")
    print(f"{counted(len(plans), 'scale')} of one run:")
    for plan, count in plans:
        print("\n".join(plan_lines(plan)))
        print(
            f"  about {plan.seconds(speed):.3g} s an iteration ({plan.flops / 1e12:.3g} TFLOP, modelled), "
            f"{_duration(plan.seconds(speed) * count)} for {count}"
        )
    return 0


def plans_of(picture: AnyPicture, options: Options, runtime: Runtime) -> list[tuple[Plan, int]]:
    """How each scale of a run would fit, and its iterations; a picture of the content's proportions stands for the
    style."""
    plans = []
    for scale in run_scales(picture, (), options):
        sizes = [style_size(picture, scale.edge, options)]
        plan = plan_run(options, runtime, scale.size, style_sizes=sizes, network_is_loaded=False)
        plans.append((plan, scale.iterations))
    return plans


def plan_lines(plan: Plan) -> list[str]:
    size = f"{plan.width}×{plan.height} px: "
    if plan.tile is None:
        lines = [size + "the whole image at once"]
    else:
        height, width = next(iter(plan.grid)).shape
        kept = plan.level == "kept"
        how = "each computed once, its features kept for the way back" if kept else "each computed twice, none kept"
        if plan.redone_steps > 1:
            how += f", except those of the first {plan.redone_steps} steps"
        lines = [
            f"{size}{len(plan.grid)} tiles of {plan.tile} px, seen with their halo as {width}×{height} "
            f"({plan.grid.overhead:.2f} × the pixels), {how}"
        ]
        if plan.uncounted is not None:
            lines.append(f"  because the whole image's maps have {plan.uncounted:,} elements, too many for 32 bits")
        if not plan.content_is_kept:
            lines.append("  the content's features are computed again each time")
    if plan.style_tile is not None:
        lines.append(f"  the style's targets in tiles of {plan.style_tile} px")
    limit = "" if plan.limit_bytes is None else f" of {in_words(plan.limit_bytes)}"
    before = f"{in_words(plan.held_bytes)} before the run"
    lines.append(f"  peak memory {in_words(plan.peak_bytes)}{limit} ({before}){'' if plan.fits else ': TOO MUCH'}")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
