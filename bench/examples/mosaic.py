"""A style: a mosaic of glass tesserae with dark grout, laid along the lines of a sun, waves and leaves."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.examples.noise import fractal_noise
from bench.examples.raster import (
    Array,
    Stops,
    blur,
    gradient,
    grid,
    hex_colour,
    mix,
    ramp,
    relief,
    sample,
    smoothstep,
    to_image,
)

SKY = gradient("#1a1f6b", "#1f4fae", "#1c86b8", "#2bb3a6", "#7fd0a8")
SUN = gradient("#fff0a8", "#f9c63a", "#ef8a1d", "#d8431f", "#8e1b3a")
LEAF = gradient("#0f6a45", "#5fb548", "#e0d850")
GROUT = gradient("#120f14", "#3a322f")
# Height of the crest and colours of each wave, from the back to the front.
WAVES = (
    (0.60, gradient("#5b1f6e", "#9a2f7f", "#d4567f")),
    (0.70, gradient("#0f5a4e", "#1f9a6a", "#a8d65c")),
    (0.80, gradient("#8e1b2f", "#d8431f", "#f6a52c")),
    (0.91, gradient("#14256e", "#2560b8", "#49b8d0")),
)


def draw(width: int = 640, seed: int = 5) -> Image.Image:
    """The mosaic at `width` pixels and 5:4, laid at twice that size."""
    height = width * 4 // 5
    wide, tall = 2 * width, 2 * height
    size = tall / 36
    rng = np.random.default_rng(seed)
    design, angle = _design(wide, tall)
    sites = _sites(wide, tall, size, rng)
    nearest, gap = _tesserae(wide, tall, sites, sample(angle, sites[:, 0], sites[:, 1]), size)
    tones = _tones(sample(design, sites[:, 0], sites[:, 1]), rng)

    x, y = grid(wide, tall)
    # Each tile is tilted at random in its mortar and catches the light differently.
    tilt = rng.normal(0, 1, (len(sites), 2))
    across, down = x * tall - sites[nearest, 0], y * tall - sites[nearest, 1]
    facet = (across * tilt[nearest, 0] + down * tilt[nearest, 1]) / size
    cloudy = fractal_noise(x * 60, y * 60, seed=500, octaves=4)
    streaks = fractal_noise(x * 9, y * 130, seed=510, octaves=2)
    tile = tones[nearest] * (1 + 0.20 * facet + 0.10 * cloudy + 0.06 * streaks)[..., None]
    bevel = relief(blur(np.minimum(gap / size, 0.24) * 24, 1.5), 1.1)
    tile = (tile * (1 + 0.42 * bevel[..., None])) + 0.22 * smoothstep(0.35, 1.0, bevel)[..., None]

    grout = ramp(0.5 + 0.5 * fractal_noise(x * 90, y * 90, seed=530, octaves=3), GROUT)
    chipped = gap / size + 0.018 * fractal_noise(x * 80, y * 80, seed=520, octaves=2)
    return to_image(mix(grout, tile, smoothstep(0.055, 0.095, chipped)), width, height)


def _tones(colours: Array, rng: np.random.Generator) -> Array:
    """The colours of single tiles `(tiles, 3)`: each a little off the design's, one in twenty pale."""
    count = len(colours)
    tones = colours * (1 + 0.17 * rng.normal(0, 1, (count, 1))) + 0.035 * rng.normal(0, 1, (count, 3))
    pale = rng.random((count, 1)) < 0.05
    return np.clip(np.where(pale, 0.5 * tones + np.array([0.45, 0.42, 0.36]), tones), 0.02, 1)


def _sites(width: int, height: int, spacing: float, rng: np.random.Generator) -> Array:
    """Centres of the tesserae `(sites, 2)` in pixels, on a jittered honeycomb that overlaps the border."""
    row, column = np.mgrid[-2 : height / spacing + 2, -2 : width / spacing + 2]
    centres = np.stack([column + 0.5 * (row % 2), row], axis=-1) + rng.uniform(-0.27, 0.27, (*row.shape, 2))
    return np.asarray((centres * spacing).reshape(-1, 2), dtype=np.float32)


def _tesserae(width: int, height: int, sites: Array, turns: Array, spacing: float) -> tuple[NDArray[np.intp], Array]:
    """For each pixel the index of its tessera and its distance to the border with the next one, in pixels.

    A Voronoi diagram in a rounded square metric that is turned, for each site, to lie along the design
    (Hausner, Simulating Decorative Mosaics, 2001).
    """
    columns = len(np.arange(-2, width / spacing + 2))
    rows = len(sites) // columns
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
    cell_row, cell_column = np.round(y / spacing).astype(np.intp) + 2, np.round(x / spacing).astype(np.intp) + 2
    best = np.full((height, width), np.inf, np.float32)
    second = best.copy()
    nearest = np.zeros((height, width), np.intp)
    cosine, sine = np.cos(turns), np.sin(turns)
    for i in range(-2, 3):
        for j in range(-2, 3):
            site = np.clip(cell_row + i, 0, rows - 1) * columns + np.clip(cell_column + j, 0, columns - 1)
            dx, dy = x - sites[site, 0], y - sites[site, 1]
            u, v = dx * cosine[site] + dy * sine[site], dy * cosine[site] - dx * sine[site]
            distance = (np.abs(u) ** 4 + np.abs(v) ** 4) ** np.float32(0.25)
            closer, same = distance < best, site == nearest
            runner_up = np.where(closer, best, np.minimum(second, distance))
            second = np.where(same, second, runner_up)
            nearest = np.where(closer, site, nearest)
            best = np.minimum(best, distance)
    return nearest, np.asarray((second - best) / 2, dtype=np.float32)


def _design(width: int, height: int) -> tuple[Array, Array]:
    """Colours of the picture under the tiles, and the direction in radians along which they lie."""
    x, y = grid(width, height)
    scene, angle = _sun(x, y)
    for k, (crest, tones) in enumerate(WAVES):
        scene, angle = _wave(x, y, crest, k, tones, scene, angle)
    for turn in np.linspace(0.2, 1.35, 4).tolist():
        for reach, size in ((0.16, 0.10), (0.42, 0.15)):
            scene, angle = _leaf(x, y, turn, reach, size, scene, angle)
    return scene, angle


def _sun(x: Array, y: Array) -> tuple[Array, Array]:
    """A sun with a wavy rim in a sky of its rays; the tiles lie in rings around it."""
    away, around = np.hypot(x - 0.80, y - 0.34), np.arctan2(y - 0.34, x - 0.80)
    rays = 0.5 + 0.5 * np.cos(16 * around + 2.2 * np.sin(9 * away))
    clouds = fractal_noise(x * 3, y * 3, seed=540, octaves=3)
    sky = ramp(0.15 + 0.45 * rays * smoothstep(0.9, 0.2, away) + 0.3 * y + 0.25 * clouds, SKY)
    sun = ramp(away / 0.27 + 0.13 * (rays - 0.5) * smoothstep(0.08, 0.2, away), SUN)
    return mix(sky, sun, smoothstep(0.005, -0.005, away - 0.245 - 0.045 * rays)), around + np.pi / 2


def _wave(x: Array, y: Array, base: float, k: int, tones: Stops, scene: Array, angle: Array) -> tuple[Array, Array]:
    """A banded wave with a light crest around the height `base`, the `k`th from the back; the tiles follow it."""
    crest = base + 0.055 * np.sin(4.2 * x + 1.9 * k) + 0.02 * np.sin(9 * x + k)
    inside = y > crest
    depth = (y - crest) / 0.14
    bands = 0.75 * (0.5 + 0.5 * np.cos(depth * 11 + 0.8 * np.sin(6 * x))) + 0.25 * depth
    scene = mix(scene, ramp(1 - bands, tones), inside)
    scene = mix(scene, hex_colour("#f7e9bf"), np.exp(-(((y - crest - 0.012) / 0.010) ** 2)) * inside)
    return scene, np.where(inside, np.arctan(np.gradient(crest, axis=1) * len(y)), angle)


def _leaf(
    x: Array, y: Array, turn: float, reach: float, size: float, scene: Array, angle: Array
) -> tuple[Array, Array]:
    """A pointed leaf with a vein, `reach` from the upper left corner in the direction `turn`, tiled lengthwise."""
    dx, dy = x - 1.05 * reach * np.cos(turn), y - 0.95 * reach * np.sin(turn)
    heading = turn + 0.5 * np.sin(9 * reach + 4 * turn)
    u, v = dx * np.cos(heading) + dy * np.sin(heading), dy * np.cos(heading) - dx * np.sin(heading)
    inside = smoothstep(0.003, -0.003, np.abs(v) - 0.45 * size * (1 - (u / size) ** 2)) * (np.abs(u) < size)
    half = 0.5 + 0.5 * np.sign(v) * smoothstep(0.0, 0.006, np.abs(v))
    scene = mix(scene, ramp(half + 0.2 * np.sin(60 * (u + np.abs(v))), LEAF), inside)
    return scene, np.where(inside > 0.5, heading, angle)
