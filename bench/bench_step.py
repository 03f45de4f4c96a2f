"""Seconds of an iteration and peak memory: the engine beside plain PyTorch, and the convolutions alone.

python -m bench.bench_step --size 256 512 --json step.json

All sides minimise the objective of Gatys, Ecker and Bethge (`preset="gatys"`), one evaluation an iteration, on the same
example pictures, start and random weights:

    plain           the loop that tutorials teach: autograd, float32 NCHW, `F @ F.T`, MSE
    tuned           channels-last, in-place ReLUs, a Gram of one product each way, a history as short as the engine's
    tuned-bf16      the same with weights and features in bfloat16
    compiled        `tuned` through torch.compile; compiled-bf16 likewise; graphs-bf16 and autotuned-bf16 with the modes
                    reduce-overhead (CUDA graphs) and max-autotune (both)
    pastiche        pastiche 1.6, with an objective of its own (`bench.pastiche_compare` has one for both)
    fp32 winograd … the engine in each precision
    floor of …      the convolutions of an iteration and nothing else, forward and input gradient

Loss and gradient are compared with the plain loop's before anything is timed; the sides then take turns, each L-BFGS
with a full history but pastiche's. Memory is the peak of a fresh process for each side, beyond what it holds once its
libraries have computed a small image; "above" leaves out the weights, once.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fastnst_kernels.profiling.measure import Timing, conditions, interleaved
from torch import Tensor

from bench.peak import peak_of
from bench.plain_loop import Task
from bench.sides import (
    FORMS,
    OPTIMIZERS,
    PASTICHE,
    PLAIN,
    TOLERANCES,
    Side,
    floor_calls,
    keeps_heap,
    make_side,
    precision_of,
    sides_here,
    step_task,
)
from fastnst.network import trial
from fastnst.network.runtime import is_out_of_memory, resolve_runtime
from fastnst.network.settings import Heap, float32_products, timed_algorithms

TILE = 32
_QUEUED, _SETTLING = 10, 4
_FLOOR = "floor of "


@dataclass(frozen=True)
class Row:
    """The figures of a side with an optimiser at a size; the floors are sides too.

    `of_plain` and `of_floor` are its time over the plain loop's (None where that ran out of memory) and over those of
    the floors, by their precision.
    `errors` are those of `TOLERANCES`, `memory` and `network` bytes: the peak, and the weights in it.
    """

    size: int
    optimizer: str
    side: str
    timing: Timing
    of_plain: float | None
    of_floor: Mapping[str, float]
    errors: tuple[float, float, float] | None
    memory: int | None
    network: int | None


def measure(size: int, device: str, names: Sequence[str], optimizer: str, rounds: int, memory: bool) -> list[Row]:
    """One row for each side, the plain loop first, then one for each floor.

    A side that runs out of memory is left out, which is printed; without the plain loop the rest are compared with the
    first side that is left.
    """
    task = step_task(size, device)
    sides: dict[str, Side] = {}
    measured: dict[str, tuple[float, Tensor]] = {}
    for name in (PLAIN, *(name for name in names if name != PLAIN)):
        try:
            side = make_side(name, task, optimizer)
            if side.evaluate is not None:
                with float32_products(tf32=False):
                    measured[name] = side.evaluate(task.start)
            # The history is allocated by the first step.
            side.iterate()
            sides[name] = side
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            print(f"{name} at {size} px is left out: out of memory", flush=True)
    if not sides:
        return []
    names = list(sides)
    errors = {name: _errors(result, *measured[names[0]]) for name, result in measured.items() if name in sides}
    for name in errors:
        limits = TOLERANCES[precision_of(name)]
        if not all(error <= limit for error, limit in zip(errors[name], limits, strict=True)):
            raise SystemExit(f"{name} at {size} px is wrong: errors {errors[name]}, allowed {limits}")
    precisions = dict.fromkeys(precision_of(name) for name in names if keeps_heap(name))
    floors = {_FLOOR + name: _floor(task, name) for name in precisions}
    iterations = {name: side.iterate for name, side in sides.items()} | floors
    contenders = {
        name: partial(_readied, call, task.device, is_kept=keeps_heap(name)) for name, call in iterations.items()
    }
    # On a GPU the engine's first iterations come before its graph.
    warm_up = 6 if task.device.type == "cuda" else 0
    # Several in a queue: a call to a GPU that has nothing to do waits for the host.
    calls = _QUEUED if task.device.type == "cuda" else 1
    timings = interleaved(contenders, task.device, rounds=rounds, calls=calls, warm_up=warm_up, flush=False)
    rows = []
    for name, timing in timings.items():
        peak, network = peak_of(name, size, device, optimizer) if memory and _has_peak(name, device) else (None, None)
        of_floor = {floor.removeprefix(_FLOOR): timing.median / timings[floor].median for floor in floors}
        of_plain = timing.median / timings[PLAIN].median if PLAIN in timings else None
        rows.append(Row(size, optimizer, name, timing, of_plain, of_floor, errors.get(name), peak, network))
    return rows


def _readied(call: Callable[[], object], device: torch.device, *, is_kept: bool) -> Callable[[], object]:
    """The call with a CPU's heap as it is in the midst of a run, where maps have found their places."""
    if device.type == "cpu":
        Heap().is_kept = is_kept
        for _ in range(_SETTLING):
            call()
    return call


def _floor(task: Task, precision: str) -> Callable[[], object]:
    runtime, calls = floor_calls(task, precision)

    @torch.no_grad()
    def run() -> None:
        with float32_products(runtime.tf32), timed_algorithms():
            for _, call in calls.values():
                call()

    return run


def _errors(measured: tuple[float, Tensor], loss: float, gradient: Tensor) -> tuple[float, float, float]:
    """Relative errors of the loss, of the gradient in the median tile of `TILE` px, and of the whole gradient."""
    wrong = (measured[1] - gradient).double().square().sum(1, keepdim=True)
    right = gradient.double().square().sum(1, keepdim=True)
    tile = min(TILE, *gradient.shape[-2:])
    tiles = (F.avg_pool2d(wrong, tile) / F.avg_pool2d(right, tile)).sqrt()
    whole = (wrong.sum() / right.sum()).sqrt()
    return abs(measured[0] - loss) / abs(loss), tiles.median().item(), whole.item()


def _has_peak(name: str, device: str) -> bool:
    """True if the peak of a process says something: on a CPU it would be the compiler's."""
    on_cpu = resolve_runtime(device).device.type == "cpu"
    compiled = name in FORMS and FORMS[name].compile_mode is not None
    return not name.startswith(_FLOOR) and not (compiled and on_cpu)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[256], metavar="PX", help="long edges (default: 256)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--optimizer", nargs="+", default=["lbfgs"], choices=OPTIMIZERS, help="(default: lbfgs)")
    sides = [*FORMS, PASTICHE, *TOLERANCES]
    parser.add_argument("--sides", nargs="+", choices=sides, metavar="SIDE", help="beside plain (default: all here)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    parsed = parser.parse_args(arguments)
    device = resolve_runtime(parsed.device).device
    names = parsed.sides or sides_here(device)
    facts = {**conditions(device), "rounds": parsed.rounds}
    if device.type == "cpu":
        facts["trial"] = trial.comparison()
    print(
        f"{facts['device']}, torch {facts['versions']['torch']}, {facts['machine']['threads']} threads, "
        f"load {facts['machine']['load']}, commit {facts['commit']}, {facts['date']}"
    )
    print(f"time of the layers in a trial: {facts.get('trial', '-')}")
    rows: list[Row] = []
    for size in parsed.size:
        for optimizer in parsed.optimizer:
            measured = measure(size, parsed.device, names, optimizer, parsed.rounds, not parsed.no_memory)
            if not measured:
                continue
            _print_rows(measured)
            rows += measured
            if parsed.json:
                report: dict[str, Any] = {**facts, "rows": [asdict(row) for row in rows]}
                parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _print_rows(rows: Sequence[Row]) -> None:
    floors = list(rows[0].of_floor)
    heads = "".join(f"{head:>12}" for head in ("of plain", *(f"of {name}" for name in floors)))
    title = f"{rows[0].size} px, {rows[0].optimizer}"
    print(f"\n{title:16}{'s/iteration':>16}{heads}{'peak MB':>9}{'above':>7}{'gradient error':>16}")
    for row in rows:
        timing = f"{row.timing.median:.4f} ±{row.timing.spread / 2:4.0%}"
        of_plain = f"{'-':>12}" if row.of_plain is None else f"{row.of_plain:12.2f}"
        ratios = of_plain + "".join(f"{ratio:12.2f}" for ratio in row.of_floor.values())
        memory = f"{'-':>9}{'-':>7}"
        if row.memory is not None and row.network is not None:
            memory = f"{row.memory / 1e6:9.0f}{(row.memory - row.network) / 1e6:7.0f}"
        error = f"{'-':>16}" if row.errors is None else f"{row.errors[2]:16.1e}"
        print(f"{row.side:16}{timing:>16}{ratios}{memory}{error}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
