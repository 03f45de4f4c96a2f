"""Seconds of an iteration and peak memory: the engine beside the plain PyTorch loop that tutorials teach.

python -m bench.bench_stylize --size 256 512 --json stylize.json

Both minimise the objective of Gatys, Ecker and Bethge (`preset="gatys"`) with L-BFGS, one evaluation an iteration, on
the same example pictures, start and random weights. The plain loop is float32 NCHW with torch's defaults: autograd
through `F @ F.T`, `mse_loss`, `torch.optim.LBFGS`. Loss and gradient are compared before anything is timed; the sides
then take turns. Memory is that of a fresh process for each side.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastnst.architecture import layers_up_to
from fastnst.backbone import build_backbone
from fastnst.examples import example
from fastnst.images import fitted_size, load_image, resize
from fastnst.measure import Timing, conditions, interleaved, peak_resident_bytes
from fastnst.objective import make_objective, style_targets
from fastnst.optimizers import LBFGS_HISTORY, LBFGS_RATE, make_optimizer
from fastnst.options import Options, resolve_options
from fastnst.runtime import float32_products, resolve_runtime
from fastnst.weights import Weights, load_weights

# Relative errors against the plain loop in float32 of (loss, gradient in the median tile, whole gradient): a wrong
# result is not timed. Rounding may take a unit across the kink of the ReLU, which changes the gradient in its field
# alone: at 512 px the median tile is 2e-6 off, the whole gradient 1e-3, and the plain loop 4e-4 from float64.
TOLERANCES = {
    "fp32": (1e-4, 2e-5, 5e-3),
    "winograd": (1e-4, 5e-5, 5e-3),
    "tf32": (5e-3, 5e-2, 5e-2),
    "fp16": (1e-2, 5e-2, 5e-2),
    "bf16": (5e-2, 2e-1, 2e-1),
}
TILE = 32
PLAIN = "plain"

Evaluate = Callable[[Tensor], tuple[float, Tensor]]


@dataclass(frozen=True)
class Task:
    """What both sides work on: pictures (1, 3, H, W) in 0…1, weights and options."""

    content: Tensor
    style: Tensor
    start: Tensor
    weights: Weights
    options: Options
    device: torch.device


@dataclass(frozen=True)
class Side:
    """One contender: its loss and gradient of an image, and one iteration on an image of its own."""

    evaluate: Evaluate
    iterate: Callable[[], float]


@dataclass(frozen=True)
class Row:
    """What was measured of one side at one size. `memory` is the peak beyond what the imports hold, in bytes."""

    size: int
    side: str
    timing: Timing
    loss_error: float
    tile_error: float
    gradient_error: float
    memory: int | None


def make_task(size: int, device: str) -> Task:
    options = resolve_options(preset="gatys", size=size, device=device, weights="random")
    place = resolve_runtime(options).device
    pictures = []
    for name in ("content", "style_swirls"):
        picture = load_image(example(name)).rgb
        height, width = picture.shape[-2:]
        pictures.append(resize(picture, size=fitted_size(height, width, size))[None].to(place))
    start = torch.rand(pictures[0].shape, generator=torch.Generator().manual_seed(0)).to(place)
    weights = load_weights(options.weights, options.network, taps=options.taps)
    return Task(pictures[0], pictures[1], start, weights, options, place)


def plain_side(task: Task) -> Side:
    """The tutorials' loop."""
    options = task.options
    style_layers, content_layers = dict(options.style_layers), dict(options.content_layers)
    mean, std = (
        torch.tensor(values, device=task.device).view(1, 3, 1, 1)
        for values in (task.weights.preprocessing.mean, task.weights.preprocessing.std)
    )
    network = nn.ModuleDict()
    for layer in layers_up_to(options.network, options.taps):
        if layer.is_pool:
            network[layer.name] = nn.AvgPool2d(2)
            continue
        convolution = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1)
        convolution.load_state_dict({part: task.weights.tensors[f"{layer.name}.{part}"] for part in ("weight", "bias")})
        network[layer.name] = nn.Sequential(convolution, nn.ReLU())
    network.requires_grad_(False).to(task.device)

    def features(image: Tensor) -> dict[str, Tensor]:
        x = (image - mean) / std
        found = {}
        for name, module in network.items():
            x = module(x)
            if name in style_layers or name in content_layers:
                found[name] = x
        return found

    def gram(x: Tensor) -> Tensor:
        matrix = x.view(x.shape[1], -1)
        return matrix @ matrix.t() / matrix.shape[1]

    with torch.no_grad():
        grams = {name: gram(x) for name, x in features(task.style).items() if name in style_layers}
        contents = {name: x for name, x in features(task.content).items() if name in content_layers}

    def total(image: Tensor) -> Tensor:
        found = features(image)
        loss = image.new_zeros(())
        for name, weight in style_layers.items():
            squares = F.mse_loss(gram(found[name]), grams[name], reduction="sum")
            loss = loss + options.style_weight * weight * squares / (4 * len(grams[name]) ** 2)
        for name, weight in content_layers.items():
            squares = F.mse_loss(found[name], contents[name], reduction="sum")
            loss = loss + options.content_weight * weight * squares / 2
        return loss

    def evaluate(image: Tensor) -> tuple[float, Tensor]:
        leaf = image.clone().requires_grad_()
        loss = total(leaf)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.item(), gradient

    image = task.start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([image], lr=LBFGS_RATE, max_iter=1, history_size=LBFGS_HISTORY)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = total(image)
        torch.autograd.backward(loss)
        return loss

    def iterate() -> float:
        loss: Tensor = optimizer.step(closure)  # type: ignore[no-untyped-call]
        return loss.item()

    return Side(evaluate, iterate)


def engine_side(task: Task, precision: str) -> Side:
    options = resolve_options(
        preset="gatys", size=task.options.size, device=str(task.device), weights="random", precision=precision
    )
    runtime = resolve_runtime(options)
    backbone = build_backbone(
        task.weights,
        options.taps,
        runtime,
        pooling=options.pooling,
        padding=options.padding,
    )
    with float32_products(runtime.tf32):
        targets = style_targets(backbone, [(task.style, 1.0)], options, runtime)
        objective = make_objective(backbone, task.content, targets, options, runtime)

    def evaluate(image: Tensor) -> tuple[float, Tensor]:
        with float32_products(runtime.tf32):
            loss, gradient = objective.loss_and_gradient(image)
        return loss.total.item(), gradient

    image = task.start.clone()
    optimizer = make_optimizer(options, runtime)

    def iterate() -> float:
        with float32_products(runtime.tf32):
            loss, gradient = objective.loss_and_gradient(image)
            total = loss.total.item()
            optimizer.step(image, gradient)
        return total

    return Side(evaluate, iterate)


def make_side(name: str, task: Task) -> Side:
    return plain_side(task) if name == PLAIN else engine_side(task, name)


def measure(size: int, device: str, precisions: list[str], rounds: int, memory: bool) -> list[Row]:
    """One row for the plain loop, then one for each precision of the engine."""
    task = make_task(size, device)
    sides = {name: make_side(name, task) for name in (PLAIN, *precisions)}
    with float32_products(tf32=False):
        loss, gradient = sides[PLAIN].evaluate(task.start)
    errors = {name: _errors(side.evaluate(task.start), loss, gradient) for name, side in sides.items()}
    for name in precisions:
        if not all(error <= limit for error, limit in zip(errors[name], TOLERANCES[name], strict=True)):
            raise SystemExit(f"{name} at {size} px is wrong: errors {errors[name]}, allowed {TOLERANCES[name]}")
    contenders = {name: (lambda side=side: side.iterate) for name, side in sides.items()}
    timings = interleaved(contenders, task.device, rounds=rounds, warm_up=2, flush=False)
    peaks = {name: peak_of(name, size, device) if memory else None for name in sides}
    return [Row(size, name, timings[name], *errors[name], peaks[name]) for name in sides]


def _errors(found: tuple[float, Tensor], loss: float, gradient: Tensor) -> tuple[float, float, float]:
    """Relative errors of the loss, of the gradient in the median tile of `TILE` px, and of the whole gradient."""
    wrong = (found[1] - gradient).double().square().sum(1, keepdim=True)
    right = gradient.double().square().sum(1, keepdim=True)
    tile = min(TILE, *gradient.shape[-2:])
    tiles = (F.avg_pool2d(wrong, tile) / F.avg_pool2d(right, tile)).sqrt()
    whole = (wrong.sum() / right.sum()).sqrt()
    return abs(found[0] - loss) / abs(loss), tiles.median().item(), whole.item()


def peak_of(name: str, size: int, device: str) -> int:
    """Peak memory of one side in a process of its own, in bytes beyond what the imports hold."""
    command = [sys.executable, "-m", "bench.bench_stylize", "--peak-of", name, "--size", str(size), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    return int(done.stdout)


def print_peak(name: str, size: int, device: str) -> None:
    imported = peak_resident_bytes()
    task = make_task(size, device)
    side = make_side(name, task)
    for _ in range(3):
        side.iterate()
    cuda = task.device.type == "cuda"
    print(torch.cuda.max_memory_allocated(task.device) if cuda else peak_resident_bytes() - imported)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[256], metavar="PX", help="long edges (default: 256)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", choices=list(TOLERANCES), help="fp32 on a CPU, all on a GPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.peak_of:
        print_peak(parsed.peak_of, parsed.size[0], parsed.device)
        return 0
    device = resolve_runtime(resolve_options(device=parsed.device)).device
    precisions = parsed.precision or (list(TOLERANCES) if device.type == "cuda" else ["fp32"])
    facts = conditions(device)
    print(
        f"{facts['device']}, torch {facts['versions']['torch']}, {facts['machine']['threads']} threads, "
        f"load {facts['machine']['load']}, commit {facts['commit']}, {facts['date']}"
    )
    print(f"{'px':>5} {'side':8}{'s/iteration':>18}{'ratio':>8}{'peak MB':>10}{'loss error':>12}{'gradient error':>16}")
    rows: list[Row] = []
    for size in parsed.size:
        found = measure(size, parsed.device, precisions, parsed.rounds, not parsed.no_memory)
        rows += found
        for row in found:
            _print_row(row, found[0])
    if parsed.json:
        report: dict[str, Any] = {**facts, "rounds": parsed.rounds, "rows": [asdict(row) for row in rows]}
        parsed.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _print_row(row: Row, plain: Row) -> None:
    timing = row.timing
    ratio = plain.timing.median / timing.median
    memory = "-" if row.memory is None else f"{row.memory / 1e6:.0f}"
    print(
        f"{row.size:5} {row.side:8}{f'{timing.median:.4f} ±{timing.spread / 2:4.0%}':>18}{ratio:8.2f}{memory:>10}"
        f"{row.loss_error:12.1e}{row.gradient_error:16.1e}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
