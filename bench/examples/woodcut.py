"""A style: a colour woodcut, engraved lines of varying width that follow the forms, over flat blocks of warm ink."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from bench.examples.noise import fractal_noise
from bench.examples.raster import Array, Colour, blur, grid, hex_colour, mix, smoothstep, to_image

PAPER = hex_colour("#efe0bf")
INK = hex_colour("#1d1720")
RUST = hex_colour("#c8492a")
OCHRE = hex_colour("#e3a23c")
TEAL = hex_colour("#2f7f80")
# x, y and half width of each cloud, and of each pad of the pine's needles.
CLOUDS = ((0.12, 0.17, 0.16), (0.98, 0.13, 0.2), (0.82, 0.33, 0.12), (0.2, 0.40, 0.1))
PADS = (
    (1.14, 0.50, 0.10),
    (0.91, 0.44, 0.12),
    (1.15, 0.375, 0.11),
    (0.95, 0.31, 0.115),
    (1.10, 0.245, 0.115),
    (1.03, 0.165, 0.09),
)
# Height of the crest, its swell, rate and shift, the colour, and the furrows across the picture's height.
HILLS = (
    (0.50, 0.07, 2.4, 0.3, hex_colour("#6d8f86"), 46),
    (0.58, 0.075, 3.1, 2.2, hex_colour("#b9772f"), 40),
    (0.66, 0.06, 2.7, 4.4, hex_colour("#c8492a"), 36),
)
# Height and colour of each row of waves.
WAVES = ((0.745, TEAL), (0.80, hex_colour("#4f9a94")), (0.86, hex_colour("#23486e")), (0.925, TEAL))


@dataclass(frozen=True)
class Plate:
    """What the carver knows of each pixel: the hatch's phase in lines, the tone 0 (paper)…1 (ink), colour, outline."""

    phase: Array
    tone: Array
    colour: Array
    outline: Array

    def over(self, inside: Array, phase: Array, tone: Array, colour: Colour, edge: Array) -> "Plate":
        """This plate with another region over it where `inside` is 1, its outline carved along `edge`."""
        hard = inside > 0.5
        return Plate(
            np.where(hard, phase, self.phase).astype(np.float32),
            np.where(hard, tone, self.tone).astype(np.float32),
            mix(self.colour, colour, inside),
            np.maximum(self.outline * (1 - inside), edge).astype(np.float32),
        )


def draw(width: int = 640, seed: int = 23) -> Image.Image:
    """The woodcut at `width` pixels and 5:4, carved at twice that size."""
    height = width * 4 // 5
    wide, tall = 2 * width, 2 * height
    x, y = grid(wide, tall)
    plate = _carve(x, y)

    # A line's width follows the tone; the knife wavers, and lines break off where the tone is light.
    waver = 0.13 * fractal_noise(x * 26, y * 26, seed=seed, octaves=3)
    across = np.abs((plate.phase + waver) % 1 - 0.5) * 2
    grain = fractal_noise(x * 5, y * 150, seed=seed + 10, octaves=3)
    tone = np.clip(plate.tone + 0.09 * fractal_noise(x * 18, y * 18, seed=seed + 20, octaves=3), 0, 1)
    key = smoothstep(-0.10, 0.10, tone * 1.06 - 0.04 - across)
    outline = plate.outline + 0.1 * fractal_noise(x * 40, y * 40, seed=seed + 30, octaves=2)
    key = np.maximum(key, smoothstep(0.4, 0.6, outline))
    worn = smoothstep(0.62, 0.95, fractal_noise(x * 130, y * 130, seed=seed + 40, octaves=2) + 0.25 * grain)
    key = key * (1 - 0.7 * worn)

    fibres = fractal_noise(x * 120, y * 40, seed=seed + 50, octaves=3)
    paper = 1 + 0.035 * fibres + 0.03 * fractal_noise(x * 4, y * 4, seed=seed + 60, octaves=3)
    bare = np.asarray(PAPER) * paper[..., None]
    # Colour blocks are printed a little off register, and show the grain of the wood.
    shift = tall // 300
    block = np.roll(plate.colour, (shift, -shift), axis=(0, 1))
    sheet = mix(PAPER, block, np.clip(0.93 + 0.13 * grain - 0.35 * worn, 0, 1)) * paper[..., None]
    sheet = mix(sheet, INK, blur(key, 1.0) * np.clip(0.96 + 0.05 * grain, 0, 1))
    margin = np.minimum(np.minimum(x, wide / tall - x), np.minimum(y, 1 - y))
    margin = margin + 0.002 * fractal_noise(x * 20, y * 20, seed=seed + 70, octaves=2)
    return to_image(mix(bare, sheet, smoothstep(0.010, 0.012, margin)), width, height)


def _carve(x: Array, y: Array) -> Plate:
    """A low sun over hills, a lone tree, and waves in front."""
    plate = _sky(x, y)
    for k, (cloud_x, cloud_y, size) in enumerate(CLOUDS):
        u, v = (x - cloud_x) / size, (y - cloud_y) / (0.34 * size)
        ragged = 0.9 * fractal_noise(u * 1.7 + 9 * k, v * 0.9, seed=620 + k, octaves=3)
        bulge = u**2 + v**2 - 1 + ragged + 0.5 * smoothstep(0.2, 0.7, v)
        tone = np.clip(0.08 + 0.5 * smoothstep(-0.4, 0.8, v) + 0.2 * smoothstep(-0.3, 0.0, bulge), 0, 0.8)
        plate = plate.over(smoothstep(0.02, -0.02, bulge), v * 4.2 + 1.6 * bulge, tone, PAPER, _edge(bulge, 0.10))
    for k in range(len(HILLS)):
        plate = _hill(plate, x, y, k)
    plate = _tree(plate, x, y)
    for k in range(len(WAVES)):
        plate = _wave(plate, x, y, k)
    return plate


def _sky(x: Array, y: Array) -> Plate:
    """Rings around the sun that grow dark outwards."""
    away, around = np.hypot(x - 0.46, y - 0.36), np.arctan2(y - 0.36, x - 0.46)
    clouds = fractal_noise(x * 1.7 + 3, y * 4.2, seed=600, octaves=4)
    rings = 44 * (away + 0.018 * fractal_noise(x * 5, y * 5, seed=610, octaves=2))
    rays = np.cos(around * 18) * smoothstep(0.14, 0.25, away)
    tone = np.clip(0.10 + 0.62 * smoothstep(0.12, 0.85, away) + 0.13 * rays, 0, 0.85)
    colour = mix(OCHRE, hex_colour("#e8c98a"), smoothstep(0.1, 0.42, away))
    colour = mix(colour, TEAL, smoothstep(0.42, 0.75, away + 0.06 * clouds))
    plate = Plate(rings, tone, colour, np.zeros_like(x))
    disc, rim = smoothstep(0.131, 0.128, away), _edge(away - 0.13, 0.005)
    return plate.over(disc, 60 * away, np.full_like(x, 0.1), RUST, rim)


def _hill(plate: Plate, x: Array, y: Array, k: int) -> Plate:
    base, swell, rate, shift, colour, lines = HILLS[k]
    crest = base + swell * np.sin(rate * x + shift) + 0.012 * fractal_noise(x * 7, x * 0, seed=640 + k, octaves=3)
    slope, below = np.cos(rate * x + shift), y - crest
    # Furrows run down from the crest and fan out, as on a rounded form.
    phase = lines * (x + slope * (0.9 * below - 2.2 * below**2)) + 0.7 * np.sin(below * 22 + k)
    patches = 0.2 * fractal_noise(x * 4, y * 4, seed=650 + k, octaves=2)
    tone = np.clip(0.34 + 0.40 * slope + 1.6 * below + patches, 0.06, 0.92)
    return plate.over(smoothstep(-0.0012, 0.0012, below), phase, tone, colour, _edge(below, 0.0042))


def _wave(plate: Plate, x: Array, y: Array, k: int) -> Plate:
    """A row of leaning waves with foam on their crests."""
    base, colour = WAVES[k]
    t = x * (6.5 - 0.6 * k) + 1.7 * k
    saw = (t / np.pi) % 1
    rise = np.where(saw < 0.68, saw / 0.68, (1 - saw) / 0.32)
    chop = 0.006 * fractal_noise(x * 9, x * 0, seed=660 + k, octaves=2)
    below = y - (base - (0.024 + 0.008 * k) * (rise**1.7 - 0.3) + chop)
    phase = (below + 0.016 * np.sin(2 * t + 30 * below)) * (62 - 5 * k)
    tone = np.clip(0.75 - 0.6 * rise + 1.4 * below, 0.08, 0.9)
    crest = _edge(below, 0.005)
    plate = plate.over(smoothstep(-0.0012, 0.0012, below), phase, tone, colour, crest)
    ragged = below + 0.010 * fractal_noise(x * 45, y * 45, seed=670 + k, octaves=2)
    foam = smoothstep(0.0, 0.002, below) * smoothstep(0.017, 0.012, ragged) * smoothstep(0.3, 0.7, rise)
    return plate.over(foam, phase, np.zeros_like(x), PAPER, crest)


def _tree(plate: Plate, x: Array, y: Array) -> Plate:
    """A pine at the right: pads of needles on a leaning trunk."""
    middle = 1.02 + 0.10 * (0.72 - y) - 0.05 * np.sin(9 * (y - 0.3))
    half = 0.011 + 0.05 * np.clip(y - 0.40, 0, 1) ** 1.3
    across, upright = (x - middle) / half, (y > 0.22) & (y < 0.79)
    outside = np.abs(x - middle) - half
    bark, tone = 3 * across + 0.8 * np.sin(40 * y), np.clip(0.55 + 0.4 * across, 0, 1)
    trunk = smoothstep(0.001, -0.001, outside) * upright
    plate = plate.over(trunk, bark, tone, hex_colour("#8a4a2c"), _edge(outside, 0.004) * upright)
    for k, (pad_x, pad_y, size) in enumerate(PADS):
        u, v = (x - pad_x) / size, (y - pad_y) / (0.40 * size)
        ragged = 0.55 * fractal_noise(u * 2.4 + 7 * k, v * 1.6, seed=680 + k, octaves=3)
        bulge = u**2 + v**2 - 1 + ragged + 0.45 * smoothstep(0.1, 0.8, v)
        fan = np.arctan2(v + 1.9, u) * 13 + 0.5 * np.sin(7 * np.hypot(u, v))
        tone = np.clip(0.45 + 0.42 * v + 0.22 * u, 0.12, 0.95)
        plate = plate.over(smoothstep(0.02, -0.02, bulge), fan, tone, hex_colour("#4d8156"), _edge(bulge, 0.10))
    return plate


def _edge(distance: Array, width: float) -> Array:
    """1 on the curve where `distance` is 0, 0.5 at half of `width` from it, falling to 0."""
    return np.asarray(np.exp(-((2 * distance / width) ** 2) * np.log(2)), dtype=np.float32)
