"""Times the Gram losses at the five style layers, and how near that is to the machine's ceilings.

Three operations: `forward` (the Gram matrix), `loss` (the Gram-difference loss, with what its backward needs kept) and
`backward` (the gradient of the loss, added to the one from above).

Three implementations: `fastnst`, `eager` (the plain PyTorch form: F @ F.T, /M, subtract, square, sum, autograd), and
`compile` (torch.compile of that; its mode "max-autotune" is taken without CUDA graphs, which save time of the host
alone, and that is not in the figures). Ours reads features in channels-last, as the engine has them; the plain forms
read the same values in NCHW, as the tutorials have them, which is faster for them.

With C channels, M positions and s bytes for an element, the least that must be moved and multiplied is

=========  ==============================================  ===============================================
operation  bytes                                           floating-point operations
=========  ==============================================  ===============================================
forward    M C s (F read) + 4 C² (G written)               M C (C + 1) (a symmetric product)
loss       M C s + 4 C² (A read) + C² s (G − A written)    M C (C + 1)
backward   3 M C s (F and upstream read, the gradient      2 M C²
           written) + C² s (G − A read)
=========  ==============================================  ===============================================

and the roofline is the larger of bytes / copy bandwidth and operations / rate of a large product, both measured in the
same run. GB/s and TFLOP/s count the same bytes and operations for each implementation, whatever it really moves.

Memory is the peak of what an operation allocates besides its inputs and its result; that of `backward` begins with the
loss, so that what is kept for backward is in it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import float32_products
from fastnst_kernels.losses import gram, reference, style_tap
from fastnst_kernels.profiling.measure import (
    Contender,
    Timing,
    copy_bandwidth,
    interleaved,
    peak_extra_bytes,
    product_rate,
    quieten_profiler,
    synchronise,
)
from fastnst_kernels.verify import STYLE_LAYERS, budget, worst

OPERATIONS = ("forward", "loss", "backward")
IMPLEMENTATIONS = ("fastnst", "eager", "compile")
SMALLEST_SIZE = 16
LARGEST_SIZE = 4096
WEIGHT = 0.2
# The plain form rounds where it likes; farther off than this it computes something else.
_PLAIN_ERROR = 0.05

GramForm = Callable[[Tensor], Tensor]
TapForm = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Setting(Protocol):
    """The place and the arithmetic of a measurement: `dtype` is the features', `precision` its name (fp32, tf32, bf16,
    fp16), `dot_precision` the kernels' ("tf32" or "ieee"), and `backend` theirs too."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def precision(self) -> str: ...
    @property
    def tf32(self) -> bool: ...
    @property
    def dot_precision(self) -> str: ...
    @property
    def backend(self) -> str: ...


@dataclass(frozen=True)
class Roofline:
    """The machine's ceilings: bytes per second of a copy, FLOP per second of a large product."""

    bandwidth: float
    rate: float

    def seconds(self, work: "Work") -> float:
        """The least time for `work`."""
        return max(work.bytes / self.bandwidth, work.flops / self.rate)


@dataclass(frozen=True)
class Work:
    """The least bytes that an operation moves, and the floating-point operations."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Measurement:
    """One implementation of one operation at one layer.

    `timing` is None where there is no right result to time, and `problem` says why. `error` is the relative error
    against float64. `extra_bytes` is the peak of what it allocates besides inputs and result; `features` their bytes.
    """

    layer: str
    shape: tuple[int, ...]
    precision: str
    operation: str
    implementation: str
    work: Work
    least_seconds: float
    error: float | None
    timing: Timing | None
    extra_bytes: int | None
    features: int
    problem: str | None = None

    @property
    def roofline_share(self) -> float | None:
        """Least time over measured time, 0…1; above 1 where a cache holds what the count says is moved."""
        return None if self.timing is None else self.least_seconds / self.timing.median

    def as_dict(self) -> dict[str, Any]:
        """The fields and the rates as JSON can hold them; seconds, bytes/s in GB/s, FLOP/s in TFLOP/s."""
        values = {**asdict(self), "shape": list(self.shape), "roofline_share": self.roofline_share}
        seconds = None if self.timing is None else self.timing.median
        values["gigabytes_per_second"] = None if seconds is None else self.work.bytes / seconds / 1e9
        values["teraflops_per_second"] = None if seconds is None else self.work.flops / seconds / 1e12
        return values


def work_of(operation: str, channels: int, positions: int, itemsize: int) -> Work:
    """The least bytes and FLOPs of `operation` for one image's (C, M) features of `itemsize` bytes an element."""
    features, matrix = channels * positions * itemsize, channels**2
    if operation == "backward":
        return Work(3 * features + matrix * itemsize, 2 * positions * matrix)
    symmetric = positions * channels * (channels + 1)
    if operation == "forward":
        return Work(features + 4 * matrix, symmetric)
    return Work(features + (4 + itemsize) * matrix, symmetric)


def check_size(size: int) -> None:
    """Raises ValueError for an image that the five layers leave nothing of, or that is too large to profile."""
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ValueError(
            f"size {size} is out of range; give {SMALLEST_SIZE} (conv5_1 halves the image four times) to "
            f"{LARGEST_SIZE} pixels"
        )


def measure_roofline(setting: Setting) -> Roofline:
    """The ceilings of the device in the dtype of `setting`; of float32 on a CPU that multiplies those faster."""
    rate = product_rate(setting.device, setting.dtype, setting.tf32)
    if setting.device.type == "cpu":
        rate = max(rate, product_rate(setting.device, torch.float32))
    return Roofline(copy_bandwidth(setting.device), rate)


def profile(
    size: int, setting: Setting, *, rounds: int = 7, compiled: bool = True, compile_mode: str = "default"
) -> Iterator[Measurement]:
    """Measures each operation and implementation at the style layers of a square image of `size` pixels.

    A result is compared with float64 before it is timed: ours against its budget, the others against 5 %. With
    `compiled` false torch.compile is left out; `compile_mode` is "default" or "max-autotune".

    Raises ValueError for a wrong size or number of rounds, ArithmeticError where our own result is wrong.
    """
    check_size(size)
    if rounds < 1:
        raise ValueError(f"{rounds} rounds were asked for; give 1 or more")
    roofline = measure_roofline(setting)
    names = IMPLEMENTATIONS if compiled else ("fastnst", "eager")
    with float32_products(setting.tf32):
        for layer, problem in _problems(size, setting).items():
            torch.compiler.reset()
            computed = {name: forms(name, setting, compile_mode) for name in names}
            for operation in OPERATIONS:
                contenders = {
                    name: contender(operation, form, problem if name == "fastnst" else problem.in_nchw())
                    for name, form in computed.items()
                }
                errors, problems = _checked(operation, contenders, problem, setting.dot_precision)
                channels, height, width = problem.features.shape[1:]
                yield from measured(
                    contenders,
                    setting,
                    roofline,
                    layer=layer,
                    operation=operation,
                    like=problem.features,
                    work=work_of(operation, channels, height * width, problem.features.element_size()),
                    errors=errors,
                    problems=problems,
                    rounds=rounds,
                )


def measured(
    contenders: Mapping[str, Contender],
    setting: Setting,
    roofline: Roofline,
    *,
    layer: str,
    operation: str,
    like: Tensor,
    work: Work,
    errors: Mapping[str, float],
    problems: Mapping[str, str],
    rounds: int,
) -> Iterator[Measurement]:
    """Times the contenders that have no problem and takes their memory; `like` has the layer's shape and dtype."""
    sound = {name: prepare for name, prepare in contenders.items() if name not in problems}
    timings = interleaved(sound, setting.device, rounds=rounds, calls=10 if setting.device.type == "cuda" else 1)
    memory = {name: peak_extra_bytes(prepare, setting.device) for name, prepare in sound.items()}
    for name in contenders:
        yield Measurement(
            layer=layer,
            shape=tuple(like.shape),
            precision=setting.precision,
            operation=operation,
            implementation=name,
            work=work,
            least_seconds=roofline.seconds(work),
            error=errors.get(name),
            timing=timings.get(name),
            extra_bytes=memory.get(name),
            features=like.numel() * like.element_size(),
            problem=problems.get(name),
        )


@dataclass(frozen=True)
class Problem:
    """The tensors of one layer: features and upstream (1, C, H, W) channels-last, target (C, C), loss gradient (1,)."""

    features: Tensor
    target: Tensor
    upstream: Tensor
    loss_gradient: Tensor

    def in_nchw(self) -> "Problem":
        """A copy with features and upstream in NCHW."""
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
        exact = reference.gram(features)[0]
        target = (exact * (1 + 0.5 * noise(channels, channels))).float()
        size = reference.gram_loss_gradient(features, target, WEIGHT).abs().mean()
        return cls(features, target, channels_last(noise(1, channels, side, side)), (1 / size).float()[None])


def plain_gram(features: Tensor) -> Tensor:
    """The tutorials' Gram matrix, F @ F.T / M of (1, C, H, W) in NCHW, in float32 after the product: (1, C, C)."""
    matrix = features.view(features.shape[1], -1)
    return ((matrix @ matrix.t()).float() / matrix.shape[1])[None]


def plain_tap(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The features for the next layer, and the Gram-difference loss (1,) by autograd."""
    difference = plain_gram(features) - target
    return features.view_as(features), WEIGHT / (4 * features.shape[1] ** 2) * difference.square().sum((1, 2))


def forms(implementation: str, setting: Setting, compile_mode: str = "default") -> tuple[GramForm, TapForm]:
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


def expected(operation: str, problem: Problem, precision: str) -> tuple[Tensor, Tensor]:
    """The float64 result of `operation` and the budget of its error, (1,)."""
    features, target = problem.features, problem.target
    if operation == "forward":
        return reference.gram(features), budget.gram_budget(features, precision)
    if operation == "loss":
        exact = reference.gram_loss(features, target, WEIGHT)
        return exact, budget.gram_loss_budget(features, target, WEIGHT, precision)
    arguments = (features, target, WEIGHT, problem.upstream, problem.loss_gradient)
    return reference.style_tap_gradient(*arguments), budget.style_tap_budget(*arguments, precision)


def _checked(
    operation: str, contenders: Mapping[str, Contender], problem: Problem, precision: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Each contender's error against float64, and the problem that keeps it from being timed."""
    exact, allowed = expected(operation, problem, precision)
    errors: dict[str, float] = {}
    problems: dict[str, str] = {}
    for name, prepare in contenders.items():
        try:
            result: Any = prepare()()
        except Exception as raised:
            if name != "compile" or isinstance(raised, torch.OutOfMemoryError):
                raise
            problems[name] = f"{type(raised).__name__}: {raised}".strip().splitlines()[0]
            continue
        limits = allowed if name == "fastnst" else torch.full_like(allowed, _PLAIN_ERROR)
        errors[name], limit = worst(result.detach(), exact, limits)
        if not errors[name] <= limit:
            if name == "fastnst":
                raise ArithmeticError(
                    f"the {operation} of features {tuple(problem.features.shape)} is wrong (error {errors[name]:.3g}, "
                    f"budget {limit:.3g}), so it is not timed; run fastnst verify"
                )
            problems[name] = f"wrong result: relative error {errors[name]:.3g}"
    return errors, problems


def trace(size: int, setting: Setting, path: Path) -> None:
    """Writes one loss and backward of each style layer, ours and eager, as a trace for Perfetto or chrome://tracing.

    Each is a span named layer, operation and implementation. Raises ValueError for a wrong size, OSError where `path`
    cannot be written.
    """
    check_size(size)
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


def precisions(precision: str, device: torch.device) -> Sequence[str]:
    """The precisions of "auto": float32 on a CPU, TF32 and bfloat16 on a GPU; any other precision is itself."""
    if precision != "auto":
        return (precision,)
    return ("tf32", "bf16") if device.type == "cuda" else ("fp32",)
