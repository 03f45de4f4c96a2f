"""A step of the profile, how it is checked and measured, and the ceilings that its time is compared with."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import float32_products
from fastnst_kernels.profiling.measure import (
    Contender,
    Timing,
    copy_bandwidth,
    interleaved,
    peak_extra_bytes,
    product_rate,
)
from fastnst_kernels.verify.budget import Expected
from fastnst_kernels.verify.check import worst

LARGEST_SIZE = 4096
# The plain form rounds where it likes; farther off than this it computes something else.
_PLAIN_ERROR = 0.05


class Setting(Protocol):
    """The place and the arithmetic of a measurement: `dtype` is the features', `precision` its name (fp32, tf32, bf16,
    fp16), `dot_precision` the kernels' (one of `PRECISIONS`), and `backend` theirs too."""

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
class Work:
    """The least bytes that an operation moves, and the floating-point operations."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Roofline:
    """The machine's ceilings: bytes per second of a copy, FLOP per second of a large product."""

    bandwidth: float
    rate: float

    def seconds(self, work: Work) -> float:
        return max(work.bytes / self.bandwidth, work.flops / self.rate)


@dataclass(frozen=True)
class Step:
    """One operation at one layer, its contenders by implementation, and the expected result: that of "fastnst" has to
    be within the budget, that of another within 5 %. `features` has the layer's shape and dtype."""

    layer: str
    operation: str
    work: Work
    features: Tensor
    contenders: Mapping[str, Contender]
    expected: Callable[[], Expected]


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
        for name, amount in (
            ("gigabytes_per_second", self.work.bytes / 1e9),
            ("teraflops_per_second", self.work.flops / 1e12),
        ):
            values[name] = None if self.timing is None else amount / self.timing.median
        return values


def measure_roofline(setting: Setting) -> Roofline:
    """The ceilings of the device in the dtype of `setting`; of float32 on a CPU that multiplies those faster."""
    rate = product_rate(setting.device, setting.dtype, setting.tf32)
    if setting.device.type == "cpu":
        rate = max(rate, product_rate(setting.device, torch.float32))
    return Roofline(copy_bandwidth(setting.device), rate)


def measured(steps: Iterable[Step], setting: Setting, *, rounds: int = 7) -> Iterator[Measurement]:
    """Measures each contender of each step, once its result is right: within its budget of float64 if it is ours, and
    within 5 % if not.

    Raises ArithmeticError where our own result is wrong.
    """
    roofline = measure_roofline(setting)
    with float32_products(setting.tf32):
        for step in steps:
            errors, problems = _checked(step)
            sound = {name: prepare for name, prepare in step.contenders.items() if name not in problems}
            calls = 10 if setting.device.type == "cuda" else 1
            timings = interleaved(sound, setting.device, rounds=rounds, calls=calls, replay=True)
            for name in step.contenders:
                yield Measurement(
                    layer=step.layer,
                    shape=tuple(step.features.shape),
                    precision=setting.precision,
                    operation=step.operation,
                    implementation=name,
                    work=step.work,
                    least_seconds=roofline.seconds(step.work),
                    error=errors.get(name),
                    timing=timings.get(name),
                    extra_bytes=peak_extra_bytes(sound[name], setting.device) if name in sound else None,
                    features=step.features.numel() * step.features.element_size(),
                    problem=problems.get(name),
                )


def _checked(step: Step) -> tuple[dict[str, float], dict[str, str]]:
    """Each contender's error against float64, and the problem that keeps it from being timed."""
    errors: dict[str, float] = {}
    problems: dict[str, str] = {}
    expected = step.expected()
    for name, prepare in step.contenders.items():
        try:
            result: Any = prepare()()
        except Exception as raised:
            if name != "compile" or isinstance(raised, torch.OutOfMemoryError):
                raise
            problems[name] = f"{type(raised).__name__}: {raised}".strip().splitlines()[0]
            continue
        allowed = expected.budget if name == "fastnst" else torch.full_like(expected.budget, _PLAIN_ERROR)
        errors[name], limit = worst(result.detach(), expected.exact, allowed)
        if not errors[name] <= limit:
            if name == "fastnst":
                raise ArithmeticError(
                    f"{step.operation} at {step.layer} is wrong (error {errors[name]:.3g}, budget {limit:.3g}), so it "
                    "is not timed; run fastnst verify"
                )
            problems[name] = f"wrong result: relative error {errors[name]:.3g}"
    return errors, problems
