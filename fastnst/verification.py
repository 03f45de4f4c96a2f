"""Each op of `fastnst_kernels` × dtype × layout × layer shape, forward and backward, against float64 within its budget.

On a machine with a GPU the Triton kernels and the torch implementation run there, at the layers' full size; without one
the kernels run in Triton's interpreter, at small shapes with the layers' channels, and the torch implementation on CPU.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from fastnst_kernels import available_backends, budget, gram, gram_loss, reference, style_tap
from torch import Tensor

from fastnst.errors import FastnstError, OptionError
from fastnst.runtime import float32_products

Shape = tuple[int, int, int, int]

SMALLEST_SIZE = 16
LARGEST_SIZE = 2048
LAYOUTS = ("nchw", "channels-last")
STYLE_LAYERS = {"conv1_1": 64, "conv2_1": 128, "conv3_1": 256, "conv4_1": 512, "conv5_1": 512}

# Channels and positions that no block size divides, and more than one image.
ODD_SHAPE = (2, 65, 37, 53)

# The layers' channels on maps that the interpreter gets through: conv2_1 takes the large tiles, "odd" no whole one.
# It runs for minutes where there are 512 channels, so the two layers that have them share the layouts.
INTERPRETED: dict[str, tuple[Shape, tuple[str, ...]]] = {
    "conv1_1": ((1, 64, 29, 23), LAYOUTS),
    "conv2_1": ((1, 128, 32, 24), LAYOUTS),
    "conv3_1": ((1, 256, 17, 13), LAYOUTS),
    "conv4_1": ((1, 512, 9, 7), LAYOUTS[:1]),
    "conv5_1": ((1, 512, 3, 5), LAYOUTS[1:]),
    "odd": ((2, 65, 11, 19), LAYOUTS),
}

# One wrong element among millions vanishes in a norm: its error, against the largest element, may be this many budgets.
_PEAK_BUDGETS = 8
_INTERPRETERS = 4
_WEIGHT = 0.2


@dataclass(frozen=True)
class Mode:
    """A dtype of the features and the kernels' name for how its products are taken."""

    name: str
    dtype: torch.dtype
    precision: str


MODES = (
    Mode("fp32", torch.float32, "ieee"),
    Mode("tf32", torch.float32, "tf32"),
    Mode("fp16", torch.float16, "ieee"),
    Mode("bf16", torch.bfloat16, "ieee"),
)


@dataclass(frozen=True)
class Check:
    """One result against float64.

    `error` is ‖result − exact‖ / ‖exact‖ of the image where it is largest against its budget, or an eighth of
    max|result − exact| / max|exact| where that is more; NaN where there is no finite result. `device` is a torch
    device, or "interpreter". `problem` is what the op raised, if it did.
    """

    op: str
    direction: str
    backend: str
    device: str
    dtype: str
    precision: str
    layout: str
    layer: str
    shape: Shape
    error: float
    budget: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None and self.error <= self.budget

    def as_dict(self) -> dict[str, Any]:
        """The fields and the verdict as JSON can hold them: a number that is not finite is None."""
        values = {**asdict(self), "shape": list(self.shape), "passed": self.passed}
        for name in ("error", "budget"):
            values[name] = values[name] if math.isfinite(values[name]) else None
        return values


@dataclass(frozen=True)
class Skipped:
    """A backend that cannot run here, and why."""

    backend: str
    reason: str


def layer_shapes(size: int) -> dict[str, Shape]:
    """The features of the five style layers for a square image of `size` pixels, (1, C, H, W), by layer name.

    Raises OptionError for a size that the network's pools leave nothing of, or that is too large to check.
    """
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise OptionError(f"size {size} is out of range; give {SMALLEST_SIZE} to {LARGEST_SIZE} pixels")
    return {
        name: (1, channels, size >> index, size >> index) for index, (name, channels) in enumerate(STYLE_LAYERS.items())
    }


def verify(backend: str = "all", size: int | None = None) -> Iterator[Check | Skipped]:
    """Every check of `backend` ("all", "triton" or "torch") on this machine, each as soon as it is known.

    `size` is the image that the layers are of, where they are not interpreted: 512 px on a GPU and 256 px on a CPU
    unless given. Raises OptionError for a backend that was asked for by name and cannot run, or a wrong size;
    FastnstError if the interpreter ended without a result.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if size is None:
        size = 512 if on_gpu else 256
    shapes = {**layer_shapes(size), "odd": ODD_SHAPE}
    missing = None if importlib.util.find_spec("triton") else "the package triton is not installed"
    if missing is not None and backend == "triton":
        raise OptionError(f"{missing}; install it (pip install triton) or use --backend torch")
    interpret = not on_gpu or "triton" in available_backends("cpu")
    with ThreadPoolExecutor(max_workers=_INTERPRETERS) as pool:
        interpreted = []
        if backend != "torch" and interpret and missing is None:
            interpreted = [pool.submit(_interpreted, layers) for layers in _shares(_usable_cores())]
        if backend != "triton":
            yield from run_checks("torch", device, shapes)
        if backend != "torch" and missing is not None:
            yield Skipped("triton", missing)
        elif backend != "torch" and not interpret:
            yield from run_checks("triton", device, shapes)
        found = [check for share in interpreted for check in share.result()]
        yield from sorted(found, key=lambda check: list(INTERPRETED).index(check.layer))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares(cores: int) -> list[list[str]]:
    """The interpreted layers in shares of about equal work, for one process each."""
    shares: list[list[str]] = [[] for _ in range(min(cores, _INTERPRETERS))]
    for layer in sorted(INTERPRETED, key=_work, reverse=True):
        min(shares, key=lambda share: sum(map(_work, share))).append(layer)
    return shares


def _work(layer: str) -> float:
    """How long the interpreter takes for `layer`, roughly: by matrices, their tiles, and something for each check."""
    (batch, channels, _, _), layouts = INTERPRETED[layer]
    return len(layouts) * (batch * channels**2 + 60_000)


def _interpreted(layers: Sequence[str]) -> list[Check]:
    """The checks of the interpreted kernels, by a process of their own: triton reads the switch when it is imported."""
    command = [sys.executable, "-m", "fastnst.verification", *layers]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        checks = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FastnstError(f"the interpreted kernels gave no result (exit code {done.returncode}): {reason}") from None
    return [Check(**{**values, "shape": tuple(values["shape"])}) for values in checks]


def _main(layers: Sequence[str]) -> None:
    """Prints the fields of the interpreted checks as a JSON list."""
    checks: list[Check] = []
    for layer in layers:
        shape, layouts = INTERPRETED[layer]
        checks += run_checks("triton", torch.device("cpu"), {layer: shape}, layouts)
    print(json.dumps([asdict(check) for check in checks]))


def run_checks(
    backend: str, device: torch.device, shapes: Mapping[str, Shape], layouts: Sequence[str] = LAYOUTS
) -> Iterator[Check]:
    """The checks of one backend on one device: all `shapes`, each mode that means something there, all `layouts`."""
    for layer, shape in shapes.items():
        for mode in MODES:
            if mode.precision == "tf32" and not _has_tf32(device):
                continue
            case = _Case(backend, device, layer, shape, mode)
            for layout in layouts:
                yield from case.checks(layout)


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


class _Case:
    """One shape in one mode: its data, and what float64 makes of them. The layouts share both."""

    def __init__(self, backend: str, device: torch.device, layer: str, shape: Shape, mode: Mode) -> None:
        self.backend, self.device, self.layer, self.shape, self.mode = backend, device, layer, shape, mode
        generator = torch.Generator().manual_seed(0)

        def noise(*size: int) -> Tensor:
            return torch.randn(size, generator=generator).to(device)

        # As after a ReLU: not negative, part of it zero, with a mean of its own.
        self.features = (noise(*shape) + 0.3).relu().to(mode.dtype)
        exact = reference.gram(self.features)
        self.target = (exact[0] * (1 + 0.5 * noise(*exact.shape[1:]))).float()
        self.upstream = noise(*shape).to(mode.dtype)
        self.gram_gradient = noise(*exact.shape) * (shape[2] * shape[3])
        own = reference.gram_loss_gradient(self.features, self.target, _WEIGHT)
        # Brings the loss's gradient to the size of the one from above, and into the range of 16 bit.
        self.loss_gradient = (1 / own.abs().mean((1, 2, 3))).float()

        scaled = self.loss_gradient.double()[:, None, None, None] * own
        loss = reference.gram_loss(self.features, self.target, _WEIGHT)
        loss_budget = budget.gram_loss_budget(self.features, self.target, _WEIGHT, mode.precision)
        self.expected = {
            ("gram", "forward"): (exact, budget.gram_budget(self.features, mode.precision)),
            ("gram", "backward"): (
                reference.gram_gradient(self.features, self.gram_gradient),
                budget.gram_gradient_budget(self.features, self.gram_gradient, mode.precision),
            ),
            ("gram_loss", "forward"): (loss, loss_budget),
            ("gram_loss", "backward"): (scaled, self._tap_budget(torch.zeros_like(self.upstream))),
            ("style_tap", "forward"): (loss, loss_budget),
            ("style_tap", "backward"): (scaled + self.upstream.double(), self._tap_budget(self.upstream)),
        }

    def _tap_budget(self, upstream: Tensor) -> Tensor:
        return budget.style_tap_budget(
            self.features, self.target, _WEIGHT, upstream, self.loss_gradient, self.mode.precision
        )

    def checks(self, layout: str) -> Iterator[Check]:
        for op in ("gram", "gram_loss", "style_tap"):
            try:
                with _poisoned(), float32_products(self.mode.precision == "tf32"):
                    result, gradient = self._run(op, layout)
            except Exception as error:  # noqa: BLE001  (whatever keeps a kernel from running is a failed check)
                problem = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                yield self._check(op, "forward", layout, math.nan, math.nan, problem)
                yield self._check(op, "backward", layout, math.nan, math.nan, problem)
                continue
            for direction, found in (("forward", result), ("backward", gradient)):
                exact, allowed = self.expected[op, direction]
                yield self._check(op, direction, layout, *worst(found, exact, allowed))

    def _run(self, op: str, layout: str) -> tuple[Tensor, Tensor]:
        """The result of `op` and the gradient of the features. A tap that changes them gives NaN."""
        memory_format = torch.channels_last if layout == "channels-last" else torch.contiguous_format
        features = self.features.to(memory_format=memory_format, copy=True).requires_grad_()
        upstream = self.upstream.to(memory_format=memory_format, copy=True)
        options: dict[str, Any] = {"precision": self.mode.precision, "backend": self.backend}
        if op == "gram":
            result = gram(features, **options)
            torch.autograd.backward(result, self.gram_gradient)
        elif op == "gram_loss":
            result = gram_loss(features, self.target, _WEIGHT, **options)
            torch.autograd.backward(result, self.loss_gradient)
        else:
            passed, result = style_tap(features, self.target, _WEIGHT, **options)
            torch.autograd.backward([passed, result], [upstream, self.loss_gradient])
            if not torch.equal(passed, self.features):
                result = torch.full_like(result, math.nan)
        gradient = torch.full_like(features, math.nan) if features.grad is None else features.grad
        return result.detach(), gradient

    def _check(
        self, op: str, direction: str, layout: str, error: float, allowed: float, problem: str | None = None
    ) -> Check:
        interpreted = self.backend == "triton" and self.device.type == "cpu"
        return Check(
            op=op,
            direction=direction,
            backend=self.backend,
            device="interpreter" if interpreted else str(self.device),
            dtype=str(self.mode.dtype).removeprefix("torch."),
            precision=self.mode.precision,
            layout=layout,
            layer=self.layer,
            shape=self.shape,
            error=error,
            budget=allowed,
            problem=problem,
        )


def worst(result: Tensor, exact: Tensor, allowed: Tensor) -> tuple[float, float]:
    """The error (see `Check`) and the budget of the image where one exceeds the other most; NaN counts as most."""
    difference = (result.double() - exact).reshape(len(exact), -1).abs().amax(1)
    peak = exact.reshape(len(exact), -1).abs().amax(1)
    peak_error = difference / torch.where(peak > 0, peak, 1.0) / _PEAK_BUDGETS
    error = torch.maximum(budget.relative_error(result, exact), peak_error)
    image = int((error / allowed).argmax())
    return error[image].item(), allowed[image].item()


@contextmanager
def _poisoned() -> Iterator[None]:
    """Within it, memory that torch hands out uninitialised holds NaN, so that an output that is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            # The mode is wanted for its filling alone; that cuBLAS may order its sums otherwise is no concern here.
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


if __name__ == "__main__":
    _main(sys.argv[1:])
