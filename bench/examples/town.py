"""The old town on the far shore: rows of houses up a wooded hill, the church on top, quay and bridge at the water."""

import numpy as np

from bench.examples.bridge import draw_bridge
from bench.examples.church import draw_church
from bench.examples.houses import draw_house, row_of_houses
from bench.examples.layer import Layer
from bench.examples.noise import fractal_noise
from bench.examples.raster import Array, grid, hex_colour, mix, smoothstep
from bench.examples.terrain import HAZE
from bench.examples.trees import AUTUMN, FIR, LEAVES, broadleaf, foliage, poplar

# Share of the hill's height, first and last x, size and haze of each row, from the back to the front.
ROWS = ((0.72, 0.1, 0.62, 0.66, 0.13), (0.36, 0.0, 0.78, 0.8, 0.07), (0.0, -0.03, 0.82, 1.0, 0.0))
QUAY_END = 0.86


def old_town(scene: Array, shore: float, plaster: Array, seed: int) -> Array:
    """The scene with the town along the line `shore`; `plaster` `(height, width)` is the texture of its walls."""
    height, width = scene.shape[:2]
    build, plant = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    scene = _hill(scene, shore)
    layer = Layer.blank(width, height)
    for at in np.sort(plant.uniform(0.0, 1.35, 26)).tolist():
        broadleaf(layer, at, shore - 0.9 * _crest(at), plant.uniform(0.04, 0.07), FIR, plant)
    draw_church(layer, 0.335, shore - 0.15, 0.78, build)
    scene = layer.onto(scene, plaster, HAZE, 0.16)

    for share, start, end, scale, haze in ROWS:
        layer = Layer.blank(width, height)

        def ground(x: float, share: float = share) -> float:
            return shore - 0.012 - share * _crest(x)

        for at in np.sort(plant.uniform(start, end + 0.06, 9)).tolist():
            broadleaf(layer, at, ground(at) - 0.008, plant.uniform(0.06, 0.1) * scale, LEAVES, plant)
        if share == 0:
            draw_bridge(layer, QUAY_END, 1.32, shore, build)
            for at, tall, palette in ((0.84, 0.16, AUTUMN), (1.3, 0.15, LEAVES), (1.24, 0.1, LEAVES)):
                broadleaf(layer, at, shore - 0.004, tall, palette, plant)
        for house in row_of_houses(build, start, end, ground, scale):
            draw_house(layer, house, build)
            if plant.random() < 0.5:
                palette = AUTUMN if plant.random() < 0.4 else LEAVES
                foliage(layer, (house.x + house.width, house.ground - 0.012), (0.022, 0.02), 160, 0.006, palette, plant)
        for at in plant.uniform(start, end, 2).tolist():
            poplar(layer, at, ground(at), 0.13 * scale, plant)
        if share == 0:
            _quay(layer, shore, build)
        scene = layer.onto(scene, plaster, HAZE, haze)
    return scene


def _crest(x: float) -> float:
    """Height of the hill over the shore, in units of the picture's height."""
    return 0.02 + 0.165 * float(np.exp(-(((x - 0.36) / 0.27) ** 2))) + 0.03 * float(np.exp(-(((x - 0.75) / 0.2) ** 2)))


def _hill(scene: Array, shore: float) -> Array:
    height, width = scene.shape[:2]
    x, y = grid(width, height)
    crest = np.array([_crest(at) for at in x[0].tolist()])[None]
    edge = shore - crest + 0.008 * fractal_noise(x * 12, y * 0, seed=320, octaves=4)
    sunny = 0.5 + 0.6 * fractal_noise(x * 30, y * 60, seed=330, octaves=4)
    grass = mix(hex_colour("#31452c"), hex_colour("#8c8440"), sunny)
    return mix(scene, mix(grass, HAZE, 0.16), smoothstep(-0.001, 0.001, y - edge))


def _quay(layer: Layer, shore: float, rng: np.random.Generator) -> None:
    """A wall of two courses of stones along the shore, with mooring posts."""
    course = 0.007
    for row in range(2):
        left, top = -0.01 * row, shore - (2 - row) * course
        while left < QUAY_END:
            right = left + float(rng.uniform(0.012, 0.024))
            tone = float(rng.uniform(0.42, 0.62))
            stone = [(left, top), (right, top), (right, top + course), (left, top + course)]
            layer.polygon(stone, (tone, 0.88 * tone, 0.78 * tone))
            left = right + 0.0008
    layer.line([(0, shore - 0.0145), (QUAY_END, shore - 0.0145)], 0.003, (0.86, 0.72, 0.55))
    for at in np.linspace(0.05, 0.8, 9).tolist():
        layer.line([(at, shore), (at, shore - 0.026)], 0.005, hex_colour("#4a3528"))
