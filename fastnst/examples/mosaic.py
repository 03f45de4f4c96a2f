"""A style: a mosaic of glass tesserae with dark grout, laid along the lines of a sun, waves and leaves."""

import numpy as np
from PIL import Image

from fastnst.examples.noise import fractal_noise
from fastnst.examples.raster import Array, blur, grid, hex_colour, mix, ramp, relief, sample, smoothstep, to_image


def draw(width: int = 640, seed: int = 5) -> Image.Image:
    """The mosaic at `width` pixels and 5:4, laid at twice that size."""
    height = width * 4 // 5
    wide, tall = 2 * width, 2 * height
    rng = np.random.default_rng(seed)
    design, angle = _design(wide, tall)
    sites = _sites(wide, tall, tall / 36, rng)
    turns = sample(angle, sites[:, 0], sites[:, 1])
    nearest, gap = _tesserae(wide, tall, sites, turns, tall / 36)

    colours = sample(design, sites[:, 0], sites[:, 1])
    colours = colours * (1 + 0.17 * rng.normal(0, 1, (len(sites), 1))) + 0.035 * rng.normal(0, 1, (len(sites), 3))
    accents = rng.random(len(sites)) < 0.05
    colours[accents] = colours[accents] * 0.5 + np.array([0.45, 0.42, 0.36])
    colours = np.clip(colours, 0.02, 1).astype(np.float32)

    x, y = grid(wide, tall)
    # Each tile is tilted at random in its mortar and catches the light differently.
    tilt = rng.normal(0, 1, (len(sites), 2)).astype(np.float32)
    across, down = x * tall - sites[nearest, 0], y * tall - sites[nearest, 1]
    facet = (across * tilt[nearest, 0] + down * tilt[nearest, 1]) / (tall / 36)
    glass = (
        1
        + 0.20 * facet
        + 0.10 * fractal_noise(x * 60, y * 60, seed=500, octaves=4)
        + 0.06 * fractal_noise(x * 9, y * 130, seed=510, octaves=2)
    )
    tile = colours[nearest] * glass[..., None]

    edge = gap / (tall / 36)
    inside = smoothstep(0.055, 0.095, edge + 0.018 * fractal_noise(x * 80, y * 80, seed=520, octaves=2))
    bevel = relief(blur(np.minimum(edge, 0.24) * 24, 1.5), 1.1)
    shine = smoothstep(0.35, 1.0, bevel) * 0.22
    tile = tile * (1 + 0.42 * bevel[..., None]) + shine[..., None]
    grout = ramp(
        0.5 + 0.5 * fractal_noise(x * 90, y * 90, seed=530, octaves=3),
        [(0, hex_colour("#120f14")), (1, hex_colour("#3a322f"))],
    )
    return to_image(mix(grout, tile, inside), width, height)


def _sites(width: int, height: int, spacing: float, rng: np.random.Generator) -> Array:
    """Centres of the tesserae `(sites, 2)` in pixels, on a jittered honeycomb that overlaps the border."""
    row, column = np.mgrid[-2 : height / spacing + 2, -2 : width / spacing + 2]
    centres = np.stack([column + 0.5 * (row % 2), row], axis=-1) + rng.uniform(-0.27, 0.27, (*row.shape, 2))
    return np.asarray((centres * spacing).reshape(-1, 2), dtype=np.float32)


def _tesserae(width: int, height: int, sites: Array, turns: Array, spacing: float) -> tuple[np.ndarray, Array]:
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
            second = np.where(
                closer, np.where(same, second, best), np.where(same, second, np.minimum(second, distance))
            )
            nearest = np.where(closer, site, nearest)
            best = np.where(closer, distance, best)
    return nearest, np.asarray((second - best) / 2, dtype=np.float32)


def _design(width: int, height: int) -> tuple[Array, Array]:
    """Colours of the picture under the tiles, and the direction in radians along which they lie."""
    x, y = grid(width, height)
    sun_x, sun_y = 0.80, 0.34
    dx, dy = x - sun_x, y - sun_y
    away, around = np.hypot(dx, dy), np.arctan2(dy, dx)
    jewels = [hex_colour(c) for c in ("#1a1f6b", "#1f4fae", "#1c86b8", "#2bb3a6", "#7fd0a8")]
    rays = 0.5 + 0.5 * np.cos(16 * around + 2.2 * np.sin(9 * away))
    sky = ramp(
        np.clip(
            0.15
            + 0.45 * rays * smoothstep(0.9, 0.2, away)
            + 0.3 * y
            + 0.25 * fractal_noise(x * 3, y * 3, seed=540, octaves=3),
            0,
            1,
        ),
        list(zip(np.linspace(0, 1, 5).tolist(), jewels, strict=True)),
    )
    golds = [hex_colour(c) for c in ("#fff0a8", "#f9c63a", "#ef8a1d", "#d8431f", "#8e1b3a")]
    sun = ramp(
        away / 0.27 + 0.13 * (rays - 0.5) * smoothstep(0.08, 0.2, away),
        list(zip(np.linspace(0, 1, 5).tolist(), golds, strict=True)),
    )
    scene = mix(sky, sun, smoothstep(0.005, -0.005, away - 0.245 - 0.045 * rays))
    angle = around + np.pi / 2

    for k, (base, colours) in enumerate(
        (
            (0.60, ("#5b1f6e", "#9a2f7f", "#d4567f")),
            (0.70, ("#0f5a4e", "#1f9a6a", "#a8d65c")),
            (0.80, ("#8e1b2f", "#d8431f", "#f6a52c")),
            (0.91, ("#14256e", "#2560b8", "#49b8d0")),
        )
    ):
        crest = base + 0.055 * np.sin(4.2 * x + 1.9 * k) + 0.02 * np.sin(9 * x + k)
        slope = np.gradient(crest, axis=1) * height
        depth = (y - crest) / 0.14
        bands = np.clip(0.5 + 0.5 * np.cos(depth * 11 + 0.8 * np.sin(6 * x)), 0, 1) * 0.75 + 0.25 * depth
        wave = ramp(
            1 - bands, [(0, hex_colour(colours[0])), (0.5, hex_colour(colours[1])), (1, hex_colour(colours[2]))]
        )
        inside = y > crest
        scene = mix(scene, wave, inside.astype(np.float32))
        angle = np.where(inside, np.arctan(slope), angle)
        scene = mix(scene, hex_colour("#f7e9bf"), np.exp(-(((y - crest - 0.012) / 0.010) ** 2)) * inside)

    # A branch with leaves in the upper left.
    for turn in np.linspace(0.2, 1.35, 4):
        for reach, size in ((0.16, 0.10), (0.42, 0.15)):
            leaf_x, leaf_y = reach * np.cos(turn) * 1.05, reach * np.sin(turn) * 0.95
            heading = turn + 0.5 * np.sin(9 * reach + 4 * turn)
            u = (x - leaf_x) * np.cos(heading) + (y - leaf_y) * np.sin(heading)
            v = (y - leaf_y) * np.cos(heading) - (x - leaf_x) * np.sin(heading)
            shape = np.abs(v) - 0.45 * size * (1 - (u / size) ** 2)
            leaf = smoothstep(0.003, -0.003, shape) * (np.abs(u) < size)
            tone = ramp(
                0.5 + 0.5 * np.sign(v) * smoothstep(0.0, 0.006, np.abs(v)) + 0.2 * np.sin(60 * (u + np.abs(v))),
                [(0, hex_colour("#0f6a45")), (0.6, hex_colour("#5fb548")), (1, hex_colour("#e0d850"))],
            )
            scene = mix(scene, tone, leaf)
            angle = np.where(leaf > 0.5, heading, angle)
    return np.asarray(scene, dtype=np.float32), np.asarray(angle, dtype=np.float32)
