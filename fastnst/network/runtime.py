"""The place of a run and its arithmetic: device, precision and backend, and the settings of the process for them."""

import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from fastnst_kernels.profiling.measure import versions as versions

from fastnst.errors import FastnstError, FastnstWarning, OptionError
from fastnst.network import trial, winograd

_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "winograd": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# Slower by less is not worth a word.
_SLOW = 1.3
_BACKENDS = ("auto", "triton", "torch", "reference")


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
        """The kernels' backend: "triton" or "torch", which surrounds the reference losses as well."""
        wanted = self.device.type == "cuda" and self.backend in ("auto", "triton")
        return "triton" if wanted and importlib.util.find_spec("triton") is not None else "torch"


def resolve_runtime(device: str = "auto", precision: str = "auto", backend: str = "auto") -> Runtime:
    """The runtime of the options of these names. Raises OptionError for an unknown word, or where this machine lacks
    what it asks for."""
    place = _device(device)
    if precision == "auto":
        precision = _automatic_precision(place)
    if precision not in _DTYPES:
        raise OptionError(f"unknown precision {precision!r}; choose one of: auto, {', '.join(_DTYPES)}")
    if backend not in _BACKENDS:
        raise OptionError(f"unknown backend {backend!r}; choose one of: {', '.join(_BACKENDS)}")
    if precision == "tf32" and place.type != "cuda":
        raise OptionError(f"precision tf32 needs a GPU and the device is {place}; use fp32")
    if precision == "winograd" and not (place.type == "cpu" and winograd.available()):
        raise OptionError(
            f"precision winograd needs a CPU for which torch has NNPACK, and the device is {place}; use fp32"
        )
    if precision == "fp16" and place.type == "cpu":
        raise OptionError("precision fp16 is a thousand times slower than fp32 on a CPU; use fp32 or bf16")
    if precision == "bf16" and place.type == "cpu":
        _warn_if_slow(precision)
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            raise OptionError("backend triton needs the package triton; install it (pip install triton) or use torch")
        if place.type != "cuda":
            raise OptionError(f"backend triton needs a GPU and the device is {place}; use auto or torch")
    return Runtime(
        device=place,
        precision=precision,
        dtype=_DTYPES[precision],
        tf32=precision == "tf32",
        winograd=precision == "winograd",
        backend=backend,
    )


def _automatic_precision(device: torch.device) -> str:
    """The quickest arithmetic that ends within 1 % of float32's final loss (`bench.bench_precision`): on a CPU the
    winner of a trial."""
    if device.type == "cuda":
        return "tf32"
    return trial.quickest() if device.type == "cpu" else "fp32"


def _warn_if_slow(precision: str) -> None:
    """Warns where 16 bits take longer than float32 on this CPU, as they do without units of their own."""
    seconds = trial.trial()
    factor = seconds[precision] / min(seconds.values())
    if factor > _SLOW:
        warnings.warn(
            f"precision {precision} takes {factor:.1f} times as long as {trial.quickest()} on this CPU; use auto",
            FastnstWarning,
            stacklevel=3,
        )


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


class SharedSetting:
    """Attributes that belong to the whole process, and have one value for as long as the runs of any thread hold it.

    Threads that want the same value hold it together, one that wants another waits for them, and the last to let go
    puts back what was there before the first, whatever order they end in.
    """

    def __init__(self, *attributes: tuple[object, str]) -> None:
        self._attributes = attributes
        self._changed = threading.Condition()
        self._holders: list[tuple[int, object]] = []
        self._restore = ExitStack()

    @contextmanager
    def held(self, value: object) -> Iterator[None]:
        """Gives the attributes `value` within its block. Raises FastnstError where this thread itself holds another."""
        holder = threading.get_ident(), value
        with self._changed:
            if own := [held for thread, held in self._holders if thread == holder[0] and held != value]:
                raise FastnstError(
                    f"this run needs {value} while one that it is within needs {own[0]}; begin it when that has ended, "
                    "or give both the same precision"
                )
            self._changed.wait_for(lambda: all(held == value for _, held in self._holders))
            if not self._holders:
                for place, name in self._attributes:
                    self._restore.callback(setattr, place, name, getattr(place, name))
                    setattr(place, name, value)
            self._holders.append(holder)
        try:
            yield
        finally:
            with self._changed:
                self._holders.remove(holder)
                if not self._holders:
                    self._restore.close()
                self._changed.notify_all()


# Torch's stubs lack some of these.
_CUDNN = SharedSetting((torch.backends.cudnn.conv, "fp32_precision"))  # type: ignore[attr-defined]
_CUBLAS = SharedSetting((torch.backends.cuda.matmul, "fp32_precision"))
_MKLDNN = SharedSetting(
    (torch.backends.mkldnn.conv, "fp32_precision"),  # type: ignore[attr-defined]
    (torch.backends.mkldnn.matmul, "fp32_precision"),  # type: ignore[attr-defined]
)
_TIMED = SharedSetting((torch.backends.cudnn, "benchmark"))


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Makes float32 convolutions on a GPU exact (ieee) or rounded (tf32), and all other products exact, whatever was
    set: the optimiser's inner products are among them.

    The settings are the process's: a thread that needs the other of the two on a GPU waits until no run needs this one.
    """
    with ExitStack() as settings:
        settings.enter_context(_MKLDNN.held("ieee"))
        if torch.cuda.is_available():
            settings.enter_context(_CUBLAS.held("ieee"))
            settings.enter_context(_CUDNN.held("tf32" if tf32 else "ieee"))
        yield


@contextmanager
def timed_algorithms() -> Iterator[None]:
    """Lets cuDNN time its algorithms at the first call of each shape, since every iteration has the same shapes.

    Without a GPU nothing is touched.
    """
    with ExitStack() as settings:
        if torch.cuda.is_available():
            settings.enter_context(_TIMED.held(True))
        yield


@contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Keeps the caller's torch modes (no_grad, inference_mode, autocast, a default device) from a run."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.device("cpu"),
    ):
        yield


@cache
def _first_process() -> int:
    """The process of the first call; one that is forked from it inherits the answer."""
    return os.getpid()


def check_fork() -> None:
    """Raises FastnstError in a process forked from one that had called it, where a run would hang.

    OpenMP's threads do not come along, and the first operation waits for them for ever. Where torch uses one thread
    there is nothing to wait for.
    """
    if _first_process() != os.getpid() and torch.get_num_threads() > 1:
        raise FastnstError(
            "this process was forked from one that had run, and torch's threads did not come along; start processes "
            "by spawn, or call torch.set_num_threads(1) in this one first"
        )


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
