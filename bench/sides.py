"""The contenders of `bench_step`: the plain loop in its forms, pastiche and the engine, on one task."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.plain_loop import Form, Task, make_task, plain_iteration, plain_loss
from fastnst.examples import example
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.network import trial
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.cpu import CpuLayers
from fastnst.network.layers import Convolution
from fastnst.network.runtime import Runtime, resolve_runtime
from fastnst.network.settings import float32_products, timed_algorithms
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


@dataclass(frozen=True)
class Side:
    """One contender: its loss and gradient of an image, if it minimises the same, and one iteration on an image."""

    evaluate: Callable[[Tensor], tuple[float, Tensor]] | None
    iterate: Callable[[], Tensor]


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
    runtime = resolve_runtime(options.device, precision_of(name), options.backend)
    backbone = build_backbone(task.weights, options.taps, runtime, pooling=options.pooling, padding=options.padding)
    return backbone, runtime


def engine_side(task: Task, name: str, optimizer: str) -> Side:
    options = replace(task.options, precision=precision_of(name), optimizer=optimizer)
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


def keeps_heap(name: str) -> bool:
    """True for the engine, whose runs keep a CPU's heap: see `Heap`."""
    return name not in (*FORMS, PASTICHE)


def precision_of(name: str) -> str:
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
