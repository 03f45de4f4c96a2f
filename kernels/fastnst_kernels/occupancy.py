"""How many blocks and warps of a kernel a multiprocessor holds at once, from the limits that the vendors publish.

NVIDIA: CUDA C++ Programming Guide, "Compute Capabilities", and the occupancy calculator's allocation granularities.
AMD: CDNA 3 and RDNA 3 instruction set manuals; vector registers are allocated in LLVM's granules (AMDGPUBaseInfo).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType


@dataclass(frozen=True)
class Limits:
    """What one multiprocessor (compute unit on AMD) has, and in which portions it is given out.

    `registers` are 32-bit ones of one of its `partitions` (SIMDs on AMD), counted for a single thread's warp of
    `warp_size` threads: a warp of n registers a thread takes n, rounded up to `register_granule`. `warps` is the most
    for each partition; `shared` and `shared_granule` are bytes, `shared_reserved` those that the system takes of each
    block; `tensor_columns` are columns of tensor memory, 0 where there is none.
    """

    registers: int
    register_granule: int
    partitions: int
    warps: int
    blocks: int
    shared: int
    shared_granule: int
    shared_reserved: int
    tensor_columns: int = 0


def _nvidia(warps: int, blocks: int, kibibytes: int, tensor_columns: int = 0) -> Limits:
    # 65,536 registers in four partitions are 512 for each thread of one warp; 256 for a warp at a time are 8 a thread.
    return Limits(512, 8, 4, warps // 4, blocks, kibibytes * 1024, 128, 1024, tensor_columns)


LIMITS: Mapping[str, Limits] = MappingProxyType(
    {
        "sm_80": _nvidia(64, 32, 164),
        "sm_86": _nvidia(48, 16, 100),
        "sm_89": _nvidia(48, 24, 100),
        "sm_90": _nvidia(64, 32, 228),
        "sm_100": _nvidia(64, 32, 228, tensor_columns=512),
        "sm_120": _nvidia(48, 24, 100),
        # Workgroups of more than one wave need a barrier each: there are 16 (CDNA), and 32 for two units (RDNA).
        "gfx942": Limits(512, 8, 4, 8, 16, 65_536, 512, 0),
        "gfx1100": Limits(1536, 24, 2, 16, 16, 65_536, 1024, 0),
    }
)


@dataclass(frozen=True)
class Occupancy:
    """Blocks and warps that one multiprocessor holds of a kernel, the most warps that it can hold, and their limit.

    `limited_by` is "warps", "blocks", "registers", "shared" or "tensor memory": the scarcest, the first of these where
    several are. On AMD a warp is a wave, and `warps_per_partition` the waves of one SIMD.
    """

    blocks: int
    warps: int
    max_warps: int
    warps_per_partition: float
    limited_by: str


def occupancy(limits: Limits, *, registers: int, shared: int, num_warps: int, tensor_columns: int = 0) -> Occupancy:
    """The occupancy of blocks of `num_warps` warps with `registers` a thread and `shared` bytes a block.

    With w = `num_warps` and p partitions, as in CUDA's cuda_occupancy.h:
    blocks = min(⌊p·warps/w⌋, blocks, ⌊p·⌊R/⌈r⌉⌋/w⌋, ⌊S/⌈s + reserved⌉⌋, ⌊columns/c⌋), where ⌈⌉ rounds up to granules.
    """
    by = {
        "warps": limits.warps * limits.partitions // num_warps,
        "blocks": limits.blocks,
        "registers": (
            limits.registers // _rounded(max(1, registers), limits.register_granule) * limits.partitions // num_warps
        ),
    }
    block_shared = _rounded(shared + limits.shared_reserved, limits.shared_granule)
    if block_shared:
        by["shared"] = limits.shared // block_shared
    if tensor_columns and limits.tensor_columns:
        by["tensor memory"] = limits.tensor_columns // tensor_columns
    blocks = min(by.values())
    return Occupancy(
        blocks=blocks,
        warps=blocks * num_warps,
        max_warps=limits.warps * limits.partitions,
        warps_per_partition=blocks * num_warps / limits.partitions,
        limited_by=next(name for name, most in by.items() if most == blocks),
    )


def _rounded(number: int, granule: int) -> int:
    return ceil(number / granule) * granule
