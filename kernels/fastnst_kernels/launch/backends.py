"""The implementation that runs, by the device or as asked for, and the precision of torch's products beside it."""

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import torch
from torch import Tensor

BACKENDS = ("auto", "triton", "torch", "reference")
PRECISIONS = ("ieee", "tf32", "bf16")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST = torch.finfo(torch.float32).max
# Triton builds for NVIDIA's GPUs from Ampere on.
_LEAST_CAPABILITY = (8, 0)
# Not looked for in each call: torch.compile would break its graph there.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """The backends that can run tensors on `device`, the one that "auto" takes first.

    "triton" needs the triton package and a ROCm device or a CUDA one of capability 8.0 or more, or TRITON_INTERPRET=1
    for CPU tensors (slow: for verification). "torch" and "reference" (naive float64) run everywhere.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return ("triton", "torch", "reference") if _HAS_TRITON and _is_built_for(device) else ("torch", "reference")
    if device.type == "cpu" and _HAS_TRITON and _interpreting():
        return ("torch", "triton", "reference")
    return ("torch", "reference")


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend that `backend` means for tensors on `device`: "triton", "torch" or "reference".

    "auto" is the first of `available_backends`. Under the transforms of torch.func (grad, vjp, jvp, vmap …) all are
    "reference", which they can take apart. Raises ValueError for an unknown backend or one that cannot run on `device`,
    RuntimeError if triton is asked for and its package is missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = "triton" if device.type == "cuda" and _HAS_TRITON and _is_built_for(device) else "torch"
    # Under torch.compile a look at the environment would break the graph.
    elif backend == "triton" and not torch.compiler.is_compiling():
        _require_triton(device)
    return "reference" if is_transformed() else backend


def is_transformed() -> bool:
    """True within a function that torch.func transforms; torch.compile traces such functions in a way of its own."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A block in which products keep the dtype of their operands; torch's own takes 50 µs even where there is none."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def _is_built_for(device: torch.device) -> bool:
    """True where Triton builds kernels for this GPU; without any GPU it is taken for one of today's."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return True
    properties = torch.cuda.get_device_properties(device)
    return (properties.major, properties.minor) >= _LEAST_CAPABILITY


def _require_triton(device: torch.device) -> None:
    if not _HAS_TRITON:
        raise RuntimeError('backend "triton" needs the triton package: pip install triton, or use backend="torch"')
    if device.type not in ("cuda", "cpu", "meta"):
        raise ValueError(f'backend "triton" cannot run {device.type} tensors; use backend="torch"')
    if device.type == "cuda" and not _is_built_for(device):
        raise ValueError(
            f'backend "triton" needs a GPU of capability 8.0 or more, and {device} is older; use backend="torch"'
        )
    if device.type == "cpu" and not _interpreting():
        raise ValueError(
            'backend "triton" runs CPU tensors only in its interpreter: set TRITON_INTERPRET=1 before Python starts, '
            'or use backend="torch"'
        )


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def check_map(x: Tensor, backend: str, name: str, verbs: tuple[str, str] = ("has", "is")) -> str:
    """The backend that `backend` means for a map (B, C, H, W), or ValueError for other axes or an empty one; `name` and
    its verbs go into the message."""
    if x.ndim != 4:
        raise ValueError(f"{name} of shape {tuple(x.shape)} {verbs[0]} {x.ndim} axes; give (B, C, H, W)")
    if 0 in x.shape:
        raise ValueError(f"{name} of shape {tuple(x.shape)} {verbs[1]} empty; each axis must be 1 or more")
    return resolve_backend(backend, x.device)


def check_dtype(dtype: torch.dtype, backend: str, what: str = "features are") -> None:
    """Raises ValueError where `backend` takes no activations of `dtype`; `what` begins the message."""
    if dtype not in DTYPES and not (dtype == torch.float64 and backend != "triton"):
        allowed = "float32, float16 or bfloat16" + ("" if backend == "triton" else ", or float64")
        raise ValueError(f"{what} {dtype}; backend {backend!r} takes {allowed}")


def check_number(name: str, number: float) -> None:
    """Raises ValueError for a number that is not finite or beyond float32."""
    # Under torch.compile the number may be symbolic, and a look at its value would break the graph.
    if not torch.compiler.is_compiling() and not (math.isfinite(number) and abs(number) <= LARGEST):
        raise ValueError(f"{name} {number} is out of range; give a finite number of magnitude up to {LARGEST}")


def refuse_second_derivative(what: str) -> None:
    """For the backward of an autograd function: raises RuntimeError, which names the operations (`what`), where
    autograd records it, for its own derivative would be wrong or missing without a word."""
    # torch.compile traces with gradients on, and refuses second derivatives itself.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"the {what} operations have no second derivative; call backward without create_graph=True")


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Within it, torch's float32 products on a GPU are exact (ieee) or rounded (tf32), and exact on a CPU.

    The settings are the process's, and what they were before is put back. torch.compile reads the older name of the
    GPU's, which raises where it says something else.
    """
    cuda, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = cuda.fp32_precision, cpu.fp32_precision
    older = "high" if before[0] == "tf32" else "highest"
    with suppress(RuntimeError):
        older = torch.get_float32_matmul_precision()
    try:
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            cuda.fp32_precision = "tf32" if tf32 else "ieee"
        cpu.fp32_precision = "ieee"
        yield
    finally:
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision(older)
        cuda.fp32_precision, cpu.fp32_precision = before


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums, Gram matrices and losses for features of `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
