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
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fastnst_kernels.profiling.measure import Timing, conditions, interleaved, peak_resident_bytes
from torch import Tensor

from bench.plain_loop import Form, Task, make_task, plain_iteration, plain_loss
from fastnst.examples import example
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.network import trial
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.cpu import CpuLayers
from fastnst.network.layers import Convolution
from fastnst.network.runtime import Runtime, is_out_of_memory, resolve_runtime
from fastnst.network.settings import Heap, float32_products, give_back, timed_algorithms
from fastnst.optim import make_optimizer
from fastnst.options.resolve import resolve_options
from fastnst.transfer.descent import CAPACITY, Descent

# Relative errors against the plain loop of (loss, gradient in the median tile, whole gradient): a wrong result is not
# timed. Rounding may take a unit across the kink of the ReLU, which changes the gradient in its field alone: at 512 px
# the median tile is 2e-6 off, the whole gradient 1e-3, and the plain loop 4e-4 from float64.
TOLERANCES = {
    "fp32": (1e-4, 2e-5, 5e-3),
    "winograd": (1e-4, 5e-5, 5e-3),
    "tf32": (5e-3, 5e-2, 5e-2),
    "fp16": (1e-2, 5e-2, 5e-2),
    "bf16": (5e-2, 2e-1, 2e-1),
}
TILE = 32
READYING_SIZE = 32
_QUEUED, _SETTLING = 10, 4
PLAIN, PASTICHE = "plain", "pastiche"
FORMS = {
    PLAIN: Form(),
    "tuned": Form(tuned=True),
    "tuned-bf16": Form(tuned=True, dtype=torch.bfloat16),
    "compiled": Form(tuned=True, compile_mode="default"),
    "compiled-bf16": Form(tuned=True, dtype=torch.bfloat16, compile_mode="default"),
    "graphs-bf16": Form(tuned=True, dtype=torch.bfloat16, compile_mode="reduce-overhead"),
    "autotuned-bf16": Form(tuned=True, dtype=torch.bfloat16, compile_mode="max-autotune"),
}
OPTIMIZERS = ("lbfgs", "adam")
_FLOOR = "floor of "


@dataclass(frozen=True)
class Side:
    """One contender: its loss and gradient of an image, if it minimises the same, and one iteration on an image."""

    evaluate: Callable[[Tensor], tuple[float, Tensor]] | None
    iterate: Callable[[], Tensor]


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


def step_task(size: int, device: str) -> Task:
    options = resolve_options(preset="gatys", init="noise", size=size, device=device, weights="random")
    return make_task(options, example("content"), example("style_swirls"))


def plain_side(task: Task, form: Form, optimizer: str) -> Side:
    # cuDNN keeps what it chose at a shape's first call, be it timed or not: what tutorials teach is not.
    timed = timed_algorithms if form.tuned else nullcontext
    with timed():
        loss = plain_loss(task, form)

    def evaluate(image: Tensor) -> tuple[float, Tensor]:
        leaf = image.clone().requires_grad_()
        with timed():
            value = loss(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.clone()

    iteration = plain_iteration(loss, task.start, optimizer, form, full_history=True)

    def iterate() -> Tensor:
        with timed():
            return iteration()

    return Side(evaluate, iterate)


def pastiche_side(task: Task, optimizer: str) -> Side:
    from pastiche.pastiche import PasticheArtist

    height, width = task.start.shape[2:]
    content, styles = str(example("content")), [str(example("style_swirls"))]
    artist = PasticheArtist(content, styles, device=str(task.device), optimizer=optimizer, size_pixels=height * width)

    def iterate() -> Tensor:
        artist.draw()
        return torch.tensor(artist.loss)

    return Side(None, iterate)


def engine_backbone(task: Task, name: str) -> tuple[Backbone, Runtime]:
    options = task.options
    runtime = resolve_runtime(options.device, _precision(name), options.backend)
    backbone = build_backbone(task.weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)
    return backbone, runtime


def engine_side(task: Task, name: str, optimizer: str) -> Side:
    options = replace(task.options, precision=_precision(name), optimizer=optimizer)
    backbone, runtime = engine_backbone(task, name)
    with float32_products(runtime.tf32), timed_algorithms():
        targets = style_targets(backbone, [(task.style, 1.0)], options, runtime)
        objective = Objective(backbone, task.content, targets, options, runtime)

    def evaluate(image: Tensor) -> tuple[float, Tensor]:
        with float32_products(runtime.tf32), timed_algorithms():
            loss, gradient = objective.loss_and_gradient(image)
        return loss.total.item(), gradient

    descent = Descent(task.start, objective, lambda: make_optimizer(options, runtime))
    calls = count()

    def iterate() -> Tensor:
        with float32_products(runtime.tf32), timed_algorithms():
            number = next(calls)
            if number == 0:
                descent.begin()
            loss = descent.loss
            if number % (CAPACITY - 1) == CAPACITY - 2:
                descent.read()
            descent.advance()
        return loss

    return Side(evaluate, iterate)


def make_side(name: str, task: Task, optimizer: str) -> Side:
    if name == PASTICHE:
        return pastiche_side(task, optimizer)
    return plain_side(task, FORMS[name], optimizer) if name in FORMS else engine_side(task, name, optimizer)


def sides_here(device: torch.device) -> list[str]:
    """The sides that run on `device`, and are not emulated there."""
    if device.type == "cuda":
        forms = [PLAIN, "tuned", "tuned-bf16", "compiled-bf16", "graphs-bf16", "autotuned-bf16"]
        return [*forms, PASTICHE, "fp32", "tf32", "fp16", "bf16"]
    return [PLAIN, PASTICHE, "tuned", *trial.trial()]


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
        limits = TOLERANCES[_precision(name)]
        if not all(error <= limit for error, limit in zip(errors[name], limits, strict=True)):
            raise SystemExit(f"{name} at {size} px is wrong: errors {errors[name]}, allowed {limits}")
    precisions = dict.fromkeys(_precision(name) for name in names if _keeps(name))
    floors = {_FLOOR + name: _floor(task, name) for name in precisions}
    iterations = {name: side.iterate for name, side in sides.items()} | floors
    contenders = {name: partial(_readied, call, task.device, is_kept=_keeps(name)) for name, call in iterations.items()}
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


def _keeps(name: str) -> bool:
    """True for the engine, whose runs keep a CPU's heap: see `Heap`."""
    return name not in (*FORMS, PASTICHE)


def _readied(call: Callable[[], object], device: torch.device, *, is_kept: bool) -> Callable[[], object]:
    """The call with a CPU's heap as it is in the midst of a run, where maps have found their places."""
    if device.type == "cpu":
        Heap().is_kept = is_kept
        for _ in range(_SETTLING):
            call()
    return call


def _precision(name: str) -> str:
    """The precision of a side: one of `TOLERANCES`."""
    if name == PASTICHE:
        return "fp32"
    if name in FORMS:
        return "bf16" if FORMS[name].dtype == torch.bfloat16 else "fp32"
    return name


def floor_calls(task: Task, precision: str) -> tuple[Runtime, dict[str, tuple[float, Callable[[], Tensor]]]]:
    """Every convolution of an evaluation as the engine calls it, forward and back, on maps that are there already: its
    operations and its call, by name."""
    backbone, runtime = engine_backbone(task, precision)
    layers = backbone.layers
    calls: dict[str, tuple[float, Callable[[], Tensor]]] = {}
    size = task.start.shape[2:]
    for name, step in backbone.steps.items():
        if isinstance(step, Convolution):
            for way, weight, bias in (("forward", step.weight, step.bias), ("back", step.transposed, None)):
                x = torch.rand((1, weight.shape[1], *size), device=task.device)
                x = x.to(layers.dtype, memory_format=torch.channels_last)
                call = partial(F.conv2d, x, weight, padding=1)
                if isinstance(layers, CpuLayers):
                    call = partial(layers.convolver, x, weight, bias, relu=bias is not None, padding=1)
                calls[f"{name} {way}"] = 18.0 * weight.shape[0] * weight.shape[1] * size[0] * size[1], call
        size = torch.Size(side // 2 for side in size) if step.pool else size
    return runtime, calls


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


def peak_of(name: str, size: int, device: str, optimizer: str) -> tuple[int, int] | tuple[None, None]:
    """Peak memory of one side in a process of its own, and its weights in it, in bytes; None if that process failed."""
    words = ["--peak-of", name, "--size", str(size), "--device", device, "--optimizer", optimizer]
    command, root = [sys.executable, "-m", "bench.bench_step", *words], Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"the peak of {name} at {size} px is not known: {last}", file=sys.stderr)
        return None, None
    peak, network = done.stdout.split()
    return int(peak), int(network)


def print_peak(name: str, size: int, device: str, optimizer: str) -> None:
    # What libraries load and set up at their first use is no side's.
    make_side(name, step_task(READYING_SIZE, device), optimizer).iterate()
    gc.collect()
    place = resolve_runtime(device).device
    before = _restarted_peak(place)
    if place.type == "cpu":
        Heap().is_kept = _keeps(name)
    task = step_task(size, device)
    parameters = sum(tensor.numel() for tensor in task.weights.tensors.values())
    side = make_side(name, task, optimizer)
    # A side keeps what it needs of it.
    del task
    for _ in range(6 if place.type == "cuda" else 8):
        side.iterate()
    print(_peak(place) - before, parameters * (2 if _precision(name) in ("bf16", "fp16") else 4))


def _restarted_peak(device: torch.device) -> int:
    """The bytes that are held now, from which `_peak` then starts; on a CPU without /proc, the peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        # What was freed is given back first: it would be used again without a trace.
        give_back()
        Path("/proc/self/clear_refs").write_text("5")
    return _peak(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


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
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.peak_of:
        print_peak(parsed.peak_of, parsed.size[0], parsed.device, parsed.optimizer[0])
        return 0
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
