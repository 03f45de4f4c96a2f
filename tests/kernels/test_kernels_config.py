"""Launch configurations: within each target's limits for every shape, and the same sums everywhere."""

from math import ceil

import pytest
from fastnst_kernels.launch.gpu import Gpu
from fastnst_kernels.launch.heuristic import Problem, backward_heuristic, pairs_of, partial_heuristic, reduce_heuristic
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.targets import TARGETS

PROBLEMS = given(
    gpu=st.sampled_from(list(TARGETS.values())),
    channels=st.integers(1, 1024),
    positions=st.one_of(st.integers(1, 5000), st.integers(1, 2**26)),
    batch=st.integers(1, 64),
    kind=st.sampled_from([(4, False), (4, True), (2, True)]),
    aligned=st.booleans(),
)
SETTINGS = settings(max_examples=400, deadline=None, database=None, derandomize=True)


@SETTINGS
@PROBLEMS
def test_partial(gpu: Gpu, channels: int, positions: int, batch: int, kind: tuple[int, bool], aligned: bool) -> None:
    itemsize, tensor_cores = kind
    config = partial_heuristic(Problem(channels, positions, batch, itemsize, tensor_cores, aligned), gpu)
    operands = 1 if channels <= config.block_c else 2
    assert operands * config.block_c * config.block_m * itemsize * config.num_stages <= gpu.shared_limit
    assert config.split_length % config.block_m == 0
    assert (config.splits - 1) * config.split_length < positions <= config.splits * config.split_length
    pairs = pairs_of(ceil(channels / config.block_c))
    assert not tensor_cores or config.split_length <= 4096
    needed = ceil(positions / 4096) if tensor_cores else 1
    assert config.splits <= needed or pairs * batch * config.splits <= 3 * gpu.multiprocessors
    assert config.block_c % reduce_heuristic(channels, config.splits).tile == 0


@SETTINGS
@PROBLEMS
def test_backward(gpu: Gpu, channels: int, positions: int, batch: int, kind: tuple[int, bool], aligned: bool) -> None:
    itemsize, tensor_cores = kind
    config = backward_heuristic(Problem(channels, positions, batch, itemsize, tensor_cores, aligned), gpu)
    stage = (config.block_c + config.block_m) * config.block_k * itemsize
    assert stage * config.num_stages <= gpu.shared_limit
    assert config.block_k <= max(16, 2 * channels)
    assert min(config.block_c, config.block_m, config.block_k) >= 16


@pytest.mark.parametrize("name", ["sm_80", "sm_90", "gfx942"])
def test_vgg_layers_fill_the_gpu(name: str) -> None:
    gpu = TARGETS[name]
    for channels, side in ((64, 512), (128, 256), (256, 128), (512, 64)):
        config = partial_heuristic(Problem(channels, side * side, 1, 2, True, True), gpu)
        blocks = pairs_of(ceil(channels / config.block_c)) * config.splits
        rounds = ceil(blocks / gpu.multiprocessors)
        assert blocks >= (0.7 if name != "gfx942" else 0.5) * rounds * gpu.multiprocessors


def test_a_second_round_of_a_few_blocks_is_avoided() -> None:
    config = partial_heuristic(Problem(512, 128 * 128, 1, 2, True, True), TARGETS["sm_90"])
    assert pairs_of(512 // config.block_c) * config.splits in range(120, 133)
