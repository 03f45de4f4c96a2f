"""Launch parameters by an analytic heuristic: shape, dtype and target decide, nothing is tuned at run time."""

from dataclasses import dataclass
from math import ceil

from fastnst_kernels.gpu import Gpu

# Positions of a split: tensor cores' accumulators truncate (Fasi et al. 2021), which lowers long sums after a ReLU.
_LONGEST_SUM = 4096
# Splits from which the reduction, which walks over them, is cut into more and smaller tiles.
_MANY_SPLITS = 512


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


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def pairs_of(blocks: int) -> int:
    """Tiles on and above the diagonal of `blocks` × `blocks` tiles."""
    return blocks * (blocks + 1) // 2


def _stages(stage_bytes: int, wanted: int, gpu: Gpu) -> int:
    """As many pipeline stages as wanted, or as fit into 15/16 of the shared memory: barriers need some of it."""
    return max(1, min(wanted, gpu.shared_limit * 15 // 16 // stage_bytes))


def _depth(itemsize: int, roomy: bool) -> int:
    """Elements of the summed axis at a time: 128 bytes, or half of it where registers are short."""
    return (64 if itemsize == 2 else 32) // (1 if roomy else 2)


def _roomy(aligned: bool, gpu: Gpu) -> bool:
    """Whether large tiles fit the registers: not where rows are read element by element, and not on RDNA."""
    return aligned and not (gpu.backend == "hip" and gpu.warp_size == 32)


def _partial_stages(itemsize: int, tensor_cores: bool, gpu: Gpu) -> int:
    """Pipeline stages wanted; those of float32 are the ones that the ahead-of-time builds show to be free of spills."""
    if gpu.backend == "hip":
        return 2
    if itemsize == 2:
        return 4
    return 3 if tensor_cores or gpu.shared_limit < 128 * 1024 else 2


def _warps(block_c: int, block_m: int, tensor_cores: bool, gpu: Gpu) -> int:
    """Warps for a tile of accumulators: 8 where 4 would run out of registers."""
    scarce = gpu.warp_size == 32 and (not tensor_cores or gpu.backend == "hip")
    return 8 if block_c * block_m >= 128 * 128 or (scarce and block_c * block_m >= 64 * 64) else 4


def partial_config(
    channels: int, positions: int, batch: int, itemsize: int, tensor_cores: bool, aligned: bool, gpu: Gpu
) -> PartialConfig:
    """The largest tile that fills the multiprocessors, and the fewest splits that do, short ones on tensor cores.

    `itemsize` is the features' in bytes; `tensor_cores` is False for float32 in IEEE precision; rows that are not
    `aligned` to 16 bytes are read element by element, through registers, and get smaller tiles. A split has at least
    four tile edges of positions, so that the partial sums are at most a quarter of the bytes that its tiles read.
    """
    smallest = min(64, max(16, power_of_two(channels)))
    roomy = _roomy(aligned, gpu)
    largest = 128 if channels > 64 and tensor_cores and roomy else smallest
    for block_c in sorted({smallest, largest}, reverse=True):
        blocks = ceil(channels / block_c)
        # One tile is one operand: twice the positions keep as many bytes in flight. Without tensor cores all that is
        # multiplied waits in registers.
        block_m = (
            _depth(itemsize, roomy) * (2 if roomy and blocks == 1 and block_c <= 64 else 1) if tensor_cores else 16
        )
        wanted = ceil(gpu.multiprocessors * (1 if tensor_cores else 2) / (pairs_of(blocks) * batch))
        splits = max(1, min(wanted, positions // (4 * block_c)))
        if pairs_of(blocks) * batch * splits >= gpu.multiprocessors * 3 // 4:
            break
    if tensor_cores:
        splits = max(splits, ceil(positions / _LONGEST_SUM))
    split_length = ceil(ceil(positions / splits) / block_m) * block_m
    operands = 1 if blocks == 1 else 2
    stages = _partial_stages(itemsize, tensor_cores, gpu)
    return PartialConfig(
        block_c=block_c,
        block_m=block_m,
        splits=ceil(positions / split_length),
        split_length=split_length,
        num_warps=_warps(block_c, block_c, tensor_cores, gpu),
        num_stages=_stages(operands * block_c * block_m * itemsize, stages, gpu),
    )


def reduce_config(channels: int, splits: int) -> ReduceConfig:
    """Small tiles for small matrices, which have many splits and few elements."""
    tile = (8 if splits > _MANY_SPLITS else 16) if channels <= 128 else 32
    return ReduceConfig(tile=tile, split_block=min(power_of_two(splits), 4096 // tile**2), num_warps=8)


def backward_config(
    channels: int, positions: int, batch: int, itemsize: int, tensor_cores: bool, aligned: bool, gpu: Gpu
) -> BackwardConfig:
    """The largest tile that fills the multiprocessors; features of up to 128 channels are then read once.

    The arguments are those of `partial_config`.
    """
    smallest = min(64, max(16, power_of_two(channels)))
    roomy = _roomy(aligned, gpu)
    block_k = min(smallest, _depth(itemsize, roomy) if tensor_cores else 16)
    candidates = [(smallest, 64)]
    if tensor_cores and roomy:
        candidates = [(128, 128)] * (channels > 64) + [(smallest, 128), (smallest, 64)]
    for block_c, block_m in candidates:
        if ceil(channels / block_c) * ceil(positions / block_m) * batch >= gpu.multiprocessors:
            break
    stage_bytes = (block_c + block_m) * block_k * itemsize
    return BackwardConfig(
        block_c=block_c,
        block_m=block_m,
        block_k=block_k,
        num_warps=_warps(block_c, block_m, tensor_cores, gpu),
        num_stages=_stages(stage_bytes, 3 if gpu.backend == "cuda" and (tensor_cores or roomy) else 2, gpu),
    )
