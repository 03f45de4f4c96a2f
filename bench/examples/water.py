"""The lake: the scene mirrored in ripples, boats on it, glints where the sun's path lies."""

from collections.abc import Callable

import numpy as np

from bench.examples.layer import Layer, Point
from bench.examples.noise import fractal_noise
from bench.examples.raster import Array, Colour, grid, hex_colour, mix, sample, smoothstep
from bench.examples.terrain import SUN

HULL = [hex_colour("#7a2e24"), hex_colour("#2d5066"), hex_colour("#8a5a34")]


def lake(scene: Array, shore: float, boats: Layer) -> Array:
    """The scene with water that mirrors it below the line `shore` (0…1); `boats` holds the boats upside down.

    Ripples lie on a plane, so they grow on the picture away from the shore; the slope of each moves the mirrored point.
    """
    height, width = scene.shape[:2]
    x, y = grid(width, height)
    below = np.clip(y - shore, 0, None)
    near = 1 / (below + 0.03)
    along, across = (x - 0.66) * near * 0.55, near * 1.5
    swell = fractal_noise(along * 1.3, across * 1.6, seed=200, octaves=3)
    ripple = fractal_noise(along * 5, across * 6, seed=210, octaves=4, gain=0.6)
    slope = 0.55 * swell + 0.75 * ripple
    shift = (0.004 + 0.085 * below) * slope
    mirror = (2 * shore - y + 0.02 * below + 1.9 * shift).clip(0.02, shore - 0.002)
    mirrored = sample(scene, (x + 0.35 * shift) * height, mirror * height)
    steepness = smoothstep(0.0, 0.42, below)
    deep = mix(hex_colour("#5b7f8c"), hex_colour("#123543"), steepness)
    water = mix(
        mirrored * np.array([0.93, 0.93, 0.96], np.float32),
        deep,
        np.clip(0.10 + 0.42 * steepness - 0.22 * slope * steepness, 0, 0.8),
    )
    water = water * (1 + 0.20 * slope * (0.4 + steepness))[..., None]

    drift_x, drift_y = (x + 0.2 * shift) * height, (y + 0.8 * shift) * height
    hulls = sample(np.asarray(boats.colour, np.float32) / 255, drift_x, drift_y)
    water = mix(water, hulls * 0.62 + 0.04, sample(np.asarray(boats.cover, np.float32) / 255, drift_x, drift_y) * 0.85)

    path = np.exp(-(((x - SUN[0]) / (0.05 + 0.28 * below)) ** 2)) * smoothstep(0.0, 0.03, below)
    glint = smoothstep(0.22, 0.5, slope * 0.9 + 0.33 * path - 0.05) * path
    water = mix(water, hex_colour("#ffe2a0"), np.clip(glint, 0, 1) * 0.95)
    line = smoothstep(0.012, 0.0, below)
    water = water * (1 - 0.35 * line)[..., None]
    return mix(scene, water, smoothstep(shore - 0.0005, shore + 0.0005, y))


def sailing_boat(layer: Layer, x: float, waterline: float, scale: float, upside_down: bool) -> None:
    """A boat with a mast, a gaff sail and a jib, or its mirror image."""

    def at(u: float, v: float) -> Point:
        return x + u * scale, waterline + (v if upside_down else -v) * scale

    _hull(layer, at, HULL[0])
    layer.polygon(
        [at(0.02, 0.12), at(0.02, 1.02), at(-0.27, 0.86), at(-0.42, 0.2), at(-0.2, 0.155)], hex_colour("#f6e2ba")
    )
    layer.polygon(
        [at(0.02, 0.12), at(0.02, 1.02), at(-0.08, 0.96), at(-0.13, 0.5), at(-0.1, 0.13)], hex_colour("#d9a878")
    )
    for k in range(1, 5):
        layer.line(
            [at(0.02, 0.12 + 0.18 * k), at(-0.18, 0.13 + 0.172 * k), at(-0.405 + 0.035 * k, 0.2 + 0.14 * k)],
            0.0012,
            hex_colour("#b98a62"),
        )
    layer.polygon([at(0.06, 0.95), at(0.4, 0.15), at(0.2, 0.17), at(0.08, 0.2)], hex_colour("#e8b98a"))
    layer.polygon([at(0.06, 0.95), at(0.24, 0.5), at(0.15, 0.17), at(0.08, 0.2)], hex_colour("#fbeacb"))
    layer.line([at(0.03, 0.05), at(0.035, 1.1)], 0.022 * scale, hex_colour("#5a3a26"))
    layer.polygon([at(0.035, 1.1), at(0.035, 1.04), at(0.16, 1.075)], hex_colour("#c8402e"))


def rowing_boat(layer: Layer, x: float, waterline: float, scale: float, upside_down: bool) -> None:
    """An open boat with thwarts and oars seen from the side and a little above, or its mirror image."""

    def at(u: float, v: float) -> Point:
        return x + u * scale, waterline + (v if upside_down else -v) * scale

    if not upside_down:
        rim = [at(-0.52, 0.2), at(-0.2, 0.245), at(0.2, 0.245), at(0.56, 0.23), at(0.25, 0.16), at(-0.2, 0.14)]
        layer.polygon(rim, hex_colour("#4a2f22"))
        for u in (-0.25, 0.02, 0.28):
            layer.polygon(
                [at(u, 0.145), at(u + 0.08, 0.15), at(u + 0.06, 0.24), at(u - 0.01, 0.24)], hex_colour("#b5824f")
            )
    planks = 5
    for k in range(planks):
        low, high = k / planks, (k + 1) / planks
        colour = tuple(channel * (0.62 + 0.55 * high) for channel in HULL[1 + (k == planks - 1)])
        edge = [at(-0.44 - 0.08 * t, -0.03 + 0.23 * t) for t in (low, high)]
        middle = [at(0.0, -0.05 + 0.19 * t) for t in (low, high)]
        bow = [at(0.44 + 0.12 * t, -0.03 + 0.26 * t) for t in (low, high)]
        outline = [
            edge[0],
            *_bend(edge[0], middle[0], bow[0]),
            bow[0],
            bow[1],
            *_bend(edge[1], middle[1], bow[1])[::-1],
            edge[1],
        ]
        layer.polygon(outline, (colour[0], colour[1], colour[2]))
    layer.line(
        [at(-0.52, 0.2), *_bend(at(-0.52, 0.2), at(0.0, 0.14), at(0.56, 0.23)), at(0.56, 0.23)],
        0.018 * scale,
        hex_colour("#d9a066"),
    )
    layer.line([at(-0.15, 0.17), at(-0.62, -0.02)], 0.02 * scale, hex_colour("#c08a55"))


def _hull(layer: Layer, at: Callable[[float, float], Point], colour: Colour) -> None:
    deck, keel = (
        _bend(at(-0.46, 0.13), at(0.0, 0.085), at(0.52, 0.16)),
        _bend(at(-0.38, -0.02), at(0.0, -0.035), at(0.4, -0.02)),
    )
    layer.polygon([at(-0.46, 0.13), *deck, at(0.52, 0.16), at(0.4, -0.02), *keel[::-1], at(-0.38, -0.02)], colour)
    dark = (colour[0] * 0.55, colour[1] * 0.5, colour[2] * 0.6)
    layer.polygon([at(-0.4, 0.03), at(0.44, 0.04), at(0.4, -0.02), *keel[::-1], at(-0.38, -0.02)], dark)
    layer.line([at(-0.46, 0.13), *deck, at(0.52, 0.16)], 0.004, hex_colour("#f3d9a6"))


def _bend(start: Point, middle: Point, end: Point) -> list[Point]:
    """Points between the ends of a quadratic arc that passes near `middle`."""
    control = (2 * middle[0] - (start[0] + end[0]) / 2, 2 * middle[1] - (start[1] + end[1]) / 2)
    return [
        (
            (1 - t) ** 2 * start[0] + 2 * t * (1 - t) * control[0] + t * t * end[0],
            (1 - t) ** 2 * start[1] + 2 * t * (1 - t) * control[1] + t * t * end[1],
        )
        for t in (float(k) / 12 for k in range(1, 12))
    ]
