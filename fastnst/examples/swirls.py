"""A style: thick oil strokes in whirls, an evening sky with burning discs over a field of wheat."""

import numpy as np
from PIL import Image

from fastnst.examples.noise import fractal_noise
from fastnst.examples.raster import Array, grid, hex_colour, mix, ramp, sample, smoothstep, to_image
from fastnst.examples.strokes import Whirl, flow_angle, impasto, paint, streamlines

# x, y, radius of the whirl, turn; x in 0…1.25, y in 0…1.
WHIRLS: list[Whirl] = [
    (0.36, 0.33, 0.20, 1.0),
    (0.82, 0.42, 0.17, -1.0),
    (0.60, 0.14, 0.11, -1.0),
    (0.08, 0.10, 0.13, -1.0),
    (0.08, 0.52, 0.10, -1.0),
]
DISCS: list[Whirl] = [
    (1.06, 0.17, 0.105, 1.0),
    (0.155, 0.30, 0.052, 1.0),
    (0.61, 0.40, 0.045, 1.0),
    (0.40, 0.08, 0.04, -1.0),
    (0.82, 0.10, 0.048, 1.0),
]
BLUES = [hex_colour(c) for c in ("#0c1a4f", "#153a8a", "#1f63b5", "#2f97bf", "#7cc8c4", "#e9ecc4")]
GOLDS = [hex_colour(c) for c in ("#5a2a12", "#a8481a", "#d97a1c", "#f0a727", "#f8d458", "#fff3b0")]


def draw(width: int = 640, seed: int = 11) -> Image.Image:
    """The swirls at `width` pixels and 5:4, painted at twice that size."""
    height = width * 4 // 5
    wide, tall = 2 * width, 2 * height
    rng = np.random.default_rng(seed)
    design, angle = _design(wide, tall)
    canvas = Image.fromarray((np.clip(design * 0.8, 0, 1) * 255).astype(np.uint8))
    thickness = Image.new("L", (wide, tall), 90)
    # Broad strokes first, then finer ones with more colour of their own.
    for count, size, length, bristles, spread in (
        (2600, 0.026, 0.13, 8, 0.06),
        (7000, 0.016, 0.085, 7, 0.10),
        (5200, 0.0095, 0.055, 5, 0.13),
    ):
        x, y = rng.uniform(-0.05, 1.05, count) * wide, rng.uniform(-0.05, 1.05, count) * tall
        lengths = (length * tall * rng.uniform(0.6, 1.3, count)).astype(np.float32)
        paths = streamlines(angle, x.astype(np.float32), y.astype(np.float32), lengths, steps=11)
        middle = paths[:, 5]
        colours = sample(design, middle[:, 0], middle[:, 1])
        brightness = 1 + spread * rng.normal(0, 1.6, (count, 1))
        colours = np.clip(colours * brightness + spread * 0.5 * rng.normal(0, 1, (count, 3)), 0, 1).astype(np.float32)
        paint(canvas, thickness, paths, colours, size * tall, bristles, rng)
    return to_image(impasto(canvas, thickness, 0.42), width, height)


def _design(width: int, height: int) -> tuple[Array, Array]:
    """Colours that the strokes take up, and the direction that they follow."""
    x, y = grid(width, height)
    wave = 0.5 * np.sin(5.2 * x + 1.0) + 0.7 * fractal_noise(x * 2.2, y * 2.2, seed=400, octaves=2)
    angle = flow_angle(x, y, wave.astype(np.float32), [*WHIRLS, *[(a, b, 1.5 * r, t) for a, b, r, t in DISCS]])

    band = 0.34 + 0.15 * np.sin(21 * (y + 0.09 * np.sin(5.2 * x) + 0.1 * wave)) + 0.16 * y
    for centre_x, centre_y, radius, turn in WHIRLS:
        dx, dy = x - centre_x, y - centre_y
        away = np.hypot(dx, dy) / radius
        spiral = 0.5 + 0.5 * np.cos(turn * np.arctan2(dy, dx) * 2 + 8.5 * np.log(away + 0.18))
        band = mix(band, 0.12 + 0.85 * spiral, np.exp(-(away**2)) * 0.95)
    sky = ramp(
        band + 0.08 * fractal_noise(x * 12, y * 12, seed=410, octaves=2),
        list(zip(np.linspace(0, 1, 6).tolist(), BLUES, strict=True)),
    )
    for centre_x, centre_y, radius, _ in DISCS:
        away = np.hypot(x - centre_x, y - centre_y) / radius
        rings = 0.42 + 0.58 * smoothstep(1.35, 0.0, away) + 0.14 * np.cos(away * 11)
        sky = mix(
            sky, ramp(rings, list(zip(np.linspace(0, 1, 6).tolist(), GOLDS, strict=True))), smoothstep(1.75, 0.8, away)
        )

    # Rolling fields: ridge lines one before the other, wheat in the light, dark green in the furrows.
    scene = sky
    for layer, (base, swell, seed) in enumerate(((0.66, 0.05, 1), (0.74, 0.06, 2), (0.84, 0.05, 3))):
        ridge = (
            base
            + swell * np.sin((3.1 + layer) * x + 1.7 * layer)
            + 0.03 * fractal_noise(x * 2, x * 0, seed=420 + seed, octaves=3)
        )
        below = (y - ridge) / 0.16
        inside = smoothstep(-0.004, 0.004, y - ridge)
        furrow = (
            0.5
            + 0.42 * np.sin(30 * (y - ridge) + 9 * x * (1 - 2 * (layer % 2)))
            + 0.2 * fractal_noise(x * 7, y * 7, seed=430 + seed, octaves=3)
        )
        tones = (
            GOLDS
            if layer != 1
            else [hex_colour(c) for c in ("#10302e", "#1d5a4a", "#3d8a55", "#86ad4b", "#d5c64c", "#f6e88a")]
        )
        field = ramp(0.85 * furrow + 0.25 - 0.16 * below, list(zip(np.linspace(0, 1, 6).tolist(), tones, strict=True)))
        slope = np.gradient(ridge, axis=1) * height + 0.35 * np.sin(6 * x + 2 * layer + 8 * (y - ridge)) + 0.15 * layer
        scene = mix(scene, field, inside)
        angle = np.where(inside > 0.5, np.arctan(slope), angle).astype(np.float32)
        scene = mix(scene, hex_colour("#1a1438"), np.exp(-(((y - ridge) / 0.006) ** 2)) * 0.85)
    return scene, angle
