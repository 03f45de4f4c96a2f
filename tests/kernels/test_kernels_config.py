"""Launch configurations: within each target's limits for every shape, and the same sums everywhere."""

from math import ceil

import pytest
import torch
from fastnst_kernels.launch.gpu import Gpu
from fastnst_kernels.launch.heuristic import Problem, backward_heuristic, pairs_of, partial_heuristic, reduce_tile
from fastnst_kernels.lbfgs import FusedLBFGS
from fastnst_kernels.verify.lbfgs import octaves
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.targets import TARGETS

PROBLEMS = st.builds(
    lambda channels, positions, batch, kind, aligned: Problem(channels, positions, batch, *kind, aligned),
    channels=st.integers(1, 1024),
    positions=st.one_of(st.integers(1, 5000), st.integers(1, 2**26)),
    batch=st.integers(1, 64),
    kind=st.sampled_from([(4, False), (4, True), (2, True)]),
    aligned=st.booleans(),
)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(gpu=st.sampled_from(list(TARGETS.values())), problem=PROBLEMS)
def test_within_the_limits(gpu: Gpu, problem: Problem) -> None:
    config = partial_heuristic(problem, gpu)
    operands = 1 if problem.channels <= config.block_c else 2
    assert operands * config.block_c * config.block_m * problem.itemsize * config.num_stages <= gpu.shared_limit
    assert config.split_length % config.block_m == 0
    assert (config.splits - 1) * config.split_length < problem.positions <= config.splits * config.split_length
    pairs = pairs_of(ceil(problem.channels / config.block_c))
    assert not problem.tensor_cores or config.split_length <= 4096
    needed = ceil(problem.positions / 4096) if problem.tensor_cores else 1
    assert config.splits <= needed or pairs * problem.batch * config.splits <= 3 * gpu.multiprocessors
    assert config.block_c % reduce_tile(problem.channels, config.splits) == 0

    backward = backward_heuristic(problem, gpu)
    stage = (backward.block_c + backward.block_m) * backward.block_k * problem.itemsize
    assert stage * backward.num_stages <= gpu.shared_limit
    assert backward.block_k <= max(16, 2 * problem.channels)
    assert min(backward.block_c, backward.block_m, backward.block_k) >= 16


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


@pytest.mark.parametrize(("by_bands", "launches", "megabytes"), [(True, 6, 675), (False, 5, 638)])
def test_a_step_of_lbfgs_is_few_launches(by_bands: bool, launches: int, megabytes: int) -> None:
    pytest.importorskip("triton")
    from fastnst_kernels.launch.launch import planned

    from bench.count import launch_bytes

    image, places = torch.empty((1, 3, 1024, 1024), device="meta"), octaves(1024, 1024) if by_bands else None
    with planned(TARGETS["sm_90"]) as step:
        fused = FusedLBFGS(
            image, learning_rate=1.0, history=20, dtype=torch.float16, places=places, most=1.0, bounded=True
        )
        fused.step(image, image)
    assert len(step) == launches
    assert sum(map(launch_bytes, step)) < 1e6 * megabytes
