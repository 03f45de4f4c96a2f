"""One iteration on a GPU and its parts, in the order in which they are wanted, as one JSON object.

python -m bench.gpu_step --parts step
python -m bench.gpu_step --parts first convolutions lbfgs --size 1024

    step            each precision and optimiser: a captured run's losses beside an uncaptured one's, seconds of an
                    iteration, and the kernels of three of them by their time on the device
    first           conv1_1 alone, forward and to the image, with 3 channels and with 8
    convolutions    every convolution of an iteration, forward and to its input: TFLOP/s
    lbfgs           a step of L-BFGS with a full history, in float32 and in 16 bit
    equal           gradients and runs made again, to the bit; freed memory is overwritten in between, so that a value
                    that was never written shows

A part that fails is reported, and the others go on; the exit code is 1 then.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from fastnst_kernels.profiling.measure import conditions, interleaved, quieten_profiler, synchronise
from torch import Tensor

from bench.bench_step import TOLERANCES, engine_side, floor_calls, step_task
from bench.plain_loop import Task
from fastnst.network.runtime import resolve_runtime
from fastnst.network.settings import float32_products, timed_algorithms
from fastnst.optim import LBFGS
from fastnst.transfer.descent import Replayed

PARTS = ("step", "first", "convolutions", "lbfgs", "equal")
_ITERATIONS, _ROUNDS = 8, 5
_MOST_KERNELS = 60


def step(task: Task, precisions: Sequence[str]) -> list[dict[str, Any]]:
    return [_one_step(task, precision, optimizer) for precision in precisions for optimizer in ("adam", "lbfgs")]


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


def first(task: Task, precisions: Sequence[str]) -> list[dict[str, Any]]:
    height, width = task.start.shape[2:]
    rows = []
    for precision in precisions:
        runtime = resolve_runtime(task.options.device, precision)
        calls: dict[str, Callable[[], object]] = {}
        for channels in (3, 8):
            for way, (inner, outer) in (("forward", (channels, 64)), ("to the image", (64, channels))):
                x = _random((1, inner, height, width), runtime.dtype, task.device)
                weight = _random((outer, inner, 3, 3), runtime.dtype, task.device)
                calls[f"{channels} {way}"] = partial(F.conv2d, x, weight, padding=1)
        with float32_products(runtime.tf32), timed_algorithms():
            rows += [
                {"precision": precision, "what": name, "timing": t} for name, t in _timed(calls, task.device).items()
            ]
    return rows


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.rand(shape, device=device).to(dtype, memory_format=torch.channels_last)


def convolutions(task: Task, precisions: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for precision in precisions:
        runtime, calls = floor_calls(task, precision)
        with torch.no_grad(), float32_products(runtime.tf32), timed_algorithms():
            timings = _timed({name: call for name, (_, call) in calls.items()}, task.device)
        for name, (flops, _) in calls.items():
            rate = flops / timings[name]["median"] / 1e12
            rows.append({"precision": precision, "what": name, "timing": timings[name], "teraflops_per_second": rate})
    return rows


def lbfgs(task: Task, precisions: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for dtype in (None, torch.bfloat16):
        image, gradient = task.start.clone(), torch.randn_like(task.start)
        loss, optimizer = torch.ones((), device=task.device), LBFGS(history_dtype=dtype)
        for _ in range(optimizer.history + 2):
            optimizer.step(image, gradient + 0.1 * torch.randn_like(gradient), loss)
        timing = _timed({"step": partial(optimizer.step, image, gradient, loss)}, task.device)["step"]
        rows.append({"what": f"history in {dtype or image.dtype}".replace("torch.", ""), "timing": timing})
    return rows


def equal(task: Task, precisions: Sequence[str]) -> list[dict[str, Any]]:
    for precision in precisions:
        sides = [engine_side(task, precision, "lbfgs") for _ in range(2)]
        losses = [[side.iterate().item() for _ in range(_ITERATIONS)] for side in sides]
        expected = sides[0].evaluate(task.start)
        for _ in range(_ITERATIONS):
            torch.empty(1 << 26, device=task.device).fill_(torch.nan)
            loss, gradient = sides[1].evaluate(task.start)
            if losses[0] != losses[1] or loss != expected[0] or not torch.equal(gradient, expected[1]):
                raise ArithmeticError(f"{precision} is not equal when made again: {losses}")
    return []


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=int, default=1024, metavar="PX")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", nargs="+", default=["fp16", "tf32"])
    parsed = parser.parse_args(words)
    task = step_task(parsed.size, parsed.device)
    # The example picture is three by four; here the sides are alike.
    start, content = (F.interpolate(image, (parsed.size, parsed.size)) for image in (task.start, task.content))
    task = replace(task, start=start, content=content)
    parts = dict(zip(PARTS, (step, first, convolutions, lbfgs, equal), strict=True))
    report: dict[str, Any] = {**conditions(task.device), "size": parsed.size, "problems": {}}
    for name in parsed.parts:
        try:
            report[name] = parts[name](task, parsed.precisions)
        except Exception as error:  # noqa: BLE001  (what else the machine can tell is wanted all the same)
            report["problems"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
    print(json.dumps(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
