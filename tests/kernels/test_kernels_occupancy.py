"""Occupancy against cases computed by hand and by the vendors' tools."""

import pytest
from fastnst_kernels.occupancy import LIMITS, occupancy


@pytest.mark.parametrize(
    ("target", "registers", "shared", "num_warps", "blocks", "limited_by"),
    [
        # 16 warps fit each of the four partitions: 16 blocks of four.
        ("sm_90", 32, 0, 4, 16, "warps"),
        # 65,536 registers / (128 threads · 168) = 3.05.
        ("sm_90", 168, 0, 4, 3, "registers"),
        # 161 registers are given out as 168.
        ("sm_90", 161, 0, 4, 3, "registers"),
        # Two warps of 255 registers fit a partition: 16384 / (32 · 256).
        ("sm_90", 255, 0, 4, 2, "registers"),
        # 228 KiB / (73,728 + 1,024) = 3.12.
        ("sm_90", 64, 73_728, 4, 3, "shared"),
        # The most that a block may have: one block.
        ("sm_90", 32, 232_448, 8, 1, "shared"),
        # One-warp blocks: 32 of them, though 64 warps would fit.
        ("sm_90", 32, 0, 1, 32, "blocks"),
        ("sm_80", 32, 166_912, 8, 1, "shared"),
        ("sm_86", 32, 0, 4, 12, "warps"),
        ("sm_86", 32, 0, 1, 16, "blocks"),
        ("sm_89", 32, 101_376, 4, 1, "shared"),
        ("sm_120", 128, 0, 8, 2, "registers"),
        # LLVM prints occupancy 4 for 102 registers on gfx942: four waves for each of four SIMDs.
        ("gfx942", 102, 0, 4, 4, "registers"),
        ("gfx942", 64, 0, 4, 8, "warps"),
        ("gfx942", 64, 65_536, 4, 1, "shared"),
        # 1536 / 96 = 16 waves; 97 registers are given out as 120: 12 waves for each of two SIMDs.
        ("gfx1100", 96, 0, 4, 8, "warps"),
        ("gfx1100", 97, 0, 4, 6, "registers"),
    ],
)
def test_by_hand(target: str, registers: int, shared: int, num_warps: int, blocks: int, limited_by: str) -> None:
    held = occupancy(LIMITS[target], registers=registers, shared=shared, num_warps=num_warps)
    assert (held.blocks, held.limited_by) == (blocks, limited_by)
    assert held.warps == blocks * num_warps
    assert held.warps_per_partition == held.warps / LIMITS[target].partitions


def test_tensor_memory() -> None:
    held = occupancy(LIMITS["sm_100"], registers=64, shared=0, num_warps=4, tensor_columns=256)
    assert (held.blocks, held.limited_by) == (2, "tensor memory")


def test_what_does_not_fit() -> None:
    assert occupancy(LIMITS["sm_86"], registers=64, shared=110_000, num_warps=4).blocks == 0


def test_most_warps() -> None:
    most = {target: limits.warps * limits.partitions for target, limits in LIMITS.items()}
    assert most == {
        "sm_80": 64,
        "sm_86": 48,
        "sm_89": 48,
        "sm_90": 64,
        "sm_100": 64,
        "sm_120": 48,
        "gfx942": 32,
        "gfx1100": 32,
    }
