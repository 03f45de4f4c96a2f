# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Kernels built before they are launched: the launches of a computation on meta tensors, each binary once, in threads.

Triton builds a kernel when it is first launched, and the next one only then. Its compilers, LLVM and ptxas, let other
threads of Python run: a GPU's first iteration then waits for the slowest kernel, not for all of them.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from triton.compiler.errors import CompilationError

from fastnst_kernels.launch.gpu import Gpu
from fastnst_kernels.launch.launch import Launch, launch_gpu

_ATTEMPTS = 5
_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}


def specialised(launch: Launch, gpu: Gpu) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
    """The kernel's signature, constants and attributes as at a launch: ones and None are constants, multiples of 16 are
    known, and on AMD that a tensor spans less than 2 GiB."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for position, parameter in enumerate(launch.kernel.params):
        name, known = parameter.name, []
        value = launch.arguments[name]
        is_one = type(value) is int and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or is_one:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            if value.storage_offset() * value.element_size() % 16 == 0:
                known.append(["tt.divisibility", 16])
            if gpu.backend == "hip" and value.untyped_storage().nbytes() < 2**31:
                known.append(["tt.pointer_range", 32])
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                known.append(["tt.divisibility", 16])
        if known:
            attributes[(position,)] = known
    return signature, constants, attributes


def distinct(launches: Iterable[Launch], gpu: Gpu) -> Mapping[str, Launch]:
    """A launch for each binary, in their order."""
    binaries: dict[str, Launch] = {}
    for launch in launches:
        binaries.setdefault(f"{launch.kernel.__name__} {specialised(launch, gpu)} {launch.options}", launch)
    return binaries


def build(launches: Iterable[Launch], device: torch.device, pool: Executor) -> list[Future[None]]:
    """Has the kernels of the launches built for `device`, a GPU, each binary once, by the threads of `pool`. What
    cannot be built is left for the launch itself to report."""
    return [pool.submit(_build, launch, device) for launch in distinct(launches, launch_gpu(device)).values()]


def _build(launch: Launch, device: torch.device) -> None:
    with torch.cuda.device(device):
        for _ in range(_ATTEMPTS):
            # Python's parser of 3.11 counts its depth for all threads together, and refuses right code now and then.
            with suppress(CompilationError, SystemError):
                launch.kernel.warmup(**launch.arguments, **launch.options, grid=(launch.grid,))
                return
        launch.kernel.warmup(**launch.arguments, **launch.options, grid=(launch.grid,))
