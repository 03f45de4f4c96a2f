# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Launches of Triton kernels: how they run, and the dtypes and precisions that they are told."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnst_kernels.launch.gpu import INTERPRETER, Gpu, gpu_of
from fastnst_kernels.launch.heuristic import Problem, power_of_two
from fastnst_kernels.launch.layout import aligned, channels_last

# Elements of a block where nothing is multiplied, fewer where they are read one by one, and the most along the
# contiguous axis.
_ELEMENTS = 2048
_UNALIGNED_ELEMENTS = 1024
_ROW = 512
# Partial sums that one step of the last sum reads.
_FINISH_BLOCK = 1024


@dataclass(frozen=True)
class Launch:
    """One kernel launch: everything that decides which binary runs, and on what."""

    kernel: Any
    grid: int
    arguments: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 1

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options. Fused multiply-adds are asked for, because triton is about to change its default."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}


# The GPU that meta tensors are planned for, the present one where None, and the list that their launches are noted in.
_planned: ContextVar[tuple[Gpu | None, list[Launch]] | None] = ContextVar("planned launches", default=None)


def interpreted() -> bool:
    """True if this process runs the kernels in Triton's interpreter, which is settled when they are first imported."""
    return not isinstance(finish_sum_kernel, triton.runtime.JITFunction)


def input_precision(dtype: torch.dtype, precision: str, gpu: Gpu) -> str:
    """The precision of `tl.dot` for operands in `dtype`: "tf32" where asked for and the GPU has it, else "ieee"."""
    return "tf32" if dtype == torch.float32 and precision == "tf32" and gpu.tf32 else "ieee"


def problem_of(features: Tensor, dot_precision: str) -> Problem:
    """The facts of readable features (B, C, H, W) that a configuration depends on, for products in `dot_precision`."""
    return Problem(
        channels=features.shape[1],
        positions=features.shape[2] * features.shape[3],
        batch=features.shape[0],
        itemsize=features.element_size(),
        tensor_cores=features.dtype != torch.float32 or dot_precision == "tf32",
        aligned=aligned(features),
    )


def plain_block(features: Tensor, vectors: bool) -> tuple[int, int]:
    """The block (channels, positions) of a pass over the elements, smaller where they are not read in `vectors`."""
    last = channels_last(features)
    run, other = features.shape[1], features.shape[2] * features.shape[3]
    if not last:
        run, other = other, run
    row = min(_ROW, power_of_two(run))
    rows = min((_ELEMENTS if vectors else _UNALIGNED_ELEMENTS) // row, power_of_two(other))
    return (row, rows) if last else (rows, row)


@triton.jit(do_not_specialize=["parts"])
def finish_sum_kernel(
    partial,  # (B, parts) float32
    result,  # (B,) float32
    parts,
    factor,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), dtype=tl.float32)
    for offset in range(0, parts, BLOCK):
        sums += tl.load(partial + image * parts + offset + i, mask=offset + i < parts, other=0.0)
    tl.store(result + image, tl.sum(sums, axis=0) * factor)


def finish_sum(partial: Tensor, factor: float) -> Tensor:
    """factor · Σ of the partial sums (B, parts) in a fixed order: (B,) float32."""
    batch, parts = partial.shape
    result = torch.empty((batch,), dtype=torch.float32, device=partial.device)
    arguments = {"partial": partial, "result": result, "parts": parts, "factor": factor, "BLOCK": _FINISH_BLOCK}
    run(Launch(finish_sum_kernel, batch, arguments), partial.device)
    return result


def launch_gpu(device: torch.device) -> Gpu:
    """The GPU that a launch is planned for: the interpreter's for the CPU, that of `planned` for meta tensors."""
    planning = _planned.get()
    if device.type == "meta" and planning is not None and planning[0] is not None:
        return planning[0]
    if device.type == "cpu":
        return INTERPRETER
    return gpu_of(torch.cuda.current_device() if device.index is None else device.index)


@contextmanager
def planned(gpu: Gpu | None = None) -> Iterator[list[Launch]]:
    """The launches that this thread makes on meta tensors within the block, as on `gpu`, or on the present one."""
    launches: list[Launch] = []
    token = _planned.set((gpu, launches))
    try:
        yield launches
    finally:
        _planned.reset(token)


def run(launch: Launch, device: torch.device) -> None:
    """Runs a launch on `device`; one on meta tensors is `planned` at most."""
    if device.type == "meta":
        if (planning := _planned.get()) is not None:
            planning[1].append(launch)
    elif device.type == "cpu":
        with _widened(launch.arguments) as arguments:
            launch.kernel[(launch.grid,)](**arguments, **launch.options)
    else:
        with torch.cuda.device(device):
            launch.kernel[(launch.grid,)](**launch.arguments, **launch.options)


@contextmanager
def _widened(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments with bfloat16 tensors as float32 ones, which are rounded back after the block.

    The interpreter multiplies and compares the raw bits of bfloat16, and truncates where a GPU rounds.
    """
    widened = dict(arguments)
    copies: dict[int, tuple[Tensor, Tensor]] = {}
    for name, tensor in arguments.items():
        if isinstance(tensor, Tensor) and tensor.dtype == torch.bfloat16:
            # Of the whole memory, so that tensors which share some still do.
            memory = tensor.untyped_storage()
            if memory.data_ptr() not in copies:
                whole = torch.empty(0, dtype=torch.bfloat16).set_(memory)
                copies[memory.data_ptr()] = whole, whole.float()
            wide = copies[memory.data_ptr()][1]
            widened[name] = wide.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    yield widened
    for whole, wide in copies.values():
        whole.copy_(wide)
