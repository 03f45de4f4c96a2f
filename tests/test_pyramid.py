"""The sizes of the scales and the steps at each."""

from typing import Any

import pytest

from fastnst.transfer.scales import scale_edges, scale_iterations


@pytest.mark.parametrize(
    ("scales", "size", "shape", "expected"),
    [
        (None, 512, (300, 400), (512,)),
        (1, 512, (300, 400), (512,)),
        (3, 512, (300, 400), (128, 256, 512)),
        (3, 500, (400, 300), (125, 250, 500)),
        ((100, 230), 230, (300, 400), (100, 230)),
        # Scales too small to see anything are left out.
        (6, 512, (400, 400), (64, 128, 256, 512)),
        (3, 512, (100, 400), (256, 512)),
        (5, 32, (100, 100), (32,)),
        (3, 256, (100, 400), (256,)),
    ],
)
def test_scales_grow_to_the_size(scales: Any, size: int, shape: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert scale_edges(scales, size, *shape) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(64, (64,)), (256, (256,)), (511, (511,)), (512, (256, 512)), (4500, (281, 562, 1125, 2250, 4500))],
)
def test_automatic_scales_begin_at_256_pixels(size: int, expected: tuple[int, ...]) -> None:
    assert scale_edges("auto", size, 300, 400, factor=3.0) == expected


def test_the_factor_between_scales_and_short_edges() -> None:
    assert scale_edges(5, 512, 300, 400, factor=2**0.5) == (128, 181, 256, 362, 512)
    assert scale_edges(2, 800, 300, 400, factor=800 / 512) == (512, 800)
    assert scale_edges(12, 70, 80, 80, factor=1.1) == (64, 70)
    assert scale_edges(3, 256, 100, 400, edge="short") == (64, 128, 256)


@pytest.mark.parametrize(
    ("iterations", "scales", "expected"),
    [
        (100, 3, (100, 100, 100)),
        ((50, 300), 2, (50, 300)),
        ((50, 300), 4, (50, 50, 50, 300)),
        ((10, 20, 30), 2, (20, 30)),
        ((10, 20, 30), 1, (30,)),
    ],
)
def test_counts_of_iterations_end_with_the_last_scale(iterations: Any, scales: int, expected: tuple[int, ...]) -> None:
    assert scale_iterations(iterations, scales) == expected
