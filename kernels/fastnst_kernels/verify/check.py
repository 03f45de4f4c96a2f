"""One operation against float64: its results in one layout, and whether their errors are within their budgets."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import float32_products
from fastnst_kernels.verify import budget
from fastnst_kernels.verify.budget import Expected

Shape = tuple[int, int, int, int]

LAYOUTS: Mapping[str, torch.memory_format] = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}

# One wrong element among millions vanishes in a norm: its error, against the largest element, may be this many budgets.
_PEAK_BUDGETS = 8


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
class Site:
    """Where and on what an operation is checked: a backend, its device, a named shape and a mode."""

    backend: str
    device: torch.device
    layer: str
    shape: Shape
    mode: Mode

    def noise(self, seed: int) -> Callable[..., Tensor]:
        """A source of float32 normal noise on the device, of the sizes that it is called with."""
        generator = torch.Generator().manual_seed(seed)
        return lambda *size: torch.randn(size, generator=generator).to(self.device)


@dataclass(frozen=True)
class Operation:
    """An operation on the data of one site. Its layouts share the data, and what float64 makes of them.

    `run` takes the layout and returns the results of each direction, in the order of those that are `expected`.
    """

    op: str
    variant: str
    run: Callable[[torch.memory_format], Mapping[str, Sequence[Tensor]]]
    expected: Mapping[str, Sequence[Expected]]


def differentiated(
    op: str,
    variant: str,
    x: Tensor,
    function: Callable[[Tensor], Tensor | Sequence[Tensor | None]],
    *,
    gradients: Sequence[Tensor],
    forward: Sequence[Expected],
    backward: Expected,
) -> Operation:
    """An operation on `x` alone: its results, and its gradient for the `gradients` of the results."""

    def run(layout: torch.memory_format) -> Mapping[str, Sequence[Tensor]]:
        leaf = x.to(memory_format=layout, copy=True).requires_grad_()
        results = function(leaf)
        outputs = [results] if isinstance(results, Tensor) else [result for result in results if result is not None]
        # Each gradient in the layout of its result.
        above = [torch.empty_like(a).copy_(b) for a, b in zip(outputs, gradients, strict=True)]
        torch.autograd.backward(outputs, above)
        gradient = torch.full_like(leaf, math.nan) if leaf.grad is None else leaf.grad
        return {"forward": [output.detach() for output in outputs], "backward": [gradient]}

    return Operation(op, variant, run, {"forward": forward, "backward": [backward]})


@dataclass(frozen=True)
class Check:
    """The results of one direction of an operation against float64: the worst of its images and results.

    `error` is ‖result − exact‖ / ‖exact‖, or an eighth of max|result − exact| / max|exact| where that is more, and NaN
    where there is no finite result. A budget of 0 asks for equality to the bit. `variant` names what is switched on,
    `device` is a torch device, or "interpreter", and `problem` what the op raised, if it did.
    """

    op: str
    variant: str
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

    @property
    def name(self) -> str:
        return f"{self.op} ({self.variant})" if self.variant else self.op

    @property
    def mode(self) -> str:
        dtype = f"torch.{self.dtype}"
        return next(mode.name for mode in MODES if (str(mode.dtype), mode.precision) == (dtype, self.precision))

    @property
    def share(self) -> float:
        """error / budget; infinite where that is no number."""
        return _share(self.error, self.budget)

    def as_dict(self) -> dict[str, Any]:
        """The fields and the verdict as JSON can hold them: a number that is not finite is None."""
        finite = {
            name: value if math.isfinite(value) else None
            for name, value in (("error", self.error), ("budget", self.budget))
        }
        return {**asdict(self), **finite, "shape": list(self.shape), "passed": self.passed}


def checks_of(operation: Operation, site: Site, layout: str) -> Iterator[Check]:
    """One check for each direction of the operation, in one layout."""
    problem = None
    results: Mapping[str, Sequence[Tensor]] = {}
    try:
        with _poisoned(), float32_products(site.mode.precision == "tf32"):
            results = operation.run(LAYOUTS[layout])
    except Exception as raised:  # noqa: BLE001  (whatever keeps a kernel from running is a failed check)
        problem = f"{type(raised).__name__}: {raised}".strip().splitlines()[0]
    interpreted = site.backend == "triton" and site.device.type == "cpu"
    for direction, expected in operation.expected.items():
        pairs = zip(results.get(direction, ()), expected, strict=problem is None)
        errors = [worst(result, wanted.exact, wanted.budget) for result, wanted in pairs]
        error, allowed = max(errors, key=lambda pair: _share(*pair), default=(math.nan, math.nan))
        yield Check(
            op=operation.op,
            variant=operation.variant,
            direction=direction,
            backend=site.backend,
            device="interpreter" if interpreted else str(site.device),
            dtype=str(site.mode.dtype).removeprefix("torch."),
            precision=site.mode.precision,
            layout=layout,
            layer=site.layer,
            shape=site.shape,
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
    image = int(torch.where(error == 0, 0.0, error / allowed).argmax())
    return error[image].item(), allowed[image].item()


def _share(error: float, allowed: float) -> float:
    if error == 0:
        return 0.0
    share = error / allowed if allowed > 0 else math.inf
    return math.inf if math.isnan(share) else share


@contextmanager
def _poisoned() -> Iterator[None]:
    """Within it, memory that torch hands out uninitialised holds NaN, so that an output that is not written shows."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            # The mode is wanted for its filling alone; that cuBLAS may order its sums otherwise is no concern here.
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
