"""A style: thick oil strokes in whirls, an evening sky with burning discs over a field of wheat."""

import numpy as np
from PIL import Image

from bench.examples.noise import fractal_noise
from bench.examples.raster import Array, Stops, gradient, grid, hex_colour, mix, ramp, sample, smoothstep, to_image
from bench.examples.strokes import Whirl, flow_angle, impasto, paint, streamlines

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
BLUES = gradient("#0c1a4f", "#153a8a", "#1f63b5", "#2f97bf", "#7cc8c4", "#e9ecc4")
GOLDS = gradient("#5a2a12", "#a8481a", "#d97a1c", "#f0a727", "#f8d458", "#fff3b0")
GREENS = gradient("#10302e", "#1d5a4a", "#3d8a55", "#86ad4b", "#d5c64c", "#f6e88a")
# Height of the ridge, its swell and the colours of each field, from the back to the front.
FIELDS = ((0.66, 0.05, GOLDS), (0.74, 0.06, GREENS), (0.84, 0.05, GOLDS))
# Number of strokes, their width and length, the bristles of the brush, how far the colours stray; broad ones first.
BRUSHES = ((2200, 0.032, 0.15, 9, 0.06), (4600, 0.021, 0.105, 8, 0.10), (2800, 0.0125, 0.07, 6, 0.13))


def draw(width: int = 640, seed: int = 11) -> Image.Image:
    """The swirls at `width` pixels and 5:4, painted at twice that size."""
    height = width * 4 // 5
    wide, tall = 2 * width, 2 * height
    rng = np.random.default_rng(seed)
    design, angle = _design(wide, tall)
    canvas = Image.fromarray((np.clip(design * 0.8, 0, 1) * 255).astype(np.uint8))
    thickness = Image.new("L", (wide, tall), 90)
    for count, size, length, bristles, stray in BRUSHES:
        x, y = rng.uniform(-0.05, 1.05, count) * wide, rng.uniform(-0.05, 1.05, count) * tall
        paths = streamlines(angle, x, y, length * tall * rng.uniform(0.6, 1.3, count), steps=11)
        colours = sample(design, paths[:, 5, 0], paths[:, 5, 1])
        lighter = 1.6 * stray * rng.normal(0, 1, (count, 1))
        colours = np.clip(colours * (1 + lighter) + 0.5 * stray * rng.normal(0, 1, (count, 3)), 0, 1)
        paint(canvas, thickness, paths, colours, size * tall, bristles, rng)
    return to_image(impasto(canvas, thickness, 0.42), width, height)


def _design(width: int, height: int) -> tuple[Array, Array]:
    """Colours that the strokes take up, and the direction in radians that they follow."""
    x, y = grid(width, height)
    wave = 0.5 * np.sin(5.2 * x + 1.0) + 0.7 * fractal_noise(x * 2.2, y * 2.2, seed=400, octaves=2)
    scene = _sky(x, y, wave)
    angle = flow_angle(x, y, wave, [*WHIRLS, *[(a, b, 1.5 * radius, turn) for a, b, radius, turn in DISCS]])
    for k, (base, swell, tones) in enumerate(FIELDS):
        scene, angle = _field(x, y, base, swell, k, tones, scene, angle)
    return scene, angle


def _sky(x: Array, y: Array, wave: Array) -> Array:
    """Bands of blue that roll up into spirals at the whirls, and rings of gold around the discs."""
    band = 0.34 + 0.15 * np.sin(21 * (y + 0.09 * np.sin(5.2 * x) + 0.1 * wave)) + 0.16 * y
    for centre_x, centre_y, radius, turn in WHIRLS:
        dx, dy = x - centre_x, y - centre_y
        away = np.hypot(dx, dy) / radius
        spiral = 0.5 + 0.5 * np.cos(turn * np.arctan2(dy, dx) * 2 + 8.5 * np.log(away + 0.18))
        band = mix(band, 0.12 + 0.85 * spiral, np.exp(-(away**2)) * 0.95)
    sky = ramp(band + 0.08 * fractal_noise(x * 12, y * 12, seed=410, octaves=2), BLUES)
    for centre_x, centre_y, radius, _ in DISCS:
        away = np.hypot(x - centre_x, y - centre_y) / radius
        rings = 0.42 + 0.58 * smoothstep(1.35, 0.0, away) + 0.14 * np.cos(away * 11)
        sky = mix(sky, ramp(rings, GOLDS), smoothstep(1.75, 0.8, away))
    return sky


def _field(
    x: Array, y: Array, base: float, swell: float, k: int, tones: Stops, scene: Array, angle: Array
) -> tuple[Array, Array]:
    """A furrowed slope below a rolling ridge, the `k`th from the back; the strokes follow the ridge."""
    bumps = fractal_noise(x * 2, x * 0, seed=421 + k, octaves=3)
    ridge = base + swell * np.sin((3.1 + k) * x + 1.7 * k) + 0.03 * bumps
    below = y - ridge
    lean = 9 if k % 2 == 0 else -9
    furrow = 0.42 * np.sin(30 * below + lean * x) + 0.2 * fractal_noise(x * 7, y * 7, seed=431 + k, octaves=3)
    slope = np.gradient(ridge, axis=1) * len(y) + 0.35 * np.sin(6 * x + 2 * k + 8 * below) + 0.15 * k
    inside = smoothstep(-0.004, 0.004, below)
    scene = mix(scene, ramp(0.675 + 0.85 * furrow - below, tones), inside)
    scene = mix(scene, hex_colour("#1a1438"), np.exp(-((below / 0.006) ** 2)) * 0.85)
    return scene, np.where(inside > 0.5, np.arctan(slope), angle)
