"""Where and in what arithmetic a run happens: device, precision and backend, checked before anything is loaded."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fastnst_kernels.profiling.measure import versions as versions

from fastnst.errors import OptionError
from fastnst.network import winograd
from fastnst.network.process_settings import HeldSetting
from fastnst.options.options import Options


@dataclass(frozen=True)
class Runtime:
    """The resolved place of a run.

    `dtype` is that of the network's weights and features (float32, bfloat16 or float16); Grams, losses, image and
    optimiser are float32 always. `tf32` says whether float32 products may round their operands to 10 bits of mantissa,
    `winograd` whether convolutions are computed by Winograd transforms (on a CPU).
    """

    device: torch.device
    precision: str
    dtype: torch.dtype
    tf32: bool
    winograd: bool
    backend: str

    @property
    def dot_precision(self) -> str:
        """The kernels' name for the float32 product."""
        return "tf32" if self.tf32 else "ieee"

    @property
    def kernels(self) -> str:
        """The kernels' backend: "triton" or "torch", which is also what surrounds the reference losses."""
        wanted = self.device.type == "cuda" and self.backend in ("auto", "triton")
        return "triton" if wanted and importlib.util.find_spec("triton") is not None else "torch"


def _precision_of(convolution: Any, product: Any) -> HeldSetting[tuple[str, str]]:
    def read() -> tuple[str, str]:
        return convolution.fp32_precision, product.fp32_precision

    def write(values: tuple[str, str]) -> None:
        convolution.fp32_precision, product.fp32_precision = values

    return HeldSetting(read, write)


def _set_timed(value: bool) -> None:
    torch.backends.cudnn.benchmark = value


# Torch's stubs lack the convolutions.
_CUDA = _precision_of(torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
_MKLDNN = _precision_of(torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
_TIMED = HeldSetting(lambda: torch.backends.cudnn.benchmark, _set_timed)

_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "winograd": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def resolve_runtime(options: Options) -> Runtime:
    """The device, precision and backend that `options` ask for. Raises OptionError where this machine lacks them."""
    device = _device(options.device)
    precision = options.precision
    if precision == "auto":
        precision = _automatic_precision(device)
    if precision == "tf32" and device.type != "cuda":
        raise OptionError(f"precision tf32 needs a GPU and the device is {device}; use fp32")
    if precision == "winograd" and not (device.type == "cpu" and winograd.available()):
        raise OptionError(
            f"precision winograd needs a CPU for which torch has NNPACK, and the device is {device}; use fp32"
        )
    if precision == "fp16" and device.type == "cpu":
        raise OptionError("precision fp16 is a thousand times slower than fp32 on a CPU; use fp32 or bf16")
    backend = options.backend
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            raise OptionError("backend triton needs the package triton; install it (pip install triton) or use torch")
        if device.type != "cuda":
            raise OptionError(f"backend triton needs a GPU and the device is {device}; use auto or torch")
    return Runtime(device, precision, _DTYPES[precision], precision == "tf32", precision == "winograd", backend)


def _automatic_precision(device: torch.device) -> str:
    """The quickest arithmetic that ends within 1 % of float32's final loss (`bench.bench_precision`).

    bfloat16 does not: it ends up to 6 % above, so that CPUs that have it take Winograd's as well. float16 does where a
    GPU's rounding is emulated, and is left to those who ask for it until one has shown it.
    """
    if device.type == "cuda":
        return "tf32"
    return "winograd" if device.type == "cpu" and winograd.available() else "fp32"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
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
            raise OptionError(f"device {name} was asked for, but torch cannot reach one here; use auto or cpu")
    return device


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Within it, float32 products on a GPU are exact (ieee) or rounded (tf32), and exact on a CPU, whatever was set.

    The settings are the process's: a thread that needs the other of the two on a GPU waits until no run needs this one.
    """
    with _MKLDNN.held(("ieee", "ieee")):
        if not torch.cuda.is_available():
            yield
            return
        wanted = "tf32" if tf32 else "ieee"
        with _CUDA.held((wanted, wanted)):
            yield


@contextmanager
def timed_algorithms() -> Iterator[None]:
    """Within it, cuDNN times its algorithms at the first call of each shape; every iteration has the same shapes.

    Without a GPU nothing is touched.
    """
    if not torch.cuda.is_available():
        yield
        return
    with _TIMED.held(True):
        yield


@contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Within it, the caller's torch modes (no_grad, inference_mode, autocast, a default device) do not reach a run."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.device("cpu"),
    ):
        yield


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out; on a CPU, and for pinned memory, torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    texts = (
        "can't allocate memory",
        "not enough memory",
        "Storage size calculation overflowed",
        "CUDA error: out of memory",
    )
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
