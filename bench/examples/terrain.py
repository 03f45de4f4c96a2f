"""The far half of the landscape: an evening sky and a mountain range cast from a height field."""

import numpy as np

from bench.examples.noise import fractal_noise, ridged_noise
from bench.examples.raster import Array, Colour, grid, hex_colour, mix, ramp, smoothstep

SUN = (0.15, 0.36)
HAZE: Colour = (0.93, 0.74, 0.62)
AIR = [
    (0.0, hex_colour("#234a86")),
    (0.3, hex_colour("#4f83b4")),
    (0.55, hex_colour("#a9bcbf")),
    (0.75, hex_colour("#f3cf9a")),
    (0.92, hex_colour("#f7b573")),
    (1.0, hex_colour("#f0a070")),
]
CLOUD_SHADE = [(0.0, hex_colour("#56648f")), (0.6, hex_colour("#9a7f93")), (1.0, hex_colour("#c98a76"))]
CLOUD_LIGHT = [(0.0, hex_colour("#fbeedb")), (0.55, hex_colour("#ffdfa8")), (1.0, hex_colour("#ffb45e"))]


def sky(width: int, height: int, horizon: float) -> Array:
    """Evening sky `(height, width, 3)` above the horizon: glow around the sun, and clouds lit where they face it."""
    x, y = grid(width, height)
    from_sun = np.hypot(x - SUN[0], y - SUN[1])
    away = np.hypot(x - SUN[0], (y - SUN[1]) * 1.5)
    air = mix(ramp(y / horizon, AIR), hex_colour("#ffe9b0"), np.exp(-((away / 0.22) ** 2)) * 0.65)

    # Clouds lie on a plane above the viewer: they shrink and flatten towards the horizon.
    depth = 0.34 / (horizon + 0.06 - y).clip(0.05)
    along, across = (x - 0.55) * depth * 1.9, depth * 2.3
    warp = fractal_noise(along * 0.7, across * 0.7, seed=50, octaves=4)
    along, across = along + 0.5 * warp, across + 0.35 * warp
    density = fractal_noise(along, across, seed=60, octaves=7, gain=0.55)
    # A cloud is bright where it gets thinner towards the sun, dark in its thick middle.
    step = 0.105 * depth / (away + 0.1)
    sunward_x, sunward_y = (SUN[0] - x) * step, (SUN[1] - y) * step
    nearer = fractal_noise(along + sunward_x, across - sunward_y, seed=60, octaves=6, gain=0.55)
    lit = np.clip(0.5 + 2.4 * (density - nearer), 0, 1) * (1 - 0.45 * smoothstep(0.25, 0.8, density))
    lit = np.clip(lit + 0.5 * np.exp(-((away / 0.3) ** 2)), 0, 1)
    clouds = mix(ramp(y / horizon, CLOUD_SHADE), ramp(y / horizon, CLOUD_LIGHT), lit)
    scene = mix(air, clouds, smoothstep(-0.12, 0.34, density) * 0.93)

    scene = mix(scene, hex_colour("#fff0c0"), 0.5 * np.exp(-((from_sun / 0.075) ** 2)))
    return mix(scene, hex_colour("#fff6cf"), smoothstep(0.027, 0.023, from_sun))


def mountains(scene: Array, horizon: float) -> Array:
    """The scene with a snowy range and wooded foothills in front of its sky.

    Each depth is one profile of the height field, drawn in perspective; a pixel shows the nearest profile that reaches
    up to it, coloured by height, slope and light, and hazier the farther it is.
    """
    height, width = scene.shape[:2]
    depth = np.linspace(1.5, 8.0, 900, dtype=np.float32)[:, None]
    x = ((np.arange(width, dtype=np.float32)[None] + 0.5) / height - 0.6) * depth
    rise = _height(x, depth)
    paint = _lit_ground(x, depth, rise)

    # skyline[k] is the topmost row that the profiles up to depth k reach; the first k at or above a row is seen there.
    skyline = np.minimum.accumulate((horizon - (rise - 0.02) / depth) * height, axis=0)
    rows = np.arange(height, dtype=np.float32)
    out = scene.copy()
    for j in range(width):
        seen = np.searchsorted(-skyline[:, j], -rows)
        hit = (seen < len(depth)) & (rows <= horizon * height)
        behind, row = seen[hit], rows[hit]
        before = np.maximum(behind - 1, 0)
        part = (row - skyline[before, j]) / np.minimum(skyline[behind, j] - skyline[before, j], -1e-6)
        out[hit, j] = mix(paint[before, j], paint[behind, j], np.clip(part, 0, 1))
    return out


def _height(x: Array, depth: Array) -> Array:
    """Height of the ground; foothills close by, the range behind, highest to the right of the middle."""
    x, depth = np.broadcast_arrays(x, depth)
    bend = 0.3 * fractal_noise(x * 0.8, depth * 0.8, seed=90, octaves=3)
    crest = ridged_noise(x * 0.42 + bend + 3.1, depth * 0.4 + bend, seed=100, octaves=7, gain=0.42)
    massif = smoothstep(2.6, 5.2, depth) * (0.55 + 0.75 * np.exp(-(((x - 1.4) / 1.9) ** 2)))
    hills = 0.6 + fractal_noise(x * 0.9 + 7, depth * 0.9, seed=120, octaves=5)
    return np.asarray(1.75 * crest**1.3 * massif + 0.16 * hills * smoothstep(1.5, 2.2, depth))


def _lit_ground(x: Array, depth: Array, rise: Array) -> Array:
    """Colours `(depths, columns, 3)` of the ground: woods, meadows, rock and snow under a low sun and haze."""
    step = 0.006
    slope_x = (_height(x + step, depth) - rise) / step
    slope_z = (_height(x, depth + step) - rise) / step
    norm = np.sqrt(1 + slope_x**2 + slope_z**2)

    patch = fractal_noise(x * 9, depth * 9, seed=140, octaves=4)
    meadow = smoothstep(-0.1, 0.35, fractal_noise(x * 4, depth * 4, seed=150, octaves=3))
    wooded = smoothstep(0.44, 0.26, rise + 0.12 * patch)
    ground = mix(hex_colour("#7d6a66"), hex_colour("#97806e"), 0.5 + 0.5 * patch)
    ground = mix(ground, hex_colour("#f4f2f4"), smoothstep(0.62, 0.88, rise + 0.13 * patch - 0.16 * (norm - 1.6)))
    ground = mix(ground, mix(hex_colour("#2f4a35"), hex_colour("#8a8b45"), meadow), wooded)
    rough = (0.12 + 0.25 * wooded) * fractal_noise(x * 45, depth * 30, seed=160, octaves=3)

    # The sun stands low on the left; the sky lights flat ground most.
    sunlight = np.clip((0.80 * slope_x + 0.22 - 0.18 * slope_z) / norm, 0, 1)[..., None] * np.array([1.7, 1.1, 0.6])
    skylight = (0.42 + 0.3 / norm)[..., None] * np.array([0.66, 0.74, 1.0])
    haze = 1 - np.exp(-(((depth - 1.2) / 10.0) ** 1.2)) + 0.18 * smoothstep(0.25, 0.0, rise)
    air = mix(hex_colour("#8fa3c4"), HAZE, smoothstep(0.9, 0.0, rise))
    return mix(ground * (1 + rough)[..., None] * (sunlight + skylight), air, haze)
