"""Launch parameters measured on the GPU at hand, for the style layers of an image, beside those of the heuristic.

python -m bench.tune --size 1024 512

From the heuristic's parameters it goes to their neighbours (a block twice or half as large, one stage more or less …)
as long as one is faster: those that fit into the shared memory, whose result is within its float64 budget, all timed in
turns. What is faster than the heuristic by more than 3 % goes into the device's file, which the kernels then use. The
partial sums are timed with the reduction and the loss that follow them. `--tiny` tries the script without a GPU, in
Triton's interpreter, where times mean nothing.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fastnst_kernels import tuned
from fastnst_kernels.blocks import Problem, pairs_of, power_of_two
from fastnst_kernels.gpu import INTERPRETER, Gpu, gpu_of
from fastnst_kernels.heuristic import backward_heuristic, partial_heuristic

from fastnst import profiling
from fastnst.measure import Timing, conditions, interleaved
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.options.options import resolve_options
from fastnst.verification import STYLE_LAYERS, worst

if TYPE_CHECKING:
    from fastnst_kernels.launch import Plan

GAIN = 1.03
MOST_STEPS = 4
# 16-bit first: it is what is wanted most, and time may run out.
PRECISIONS = ("fp16", "tf32", "fp32")
Config = Mapping[str, int]


@dataclass(frozen=True)
class Found:
    """The best parameters of one kernel for one class of shapes, and the heuristic's, with their times."""

    kernel: str
    layer: str
    problem: Problem
    heuristic: Config
    best: Config
    heuristic_timing: Timing
    best_timing: Timing
    tried: int
    refused: int

    @property
    def gain(self) -> float:
        """The heuristic's time over the best one's."""
        return self.heuristic_timing.median / self.best_timing.median

    def entry(self) -> dict[str, Any]:
        """What the file keeps."""
        kernel, mode, aligned, channels, positions, batch = tuned.key_of(self.kernel, self.problem)
        return {
            "kernel": kernel,
            "mode": mode,
            "aligned": aligned,
            "channels": channels,
            "positions": positions,
            "batch": batch,
            "config": dict(self.best),
            "seconds": self.best_timing.median,
            "heuristic_seconds": self.heuristic_timing.median,
        }


def heuristic_config(kernel: str, problem: Problem, gpu: Gpu) -> dict[str, int]:
    """The heuristic's parameters as a file would have them."""
    config = partial_heuristic(problem, gpu) if kernel == "partial" else backward_heuristic(problem, gpu)
    return {name: getattr(config, name) for name in tuned.PARAMETERS[kernel]}


def neighbours(kernel: str, config: Config, problem: Problem, gpu: Gpu) -> list[dict[str, int]]:
    """The configurations one step away that can run on `gpu`."""
    steps: list[dict[str, int]] = []
    for name in ("block_c", "block_m", "block_k", "num_warps"):
        if name in config:
            steps += [{**config, name: config[name] * 2}, {**config, name: config[name] // 2}]
    steps += [{**config, "num_stages": config["num_stages"] + step} for step in (1, -1)]
    if kernel == "partial":
        tiles = pairs_of(ceil(problem.channels / config["block_c"])) * problem.batch
        splits = {config["splits"] * 2, config["splits"] // 2, *(w * gpu.multiprocessors // tiles for w in (1, 2, 3))}
        steps += [{**config, "splits": count} for count in sorted(splits - {config["splits"]})]
    widest = max(16, power_of_two(problem.channels))
    return [
        step
        for step in steps
        if max(step["block_c"], step.get("block_k", 16)) <= widest and tuned.check(kernel, problem, step, gpu) is None
    ]


@contextmanager
def using(kernel: str, problem: Problem, config: Config, gpu: Gpu) -> Iterator[None]:
    """Within it, plans for `problem` take `config`, by the way that a user's file takes."""
    before = os.environ.get(tuned.VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.json"
        entry = dict(zip(_KEY, tuned.key_of(kernel, problem), strict=True))
        entry |= {"config": dict(config), "seconds": 0.0, "heuristic_seconds": 0.0}
        path.write_text(json.dumps(document(gpu, {"date": "", "commit": "", "versions": {}}, [entry])))
        os.environ[tuned.VARIABLE] = str(path)
        try:
            yield
        finally:
            if before is None:
                del os.environ[tuned.VARIABLE]
            else:
                os.environ[tuned.VARIABLE] = before


_KEY = ("kernel", "mode", "aligned", "channels", "positions", "batch")


def document(gpu: Gpu, facts: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A file's content; `facts` are those of `fastnst.measure.conditions`."""
    head = {"format": tuned.FORMAT, "arch": gpu.name, "device": gpu.device}
    return {**head, **{name: facts[name] for name in ("date", "commit", "versions")}, "entries": list(entries)}


@dataclass(frozen=True)
class Bench:
    """One kernel on one layer's tensors: builds its plan with a configuration, checks it and runs it."""

    kernel: str
    tensors: profiling.Problem
    runtime: Runtime
    gpu: Gpu

    @property
    def problem(self) -> Problem:
        """What the configuration depends on."""
        from fastnst_kernels.launch import aligned

        features = self.tensors.features
        batch, channels, height, width = features.shape
        tensor_cores = features.dtype != torch.float32 or (self.runtime.tf32 and self.gpu.tf32)
        return Problem(channels, height * width, batch, features.element_size(), tensor_cores, aligned(features))

    def plan(self, config: Config) -> "Plan":
        """The launches with `config`."""
        with using(self.kernel, self.problem, config, self.gpu):
            return self._plan()

    def _plan(self) -> "Plan":
        from fastnst_kernels import triton_gram, triton_tap
        from fastnst_kernels.launch import run
        from fastnst_kernels.terms import StyleTerm

        features, target = self.tensors.features, self.tensors.target[None]
        precision = self.runtime.dot_precision
        loss = triton_gram.plan_difference_loss(features, target, profiling.WEIGHT, precision, self.gpu)
        if self.kernel == "partial":
            return loss
        _, difference, scale = run(loss, features.device)
        filters, positions = features.shape[1], features.shape[2] * features.shape[3]
        factor = profiling.WEIGHT / (filters**2 * positions)
        style = StyleTerm(difference, scale, self.tensors.loss_gradient, factor)
        return triton_tap.plan_tap_backward(
            features, style, None, self.tensors.upstream, False, None, precision, self.gpu
        )

    def problem_with(self, plan: "Plan") -> str | None:
        """Why `plan` is not to be timed: it does not run, or its result is outside of its budget."""
        from fastnst_kernels.launch import run

        operation = "loss" if self.kernel == "partial" else "backward"
        exact, allowed = profiling.expected(operation, self.tensors, self.runtime.dot_precision)
        for output in plan.outputs:
            output.fill_(float("nan"))
        try:
            result = run(plan, self.tensors.features.device)[0]
        except _errors_of_a_launch() as raised:
            return f"{type(raised).__name__}: {raised}".splitlines()[0]
        error, limit = worst(result, exact, allowed)
        return None if error <= limit else f"wrong result: error {error:.3g}, budget {limit:.3g}"


def _errors_of_a_launch() -> tuple[type[Exception], ...]:
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    return RuntimeError, CompilationError, OutOfResources


def tune(bench: Bench, layer: str, rounds: int, most_steps: int = MOST_STEPS) -> Found:
    """Goes from the heuristic's configuration to faster neighbours; SystemExit where its result is wrong."""
    from fastnst_kernels.launch import run

    device = bench.tensors.features.device
    first = heuristic_config(bench.kernel, bench.problem, bench.gpu)
    plans = {_name(first): (first, bench.plan(first))}
    wrong = bench.problem_with(plans[_name(first)][1])
    if wrong:
        raise SystemExit(f"the heuristic's {bench.kernel} at {layer} cannot be timed ({wrong}); run fastnst verify")
    best, refused, seen = _name(first), 0, {_name(first)}
    timings: dict[str, Timing] = {}
    for _ in range(most_steps):
        for config in neighbours(bench.kernel, plans[best][0], bench.problem, bench.gpu):
            if _name(config) in seen:
                continue
            seen.add(_name(config))
            plan = bench.plan(config)
            if bench.problem_with(plan):
                refused += 1
            else:
                plans[_name(config)] = (config, plan)
        contenders = {name: lambda plan=plan: lambda: run(plan, device) for name, (_, plan) in plans.items()}
        timings = interleaved(contenders, device, rounds=rounds, calls=10 if device.type == "cuda" else 1)
        fastest = min(timings, key=lambda name: timings[name].median)
        if timings[fastest].median * GAIN > timings[best].median:
            break
        best = fastest
        # The slow ones need no second turn.
        keep = {best, _name(first)}
        plans = {name: plan for name, plan in plans.items() if name in keep}
    return Found(
        kernel=bench.kernel,
        layer=layer,
        problem=bench.problem,
        heuristic=first,
        best=plans[best][0],
        heuristic_timing=timings[_name(first)],
        best_timing=timings[best],
        tried=len(seen),
        refused=refused,
    )


def _name(config: Config) -> str:
    return " ".join(f"{name} {value}" for name, value in config.items())


def line(found: Found) -> str:
    """One row of the table."""
    problem = found.problem
    row = (
        f"{found.kernel:9}{problem.mode:7}{found.layer:8} {problem.channels:4} × {problem.positions:<8}"
        f"{found.heuristic_timing.median * 1e6:9.1f} µs ±{found.heuristic_timing.spread / 2:4.0%}"
        f"{found.best_timing.median * 1e6:9.1f} µs  {found.gain:5.2f}×  {found.tried} tried, {found.refused} refused"
    )
    changes = [f"{name} {old} → {found.best[name]}" for name, old in found.heuristic.items() if found.best[name] != old]
    return f"{row}  {', '.join(changes) or 'the heuristic stays'}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[1024, 512], metavar="PX", help="sides of the images")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="interleaved rounds (default: 7)")
    parser.add_argument("--limit", type=float, default=480, metavar="S", help="seconds after which no kernel is begun")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the device's own in fastnst_kernels/tuned")
    parser.add_argument("--tiny", action="store_true", help="a few small shapes, to try the script; needs no GPU")
    parsed = parser.parse_args(arguments)
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not parsed.tiny:
        parser.error("torch sees no GPU; --tiny tries the script without one")
    if parsed.tiny and parsed.out is None:
        parser.error("--tiny measures nothing worth keeping; say with --out where it goes")
    if not on_gpu:
        # Before triton is imported, which settles it.
        os.environ["TRITON_INTERPRET"] = "1"
        _require_interpreter(parser)
    gpu = gpu_of(torch.cuda.current_device()) if on_gpu else replace(INTERPRETER, device="interpreter")
    layers = {"conv1_1": 16, "conv2_1": 24} if parsed.tiny else STYLE_LAYERS
    began = time.perf_counter()
    found: list[Found] = []
    rounds, most_steps = (1, 2) if parsed.tiny else (parsed.rounds, MOST_STEPS)
    for precision in ["fp32"] if parsed.tiny else parsed.precision:
        runtime = resolve_runtime(resolve_options(device="cuda" if on_gpu else "cpu", precision=precision))
        for size in [8] if parsed.tiny else parsed.size:
            for index, (layer, channels) in enumerate(layers.items()):
                tensors = profiling.Problem.make(channels, size >> index, runtime)
                for kernel in tuned.PARAMETERS:
                    if time.perf_counter() - began > parsed.limit:
                        print(f"not tuned, for lack of time: {kernel} {precision} {layer} of {size} px")
                        continue
                    found.append(tune(Bench(kernel, tensors, runtime, gpu), layer, rounds, most_steps))
                    print(line(found[-1]), flush=True)
    return _write(found, gpu, parsed.out, conditions(torch.device("cuda" if on_gpu else "cpu")))


def _write(found: Sequence[Found], gpu: Gpu, out: Path | None, facts: Mapping[str, Any]) -> int:
    entries = {tuned.key_of(one.kernel, one.problem): one.entry() for one in found if one.gain > GAIN}
    if not entries:
        print("the heuristic is the fastest everywhere; nothing is written")
        return 0
    path = out or tuned.path_of(gpu.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(gpu, facts, list(entries.values())), indent=1) + "\n", encoding="utf-8")
    kept = tuned.load(path, gpu).entries
    print(f"{len(kept)} of {len(found)} beat the heuristic by more than {GAIN - 1:.0%}; written to {path}")
    return 0


def _require_interpreter(parser: argparse.ArgumentParser) -> None:
    from fastnst_kernels.launch import interpreted

    if not interpreted():
        parser.error("triton was imported before; set TRITON_INTERPRET=1 before Python starts")


if __name__ == "__main__":
    sys.exit(main())
