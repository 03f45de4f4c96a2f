"""Launch parameters by an analytic heuristic: shape, dtype and GPU decide, nothing is tuned at run time.

Winners that are measured on a GPU go in here as a table by architecture.
"""

from dataclasses import dataclass
from math import ceil

from fastnst_kernels.launch.gpu import Gpu

# Positions of a split: tensor cores' accumulators truncate (Fasi et al. 2021), which lowers long sums after a ReLU.
LONGEST_SUM = 4096
# Splits from which the reduction, which walks over them, is cut into more and smaller tiles.
_MANY_SPLITS = 512
# More rounds of blocks than these even out by themselves, and each block of a round writes a tile.
_MOST_WAVES = 3


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


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def pairs_of(blocks: int) -> int:
    """Tiles on and above the diagonal of `blocks` × `blocks` tiles."""
    return blocks * (blocks + 1) // 2


def split_evenly(positions: int, block: int, splits: int, longest: int) -> tuple[int, int]:
    """About `splits` equal splits of whole blocks of positions: how many, and their length, at most `longest`."""
    blocks = ceil(positions / block)
    length = min(ceil(blocks / min(splits, blocks)) * block, longest)
    return ceil(positions / length), length


def partial_stage_bytes(problem: Problem, block_c: int, block_m: int) -> int:
    """Shared memory of one pipeline stage of the partial Gram; a matrix of one tile has one operand."""
    return (1 if problem.channels <= block_c else 2) * block_c * block_m * problem.itemsize


def _stages(stage_bytes: int, wanted: int, gpu: Gpu) -> int:
    """As many pipeline stages as wanted, or as fit into 15/16 of the shared memory: barriers need some of it."""
    return max(1, min(wanted, gpu.shared_limit * 15 // 16 // stage_bytes))


def _depth(itemsize: int, roomy: bool) -> int:
    """Elements of the summed axis at a time: 128 bytes, or half of it where registers are short."""
    return (64 if itemsize == 2 else 32) // (1 if roomy else 2)


def _roomy(aligned: bool, gpu: Gpu) -> bool:
    """True if large tiles fit the registers: not where rows are read element by element, and not on RDNA."""
    return aligned and not (gpu.backend == "hip" and gpu.warp_size == 32)


def _partial_stages(itemsize: int, tensor_cores: bool, gpu: Gpu) -> int:
    """Pipeline stages wanted: the most that the ahead-of-time builds show to be free of spills."""
    if gpu.backend == "hip":
        return 2
    if tensor_cores and gpu.arch == 120:
        return 2 if itemsize == 2 else 1
    if itemsize == 2:
        return 4
    return 3 if tensor_cores or gpu.shared_limit < 128 * 1024 else 2


def _warps(block_c: int, block_m: int, tensor_cores: bool, gpu: Gpu) -> int:
    """Warps for a tile of accumulators: 8 where 4 would run out of registers."""
    scarce = gpu.warp_size == 32 and (not tensor_cores or gpu.backend == "hip")
    return 8 if block_c * block_m >= 128 * 128 or (scarce and block_c * block_m >= 64 * 64) else 4


def partial_heuristic(problem: Problem, gpu: Gpu) -> PartialConfig:
    """The tile and the splits that let the busiest multiprocessor move the fewest bytes; on a tie the fewest splits.

    Those are its share of the operands, round after round of blocks, and of the partial sums, written and read again.
    Where it can be helped, no more than half of the multiprocessors are idle. A split has at least four tile edges of
    positions.
    """
    smallest = min(64, max(16, power_of_two(problem.channels)))
    roomy = _roomy(problem.aligned, gpu)
    largest = 128 if problem.channels > 64 and problem.tensor_cores and roomy else smallest
    candidates = [
        _partial_candidate(problem, block_c, splits, gpu)
        for block_c in sorted({smallest, largest}, reverse=True)
        for splits in _split_counts(problem, block_c, gpu)
    ]
    return min(candidates, key=lambda config: (*_cost(problem, config, gpu), config.splits))


def _split_counts(problem: Problem, block_c: int, gpu: Gpu) -> set[int]:
    """The most splits that still run in one, two, three rounds of a block on each multiprocessor."""
    tiles = pairs_of(ceil(problem.channels / block_c)) * problem.batch
    most = max(1, problem.positions // (4 * block_c))
    return {max(1, min(waves * gpu.multiprocessors // tiles, most)) for waves in range(1, _MOST_WAVES + 1)}


def _partial_candidate(problem: Problem, block_c: int, splits: int, gpu: Gpu) -> PartialConfig:
    """About `splits` equal splits of whole blocks of positions, and more where tensor cores would sum too long."""
    roomy = _roomy(problem.aligned, gpu)
    block_m = 16
    if problem.tensor_cores:
        # One tile is one operand: twice the positions keep as many bytes in flight. Without tensor cores all that is
        # multiplied waits in registers.
        one_operand = roomy and problem.channels <= block_c <= 64
        block_m = _depth(problem.itemsize, roomy) * (2 if one_operand else 1)
    stages = _partial_stages(problem.itemsize, problem.tensor_cores, gpu)
    warps = _warps(block_c, block_c, problem.tensor_cores, gpu)
    if problem.aligned:
        # Each thread has 16 bytes of a block to load.
        warps = max(1, min(warps, block_c * block_m * problem.itemsize // (16 * gpu.warp_size)))
    if problem.tensor_cores:
        splits = max(splits, ceil(problem.positions / LONGEST_SUM))
    longest = LONGEST_SUM if problem.tensor_cores else problem.positions + block_m
    splits, length = split_evenly(problem.positions, block_m, splits, longest)
    return PartialConfig(
        block_c=block_c,
        block_m=block_m,
        splits=splits,
        split_length=length,
        num_warps=warps,
        num_stages=_stages(partial_stage_bytes(problem, block_c, block_m), stages, gpu),
    )


def _cost(problem: Problem, config: PartialConfig, gpu: Gpu) -> tuple[bool, float]:
    """The cost of a configuration: that most multiprocessors are idle, and the bytes that the busiest one moves.

    Partial sums count twice: they pass through the cache and, written back, through the device's memory.
    """
    tiles = pairs_of(ceil(problem.channels / config.block_c)) * problem.batch * config.splits
    operands = partial_stage_bytes(problem, config.block_c, config.split_length)
    partial = 2 * 4 * config.block_c**2
    moved = ceil(tiles / gpu.multiprocessors) * operands + 2 * partial * tiles / gpu.multiprocessors
    return 2 * tiles < gpu.multiprocessors, moved


def reduce_tile(channels: int, splits: int) -> int:
    """The edge of the reduction's tiles: small ones for small matrices, which have many splits and few elements."""
    return (8 if splits > _MANY_SPLITS else 16) if channels <= 128 else 32


def backward_heuristic(problem: Problem, gpu: Gpu) -> BackwardConfig:
    """The largest tile that fills the multiprocessors; features of up to 128 channels are then read once."""
    smallest = min(64, max(16, power_of_two(problem.channels)))
    roomy = _roomy(problem.aligned, gpu)
    block_k = min(smallest, _depth(problem.itemsize, roomy) if problem.tensor_cores else 16)
    candidates = [(smallest, 64)]
    if problem.tensor_cores and roomy:
        candidates = [(128, 128)] * (problem.channels > 64) + [(smallest, 128), (smallest, 64)]
    for block_c, block_m in candidates:
        blocks = ceil(problem.channels / block_c) * ceil(problem.positions / block_m) * problem.batch
        if blocks >= gpu.multiprocessors:
            break
    stages = 3 if gpu.backend == "cuda" and (problem.tensor_cores or roomy) else 2
    if gpu.arch == 120 and problem.itemsize == 2:
        stages = 2
    return BackwardConfig(
        block_c=block_c,
        block_m=block_m,
        block_k=block_k,
        num_warps=_warps(block_c, block_m, problem.tensor_cores, gpu),
        num_stages=_stages((block_c + block_m) * block_k * problem.itemsize, stages, gpu),
    )
