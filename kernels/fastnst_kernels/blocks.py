"""What a launch configuration is: block sizes, splits, warps and pipeline stages, and how many tiles there are."""

from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

Mode = Literal["16-bit", "tf32", "ieee"]


@dataclass(frozen=True)
class PartialConfig:
    """The split-K partial Gram: tiles of `block_c` × `block_c`, `splits` ranges of `split_length` positions each."""

    block_c: int
    block_m: int
    splits: int
    split_length: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class ReduceConfig:
    """The reduction over splits: tiles of `tile` × `tile`, `split_block` splits read at once."""

    tile: int
    split_block: int
    num_warps: int


@dataclass(frozen=True)
class BackwardConfig:
    """The product (G − A)·F: output tiles of `block_c` channels × `block_m` positions, `block_k` channels at a time."""

    block_c: int
    block_m: int
    block_k: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Problem:
    """All that a configuration depends on besides the GPU.

    `itemsize` is the features' in bytes; `tensor_cores` is False for float32 in IEEE precision; rows that are not
    `aligned` to 16 bytes are read element by element, through registers.
    """

    channels: int
    positions: int
    batch: int
    itemsize: int
    tensor_cores: bool
    aligned: bool

    @property
    def mode(self) -> Mode:
        """The arithmetic: 16-bit features, or float32 ones multiplied as TF32 or exactly."""
        if self.itemsize == 2:
            return "16-bit"
        return "tf32" if self.tensor_cores else "ieee"

    @property
    def position_class(self) -> int:
        """The power of two nearest to the positions, on a logarithmic scale: one tuned entry serves a class."""
        return 1 << round(log2(self.positions))


# Positions of a split: tensor cores' accumulators truncate (Fasi et al. 2021), which lowers long sums after a ReLU.
LONGEST_SUM = 4096


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def pairs_of(blocks: int) -> int:
    """Tiles on and above the diagonal of `blocks` × `blocks` tiles."""
    return blocks * (blocks + 1) // 2


def partial_stage_bytes(problem: Problem, block_c: int, block_m: int) -> int:
    """Shared memory of one pipeline stage of the partial Gram; a matrix of one tile has one operand."""
    return (1 if problem.channels <= block_c else 2) * block_c * block_m * problem.itemsize


def backward_stage_bytes(problem: Problem, block_c: int, block_m: int, block_k: int) -> int:
    """Shared memory of one pipeline stage of the product (G − A)·F."""
    return (block_c + block_m) * block_k * problem.itemsize


def split_evenly(
    problem: Problem, *, block_c: int, block_m: int, splits: int, num_warps: int, num_stages: int
) -> PartialConfig:
    """About `splits` equal splits of whole blocks of positions, and more where tensor cores would sum too long."""
    if problem.tensor_cores:
        splits = max(splits, ceil(problem.positions / LONGEST_SUM))
    blocks = ceil(problem.positions / block_m)
    length = ceil(blocks / min(splits, blocks)) * block_m
    if problem.tensor_cores:
        length = min(length, LONGEST_SUM)
    return PartialConfig(block_c, block_m, ceil(problem.positions / length), length, num_warps, num_stages)
