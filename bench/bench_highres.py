"""Peak memory and seconds of an iteration against size: the whole image, exact tiles, and the published blocks.

python -m bench.bench_highres --size 512 1024 2048 --sides whole kept:1024 auto:3GB published --json highres.json

    whole           the untiled step
    kept:N          tiles that own N px, forward once and back once, what lies between kept
    recompute:N     the same, forward twice and back once, nothing kept
    auto:MEMORY     what the planner chooses for so much memory
    published       blocks of 512 px with a margin of 256 px, recomputed (Galerne et al., Scaling Painting Style
                    Transfer, 2024), as tiles of this engine: what differs is the size of the blocks and their margin

Each side's gradient is compared with the untiled one in float32 before anything is timed, and its losses at each size
with those of the first side. Every round runs each side in turn, in a fresh process: an iteration to get ready, then
those that are timed; their median counts. Memory is the peak of that process: all of it, and beyond what it held with
its libraries and weights. A side whose plan does not fit into what is free is not tried, one that runs out of memory is
reported as that.

`--count` measures nothing: it prints the operations of each side's convolutions, counted, over those of the untiled
step and of the published scheme.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fastnst_kernels.profiling.measure import conditions, peak_resident_bytes, synchronise

from bench.peak import peak_bytes, restarted_peak
from bench.sides import TOLERANCES
from fastnst.errors import OptionError
from fastnst.examples import example
from fastnst.image.read import load_image
from fastnst.image.resize import fitted_size, resize_picture
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import Runtime, is_out_of_memory, resolve_runtime
from fastnst.network.settings import float32_products
from fastnst.network.tiles import Span, TileGrid, make_grid, reach_of
from fastnst.network.weights import load_weights
from fastnst.optim import make_optimizer
from fastnst.options.options import Options
from fastnst.options.parse import in_words, parse_memory
from fastnst.options.resolve import resolve_options
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.machine import Room, room_on
from fastnst.plan.memory import network_of
from fastnst.plan.planner import Plan, Ways, plan_run
from fastnst.plan.speed import forward_flops, measure_speed
from fastnst.transfer.descent import Descent

KINDS = ("whole", "kept", "recompute", "auto", "published")
SIDES = ("whole", "kept:1024", "recompute:1024", "published")
BLOCK, MARGIN = 512, 256
# The styles' size is no part of what is measured.
STYLE_EDGE = 512
READYING_SIZE = 64
# The first convolution's features are cheaper to compute than to keep.
_REDONE = {"kept": 1, "recompute": 0}
CHECK_SIZE, CHECK_TILE, CHECK_MARGIN = 272, 32, 80
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Row:
    """One side at one size: its tiles; bytes of the whole process, of what the iteration added to it, and of what was
    planned for the process; seconds of an iteration, and what was planned. `problem` says why there are no figures."""

    size: int
    side: str
    width: int
    height: int
    tiles: int | None = None
    tile: int | None = None
    overhead: float | None = None
    planned_bytes: int | None = None
    peak_bytes: int | None = None
    added_bytes: int | None = None
    seconds: float | None = None
    spread: float | None = None
    planned_seconds: float | None = None
    loss: float | None = None
    problem: str | None = None


def options_for(size: int, device: str, precision: str, optimizer: str) -> Options:
    where: dict[str, Any] = {"device": device, "precision": precision}
    return resolve_options(preset="gatys", init="noise", size=size, optimizer=optimizer, weights="random", **where)


def runtime_of(options: Options) -> Runtime:
    return resolve_runtime(options.device, options.precision, options.backend)


def plan_side(side: str, options: Options, runtime: Runtime, size: tuple[int, int]) -> Plan:
    """The plan of `side` for an image of `size`, (height, width). Raises OptionError for an unknown side."""
    name, _, argument = side.partition(":")
    if side == "whole":
        return plan_run(replace(options, tile="none"), runtime, size)
    if name == "auto":
        return plan_run(replace(options, max_memory=parse_memory(argument or None)), runtime, size)
    if name in ("kept", "recompute") and argument.isdecimal():
        grid = make_grid(*size, int(argument), reach_of(options.network, options.taps))
        return _plan_tiles(options, runtime, int(argument), grid, name)
    if side != "published":
        raise OptionError(f"unknown side {side!r}; write whole, kept:N, recompute:N, auto, auto:8GB or published")
    return _plan_tiles(options, runtime, BLOCK, blocks(size, options, BLOCK, MARGIN), "recompute")


def _plan_tiles(options: Options, runtime: Runtime, tile: int, grid: TileGrid, level: str) -> Plan:
    if len(grid) == 1:
        return plan_run(replace(options, tile="none"), runtime, (grid.height, grid.width))
    return plan_tiles(options, runtime, grid, tile=tile, level=level, redone_steps=_REDONE[level])


def plan_tiles(
    options: Options,
    runtime: Runtime,
    grid: TileGrid,
    *,
    tile: int,
    level: str,
    redone_steps: int = 0,
    room: Room | None = None,
) -> Plan:
    """The plan to go over the tiles of `grid`, which own `tile` pixels each way, at `level`, whether or not it is the
    quickest or fits; other arguments are as in `Plan` and `plan_run`."""
    room = room or room_on(runtime.device, 0, 1)
    ways = Ways(options, network_of(options, runtime), (grid.height, grid.width), room)
    return replace(ways.over(grid, tile, level, redone_steps), style_tile=tile)


def even_spans(length: int, tile: int, halo: int, grid: int) -> tuple[Span, ...]:
    """Spans that own `tile` pixels each, the last one the rest, and see `halo` on each side within the image.

    For layouts other than ours, such as the blocks of Galerne et al. (2024); `tile` and `halo` are multiples of `grid`.
    """
    if tile % grid or halo % grid:
        raise OptionError(f"tile {tile} and halo {halo} do not lie on the grid; give multiples of {grid}")
    edges = [*range(0, max(length // grid * grid, grid), tile), length]
    return tuple(Span(first, last, max(first - halo, 0), min(last + halo, length)) for first, last in pairwise(edges))


def blocks(size: tuple[int, int], options: Options, block: int, margin: int) -> TileGrid:
    """The published layout; its crops are cut off at the picture's border."""
    grid = reach_of(options.network, options.taps).grid
    rows, columns = (even_spans(length, block, margin, grid) for length in size)
    return TileGrid(*size, rows, columns)


def image_of(size: int) -> torch.Tensor:
    picture = load_image(example("content"))
    return resize_picture(picture, size=fitted_size(picture.height, picture.width, size)).rgb[None]


def make_backbone(options: Options, runtime: Runtime) -> Backbone:
    weights = load_weights("random", options.network, taps=options.taps)
    return build_backbone(weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)


def make_descent(plan: Plan, options: Options, runtime: Runtime, backbone: Backbone, content: torch.Tensor) -> Descent:
    strokes = load_image(example("style_swirls"))
    edge = min(options.size, STYLE_EDGE)
    style = resize_picture(strokes, size=fitted_size(strokes.height, strokes.width, edge)).rgb[None]
    targets = style_targets(backbone, [(style.to(runtime.device), 1.0)], options, runtime)
    make = partial(Objective, backbone, content, targets, options, runtime)
    objective = FittingObjective(make, options, runtime, plan=plan, tile_is_fixed=True)
    return Descent(content.to(runtime.device), objective, lambda: make_optimizer(options, runtime))


def check_gradients(sides: Sequence[str], device: str) -> dict[str, float]:
    """Relative errors of each side's gradient in float32 against the whole image's; SystemExit for a wrong one."""
    options = options_for(CHECK_SIZE, device, "fp32", "adam")
    runtime = runtime_of(options)
    backbone = make_backbone(options, runtime)
    content = image_of(CHECK_SIZE)
    noise = torch.rand(content.shape, generator=torch.Generator().manual_seed(0))
    image = (0.7 * content + 0.3 * noise).to(runtime.device)
    content = content.to(runtime.device)
    size = (content.shape[2], content.shape[3])
    errors = {}
    with float32_products(tf32=False):
        targets = style_targets(backbone, [(content.flip(3), 1.0)], options, runtime)
        _, exact = Objective(backbone, content, targets, options, runtime).loss_and_gradient(image)
        make = partial(Objective, backbone, content, targets, options, runtime)
        for kind in dict.fromkeys(side.partition(":")[0] for side in sides):
            plan = plan_run(replace(options, tile=CHECK_TILE), runtime, size)
            if kind == "whole":
                continue
            if kind == "published":
                plan = replace(plan, level="recompute", grid=blocks(size, options, CHECK_TILE, CHECK_MARGIN))
            elif kind != "auto":
                plan = replace(plan, level=kind, redone_steps=_REDONE[kind])
            objective = FittingObjective(make, options, runtime, plan=plan, tile_is_fixed=True)
            _, gradient = objective.loss_and_gradient(image)
            errors[kind] = ((gradient - exact).norm() / exact.norm()).item()
            if not errors[kind] <= TOLERANCE:
                raise SystemExit(f"{kind} is wrong: its gradient is {errors[kind]:.1e} off, allowed is {TOLERANCE:.0e}")
    return errors


def measure(options: Options, sides: Sequence[str], rounds: int, iterations: int) -> list[Row]:
    height, width = image_of(options.size).shape[2:]
    rows = {side: Row(options.size, side, width, height) for side in sides}
    measured: dict[str, list[Mapping[str, Any]]] = {side: [] for side in sides}
    for index in range(rounds):
        start = index % len(sides)
        for side in [*sides[start:], *sides[:start]]:
            if rows[side].problem is None:
                answer = run_worker(side, options, iterations)
                measured[side].append(answer)
                rows[side] = replace(rows[side], problem=answer.get("problem"))
    for side, answers in measured.items():
        if rows[side].problem is None and answers:
            rows[side] = _figures(rows[side], answers)
    _check_losses(list(rows.values()), TOLERANCES[runtime_of(options).precision][0])
    return list(rows.values())


def _figures(row: Row, answers: Sequence[Mapping[str, Any]]) -> Row:
    medians = [median(answer["seconds"]) for answer in answers]
    middle = median(medians)
    return replace(
        row,
        **{name: answers[0][name] for name in ("tiles", "tile", "overhead", "planned_bytes")},
        peak_bytes=max(answer["peak_bytes"] for answer in answers),
        added_bytes=max(answer["added_bytes"] for answer in answers),
        seconds=middle,
        spread=(max(medians) - min(medians)) / middle,
        planned_seconds=median(answer["planned_seconds"] for answer in answers),
        loss=answers[0]["loss"],
    )


def _check_losses(rows: Sequence[Row], tolerance: float) -> None:
    losses = {row.side: row.loss for row in rows if row.loss is not None}
    first = next(iter(losses.values()), None)
    for side, loss in losses.items():
        if first is not None and not abs(loss - first) <= tolerance * abs(first):
            raise SystemExit(f"{side} at {rows[0].size} px is wrong: loss {loss}, others {first}")


def run_worker(side: str, options: Options, iterations: int) -> Mapping[str, Any]:
    """The figures of one side in a process of its own, or its problem."""
    words = ["--worker", side, "--iterations", str(iterations)]
    words += [f"--{name}={getattr(options, name)}" for name in ("size", "device", "precision", "optimizer")]
    command, root = [sys.executable, "-m", "bench.bench_highres", *words], Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    # The system kills what takes too much.
    if done.returncode == -9:
        return {"problem": "out of memory"}
    if done.returncode:
        raise SystemExit(f"{side} at {options.size} px failed:\n{done.stderr}")
    answer: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def work(side: str, options: Options, iterations: int) -> Mapping[str, Any]:
    """The answer that `run_worker` gets: this process measures itself."""
    runtime = runtime_of(options)
    try:
        with float32_products(runtime.tf32):
            backbone = make_backbone(options, runtime)
            # What libraries load and set up at their first use is no side's.
            small = image_of(READYING_SIZE)
            least = plan_side("whole", options, runtime, (small.shape[2], small.shape[3]))
            make_descent(least, options, runtime, backbone, small).begin()
            content = image_of(options.size)
            before = restarted_peak(runtime.device) - 12 * content[0, 0].numel()
            plan = plan_side(side, options, runtime, (content.shape[2], content.shape[3]))
            if not plan.fits and plan.limit_bytes is not None:
                return {"problem": f"would need {in_words(plan.peak_bytes)} of {in_words(plan.limit_bytes)}"}
            descent = make_descent(plan, options, runtime, backbone, content)
            descent.begin()
            loss = descent.read()[0][0]
            descent.advance()
            seconds = []
            for _ in range(iterations):
                synchronise(runtime.device)
                began = time.perf_counter()
                descent.advance()
                synchronise(runtime.device)
                seconds.append(time.perf_counter() - began)
                descent.read()
    except OptionError as error:
        return {"problem": str(error)}
    except Exception as error:
        if is_out_of_memory(error):
            return {"problem": "out of memory"}
        raise
    peak = peak_bytes(runtime.device)
    on_cpu = runtime.device.type == "cpu"
    return {
        "tile": plan.tile,
        "tiles": len(plan.grid),
        "overhead": plan.grid.overhead,
        "planned_bytes": plan.peak_bytes,
        "peak_bytes": peak_resident_bytes() if on_cpu else peak,
        "added_bytes": peak - before,
        "seconds": seconds,
        "planned_seconds": plan.seconds(measure_speed(runtime)),
        "loss": loss,
    }


def convolution_flops(plan: Plan, options: Options, runtime: Runtime) -> float:
    """Multiplications and additions of the convolutions of one iteration, counted tile by tile."""
    network = network_of(options, runtime)
    passes = 3 if plan.level == "recompute" else 2
    redone = (network.steps[plan.redone_steps - 1].name,) if plan.redone_steps else ()
    return sum(
        passes * forward_flops(network, *tile.shape) + forward_flops(network, *tile.shape, redone) for tile in plan.grid
    )


def count(options: Options, sides: Sequence[str]) -> list[str]:
    """The lines of `--count` for a square image of the options' size."""
    size, runtime = options.size, runtime_of(options)
    whole, published = (
        convolution_flops(plan_side(side, options, runtime, (size, size)), options, runtime)
        for side in ("whole", "published")
    )
    lines = [
        f"\n{size}×{size} px, counted",
        f"{'side':18}{'tiles':>6}{'halo ×':>8}{'of whole':>10}{'of published':>14}",
    ]
    for side in sides:
        plan = plan_side(side, options, runtime, (size, size))
        flops = convolution_flops(plan, options, runtime)
        lines.append(
            f"{side:18}{len(plan.grid):>6}{plan.grid.overhead:8.2f}{flops / whole:10.2f}{flops / published:14.2f}"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[512], metavar="PX", help="long edges (default: 512)")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), metavar="SIDE", help=f"(default: {' '.join(SIDES)})")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--optimizer", default="adam", choices=("adam", "lbfgs"), help="(default: adam)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2, help="timed in each round (default: 2)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    parser.add_argument("--count", action="store_true", help="count operations, and measure nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if unknown := [side for side in parsed.sides if side.partition(":")[0] not in KINDS]:
        parser.error(f"unknown side {unknown[0]!r}; give some of {', '.join(KINDS)}")
    sizes = [options_for(size, parsed.device, parsed.precision, parsed.optimizer) for size in parsed.size]
    if parsed.worker:
        print(json.dumps(work(parsed.worker, sizes[0], parsed.iterations)))
        return 0
    if parsed.count:
        for options in sizes:
            print("\n".join(count(options, parsed.sides)))
        return 0
    runtime = runtime_of(sizes[0])
    facts = {
        **conditions(runtime.device),
        "precision": runtime.precision,
        "optimizer": parsed.optimizer,
        "rounds": parsed.rounds,
        "iterations": parsed.iterations,
    }
    print(
        f"{facts['device']}, {runtime.precision}, {parsed.optimizer}, torch {facts['versions']['torch']}, "
        f"{facts['machine']['threads']} threads, load {facts['machine']['load']}, commit {facts['commit']}, "
        f"{facts['date']}"
    )
    errors = check_gradients(parsed.sides, parsed.device)
    for kind, error in errors.items():
        print(f"{kind}: gradient in float32 {error:.1e} off the untiled one at {CHECK_SIZE} px, tiles of {CHECK_TILE}")
    rows: list[Row] = []
    for options in sizes:
        measured = measure(options, parsed.sides, parsed.rounds, parsed.iterations)
        print("\n".join(table(measured)))
        rows += measured
        if parsed.json:
            report = {**facts, "gradient_errors": errors, "rows": [asdict(row) for row in rows]}
            parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def table(rows: Sequence[Row]) -> list[str]:
    """The sides of one size. Bytes and times for each pixel of the image, times over those of other sides too; what was
    planned over what was measured."""
    by_side = {row.side: row.seconds for row in rows}
    whole, published = by_side.get("whole"), by_side.get("published")
    lines = [
        f"\n{rows[0].width}×{rows[0].height} px",
        f"{'side':18}{'tiles':>6}{'halo ×':>8}{'peak':>10}{'added':>10}{'B/px':>7}{'planned':>9}{'s':>15}"
        f"{'planned':>9}{'µs/px':>8}{'of whole':>10}{'of published':>14}",
    ]
    for row in rows:
        if row.problem is not None:
            lines.append(f"{row.side:18}  {row.problem}")
            continue
        pixels = row.width * row.height
        overhead, planned, peak, added, seconds, spread = (
            getattr(row, name) or 0.0
            for name in ("overhead", "planned_bytes", "peak_bytes", "added_bytes", "seconds", "spread")
        )
        lines.append(
            f"{row.side:18}{row.tiles:>6}{overhead:8.2f}{in_words(peak):>10}{in_words(added):>10}{added / pixels:7.0f}"
            f"{planned / peak:9.2f}{seconds:9.3f} ±{spread / 2:4.0%}{(row.planned_seconds or 0) / seconds:9.2f}"
            f"{seconds / pixels * 1e6:8.2f}"
            f"{_ratio(seconds, whole):>10}{_ratio(seconds, published):>14}"
        )
    return lines


def _ratio(seconds: float, other: float | None) -> str:
    return "-" if other is None else f"{seconds / other:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
