"""Parts that the buildings of the town share: rows of tiles, arched windows, and shades of a colour."""

from collections.abc import Callable, Sequence

import numpy as np

from bench.examples.layer import Layer, Point
from bench.examples.raster import Colour, hex_colour

# Maps a wall's own coordinates (0…1 from its left, 0…1 from its foot) to the picture.
Face = Callable[[float, float], Point]

STONE = hex_colour("#c4ab8c")
TIMBER = hex_colour("#54301f")
GLOW = hex_colour("#ffcf6b")
PANE = hex_colour("#33425c")
# What is left of a wall's colour on the side away from the sun.
SHADE: Colour = (0.5, 0.46, 0.56)


def times(colour: Colour, factors: Colour) -> Colour:
    """A colour multiplied channel by channel."""
    return colour[0] * factors[0], colour[1] * factors[1], colour[2] * factors[2]


def vary(colour: Colour, rng: np.random.Generator, amount: float) -> Colour:
    """The colour a little lighter or darker, warmer or cooler, by a share of up to `amount`."""
    brighter = 1 + amount * float(rng.uniform(-1, 1))
    warmer = amount * 0.4 * float(rng.uniform(-1, 1))
    return times(colour, (brighter + warmer, brighter, brighter - warmer))


def pick(palette: Sequence[Colour], rng: np.random.Generator) -> Colour:
    """One of the colours."""
    return palette[int(rng.integers(len(palette)))]


def between(start: Point, end: Point, part: float) -> Point:
    """The point at `part` 0…1 of the way."""
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def rectangle(face: Face, left: float, low: float, right: float, high: float) -> list[Point]:
    """An upright rectangle on a wall."""
    return [face(left, low), face(right, low), face(right, high), face(left, high)]


def tiles(layer: Layer, slope: Sequence[Point], colour: Colour, rows: int) -> None:
    """Lines between the rows of tiles of a roof given as ridge start, ridge end, eaves end, eaves start."""
    for k in range(1, rows):
        layer.line([between(slope[0], slope[3], k / rows), between(slope[1], slope[2], k / rows)], 0.0009, colour)


def arched_window(layer: Layer, left: float, bottom: float, width: float, tall: float, pane: Colour) -> None:
    """A tall window with a pointed arch and a stone surround."""
    turn = np.linspace(0, np.pi, 13)
    middle, spring = left + width / 2, bottom - tall + width / 2

    def outline(grow: float) -> list[Point]:
        half = width / 2 + grow
        arc = [(middle + half * float(np.cos(a)), spring - 1.3 * half * float(np.sin(a))) for a in turn]
        return [(middle + half, bottom + grow), *arc, (middle - half, bottom + grow)]

    layer.polygon(outline(0.18 * width), (0.93, 0.85, 0.72))
    layer.polygon(outline(0), pane)
    layer.line([(middle, bottom), (middle, bottom - tall)], 0.001, (0.85, 0.76, 0.64))
