"""The content picture: an old town by a lake at golden hour."""

import numpy as np
from PIL import Image

from bench.examples.layer import Layer
from bench.examples.noise import fractal_noise
from bench.examples.raster import Array, blur, grid, hex_colour, mix, smoothstep, to_image
from bench.examples.terrain import SUN, mountains, sky
from bench.examples.town import old_town
from bench.examples.trees import BOUGH, branch, flowers, reeds, trunk
from bench.examples.water import lake, rowing_boat, sailing_boat

SHORE = 0.615


def draw(width: int = 768, seed: int = 3) -> Image.Image:
    """The landscape at `width` pixels and 4:3, drawn at twice that size from the sky to the near bank."""
    height = width * 3 // 4
    wide, tall = 2 * width, 2 * height
    x, y = grid(wide, tall)
    stains = fractal_noise(x * 14, y * 14, seed=300, octaves=3)
    plaster = 1 + 0.07 * stains + 0.11 * fractal_noise(x * 70, y * 70, seed=310, octaves=3)

    scene = mountains(sky(wide, tall, SHORE), SHORE)
    scene = old_town(scene, SHORE, plaster, seed)
    scene = lake(scene, SHORE, _boats(wide, tall, upside_down=True))
    scene = _boats(wide, tall, upside_down=False).onto(scene, plaster)
    scene = _near_bank(wide, tall, np.random.default_rng(seed + 2)).onto(scene, plaster)
    return to_image(_evening(scene), width, height)


def _boats(width: int, height: int, upside_down: bool) -> Layer:
    layer = Layer.blank(width, height)
    sailing_boat(layer, 0.2, 0.655, 0.1, upside_down)
    sailing_boat(layer, 0.80, 0.715, 0.2, upside_down)
    rowing_boat(layer, 0.47, 0.8, 0.16, upside_down)
    return layer


def _near_bank(width: int, height: int, rng: np.random.Generator) -> Layer:
    """The viewer's own shore: grass, reeds and flowers along the bottom, a tree that reaches in from the right."""
    layer = Layer.blank(width, height)
    bank = []
    for k in range(56):
        x = k / 40
        bank.append((x, 0.965 - 0.10 * max(0.0, x - 0.85) - 0.16 * max(0.0, 0.32 - x) + 0.006 * float(np.sin(k))))
    layer.polygon([(0, 1.01), *bank, (1.4, 1.01)], hex_colour("#26331f"))
    reeds(layer, -0.02, 0.4, ground=0.95, tall=0.2, blades=420, rng=rng)
    reeds(layer, 0.3, 1.0, ground=0.99, tall=0.06, blades=700, rng=rng)
    reeds(layer, 0.92, 1.36, ground=0.97, tall=0.13, blades=500, rng=rng)
    flowers(layer, 0.0, 0.36, ground=0.985, tall=0.09, count=60, rng=rng)
    flowers(layer, 0.36, 1.3, ground=0.995, tall=0.05, count=90, rng=rng)
    trunk(layer, rng)
    branch(layer, (1.30, 0.36), np.pi + 0.25, 0.15, 0.014, BOUGH, rng)
    branch(layer, (1.31, 0.21), np.pi + 0.42, 0.2, 0.016, BOUGH, rng)
    branch(layer, (1.32, 0.08), np.pi - 0.02, 0.34, 0.016, BOUGH, rng)
    branch(layer, (1.33, 0.03), np.pi - 0.35, 0.2, 0.014, BOUGH, rng)
    return layer


def _evening(scene: Array) -> Array:
    """Glow around the bright parts, warmer towards the sun, darker corners, a little more contrast."""
    height, width = scene.shape[:2]
    x, y = grid(width, height)
    scene = scene + 0.7 * blur(np.clip(scene - 0.72, 0, 1), height / 45)
    warmth = np.exp(-((np.hypot(x - SUN[0], y - SUN[1]) / 0.5) ** 2))[..., None]
    scene = scene * (1 + warmth * np.array([0.10, 0.03, -0.06]))
    corner = np.hypot((x - 0.667) / 0.95, (y - 0.5) / 0.75)
    scene = np.clip(scene * (1 - 0.28 * smoothstep(0.45, 1.15, corner))[..., None], 0, 1)
    return mix(scene, smoothstep(0, 1, scene), 0.3)
