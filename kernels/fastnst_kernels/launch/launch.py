# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Launches and plans of Triton kernels: how they run, and the dtypes and precisions that they are told."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from fastnst_kernels.launch.gpu import INTERPRETER, Gpu, gpu_of


@dataclass(frozen=True)
class Launch:
    """One kernel launch: everything that decides which binary runs, and on what."""

    kernel: Any
    grid: int
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 1

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options. Fused multiply-adds are asked for, because triton is about to change its default."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Plan:
    """Launches in their order, and the tensors that they write."""

    launches: Sequence[Launch]
    outputs: Sequence[Tensor] = field(default=())


@triton.jit
def _probe():
    pass


def interpreted() -> bool:
    """True if this process runs the kernels in Triton's interpreter, which is settled when they are first imported."""
    return not isinstance(_probe, triton.runtime.JITFunction)


def upcast(dtype: torch.dtype) -> bool:
    """True if a kernel has to widen operands of `dtype`: the interpreter multiplies the raw bits of bfloat16."""
    return interpreted() and dtype == torch.bfloat16


def stored(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a kernel writes for a result in `dtype`: the interpreter truncates on a cast to bfloat16, so that
    there it is float32, which torch rounds."""
    return torch.float32 if upcast(dtype) else dtype


def input_precision(dtype: torch.dtype, precision: str, gpu: Gpu) -> str:
    """The precision of `tl.dot` for operands in `dtype`: "tf32" where asked for and the GPU has it, else "ieee"."""
    return "tf32" if dtype == torch.float32 and precision == "tf32" and gpu.tf32 else "ieee"


def launch_gpu(device: torch.device) -> Gpu:
    """The GPU that a launch on `device` is planned for; the interpreter's for the CPU."""
    if device.type == "cpu":
        return INTERPRETER
    return gpu_of(torch.cuda.current_device() if device.index is None else device.index)


def run(plan: Plan, device: torch.device) -> Sequence[Tensor]:
    """Runs the launches of `plan` on `device`, and returns its outputs."""
    with nullcontext() if device.type == "cpu" else torch.cuda.device(device):
        for launch in plan.launches:
            launch.kernel[(launch.grid,)](**launch.arguments, **launch.constants, **launch.options)
    return plan.outputs
