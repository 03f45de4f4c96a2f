"""Which implementation runs: by the device, or as asked for."""

import importlib.util
import os

import torch

BACKENDS = ("auto", "triton", "torch", "reference")
PRECISIONS = ("ieee", "tf32")


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """The backends that can run tensors on `device`, the one that "auto" takes first.

    "triton" needs the triton package and a CUDA or ROCm device, or TRITON_INTERPRET=1 for CPU tensors (slow: for
    verification). "torch" and "reference" (naive float64) run everywhere.
    """
    kind = torch.device(device).type
    installed = importlib.util.find_spec("triton") is not None
    if kind == "cuda":
        return ("triton", "torch", "reference") if installed else ("torch", "reference")
    if kind == "cpu" and installed and _interpreting():
        return ("torch", "triton", "reference")
    return ("torch", "reference")


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend that `backend` means for tensors on `device`: "triton", "torch" or "reference".

    "auto" is "triton" on CUDA and ROCm and "torch" elsewhere. Raises ValueError for an unknown backend or one that
    cannot run on `device`, RuntimeError if the triton package is missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = "triton" if device.type == "cuda" else "torch"
    # Under torch.compile the look for the package would break the graph.
    if backend == "triton" and not torch.compiler.is_compiling():
        _require_triton(device.type)
    return backend


def _require_triton(device_type: str) -> None:
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError('backend "triton" needs the triton package: pip install triton, or use backend="torch"')
    if device_type not in ("cuda", "cpu"):
        raise ValueError(f'backend "triton" cannot run {device_type} tensors; use backend="torch"')
    if device_type == "cpu" and not _interpreting():
        raise ValueError(
            'backend "triton" runs CPU tensors only in its interpreter: set TRITON_INTERPRET=1 before Python starts, '
            'or use backend="torch"'
        )


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
