"""Times the Gram losses at the five style layers, and how near that is to the machine's ceilings.

Three operations: `forward` (the Gram matrix), `loss` (the Gram-difference loss, with what its backward needs kept) and
`backward` (the gradient of the loss, added to the one from above).

Three implementations: `fastnst`, `eager` (the plain PyTorch form: F @ F.T, /M, subtract, square, sum, autograd), and
`compile` (torch.compile of that; its mode "max-autotune" is taken without CUDA graphs, which save time of the host
alone, and that is not in the figures). Ours reads features in channels-last, as the engine has them; the plain forms
read the same values in NCHW, as the tutorials have them, which is faster for them.

With C channels and M positions, `work_of` says the least that must be moved and multiplied: F, and for backward the
upstream, read once, matrices read and written once, and M C (C + 1) operations for a symmetric product,
and the roofline is the larger of bytes / copy bandwidth and operations / rate of a large product, both measured in the
same run. GB/s and TFLOP/s count the same bytes and operations for each implementation, whatever it really moves.

Memory is the peak of what an operation allocates besides its inputs and its result; that of `backward` begins with the
loss, so that what is kept for backward is in it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import float32_products
from fastnst_kernels.losses import gram, reference, style_tap
from fastnst_kernels.profiling.measure import Contender, quieten_profiler, synchronise
from fastnst_kernels.profiling.step import Measurement, Setting, Step, Work, measure_roofline, measured
from fastnst_kernels.verify import budget
from fastnst_kernels.verify.budget import Expected
from fastnst_kernels.verify.everything import STYLE_LAYERS
from fastnst_kernels.verify.losses import WEIGHT, bring_to_one, target_near

OPERATIONS = ("forward", "loss", "backward")
IMPLEMENTATIONS = ("fastnst", "eager", "compile")

GramForm = Callable[[Tensor], Tensor]
TapForm = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def work_of(operation: str, channels: int, positions: int, itemsize: int) -> Work:
    """The least bytes and FLOPs of `operation` for one image's (C, M) features of `itemsize` bytes an element."""
    features, matrix = channels * positions * itemsize, channels**2
    if operation == "backward":
        return Work(3 * features + matrix * itemsize, 2 * positions * matrix)
    symmetric = positions * channels * (channels + 1)
    if operation == "forward":
        return Work(features + 4 * matrix, symmetric)
    return Work(features + (4 + itemsize) * matrix, symmetric)


def profile(
    size: int, setting: Setting, *, rounds: int = 7, compile_mode: str | None = "default"
) -> Iterator[Measurement]:
    """Measures each operation and implementation at the style layers of a square image of `size` pixels.

    A result is compared with float64 before it is timed: ours against its budget, the others against 5 %.
    `compile_mode` is torch.compile's, "default" or "max-autotune"; with None it is left out.

    Raises as `measured` does.
    """
    yield from measured(_steps(size, setting, compile_mode), setting, measure_roofline(setting), rounds)


def _steps(size: int, setting: Setting, compile_mode: str | None) -> Iterator[Step]:
    names = IMPLEMENTATIONS[:2] if compile_mode is None else IMPLEMENTATIONS
    for layer, problem in _problems(size, setting).items():
        torch.compiler.reset()
        inputs = {name: problem if name == "fastnst" else problem.in_nchw() for name in names}
        computed = {name: forms(name, setting, compile_mode) for name in names}
        channels, height, width = problem.features.shape[1:]
        for operation in OPERATIONS:
            yield Step(
                layer=layer,
                operation=operation,
                work=work_of(operation, channels, height * width, problem.features.element_size()),
                features=problem.features,
                contenders={name: contender(operation, computed[name], inputs[name]) for name in names},
                expected=expected(operation, problem, setting.dot_precision),
            )


@dataclass(frozen=True)
class Problem:
    """The tensors of one layer: features and upstream (1, C, H, W) channels-last, target (C, C), loss gradient (1,)."""

    features: Tensor
    target: Tensor
    upstream: Tensor
    loss_gradient: Tensor

    def in_nchw(self) -> "Problem":
        return replace(self, features=self.features.contiguous(), upstream=self.upstream.contiguous())

    @classmethod
    def make(cls, channels: int, side: int, setting: Setting) -> "Problem":
        """Features as after a ReLU, scaled so that F Fᵀ, before its division by M, stays in the range of float16."""
        generator = torch.Generator().manual_seed(0)

        def noise(*size: int) -> Tensor:
            return torch.randn(size, generator=generator).to(setting.device)

        def channels_last(values: Tensor) -> Tensor:
            return values.to(setting.dtype).contiguous(memory_format=torch.channels_last)

        features = channels_last((noise(1, channels, side, side) + 0.3).relu() * (128 / side))
        target = target_near(features, noise(channels, channels))
        loss_gradient = bring_to_one(reference.gram_loss_gradient(features, target, WEIGHT))
        return cls(features, target, channels_last(noise(1, channels, side, side)), loss_gradient)


def plain_gram(features: Tensor) -> Tensor:
    """The tutorials' Gram matrix, F @ F.T / M of (1, C, H, W) in NCHW, in float32 after the product: (1, C, C)."""
    matrix = features.view(features.shape[1], -1)
    return ((matrix @ matrix.t()).float() / matrix.shape[1])[None]


def plain_tap(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The features for the next layer, and the Gram-difference loss (1,) by autograd."""
    difference = plain_gram(features) - target
    return features.view_as(features), WEIGHT / (4 * features.shape[1] ** 2) * difference.square().sum((1, 2))


def forms(implementation: str, setting: Setting, compile_mode: str | None = "default") -> tuple[GramForm, TapForm]:
    """The Gram matrix and the loss with its pass-through, as `implementation` computes them."""
    if implementation == "fastnst":
        options: dict[str, Any] = {"precision": setting.dot_precision, "backend": setting.backend}
        return partial(gram, **options), partial(style_tap, weight=WEIGHT, **options)
    if implementation == "eager":
        return plain_gram, plain_tap
    mode = "max-autotune-no-cudagraphs" if compile_mode == "max-autotune" else compile_mode
    return torch.compile(plain_gram, dynamic=False, mode=mode), torch.compile(plain_tap, dynamic=False, mode=mode)


def contender(operation: str, implementation: tuple[GramForm, TapForm], problem: Problem) -> Contender:
    """Prepares one call of `operation`; the call returns its result."""
    gram_form, tap_form = implementation
    if operation == "forward":
        return lambda: torch.no_grad()(partial(gram_form, problem.features))
    leaf = problem.features.detach().requires_grad_()
    if operation == "loss":
        return lambda: lambda: tap_form(leaf, problem.target)[1]

    def prepared() -> Callable[[], Tensor]:
        passed, loss = tap_form(leaf, problem.target)
        return lambda: torch.autograd.grad([passed, loss], leaf, [problem.upstream, problem.loss_gradient])[0]

    return prepared


def expected(operation: str, problem: Problem, precision: str) -> Expected:
    """The float64 result of `operation` and the budget of its error."""
    features, target = problem.features, problem.target
    if operation == "forward":
        return budget.gram(features, precision)
    if operation == "loss":
        return budget.gram_loss(features, target, WEIGHT, precision)
    loss: dict[str, Any] = {"target": target, "weight": WEIGHT, "style_gradient": problem.loss_gradient}
    return budget.tap_gradient(features, problem.upstream, precision=precision, **loss)


def trace(size: int, setting: Setting, path: Path) -> None:
    """Writes one loss and backward of each style layer, ours and eager, as a trace for Perfetto or chrome://tracing.

    Each is a span named layer, operation and implementation. Raises OSError where `path` cannot be written.
    """
    quieten_profiler()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    calls = [
        (f"{layer} {operation} {name}", contender(operation, forms(name, setting), inputs))
        for layer, problem in _problems(size, setting).items()
        for name, inputs in (("fastnst", problem), ("eager", problem.in_nchw()))
        for operation in ("loss", "backward")
    ]
    with float32_products(setting.tf32):
        for _, prepare in calls:
            prepare()()
        with torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True) as profiler:
            for span, prepare in calls:
                call = prepare()
                synchronise(setting.device)
                with torch.profiler.record_function(span):
                    call()
                    synchronise(setting.device)
    try:
        profiler.export_chrome_trace(str(path))
    except RuntimeError as error:
        raise OSError(str(error)) from None


def _problems(size: int, setting: Setting) -> dict[str, Problem]:
    layers = enumerate(STYLE_LAYERS.items())
    return {layer: Problem.make(channels, size >> index, setting) for index, (layer, channels) in layers}
