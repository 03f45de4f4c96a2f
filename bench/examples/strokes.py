"""Oil paint: brush strokes along a flow field, each of many bristles, and the light on the relief that they leave."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from bench.examples.raster import Array, blur, relief, to_array

Whirl = tuple[float, float, float, float]


def flow_angle(x: Array, y: Array, drift: Array, whirls: Sequence[Whirl]) -> Array:
    """Direction of the flow in radians: `drift` far from the whirls `(x, y, radius, turn)`, around and into near ones.

    `turn` is ±1 for the sense of the rotation; a whirl's pull falls off as a Gaussian of its radius.
    """
    along_x, along_y = np.cos(drift), np.sin(drift)
    for centre_x, centre_y, radius, turn in whirls:
        dx, dy = x - centre_x, y - centre_y
        away = np.hypot(dx, dy) + 1e-4
        pull = 2.6 * np.exp(-((away / radius) ** 2))
        along_x = along_x + pull * (-turn * dy - 0.22 * dx) / away
        along_y = along_y + pull * (turn * dx - 0.22 * dy) / away
    return np.asarray(np.arctan2(along_y, along_x), dtype=np.float32)


def streamlines(angle: Array, start_x: Array, start_y: Array, lengths: Array, steps: int) -> Array:
    """Paths `(strokes, steps, 2)` in pixels that follow `angle` from their starts for `lengths` pixels."""
    height, width = angle.shape
    x, y = start_x, start_y
    path = np.empty((len(x), steps, 2), np.float32)
    for step in range(steps):
        path[:, step, 0], path[:, step, 1] = x, y
        heading = angle[np.clip(y, 0, height - 1).astype(np.intp), np.clip(x, 0, width - 1).astype(np.intp)]
        x = x + np.cos(heading) * lengths / (steps - 1)
        y = y + np.sin(heading) * lengths / (steps - 1)
    return path


def paint(
    canvas: Image.Image,
    thickness: Image.Image,
    paths: Array,
    colours: Array,
    width: float,
    bristles: int,
    rng: np.random.Generator,
) -> None:
    """Draws a stroke of `bristles` lines for each path on `canvas` (RGB), and its paint's height on `thickness` (L).

    `colours` is `(strokes, 3)` in 0…1; each bristle is a little lighter or darker, warmer or cooler than its stroke.
    """
    heading = np.gradient(paths, axis=1)
    across = np.stack([-heading[..., 1], heading[..., 0]], axis=-1)
    normal = across / (np.linalg.norm(across, axis=-1, keepdims=True) + 1e-6)
    offsets = np.linspace(-0.5, 0.5, bristles, dtype=np.float32) * width
    # The brush lands and lifts: narrow at both ends.
    taper = np.sin(np.linspace(0.25, np.pi - 0.25, paths.shape[1], dtype=np.float32)) ** 0.6
    tone = rng.normal(0, 1, (len(paths), bristles, 1)).astype(np.float32)
    tint = rng.normal(0, 0.022, (len(paths), bristles, 3)).astype(np.float32)
    shades = np.clip(colours[:, None] * (1 + 0.13 * tone) + tint, 0, 1)
    fills = (shades * 255).astype(np.uint8)
    loads = np.clip(128 + 46 * tone[..., 0] + 40 * (1 - np.abs(offsets) * 2 / width), 0, 255).astype(np.uint8)
    pen, load = ImageDraw.Draw(canvas), ImageDraw.Draw(thickness)
    line_width = max(1, round(width / bristles * 1.6))
    for k in range(len(paths)):
        for j in rng.permutation(bristles):
            points = (paths[k] + normal[k] * (offsets[j] * taper)[:, None]).ravel().tolist()
            red, green, blue = fills[k, j].tolist()
            pen.line(points, fill=(red, green, blue), width=line_width)
            load.line(points, fill=int(loads[k, j]), width=line_width)


def impasto(canvas: Image.Image, thickness: Image.Image, strength: float) -> Array:
    """The painted canvas as an array, lit from the upper left so that ridges of paint shine and cast shade."""
    surface = blur(to_array(thickness), 1.0)
    light = relief(surface * 24, 0.5)
    colour = to_array(canvas)
    shine = np.clip(light - 0.55, 0, 1)[..., None]
    return np.asarray(
        np.clip(colour * (1 + strength * light[..., None]) + 0.35 * strength * shine, 0, 1), dtype=np.float32
    )
