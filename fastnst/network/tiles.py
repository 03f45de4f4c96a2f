"""Geometry of the tiles of an image: the part that each owns, and the crop around it that the network has to see.

The owned parts are disjoint and cover the image; their edges lie on the grid of the deepest pool, so that at each layer
they are whole positions that cover the map. A crop reaches as far beyond its owned part as the deepest tapped layer
sees, or to the picture's border, where the network's own padding applies: the features of the owned positions, and what
the image's gradient gets from them, are those of the whole image.

With circular padding a crop goes on at the other side of the picture; where it would see all of an axis, it is all of
it, and the network's own padding wraps.

All crops have one size, so that memory taken for one serves for all: along each axis all begin on the grid, have the
image's remainder to it, and those at the border own what others spend on their halo.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from torch import Tensor

from fastnst.errors import OptionError
from fastnst.network.architecture import layers_up_to, pools_before

Window = tuple[slice, slice]
"""The rows and columns of a map."""


@dataclass(frozen=True)
class Span:
    """An axis of a tile, in pixels of the image: start ≤ first < last ≤ stop.

    It owns first … last and sees start … stop; start and first are multiples of the grid, so is last unless it is the
    image's end. Where the image wraps, start may be negative and stop beyond its end.
    """

    first: int
    last: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """The crop's length."""
        return self.stop - self.start

    def pieces(self, length: int) -> Iterator[tuple[slice, slice]]:
        """Pairs of slices, of the image's axis of `length` pixels and of the crop: a single pair unless it wraps."""
        place = self.start
        while place < self.stop:
            first = place % length
            count = min(length - first, self.stop - place)
            yield slice(first, first + count), slice(place - self.start, place - self.start + count)
            place += count

    def owned(self, level: int) -> slice:
        """The owned part of a map after `level` pools, in the map of the whole image."""
        return slice(self.first >> level, self.last >> level)

    def inside(self, level: int) -> slice:
        """The owned part of a map after `level` pools, in the map of the crop."""
        return slice((self.first - self.start) >> level, (self.last - self.start) >> level)


@dataclass(frozen=True)
class Tile:
    """A tile: its rows and its columns."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the crop."""
        return self.rows.size, self.columns.size

    def pieces(self, height: int, width: int) -> Iterator[tuple[Window, Window]]:
        """Pairs of windows, of an image of `height` × `width` and of the crop: a single pair unless it wraps."""
        for rows, crop_rows in self.rows.pieces(height):
            for columns, crop_columns in self.columns.pieces(width):
                yield (rows, columns), (crop_rows, crop_columns)

    def owned(self, level: int) -> Window:
        """The owned part of a map after `level` pools, in the map of the whole image."""
        return self.rows.owned(level), self.columns.owned(level)

    def inside(self, level: int) -> Window:
        """The owned part of a map after `level` pools, in the map of the crop."""
        return self.rows.inside(level), self.columns.inside(level)


def cut(image: Tensor, tile: Tile) -> Tensor:
    """The crop of `tile` of an image (B, C, H, W): a view, or a copy where it wraps around."""
    pieces = list(tile.pieces(*image.shape[2:]))
    if len(pieces) == 1:
        return image[:, :, *pieces[0][0]]
    crop = image.new_empty((*image.shape[:2], *tile.shape))  # (B, C, h, w)
    for window, inside in pieces:
        crop[:, :, *inside] = image[:, :, *window]
    return crop


def add_crop(image: Tensor, tile: Tile, crop: Tensor) -> None:
    """Adds the `crop` of `tile`, (B, C, h, w), to an image (B, C, H, W) in place."""
    for window, inside in tile.pieces(*image.shape[2:]):
        image[:, :, *window] += crop[:, :, *inside]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of an image of `height` × `width`, in rows from the top left. Make one with `make_grid`."""

    height: int
    width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        return (Tile(rows, columns) for rows in self.rows for columns in self.columns)

    @property
    def overhead(self) -> float:
        """Pixels of all crops over pixels of the image: 1 without halo."""
        pixels = sum(span.size for span in self.rows) * sum(span.size for span in self.columns)
        return pixels / (self.height * self.width)

    @cached_property
    def crops(self) -> dict[tuple[int, int], int]:
        """The number of crops of each (height, width); `make_grid` makes them all alike."""
        rows, columns = (Counter(span.size for span in spans) for spans in (self.rows, self.columns))
        return {(high, wide): rows[high] * columns[wide] for high in rows for wide in columns}


@dataclass(frozen=True)
class Reach:
    """The needs of the tapped layers: tiles with edges on multiples of `grid` pixels, which see `pixels` around each
    position, with `wraps` at the other side of the image too."""

    grid: int
    pixels: int
    wraps: bool = False


def reach_of(network: str, taps: tuple[str, ...], padding: str = "zeros") -> Reach:
    """The reach of the deepest of `taps` (canonical names): 16 and 70 pixels for conv5_1, 1 and 1 for conv1_1."""
    level = pixels = 0
    for layer in layers_up_to(network, taps):
        if layer.is_pool:
            level += 1
        else:
            pixels += 2**level
    return Reach(2 ** pools_before(network, taps), pixels, padding == "circular")


def levels_of(network: str, taps: tuple[str, ...]) -> dict[str, int]:
    """The pools on the way to each of `taps`: a map after n pools has ⌊H/2ⁿ⌋ × ⌊W/2ⁿ⌋ positions."""
    return {name: pools_before(network, (name,)) for name in taps}


def make_grid(height: int, width: int, tile: int, reach: Reach) -> TileGrid:
    """The grid whose tiles own at most `tile` × `tile` pixels, more at the picture's border and less where that divides
    the image evenly. Raises OptionError for an image smaller than the grid, one that wraps and is not on the grid, or
    a tile of no pixel.
    """
    if min(height, width) < reach.grid:
        raise OptionError(
            f"an image of {width}×{height} pixels is too small for these layers; give {reach.grid} or more on each side"
        )
    if tile < 1:
        raise OptionError(f"tile {tile} is too small; give a number of pixels, or auto")
    if reach.wraps:
        check_on_grid(height, width, reach.grid)
        return TileGrid(height, width, _wrapped_spans(height, tile, reach), _wrapped_spans(width, tile, reach))
    return TileGrid(height, width, _equal_spans(height, tile, reach), _equal_spans(width, tile, reach))


def check_on_grid(height: int, width: int, grid: int) -> None:
    """Raises OptionError for an image that does not tile, because its sides are no multiples of `grid` pixels."""
    if height % grid or width % grid:
        near = [max(grid, round(side / grid) * grid) for side in (width, height)]
        raise OptionError(
            f"an image of {width}×{height} pixels does not tile: with these layers its sides must be multiples of "
            f"{grid}; give {near[0]}×{near[1]}"
        )


def _wrapped_spans(length: int, tile: int, reach: Reach) -> tuple[Span, ...]:
    """Spans that see the halo on both sides, as evenly as the grid allows; a single one where they would see it all."""
    grid, halo = reach.grid, _up(reach.pixels, reach.grid)
    count = ceil(length / (max(tile // grid, 1) * grid))
    owned = _up(ceil(length / count), grid)
    crop = owned + 2 * halo
    if crop >= length:
        return (Span(0, length, 0, length),)
    firsts = range(0, length, owned)
    return tuple(Span(first, min(first + owned, length), first - halo, first - halo + crop) for first in firsts)


def _equal_spans(length: int, tile: int, reach: Reach) -> tuple[Span, ...]:
    """Spans whose crops have one size, the smallest that needs no more of them."""
    grid = reach.grid
    before = _up(reach.pixels, grid)
    crop = _up(max(tile // grid, 1) * grid + before + reach.pixels - length % grid, grid) + length % grid
    if crop >= length:
        return (Span(0, length, 0, length),)

    def advance(size: int) -> int:
        return (size - reach.pixels) // grid * grid - before

    count = 1 + ceil((length - crop) / advance(crop))
    while advance(crop - grid) >= grid and 1 + ceil((length - crop + grid) / advance(crop - grid)) == count:
        crop -= grid
    spans = []
    first = 0
    for index in range(count):
        start = min(max(first - before, 0), length - crop)
        last = length if index == count - 1 else start + advance(crop) + before
        spans.append(Span(first, last, start, start + crop))
        first = last
    return tuple(spans)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
