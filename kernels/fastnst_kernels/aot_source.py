"""A launch as triton's compiler takes it, ahead of time: the kernel with the types of its arguments."""

from typing import Any

import torch
from torch import Tensor
from triton.compiler import ASTSource

from fastnst_kernels.gpu import Gpu
from fastnst_kernels.launch import Launch

_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}


def source_of(launch: Launch, gpu: Gpu) -> Any:
    """The kernel with its arguments specialised as at a launch: ones are constants, multiples of 16 are known, and on
    AMD that a tensor spans less than 2 GiB."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for position, parameter in enumerate(launch.kernel.params):
        name = parameter.name
        if name in launch.constants:
            signature[name] = "constexpr"
            constants[name] = launch.constants[name]
            continue
        value = launch.arguments[name]
        known: list[list[Any]] = []
        if value is None:
            signature[name] = "constexpr"
            constants[name] = None
        elif isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            if value.storage_offset() * value.element_size() % 16 == 0:
                known.append(["tt.divisibility", 16])
            if gpu.backend == "hip" and value.untyped_storage().nbytes() < 2**31:
                known.append(["tt.pointer_range", 32])
        elif isinstance(value, bool):
            signature[name] = "u1"
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[name] = "constexpr"
            constants[name] = 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                known.append(["tt.divisibility", 16])
        if known:
            attributes[(position,)] = known
    return ASTSource(launch.kernel, signature, constants, attributes)
