"""The place of a run and its arithmetic: device, precision and backend."""

import importlib.util
from dataclasses import dataclass

import torch
from fastnst_kernels import BACKENDS, available_backends
from fastnst_kernels.launch.layout import exact_device
from fastnst_kernels.profiling.measure import versions as versions

from fastnst.errors import OptionError, check_choice, warn
from fastnst.network import trial

_DTYPES = {**dict.fromkeys(("fp32", "tf32", "winograd"), torch.float32), "bf16": torch.bfloat16, "fp16": torch.float16}
# Slower by less is not worth a word.
_SLOW = 1.3
# The capabilities from which NVIDIA's GPUs multiply float16, and bfloat16 and TF32; AMD's numbers are higher.
_TURING, _AMPERE = (7, 5), (8, 0)


@dataclass(frozen=True)
class Runtime:
    """The resolved place of a run.

    `dtype` belongs to the network's weights and features (float32, bfloat16 or float16); Grams, losses, image and
    optimiser are float32 always. With `tf32`, float32 products may round their operands to 10 bits of mantissa; with
    `winograd`, convolutions are computed by Winograd transforms (on a CPU).
    """

    device: torch.device
    precision: str
    dtype: torch.dtype
    tf32: bool
    winograd: bool
    backend: str

    @property
    def dot_precision(self) -> str:
        """The kernels' name for how products are computed."""
        if self.device.type == "cpu" and self.dtype == torch.bfloat16:
            return "bf16"
        return "tf32" if self.tf32 else "ieee"

    @property
    def kernels(self) -> str:
        """The kernels' backend: "triton" or "torch", which surrounds the reference losses as well. Meta tensors stand
        for those of Triton's kernels."""
        if self.device.type == "meta":
            return "triton"
        wanted = self.device.type == "cuda" and self.backend in ("auto", "triton")
        return "triton" if wanted and "triton" in available_backends(self.device) else "torch"


def resolve_runtime(device: str = "auto", precision: str = "auto", backend: str = "auto") -> Runtime:
    """The runtime of these options. Raises OptionError for what is unknown, or not to be had on this machine."""
    place = _device(device)
    if precision == "auto":
        precision = _automatic_precision(place)
    check_choice("precision", precision, ("auto", *_DTYPES))
    check_choice("backend", backend, BACKENDS)
    if precision == "tf32" and place.type != "cuda":
        raise OptionError(f"precision tf32 needs a GPU and the device is {place}; use fp32")
    if precision in ("tf32", "bf16") and place.type == "cuda" and _capability(place) < _AMPERE:
        raise OptionError(
            f"precision {precision} needs a GPU of capability 8.0 or more, and {place} is older; use fp16"
        )
    if precision == "winograd" and place.type != "cpu":
        raise OptionError(f"precision winograd needs a CPU and the device is {place}; use fp32")
    if precision == "fp16" and place.type == "cpu":
        raise OptionError("precision fp16 is a thousand times slower than fp32 on a CPU; use fp32 or bf16")
    if precision == "bf16" and place.type == "cpu":
        seconds = trial.trial()
        if (factor := seconds["bf16"] / min(seconds.values())) > _SLOW:
            warn(f"precision bf16 takes {factor:.1f} times as long as {trial.quickest()} on this CPU; use auto")
    if backend == "reference" and exact_device(place) != place:
        raise OptionError(f"backend reference computes in float64, which {place} does not have; use auto")
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            raise OptionError("backend triton needs the package triton; install it (pip install triton) or use torch")
        if place.type != "cuda":
            raise OptionError(f"backend triton needs a GPU and the device is {place}; use auto or torch")
        if "triton" not in available_backends(place):
            raise OptionError(f"backend triton needs a GPU of capability 8.0 or more, and {place} is older; use auto")
    return Runtime(
        device=place,
        precision=precision,
        dtype=_DTYPES[precision],
        tf32=precision == "tf32",
        winograd=precision == "winograd",
        backend=backend,
    )


def as_before(runtime: Runtime, device: object, precision: object) -> Runtime:
    """The runtime in the recorded precision of an earlier run on `device`, where it is to be had here."""
    if device != str(runtime.device) or not isinstance(precision, str):
        return runtime
    try:
        return resolve_runtime(str(runtime.device), precision, runtime.backend)
    except OptionError:
        return runtime


def without_overflow(runtime: Runtime) -> Runtime:
    """The runtime to go on with where float16's range is too short: bf16, or fp32 on a GPU that lacks it."""
    precision = "bf16" if _capability(runtime.device) >= _AMPERE else "fp32"
    return resolve_runtime(str(runtime.device), precision, runtime.backend)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _automatic_precision(device: torch.device) -> str:
    """The quickest arithmetic that ends where float32 does, but for chance (`bench.bench_precision`): on a CPU the
    winner of a trial, on a GPU fp16 where it has matrix units for it."""
    if device.type == "cuda":
        return "fp16" if _capability(device) >= _TURING else "fp32"
    return trial.quickest() if device.type == "cpu" else "fp32"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N, mps or xpu") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise OptionError(
                f"device {name} was asked for, but torch sees no GPU; use --device cpu or install a CUDA build"
            )
        if device.index is not None and device.index >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise OptionError(f"device {name} was asked for, but there are {count} GPUs; use cuda:0 … cuda:{count - 1}")
    elif device.type != "cpu":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if accelerator is None or accelerator.type != device.type:
            raise OptionError(f"device {name} was asked for, but torch finds none here; use auto or cpu")
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """True if `error` says that memory ran out; on a CPU, and for pinned memory, torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    texts = (
        "can't allocate memory",
        "not enough memory",
        "Storage size calculation overflowed",
        "CUDA error: out of memory",
    )
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
