"""One iteration on a GPU and its parts, in the order in which they are wanted: a line each, and one JSON object last.

python -m bench.gpu_step --parts step
python -m bench.gpu_step --parts convolutions lbfgs --size 1024

    step            each precision and optimiser: a captured run's losses beside an uncaptured one's, seconds of an
                    iteration, and the kernels of three of them by their time on the device
    convolutions    every convolution of an iteration, forward and to its input: TFLOP/s
    lbfgs           a step of L-BFGS by bands with a full history, in float32 and in float16
    equal           gradients and runs made again, to the bit; freed memory is overwritten in between, so that a value
                    that was never written shows
    run             a whole run at one scale: seconds and peak memory

A part that fails is reported, and the others go on; the exit code is 1 then.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from fastnst_kernels.profiling.measure import conditions, interleaved, quieten_profiler, synchronise

from bench.plain_loop import Task
from bench.sides import TOLERANCES, engine_side, floor_calls, step_task
from fastnst import Stylizer
from fastnst.examples import example
from fastnst.network.runtime import resolve_runtime
from fastnst.network.settings import float32_products, timed_algorithms
from fastnst.optim import LBFGS
from fastnst.transfer.descent import Replayed

_ITERATIONS, _ROUNDS = 8, 5
_MOST_KERNELS = 60


@dataclass(frozen=True)
class Given:
    """The arguments of the command, and the pictures."""

    size: int
    device: str
    precisions: Sequence[str]
    iterations: int
    optimizer: str

    @cached_property
    def task(self) -> Task:
        task = step_task(self.size, self.device)
        # The example picture is three by four; here the sides are alike.
        start, content = (F.interpolate(image, (self.size, self.size)) for image in (task.start, task.content))
        return replace(task, start=start, content=content)


def step(given: Given) -> list[dict[str, Any]]:
    modes = product(given.precisions, ("adam", "lbfgs"))
    return [_one_step(given.task, precision, optimizer) for precision, optimizer in modes]


def _one_step(task: Task, precision: str, optimizer: str) -> dict[str, Any]:
    with mock.patch.object(Replayed, "__call__", lambda self, function: function()):
        plain = engine_side(task, precision, optimizer)
        uncaptured = [plain.iterate().item() for _ in range(_ITERATIONS)]
    side = engine_side(task, precision, optimizer)
    captured = [side.iterate().item() for _ in range(_ITERATIONS)]
    apart = max(abs(own - other) / abs(other) for own, other in zip(captured, uncaptured, strict=True))
    if not apart <= TOLERANCES[precision][0]:
        raise ArithmeticError(f"{precision} {optimizer}: captured losses {captured}, uncaptured {uncaptured}")
    timing = _timed({"step": side.iterate}, task.device, replay=False)["step"]
    return {
        "precision": precision,
        "optimizer": optimizer,
        "captured_apart": apart,
        "timing": timing,
        "kernels": _kernels(side.iterate, task.device),
    }


def _timed(calls: dict[str, Callable[[], object]], device: torch.device, *, replay: bool = True) -> dict[str, Any]:
    contenders = {name: (lambda call=call: call) for name, call in calls.items()}
    queued = 10 if device.type == "cuda" else 1
    timings = interleaved(contenders, device, rounds=_ROUNDS, calls=queued, flush=False, replay=replay)
    return {name: asdict(timing) for name, timing in timings.items()}


def _kernels(iterate: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """The kernels of three iterations, the longest first: calls and microseconds of an iteration."""
    quieten_profiler()
    on_gpu = device.type == "cuda"
    kind = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as profiler:
        for _ in range(3):
            iterate()
        synchronise(device)
    rows = [
        {"name": event.key[:90], "calls": event.count / 3, "microseconds": time / 3}
        for event in profiler.key_averages()
        if (time := event.self_device_time_total if on_gpu else event.self_cpu_time_total) > 0
    ]
    return sorted(rows, key=lambda row: -row["microseconds"])[:_MOST_KERNELS]


def convolutions(given: Given) -> list[dict[str, Any]]:
    task, rows = given.task, []
    for precision in given.precisions:
        runtime, calls = floor_calls(task, precision)
        with torch.no_grad(), float32_products(runtime.tf32), timed_algorithms():
            timings = _timed({name: call for name, (_, call) in calls.items()}, task.device)
        for name, (flops, _) in calls.items():
            rate = flops / timings[name]["median"] / 1e12
            rows.append({"precision": precision, "what": name, "timing": timings[name], "teraflops_per_second": rate})
    return rows


def lbfgs(given: Given) -> list[dict[str, Any]]:
    task, rows = given.task, []
    runtime = resolve_runtime(task.options.device)
    for dtype in (None, torch.float16):
        image, gradient = task.start.clone(), torch.randn_like(task.start)
        best = image.clone(), torch.ones((), dtype=torch.bool, device=task.device)
        optimizer = LBFGS(history_dtype=dtype, hessian="bands", backend=runtime.kernels)
        for _ in range(optimizer.history + 2):
            optimizer.step(image, gradient + 0.1 * torch.randn_like(gradient), best=best)
        timing = _timed({"step": partial(optimizer.step, image, gradient, best=best)}, task.device)["step"]
        rows.append({"what": f"history in {dtype or image.dtype}".replace("torch.", ""), "timing": timing})
    return rows


def equal(given: Given) -> list[dict[str, Any]]:
    task = given.task
    for precision in given.precisions:
        sides = [engine_side(task, precision, "lbfgs") for _ in range(2)]
        losses = [[side.iterate().item() for _ in range(_ITERATIONS)] for side in sides]
        gradients = []
        for side in sides * 4:
            torch.empty(1 << 26, device=task.device).fill_(torch.nan)
            gradients += [side.evaluate(task.start)[1]] if side.evaluate else []
        if losses[0] != losses[1] or not all(torch.equal(gradient, gradients[0]) for gradient in gradients):
            raise ArithmeticError(f"{precision} is not equal when made again: {losses}")
    return []


def run(given: Given) -> list[dict[str, Any]]:
    """The second call of a `Stylizer`: the first one readies the device. The graph is captured in each."""
    precision = given.precisions[0]
    options: dict[str, Any] = {"precision": precision, "device": given.device, "iterations": given.iterations}
    stylizer = Stylizer(
        example("style_swirls"), size=given.size, scales=None, weights="random", optimizer=given.optimizer, **options
    )
    device, seconds = stylizer.runtime.device, []
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        result = stylizer(example("content"))
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    totals = [record.total for record in result.losses]
    if not min(totals) < totals[0]:
        raise ArithmeticError(f"the loss did not fall: {totals[0]} to {min(totals)}")
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    what = f"{given.size} px, {given.iterations} of {given.optimizer}"
    timing = {"median": seconds[1], "first": seconds[0], "by": "clock"}
    return [{"precision": stylizer.runtime.precision, "what": what, "timing": timing, "peak": peak}]


PARTS = {"step": step, "convolutions": convolutions, "lbfgs": lbfgs, "equal": equal, "run": run}


def _line(row: Mapping[str, Any]) -> str:
    what = row.get("what") or f"{row['optimizer']}, captured {row['captured_apart']:.1e} off"
    rate = f"{row['teraflops_per_second']:8.1f} TFLOP/s" if "teraflops_per_second" in row else ""
    memory = f"{row['peak'] / 1e6:9.0f} MB" if row.get("peak") else ""
    timing = row["timing"]
    return f"{row.get('precision', ''):5}{what:32}{timing['median'] * 1e3:9.3f} ms by {timing['by']}{rate}{memory}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=int, default=1024, metavar="PX")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--iterations", type=int, default=500, help="of a whole run (default: 500)")
    parser.add_argument("--optimizer", default="lbfgs", choices=["lbfgs", "adam"], help="of it (default: lbfgs)")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "tf32"])
    parsed = parser.parse_args(words)
    given = Given(parsed.size, parsed.device, parsed.precisions, parsed.iterations, parsed.optimizer)
    device = resolve_runtime(parsed.device).device
    report: dict[str, Any] = {**conditions(device), "size": parsed.size, "problems": {}}
    for name in parsed.parts:
        try:
            report[name] = PARTS[name](given)
            lines = [_line(row) for row in report[name]]
        except Exception as error:  # noqa: BLE001  (what else the machine can tell is wanted all the same)
            report["problems"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
            lines = [f"{name} FAILED: {report['problems'][name]}"]
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
