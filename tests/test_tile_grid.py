"""Tiles: what they own is a partition of every layer's map, and what they see is all that it depends on."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.bench_highres import even_spans
from fastnst.errors import OptionError
from fastnst.network.architecture import NETWORKS, layers_up_to
from fastnst.network.tiles import Reach, Span, Tile, TileGrid, levels_of, make_grid, reach_of


def needed(network: str, tap: str, first: int, last: int, length: int) -> tuple[int, int]:
    """The pixels, of an axis of `length`, that positions first … last of `tap` see: back through each layer."""
    layers = layers_up_to(network, (tap,))
    sizes = [length]
    for layer in layers:
        sizes.append(sizes[-1] // 2 if layer.is_pool else sizes[-1])
    for layer, size in zip(reversed(layers), reversed(sizes[:-1]), strict=True):
        first, last = (2 * first, 2 * last) if layer.is_pool else (max(first - 1, 0), min(last + 1, size))
    return first, last


@pytest.mark.parametrize(
    ("network", "taps", "expected"),
    [
        ("vgg19", ("conv4_2", "conv1_1", "conv5_1"), Reach(16, 70)),
        ("vgg16", ("conv5_1",), Reach(16, 58)),
        ("vgg19", ("conv1_1",), Reach(1, 1)),
        ("vgg19", ("conv2_1", "pool1"), Reach(2, 4)),
        ("vgg19", ("pool1",), Reach(2, 2)),
    ],
)
def test_reach(network: str, taps: tuple[str, ...], expected: Reach) -> None:
    assert reach_of(network, taps) == expected


@settings(deadline=None)
@given(
    network=st.sampled_from(["vgg16", "vgg19"]),
    deepest=st.sampled_from([layer.name for layer in NETWORKS["vgg16"]]),
    length=st.integers(1, 3000),
    tile=st.integers(1, 4000),
    even=st.booleans(),
)
def test_spans_partition_every_map_and_see_enough(
    network: str, deepest: str, length: int, tile: int, even: bool
) -> None:
    taps = tuple(layer.name for layer in layers_up_to(network, (deepest,)))
    reach = reach_of(network, taps)
    if length < reach.grid:
        with pytest.raises(OptionError, match="too small"):
            make_grid(length, length, tile, reach)
        return
    if even:
        tile = -(-tile // reach.grid) * reach.grid
        spans = even_spans(length, tile, -(-reach.pixels // reach.grid) * reach.grid, reach.grid)
    else:
        spans = make_grid(length, length, tile, reach).rows
    for tap, level in levels_of(network, taps).items():
        edges = [(span.owned(level).start, span.owned(level).stop) for span in spans]
        assert edges[0][0] == 0
        assert edges[-1][1] == length >> level
        assert all(before[1] == after[0] for before, after in pairwise(edges))
        for span, (first, last) in zip(spans, edges, strict=True):
            assert first < last
            inside = span.inside(level)
            assert (inside.start, inside.stop) == (first - (span.start >> level), last - (span.start >> level))
            assert inside.stop <= span.size >> level
            begin, end = needed(network, tap, first, last, length)
            assert span.start <= begin
            assert end <= span.stop
            # An artificial border is further than the layer sees; a real one is the picture's own.
            assert span.start == 0 or span.start % reach.grid == 0
    if not even:
        assert len({span.size for span in spans}) == 1
        inner = max(tile // reach.grid, 1) * reach.grid
        assert all(span.last - span.first <= inner for span in spans[1:-1])


def test_the_halo_of_the_papers_layers_is_what_they_see() -> None:
    grid = make_grid(4096, 4096, 1024, reach_of("vgg19", ("conv5_1",)))
    assert len(grid) == 16
    assert {(tile.rows.first - tile.rows.start) for tile in grid} == {0, 80, 112}
    assert {(tile.rows.stop - tile.rows.last) for tile in grid} == {0, 80}
    assert grid.overhead == pytest.approx(18 * 18 * 256 * 256 / 4096**2)
    # An image smaller than a tile is one.
    grid = make_grid(100, 37, 512, reach_of("vgg19", ("conv5_1",)))
    assert list(grid) == [Tile(Span(0, 100, 0, 100), Span(0, 37, 0, 37))]
    assert grid.overhead == 1


def test_published_blocks() -> None:
    blocks = even_spans(1100, 512, 256, 16)
    assert [(block.first, block.last) for block in blocks] == [(0, 512), (512, 1024), (1024, 1100)]
    assert [(block.start, block.stop) for block in blocks] == [(0, 768), (256, 1100), (768, 1100)]
    assert TileGrid(1100, 1100, blocks, blocks).overhead > 3
    with pytest.raises(OptionError, match="multiples of 16"):
        even_spans(1100, 500, 256, 16)
    with pytest.raises(OptionError, match="tile 0 is too small"):
        make_grid(64, 64, 0, reach_of("vgg19", ("conv5_1",)))
