"""The church above the town: a nave with tall windows, a square tower with a clock, a copper spire."""

import numpy as np

from bench.examples.layer import Layer, Point
from bench.examples.parts import GLOW, PANE, SHADE, STONE, TIMBER, Face, arched_window, between, rectangle, tiles, times
from bench.examples.raster import hex_colour

SLATE = hex_colour("#6d4a48")
COPPER = hex_colour("#5f9a86")
GOLD = hex_colour("#d8b04a")


def draw_church(layer: Layer, x: float, ground: float, scale: float, rng: np.random.Generator) -> None:
    """A church whose tower stands at `x`, its spire 0.46 high at a `scale` of 1, in units of the picture's height."""

    def at(u: float, v: float) -> Point:
        return x + u * scale, ground - v * scale

    _nave(layer, at, scale, rng)
    _tower(layer, at, scale)
    _spire(layer, at, scale)


def _nave(layer: Layer, at: Face, scale: float, rng: np.random.Generator) -> None:
    length, wall, ridge = 0.17, 0.085, 0.16
    layer.polygon(rectangle(at, 0, 0, length, wall), times(STONE, (0.95, 0.9, 0.86)))
    slope = [at(0.012, ridge), at(length - 0.012, ridge), at(length + 0.015, wall - 0.005), at(0, wall - 0.005)]
    layer.polygon(slope, SLATE)
    tiles(layer, slope, times(SLATE, (0.75, 0.72, 0.78)), rows=14)
    layer.shade(rectangle(at, 0, 0.9 * wall, length, wall), 0.6)
    for k in range(5):
        left = 0.02 + 0.031 * k
        x, y = at(left, 0.018)
        arched_window(layer, x, y, 0.014 * scale, 0.042 * scale, PANE if rng.random() < 0.6 else GLOW)
        post = left + 0.019
        buttress = [at(post, 0), at(post + 0.007, 0), at(post + 0.005, 0.8 * wall), at(post, 0.86 * wall)]
        layer.polygon(buttress, times(STONE, (1.1, 1.02, 0.92)))


def _tower(layer: Layer, at: Face, scale: float) -> None:
    left, right, back, top = -0.046, 0.012, 0.032, 0.225
    layer.polygon([at(right, 0), at(back, 0), at(back, 0.985 * top), at(right, top)], times(STONE, SHADE))
    layer.polygon(rectangle(at, left, 0, right, top), times(STONE, (1.12, 1.02, 0.9)))
    courses, stones = 26, 5
    mortar = times(STONE, (0.9, 0.82, 0.74))
    for k in range(courses):
        y = top * (k + 0.5) / courses
        layer.line([at(left, y), at(right, y)], 0.0008, mortar)
        for j in range(stones):
            joint = left + (right - left) * ((j + 0.5 * (k % 2)) / stones + 0.05)
            layer.line([at(joint, y), at(joint, y + top / courses)], 0.0008, mortar)
    for level in (0.45, 0.71, 0.95):
        layer.line(
            [at(left - 0.004, level * top), at(right + 0.004, level * top)],
            0.004 * scale,
            times(STONE, (1.2, 1.1, 0.96)),
        )
    for u, v in ((-0.0356, 0.144), (-0.0135, 0.144), (-0.024, 0.0315)):
        x, y = at(u, v)
        arched_window(layer, x, y, 0.014 * scale, 0.034 * scale, PANE)
    clock = at(-0.017, 0.196)
    for radius, colour in ((0.0116, "#3b3340"), (0.0096, "#f6e7c1")):
        layer.ellipse(clock, (radius * scale, radius * scale), hex_colour(colour))
    for hand in (at(-0.017, 0.2035), at(-0.0118, 0.1943)):
        layer.line([clock, hand], 0.002 * scale, TIMBER)


def _spire(layer: Layer, at: Face, scale: float) -> None:
    """Two faces, one lit and one in shade, that flare out to the eaves below the knee."""
    lit, dark = times(COPPER, (1.15, 1.08, 0.92)), times(COPPER, (0.5, 0.52, 0.62))
    eaves, knee, tip = 0.225, 0.27, at(-0.007, 0.44)
    knee_left, edge, knee_right = at(-0.030, knee), at(0.0, knee), at(0.0174, knee)
    layer.polygon([at(-0.052, eaves), at(0.0, eaves - 0.002), edge, knee_left], lit)
    layer.polygon([at(0.0, eaves - 0.002), at(0.038, eaves), knee_right, edge], dark)
    layer.polygon([knee_left, edge, tip], lit)
    layer.polygon([edge, knee_right, tip], dark)
    for k in range(1, 9):
        seam = [between(knee_left, tip, k / 9), between(edge, tip, k / 9)]
        layer.line(seam, 0.001, times(COPPER, (0.9, 0.9, 0.85)))
    layer.line([tip, at(-0.007, 0.462)], 0.0018 * scale, GOLD)
    layer.line([at(-0.013, 0.456), at(-0.001, 0.456)], 0.0018 * scale, GOLD)
    layer.ellipse(at(-0.007, 0.446), (0.004 * scale, 0.004 * scale), hex_colour("#ffd976"))
