"""The stone bridge at the end of the lake."""

import numpy as np

from bench.examples.layer import Layer, Point
from bench.examples.parts import STONE, times, vary
from bench.examples.raster import Colour

LIT: Colour = (1.12, 1.05, 0.95)
DARK: Colour = (0.62, 0.57, 0.62)


def draw_bridge(layer: Layer, start: float, end: float, water: float, rng: np.random.Generator) -> None:
    """A humped bridge of four round arches from `start` to `end` over the line `water`, laid stone by stone."""
    arches = 4
    span = (end - start) / arches

    def deck(x: float) -> float:
        return water - 0.062 - 0.034 * float(np.sin(np.pi * (x - start) / (end - start)))

    parapet = [(x, deck(x) - 0.012) for x in np.linspace(start, end, 61).tolist()]
    layer.polygon([*parapet, (end, water), (start, water)], STONE)
    _courses(layer, start, end, parapet, water, rng)
    for k in range(arches):
        middle = start + span * (k + 0.5)
        _arch(layer, middle, 0.37 * span, deck(middle) + 0.028, water, rng)
    for k in range(1, arches):
        _pier(layer, start + span * k, water)
    layer.line(parapet, 0.005, times(STONE, (1.25, 1.16, 1.0)))
    layer.line([(x, y + 0.013) for x, y in parapet], 0.0025, times(STONE, DARK))


def _courses(
    layer: Layer, start: float, end: float, parapet: list[Point], water: float, rng: np.random.Generator
) -> None:
    rows, stones = 20, 64
    xs, tops = [x for x, _ in parapet], [y for _, y in parapet]
    for row in range(rows):
        for k in range(stones - row % 2):
            left = start + (end - start) * (k + 0.5 * (row % 2)) / stones
            right = left + (end - start) / stones
            corners = []
            for x, level in ((left, row), (right, row), (right, row + 1), (left, row + 1)):
                top = float(np.interp(x, xs, tops))
                corners.append((x, top + (water - top) * level / rows))
            layer.polygon(corners, vary(STONE, rng, 0.07))


def _arch(layer: Layer, middle: float, radius: float, crown: float, water: float, rng: np.random.Generator) -> None:
    """A ring of wedge stones, the vault in shade inside it, and the opening through which the far bank shows."""

    def curve(grow: float, shift: float = 0.0) -> list[Point]:
        return [
            (
                middle + shift - (radius + grow) * float(np.cos(a)),
                water - (water - crown + grow) * float(np.sin(a)) ** 0.8,
            )
            for a in np.linspace(0, np.pi, 25)
        ]

    inner, outer = curve(0), curve(0.009)
    for k in range(len(inner) - 1):
        layer.polygon([inner[k], inner[k + 1], outer[k + 1], outer[k]], vary(times(STONE, LIT), rng, 0.05))
    layer.polygon(inner, times(STONE, (0.42, 0.38, 0.46)))
    layer.cut(curve(-0.006, shift=0.008))


def _pier(layer: Layer, x: float, water: float) -> None:
    foot, head, tall = 0.012, 0.007, 0.05
    layer.polygon([(x - foot, water), (x, water), (x, water - tall), (x - head, water - tall)], times(STONE, LIT))
    layer.polygon([(x, water), (x + foot, water), (x + head, water - tall), (x, water - tall)], times(STONE, DARK))
