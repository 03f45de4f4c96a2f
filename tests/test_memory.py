"""Memory that is handed out again: where blocks lie, and the tensors in them."""

import random

import torch

from fastnst.network.memory import Arena, Block, Buffers


def overlap(a: Block, b: Block) -> bool:
    return a.region == b.region and a.start < b.start + b.size and b.start < a.start + a.size


def test_the_lowest_place_with_room_is_taken() -> None:
    arena = Arena(1024)
    first, second, third = (arena.take(128) for _ in range(3))
    arena.give(first)
    arena.give(second)
    assert arena.take(256).start == 0
    arena.give(third)
    assert arena.take(640) == Block(0, 256, 640)
    assert arena.used == 896


def test_what_has_no_room_begins_a_region() -> None:
    arena = Arena(256)
    assert [arena.take(size).region for size in (200, 128, 1000, 64, 64)] == [0, 1, 2, 1, 1]
    assert arena.lengths == [256, 256, 1024]


def test_blocks_that_are_taken_never_overlap() -> None:
    choose = random.Random(0)
    arena = Arena(4096)
    taken: list[Block] = []
    for _ in range(2000):
        if taken and choose.random() < 0.5:
            arena.give(taken.pop(choose.randrange(len(taken))))
        else:
            block = arena.take(choose.randrange(1, 1500))
            assert block.start % 64 == 0
            assert not any(overlap(block, other) for other in taken)
            taken.append(block)
    for block in taken:
        arena.give(block)
    for length in arena.lengths:
        assert arena.take(length).start == 0
    assert arena.used == sum(arena.lengths)


def test_buffers_are_handed_out_again() -> None:
    buffers = Buffers(4096)
    first = buffers.take((2, 3), torch.float32)
    second = buffers.take((2, 3), torch.float32)
    assert first.data_ptr() != second.data_ptr()
    buffers.give(first)
    assert buffers.take((3, 8), torch.uint8).data_ptr() == first.data_ptr()
    assert buffers.take((3, 2), torch.float64).data_ptr() > second.data_ptr()
